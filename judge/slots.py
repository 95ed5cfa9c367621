"""Reading a judge's opinion where it cannot be talked out of: log-probabilities at a fixed slot.

A judge is never asked to write. It is given the words it might answer with, and what counts is how likely it holds
each of them there (G-Eval, arXiv 2303.16634; means beat modes, 2503.03064). So nothing is parsed, the result is
deterministic, and one forward reads all options: they share every token but the last.
"""

import logging
import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from judge.scorer import Question
from policies.engine import Engine
from store.errors import Invalid
from store.records import Message

log = logging.getLogger(__name__)

#: Questions judged between two reports of progress.
SLICE = 8

#: Reasons for which answers were not judged, counted.
Abstentions = Counter[str]


@dataclass(frozen=True, slots=True)
class Judge:
    """Who judges: an engine and, where it is not the base, the adapter."""

    engine: Engine
    adapter: str | None = None

    @property
    def identity(self) -> str:
        """For a scorer's version: other weights, other scores."""
        return f"{self.engine.fingerprint}/{self.adapter or 'base'}"


@dataclass(frozen=True, slots=True)
class Slot:
    """What the judge is asked, and the words it may answer with."""

    prompt: tuple[Message, ...]
    options: tuple[str, ...]


#: A conversation and what follows it.
Row = tuple[tuple[Message, ...], str]


async def logprobs(judge: Judge, rows: Sequence[Row]) -> list[list[float] | None]:
    """Log-probabilities (nats) of each row's continuation, per token; None where the engine takes no such row.

    The engine refuses all rows for a single one that exceeds its context, so a refused half is halved again.
    """
    if not rows:
        return []
    prompts, continuations = [list(row[0]) for row in rows], [row[1] for row in rows]
    try:
        return list(await judge.engine.score(prompts, continuations, adapter=judge.adapter))
    except Invalid:
        if len(rows) == 1:
            return [None]
    middle = len(rows) // 2
    return [*await logprobs(judge, rows[:middle]), *await logprobs(judge, rows[middle:])]


async def read(judge: Judge, slots: Sequence[Slot]) -> list[tuple[float, ...] | None]:
    """Log-probability (nats) of each slot's options; None where the prompt is too long.

    Summed over an option's tokens. Those that all options share cancel out in a difference or a softmax.
    """
    rows = [(slot.prompt, option) for slot in slots for option in slot.options]
    values = iter(await logprobs(judge, rows))
    opinions: list[tuple[float, ...] | None] = []
    for slot in slots:
        found = [next(values) for _ in slot.options]
        sums = tuple(sum(value) for value in found if value is not None)
        opinions.append(sums if len(sums) == len(found) else None)
    return opinions


def softmax(values: Sequence[float]) -> tuple[float, ...]:
    """Log-probabilities (nats) into probabilities that sum to 1."""
    top = max(values)
    weights = [math.exp(value - top) for value in values]
    return tuple(weight / sum(weights) for weight in weights)


def slices(questions: Sequence[Question]) -> Iterator[Sequence[Question]]:
    """The questions, a report of progress at a time."""
    for start in range(0, len(questions), SLICE):
        yield questions[start : start + SLICE]


Progress = Callable[[int], None] | None


def report(on_progress: Progress, judged: int) -> None:
    """Tell whoever wants to know how many questions are judged."""
    if on_progress is not None:
        on_progress(judged)


def log_abstentions(name: str, reasons: Abstentions) -> None:
    """Write down why answers have no score; the scores themselves cannot say."""
    if reasons:
        listed = ", ".join(f"{reason} ({count})" for reason, count in sorted(reasons.items()))
        log.info("%s: %d answers not judged: %s", name, reasons.total(), listed)
