"""What docs/reliability.md says of the soak: written from its JSON, so that it never says anything else."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

PAGE = Path(__file__).parents[1] / "docs" / "reliability.md"
BEGIN, END = "<!-- soak: begin -->", "<!-- soak: end -->"
#: What must not grow, in words, and its bound's name.
FLAT = (
    ("resident memory, MiB", "rss_mib", "memory_mib"),
    ("open files", "fds", "fds"),
    ("threads", "threads", "threads"),
)


def section(figures: Mapping[str, Any]) -> str:
    """The paragraphs and tables, between their marks."""
    return "\n".join(
        [BEGIN, summary(figures), "", *growth(figures), "", *latencies(figures), "", verdict(figures), END]
    )


def summary(figures: Mapping[str, Any]) -> str:
    counts, votes, orders = figures["counts"], figures["votes"], figures["orders"]
    ends = ", ".join(life["ended_by"] for life in figures["lives"])
    left = counts.get("left in the middle", 0) + counts.get("left before the answer", 0)
    stages = ", ".join(
        f"{count} {stage.replace('_', ' ')}" for stage, count in sorted(figures["iterations"].items())
    )
    problems = ", ".join(f"{count} {name}" for name, count in votes["problems"].items())
    ended = sum(figures["iterations"].values())
    loads = [row["load"] for row in figures["latency"] if row["load"] is not None]
    return (
        f"{figures['minutes']:g} minutes in {len(figures['lives'])} processes (ended by {ends}): "
        f"{counts['answers']:,} answers, {left:,} more whose reader left, {votes['acknowledged']:,} votes "
        f"acknowledged: {problems}. {ended} iterations ({stages}), {figures['swaps']} swaps of what "
        f"is served, {orders.get('rollback: done', 0)} rollbacks by hand, {figures['people_forgotten']} people "
        f"forgotten, {orders.get('backup: exit 0', 0)} backups. Refused requests: {refused(figures)}. The state "
        f"directory had {figures['disk_mib']['state']:g} MiB at the end. The machine's load average on "
        f"{figures['cores']} cores was {min(loads):g} to {max(loads):g}."
    )


def refused(figures: Mapping[str, Any]) -> str:
    others = {status: count for status, count in figures["statuses"].items() if status >= "300"}
    return ", ".join(f"{count} of {status}" for status, count in sorted(others.items())) or "none"


def growth(figures: Mapping[str, Any]) -> list[str]:
    rows = ["| grows by | an hour | 90% interval | bound |", "|---|---|---|---|"]
    for words, name, bound in FLAT:
        slope = figures["slopes"][name]["pooled"]
        interval = f"{slope['low']:g} to {slope['high']:g}"
        rows.append(f"| {words} | {slope['per_hour']:g} | {interval} | {figures['bounds'][bound]:g} |")
    return rows


def latencies(figures: Mapping[str, Any]) -> list[str]:
    rows = [
        "| ms | median | p95 | p99 | last quarter over first: median, p95 |",
        "|---|---|---|---|---|",
    ]
    for kind, found in figures["latency_overall"].items():
        ratio = figures["drift"][kind]
        rows.append(
            f"| {kind} | {found['p50_ms']:g} | {found['p95_ms']:g} | {found['p99_ms']:g} | "
            f"{ratio['median']:g}, {ratio['p95']:g} |"
        )
    return rows


def verdict(figures: Mapping[str, Any]) -> str:
    broken = [f"{one['name']} ({one['detail']})" for one in figures["checks"] if not one["ok"]]
    if not broken:
        return f"All {len(figures['checks'])} bounds were kept."
    return "Not kept: " + "; ".join(broken) + "."


def rewritten(text: str, figures: Mapping[str, Any]) -> str:
    """The page with its section as the figures have it."""
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return before + section(figures) + after
