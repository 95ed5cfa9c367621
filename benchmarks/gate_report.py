"""The gate's bench, its report: what became of a case, the table and the document. Pure functions."""

import math
import platform
import subprocess
from collections import Counter
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import Any

from scipy.stats import fisher_exact

from benchmarks.gate_cases import Case, Marks
from store.records import GateResult, Iteration, Stage, Verdict
from store.shares import wilson

#: What an iteration's end means for its candidate.
VERDICTS = {
    Stage.ACTIVE: "promoted",
    Stage.CANARY: "promoted",
    Stage.HELD: "held",
    Stage.REJECTED: "rejected",
    Stage.FAILED: "failed",
    Stage.ABORTED: "aborted",
}
#: Harm is told where chance alone would show as much this rarely.
SURE = 0.05
#: Confidence of the intervals of rates.
CONFIDENCE = 0.9
#: Families of bad updates whose votes are sound, so that a part of the step may be good where the whole is not.
OVERDONE = frozenset({"destructive rate"})


def caught_by(stage: Stage, reason: str, gates: Sequence[GateResult]) -> list[str]:
    """What stopped a candidate: the limits the reason quotes, or else the guard whose words it has."""
    if VERDICTS[stage] == "promoted":
        return []
    failed = [gate.metric for gate in gates if gate.verdict is Verdict.FAIL and gate.reason in reason]
    uncertain = [gate.metric for gate in gates if f"inconclusive: {gate.reason}" in reason]
    warned = [gate.metric for gate in gates if gate.verdict is Verdict.SOFT and gate.reason in reason]
    if found := failed or uncertain or warned:
        return sorted(set(found))
    if stage is Stage.ABORTED:
        return ["data building"]
    if "log-probabilities" in reason:
        return ["attestation"]
    if stage is Stage.REJECTED:
        return ["adapter verification"]
    return ["run manifest" if "manifest.json" in reason else "trainer"]


def share(texts: Sequence[str], marks: Marks) -> dict[str, float]:
    """How many of the texts are marked, with Wilson's interval."""
    rate = sum(marks(text) for text in texts) / len(texts)
    low, high = wilson(rate, len(texts), CONFIDENCE)
    return {"rate": rate, "low": low, "high": high, "answers": len(texts)}


def harmful(row: Mapping[str, Any]) -> bool:
    """Whether the unwanted thing is more frequent after a promotion than before (Fisher's exact test, one-sided)."""
    found = row.get("harm")
    if found is None:
        return False
    counts = [
        [round(side["rate"] * side["answers"]), round((1 - side["rate"]) * side["answers"])]
        for side in (found["after"], found["before"])
    ]
    return bool(fisher_exact(counts, alternative="greater").pvalue < SURE)


def mended(row: Mapping[str, Any]) -> bool:
    """Whether what was promoted is a part of a bad update that is good by evidence not trained on.

    The update as trained was over budget and refused; the ledger asked again at a smaller scale (exactly between base
    and the update), which votes that nobody trained on say is better, and which does no harm.
    """
    return bool(
        row["family"] in OVERDONE
        and row["verdict"] == "promoted"
        and row["metrics"]["train/scale"] < 1
        and "improved: " in row["reason"]
        and not harmful(row)
    )


def outcome(
    case: Case, ended: Iteration, gates: Sequence[GateResult], report: Mapping[str, Any] | None
) -> dict[str, Any]:
    """A case's row."""
    reason = ended.reason or ""
    row: dict[str, Any] = {
        "name": case.name,
        "kind": case.kind,
        "family": case.family,
        "commit": commit(),
        "why": case.why,
        "expected": case.expected,
        "verdict": VERDICTS[ended.stage],
        "caught_by": caught_by(ended.stage, reason, gates),
        "reason": reason,
        "warnings": sorted({gate.metric for gate in gates if gate.verdict is Verdict.SOFT}),
        "counts": ended.counts,
        "metrics": {},
        "seconds": {},
    }
    if report is not None:
        samples = report["samples"]
        row["metrics"] = {name: rounded(value) for name, value in report["metrics"].items()}
        row["metrics"] |= {"train/steps": report["steps"], "train/scale": report["scale"]}
        row["seconds"] = report["seconds"]
        row["probes"] = {
            side: share([sample[side] for sample in samples], case.marks) for side in ("before", "after")
        }
    return row


def rounded(value: float) -> float | str:
    """Six digits; what is no finite number as its name, for JSON has none."""
    return float(f"{value:.6g}") if math.isfinite(value) else str(value)


def summary(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The counts that matter, and what caught the bad ones."""
    good = [row for row in rows if row["kind"] == "good"]
    bad = [row for row in rows if row["kind"] == "bad"]
    promoted = [row for row in good if row["verdict"] == "promoted"]
    passed = [row for row in bad if row["verdict"] == "promoted" and not mended(row)]
    return {
        "good": len(good),
        "good_promoted": len(promoted),
        "good_not_promoted": {row["name"]: row["reason"] for row in good if row not in promoted},
        "bad": len(bad),
        "bad_promoted": [row["name"] for row in passed],
        "bad_mended": {row["name"]: row["reason"] for row in bad if mended(row)},
        "bad_promoted_with_harm": [row["name"] for row in passed if harmful(row)],
        "bad_verdicts": dict(Counter(row["verdict"] for row in bad)),
        "bad_caught_by": dict(Counter(guard for row in bad for guard in row["caught_by"]).most_common()),
        "good_marked": pooled(good),
        "minutes": round(sum(row["seconds"]["all"] for row in rows) / 60, 1),
    }


def pooled(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """How often the probes' answers met the taste, before and after, over all cases that have any."""
    found = [row["probes"] for row in rows if "probes" in row]
    return {
        side: round(sum(probes[side]["rate"] for probes in found) / len(found), 3)
        for side in ("before", "after")
        if found
    }


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """One line a case, for people."""
    lines = [f"{'case':24} {'kind':5} {'verdict':9} {'s':>5}  {'KL':>6}  what caught it"]
    for row in rows:
        kl = row["metrics"].get("kl/base_token", "")
        said = ", ".join(row["caught_by"]) or (harm_told(row) if "harm" in row else "")
        text = f"{kl:6.3f}" if isinstance(kl, float) else f"{kl:>6}"
        line = f"{row['name']:24} {row['kind']:5} {row['verdict']:9} {row['seconds']['all']:5.0f}  {text}  {said}"
        lines.append(line.rstrip())
    return "\n".join(lines)


def harm_told(row: Mapping[str, Any]) -> str:
    before, after = row["harm"]["before"]["rate"], row["harm"]["after"]["rate"]
    what = f"MENDED at scale {row['metrics']['train/scale']:g}" if mended(row) else "PROMOTED"
    return f"{what}; the unwanted thing {before:.2f} -> {after:.2f}"


def by_family(rows: Sequence[Mapping[str, Any]]) -> str:
    """A Markdown table: per kind of update how many there were and were promoted, and what stopped the others."""
    families: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for row in rows:
        families.setdefault((row["kind"], row["family"]), []).append(row)
    lines = ["| | updates | cases | promoted | mended | stopped by |", "|---|---|---|---|---|---|"]
    for (kind, family), found in families.items():
        whole = sum(mended(row) for row in found)
        promoted = sum(row["verdict"] == "promoted" for row in found) - whole
        guards = Counter(guard for row in found for guard in row["caught_by"])
        stopped = ", ".join(f"{guard} {count}" for guard, count in guards.most_common())
        lines.append(f"| {kind} | {family} | {len(found)} | {promoted} | {whole or ''} | {stopped} |")
    return "\n".join(lines)


def document(rows: Sequence[Mapping[str, Any]], *, command: str) -> dict[str, Any]:
    """Everything the JSON says."""
    return {
        "command": command,
        "python": platform.python_version(),
        **{name: version(name) for name in ("torch", "transformers", "peft")},
        "summary": summary(rows),
        "cases": list(rows),
    }


def commit() -> str:
    """What is checked out, short; empty where this is no checkout. A case keeps the one that it ran on."""
    shown = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
    )
    return shown.stdout.strip()
