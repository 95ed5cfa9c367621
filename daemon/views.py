"""What the command line shows: rows read from the store, and the same rows as text.

`--json` prints the row itself; the text is made from that row and nothing else.
"""

import json
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from api import views
from daemon import report as report_page
from daemon.ledger import ledger_of
from store.db import Store
from store.files import write_json
from store.records import BASE

if TYPE_CHECKING:
    from daemon.client import Client

Row = dict[str, Any]


def show(row: Any, text: Callable[[Any], str], *, as_json: bool) -> None:
    """Print a row, as JSON or as people read it."""
    print(json.dumps(row, ensure_ascii=False, indent=2, default=str) if as_json else text(row))


def write(path: Path, row: Any) -> None:
    """Write a row as JSON to a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, row)


def when(at: float | None) -> str:
    return "-" if at is None else f"{datetime.fromtimestamp(at, UTC):%Y-%m-%d %H:%M:%S}"


def number(value: Any) -> str:
    return "-" if value is None else f"{value:.3g}" if isinstance(value, float) else str(value)


def table(headings: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """Left-aligned columns, two spaces between."""
    cells = [[number(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(headings, *cells, strict=True)]
    lines = [headings, *cells]
    return "\n".join(
        "  ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)).rstrip() for line in lines
    )


def iteration_rows(store: Store, limit: int) -> list[Row]:
    """The history, newest first, each with its two distances."""
    rows = []
    for item in store.iterations.list(limit=limit):
        metrics = store.metrics.get(item.id)
        distances = {"kl_step": metrics.get("kl/step_token"), "kl_base": metrics.get("kl/base_token")}
        rows.append({**views.iteration(item), **distances})
    return rows


def iteration_row(store: Store, number_: int) -> Row:
    return views.iteration_in_full(store, number_, now=time.time())


def report_row(store: Store, number_: int) -> Row:
    """An iteration in full, with the intervals of its thumbs, what is served now, and what can be claimed."""
    row = iteration_row(store, number_)
    active = store.adapters.active()
    return {
        **row,
        "thumbs": report_page.thumbs_with_intervals(row["thumbs"]),
        "serving": active.version if active else BASE,
        "claim": report_page.claim(row),
        "ledger": ledger_rows(store, row["candidate"]),
    }


def ledger_rows(store: Store, version: str | None) -> list[Row]:
    """Every step from base to a version, oldest first; None is what nobody knows. Nothing for one not recorded."""
    if version is None or store.adapters.find(version) is None:
        return []
    return [
        {name: None if value != value else value for name, value in asdict(entry).items()}
        for entry in ledger_of(store, version)
    ]


def adapter_rows(store: Store) -> list[Row]:
    return [views.adapter(item) for item in store.adapters.list()]


def quarantine_rows(store: Store, *, released: bool) -> list[Row]:
    """What is held back, with what was said and by whom; with `released` also what was let go."""
    rows = store.quarantine.history() if released else store.quarantine.held()
    said = {row.feedback_id: store.feedback.get(row.feedback_id) for row in rows}
    return [
        {
            **asdict(row),
            "principal": said[row.feedback_id].principal,
            "completion_id": said[row.feedback_id].completion_id,
            "kind": said[row.feedback_id].kind.value,
            "value": said[row.feedback_id].value,
        }
        for row in rows
    ]


def quarantine(rows: list[Row]) -> str:
    """One line per rollback and iteration."""
    if not rows:
        return "nothing is in quarantine"
    groups: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        key = (row["iteration"], row["at"], row["actor"], row["reason"], row["released_at"])
        groups.setdefault(key, []).append(row)
    lines = [
        (number_, len(group), len({row["principal"] for row in group}), when(at), actor, when(let_go), reason)
        for (number_, at, actor, reason, let_go), group in groups.items()
    ]
    shown_ = table(("ITERATION", "EVENTS", "PEOPLE", "HELD SINCE", "BY", "RELEASED", "REASON"), lines)
    if all(row["released_at"] is not None for row in rows):
        return shown_
    return f"{shown_}\n\n`honed quarantine release --iteration N` (or --all) lets them train again"


def status(row: Row) -> str:
    """/v1/status as text; keys it does not know are shown as they are."""
    lines = []
    for key, value in row.items():
        if isinstance(value, dict):
            lines.append(f"{key}:")
            plain = (pair for pair in value.items() if pair[0] not in ("object", "metrics"))
            lines += [f"  {inner}: {shown(inner, item)}" for inner, item in plain]
            lines += [weighed(metric, found) for metric, found in value.get("metrics", {}).items()]
        elif key != "object":
            lines.append(f"{key}: {shown(key, value)}")
    return "\n".join(lines)


def weighed(metric: str, found: Row) -> str:
    """One metric of a canary or a watch: evidence of harm and what it takes, then both sides."""
    sides = (found["treated"], found["control"])
    told = " against ".join(f"{number(side['value'])} of {side['count']}" for side in sides)
    return f"  {metric}: evidence of harm {number(found['harm_peak'])} of {number(found['limit'])}; {told}"


def shown(key: str, value: Any) -> str:
    """A value as people read it: times as dates, lists and tables in words."""
    if key.endswith("_at"):
        return when(value)
    if isinstance(value, dict):
        return ", ".join(f"{inner} {shown(inner, item)}" for inner, item in value.items())
    if isinstance(value, list):
        return "; ".join(str(item) for item in value) or "-"
    return number(value)


def iterations(rows: list[Row]) -> str:
    if not rows:
        return "no iteration yet"
    headings = (
        "ID",
        "STAGE",
        "CANDIDATE",
        "FROM",
        "UP/DOWN/PAIRS",
        "KL STEP",
        "KL BASE",
        "STARTED",
        "REASON",
    )

    def counts(row: Row) -> str:
        return "/".join(str(row["counts"].get(key, "-")) for key in ("kto_up", "kto_down", "dpo"))

    return table(
        headings,
        [
            (
                row["id"],
                row["stage"],
                row["candidate"],
                row["incumbent"],
                counts(row),
                row["kl_step"],
                row["kl_base"],
                when(row["created_at"]),
                (row["reason"] or "")[:60],
            )
            for row in rows
        ],
    )


def judging(row: Row) -> list[str]:
    """Who might judge, and what came of it."""
    parts = []
    if row["licences"]:
        headings = ("JUDGE", "LICENCE", "LABELS", "AUC", "LOWER", "LENGTH CORR", "WHY")
        rows = []
        for one in row["licences"]:
            found = one["measures"]
            numbers = [found.get(name) for name in ("labels", "auc", "auc_lower", "length_correlation")]
            rows.append(
                (one["scorer"], "yes" if one["licensed"] else "no", *numbers, "; ".join(one["reasons"]))
            )
        parts.append(table(headings, rows))
    if row["pairs"]:
        trained = sum(pair["dropped"] is None for pair in row["pairs"])
        dropped = Counter(pair["dropped"] for pair in row["pairs"] if pair["dropped"] is not None)
        listed = "".join(f", {count} dropped: {reason}" for reason, count in dropped.most_common())
        parts.append(f"judged pairs: {trained} trained{listed}")
    return parts


def iteration(row: Row) -> str:
    parts = [
        f"iteration {row['id']}: {row['stage']}  ({row['trigger']})",
        f"{row['incumbent']} -> {row['candidate'] or '-'}  {row['reason'] or ''}",
        table(
            ("STAGE", "AT", "SECONDS", "NOTE"),
            [(s["stage"], when(s["at"]), s["seconds"], (s["note"] or "")[:70]) for s in row["stages"]],
        ),
        "data: " + ", ".join(f"{key} {shown(key, value)}" for key, value in row["counts"].items()),
    ]
    parts += judging(row["judge"])
    if row["gates"]:
        gates = [(g["metric"], g["value"], g["soft"], g["hard"], g["verdict"]) for g in row["gates"]]
        parts.append(table(("GATE", "VALUE", "SOFT", "HARD", "VERDICT"), gates))
    if row["seconds"]:
        parts.append(
            "trainer: " + ", ".join(f"{phase} {secs:.1f} s" for phase, secs in row["seconds"].items())
        )
    return "\n\n".join(parts)


def adapters(rows: list[Row]) -> str:
    if not rows:
        return "no adapter yet: the base model is served"
    return table(
        ("VERSION", "STATUS", "PARENT", "SCALE", "ITERATION", "MADE", "DIGEST"),
        [
            (
                row["version"],
                row["status"],
                row["parent"] or "base",
                row["scale"],
                row["iteration"],
                when(row["created_at"]),
                row["digest"][:12],
            )
            for row in rows
        ],
    )


def outcome(row: Row) -> str:
    told = row["outcome"].get("message") or ", ".join(
        f"{key} {value}" for key, value in row["outcome"].items()
    )
    return f"{row['kind']}: {row['status']}: {told}"


def verdict(row: Row) -> str:
    ended = row["outcome"]
    if "stage" not in ended:
        return outcome(row)
    return f"iteration {ended['iteration']}: {ended['stage']}: {ended['reason']}"


def findings(rows: list[Row]) -> str:
    lines = []
    for row in rows:
        lines.append(f"{'ok  ' if row['ok'] else 'BAD '} {row['name']}: {row['detail']}")
        if row["remedy"]:
            lines.append(f"     -> {row['remedy']}")
    return "\n".join(lines)


def simulation(figures: Row) -> str:
    rows = [
        (m["after"], m["adapter"], f"{m['rate']:.2f}", f"{m['low']:.2f}-{m['high']:.2f}", m["answers"])
        for m in figures["satisfaction"]
    ]
    parts = [
        f"taste: {figures['taste']}; {figures['thumbs']} thumbs a round; {figures['minutes']:.1f} minutes",
        table(("AFTER", "SERVED BY", "SATISFACTION", "95% INTERVAL", "ANSWERS"), rows),
        table(
            ("CHECK", "RESULT", "DETAIL"),
            [(c["name"], "ok" if c["ok"] else "MISSED", c["detail"]) for c in figures["checks"]],
        ),
    ]
    return "\n\n".join(parts)


class Progress:
    """An iteration being waited for: a bar on a terminal, plain lines elsewhere, nothing when quiet."""

    def __init__(self, *, quiet: bool) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
        from rich.progress import Progress as Bar

        self._console = Console(stderr=True)
        self._plain = not quiet and not self._console.is_terminal
        self._last = ""
        columns = (TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn())
        self._bar = Bar(*columns, console=self._console, disable=quiet or self._plain)
        self._task = self._bar.add_task("waiting", total=None)

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def follow(self, client: "Client", intent: Row) -> None:
        """Show where the iteration an intent started stands."""
        number_ = intent["outcome"].get("iteration")
        if number_ is None:
            return
        row = client.get("/v1/status")["running"]
        if row is None or row["id"] != number_:
            return
        progress = row["progress"] or {}
        text = f"iteration {number_}: {row['stage']}"
        if progress.get("phase"):
            text += f" ({progress['phase']})"
        self._bar.update(
            self._task, description=text, completed=progress.get("done", 0), total=progress.get("total")
        )
        if self._plain and text != self._last:
            print(text, file=sys.stderr, flush=True)
        self._last = text


def imported(row: Row) -> str:
    """What became of an import's rows."""
    lines = [f"skipped: {one}" for one in row["bad"]]
    left_out = f", {row['excluded']} of people of whom nothing is kept" if row["excluded"] else ""
    total = f"{row['rows']} rows read: {row['added']} new, {row['known']} there already{left_out}"
    return "\n".join([*lines, total])


def backed_up(row: Row) -> str:
    """What a backup holds."""
    return f"{row['backup']}: {_holdings(row)}, verified"


def restored(row: Row) -> str:
    """What was put back, and what it cannot know."""
    taken = when(row["created_at"])
    return "\n".join(
        [
            f"{row['restored']}: {_holdings(row)}, as of {taken}; `honed serve` goes on from there",
            f"Whoever was forgotten after {taken} is in it again: run `honed forget` for them once more.",
        ]
    )


def _holdings(row: Row) -> str:
    counts, audit = row["rows"], row["audit"]
    if audit is None:
        log = "audit log not chained"
    elif audit["broken"] is None:
        log = f"audit log of {audit['entries']} entries, head {audit['head']}"
    else:
        log = f"AUDIT LOG BROKEN at entry {audit['broken']}: {audit['why']}"
    return (
        f"{counts['completions']} answers, {counts['feedback']} events of feedback, "
        f"{counts['iterations']} iterations, serving {row['active'] or 'base'}; "
        f"{row['files']} files, {row['bytes'] / 2**20:.1f} MiB; {log}"
    )
