"""`honed judge eval`: every scorer against a file of answer pairs, on the configured model, without the service.

The model is loaded into this process; nothing is written but the file asked for.
"""

import asyncio
import sys
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from pydantic import ValidationError

from daemon.config import Config, explain
from daemon.judging import endpoint_of
from daemon.views import number, table, write
from judge.config import JudgeConfig
from judge.evaluate import Pair, evaluate
from store.errors import ConfigError, Invalid

#: Asked where no scorer is named; "external" besides where it is configured.
OWN = ("relevance", "rubric", "pairwise", "principles")
HEADINGS = (
    *("SCORER", "N", "ACCURACY", "AUC", "SWAPS", "LENGTH", "TIES", "ABSTAINED", "INJECTED", "ANSWERS/S"),
)
#: Plain progress: lines per scorer.
LINES = 5


def chosen(judge: JudgeConfig, names: Sequence[str]) -> JudgeConfig:
    """The same configuration with other scorers.

    Raises:
        ConfigError: no such scorer, one twice, or an external one without an endpoint.
    """
    configured = bool(judge.external.url and judge.external.model)
    scorers = tuple(names) or (*OWN, *(["external"] if configured else []))
    try:
        return JudgeConfig.model_validate({**judge.model_dump(), "scorers": scorers})
    except ValidationError as error:
        raise ConfigError(f"--scorer:\n{explain(error)}", param="scorer") from error


def judge_pairs(
    config: Config, judge: JudgeConfig, pairs: Sequence[Pair], *, quiet: bool
) -> list[dict[str, Any]]:
    """What each scorer is worth on these pairs, as rows."""
    with Progress(quiet=quiet) as progress:
        return asyncio.run(_judge_pairs(config, judge, pairs, progress))


async def _judge_pairs(
    config: Config, judge: JudgeConfig, pairs: Sequence[Pair], progress: "Progress"
) -> list[dict[str, Any]]:
    from judge.scorers import build_scorers
    from policies.engines import build_engine, resolve_base

    endpoint = endpoint_of(judge)
    progress.say(f"loading {config.policies.engine.model}")
    model, digest = await asyncio.to_thread(resolve_base, config.policies.engine, config.store.directory)
    engine = build_engine(config.policies.engine, model, digest)
    await engine.start()
    try:
        scorers = build_scorers(judge, engine, adapter=None, seed=0, endpoint=endpoint)
        rows = await evaluate(
            scorers, pairs, confidence=judge.licence.confidence, seed=0, on_progress=progress.follow
        )
    finally:
        await engine.close()
    return [row.as_dict() for row in rows]


def save(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Write the rows to a file.

    Raises:
        Invalid: it cannot be written.
    """
    try:
        write(path, rows)
    except OSError as error:
        raise Invalid(f"cannot write {path}: {error.strerror}", param="output") from error


def text(rows: Sequence[dict[str, Any]]) -> str:
    """The rows as tables: every scorer, then accuracy by kind of pair where the file names kinds."""
    measured = [
        (
            row["scorer"],
            whole(row.get("n_comparisons", 0)),
            interval(row, "accuracy"),
            interval(row, "auc"),
            two(row.get("swap_consistency")),
            two(row.get("length_correlation")),
            two(row.get("tie_rate")),
            two(row.get("abstained")),
            two(row.get("injection")),
            number(row["answers_per_second"]),
        )
        for row in rows
    ]
    parts = [
        table(HEADINGS, measured),
        f"Intervals hold {rows[0]['confidence']:.0%}. N: pairs with both answers judged.",
    ]
    kinds = [
        (kind, row["scorer"], whole(found["n_comparisons"]), interval(found, "accuracy"))
        for kind in sorted({kind for row in rows for kind in row["kinds"]})
        for row in rows
        if (found := row["kinds"].get(kind)) is not None
    ]
    if kinds:
        parts.append(table(("KIND", "SCORER", "N", "ACCURACY"), kinds))
    return "\n\n".join(parts)


def whole(value: float) -> str:
    return f"{value:.0f}"


def two(value: float | None) -> str | None:
    """Two decimals; None where it was not measured."""
    return None if value is None else f"{value:.2f}"


def interval(row: dict[str, Any], name: str) -> str | None:
    """An estimate and its interval, as far as there are any."""
    if name not in row:
        return None
    if f"{name}_lower" not in row:
        return two(row[name])
    return f"{two(row[name])} ({two(row[f'{name}_lower'])}-{two(row[f'{name}_upper'])})"


class Progress:
    """A bar per scorer on a terminal, plain lines elsewhere, nothing when quiet."""

    def __init__(self, *, quiet: bool) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
        from rich.progress import Progress as Bar

        console = Console(stderr=True)
        self._plain = not quiet and not console.is_terminal
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        self._bar = Bar(*columns, console=console, disable=quiet or self._plain)
        self._tasks: dict[str, Any] = {}
        self._told: dict[str, int] = {}

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def say(self, line: str) -> None:
        """Something other than progress."""
        if self._plain:
            print(line, file=sys.stderr, flush=True)
        elif not self._bar.disable:
            self._bar.console.print(line, highlight=False)

    def follow(self, name: str, done: int, total: int) -> None:
        """Show how far a scorer is."""
        if name not in self._tasks:
            self._tasks[name] = self._bar.add_task(name, total=total)
        self._bar.update(self._tasks[name], completed=done)
        step = LINES * done // max(total, 1)
        if self._plain and self._told.get(name) != step:
            self._told[name] = step
            print(f"{name}: {done} of {total} questions", file=sys.stderr, flush=True)
