"""From examples to token rows, and from rows to optimiser steps.

All forms of example share steps. A step is shuffled by seed and epoch, so it depends on nothing else; inside it, rows
of like length go through the model together, which changes the order of a sum and nothing more.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from policies.chat import encode_completion, encode_prompt
from policies.spec import AnchorExample, DpoExample, KtoExample, TrainingExample, Turn
from store.records import Message

#: Mismatched pairs a run keeps for KTO's baseline (a quarter of its thumbs, within these bounds), and how many of
#: them each step measures: a tenth of the step's work.
BASELINE_PAIRS = (8, 64)
BASELINE_PER_STEP = 4


@dataclass(frozen=True, slots=True)
class Row:
    """A prompt and one answer as tokens: `ids[start:]` is the answer."""

    ids: tuple[int, ...]
    start: int

    @property
    def answer(self) -> tuple[int, ...]:
        return self.ids[self.start :]

    @property
    def prompt(self) -> tuple[int, ...]:
        return self.ids[: self.start]


@dataclass(frozen=True, slots=True)
class Thumb:
    """A KTO example as tokens."""

    id: str
    row: Row
    label: bool
    weight: float

    @property
    def rows(self) -> tuple[Row, ...]:
        return (self.row,)


@dataclass(frozen=True, slots=True)
class Pair:
    """A DPO example as tokens."""

    id: str
    chosen: Row
    rejected: Row
    q: float
    weight: float

    @property
    def rows(self) -> tuple[Row, ...]:
        return (self.chosen, self.rejected)


@dataclass(frozen=True, slots=True)
class Anchor:
    """One of base's own answers as tokens."""

    id: str
    row: Row
    weight: float

    @property
    def rows(self) -> tuple[Row, ...]:
        return (self.row,)


Item = Thumb | Pair | Anchor


def as_messages(turns: Sequence[Turn]) -> list[Message]:
    """A prompt as the chat template takes it."""
    return [Message(turn.role, turn.content) for turn in turns]


def join(prompt: Sequence[int], answer: Sequence[int], max_length: int) -> Row:
    """One row within `max_length`: the prompt loses its beginning; the answer its end, if it alone is too long."""
    kept = tuple(answer[: max_length - 1])
    room = max_length - len(kept)
    head = tuple(prompt[-room:])
    return Row(head + kept, len(head))


@dataclass(frozen=True, slots=True)
class Encoder:
    """Turns examples into rows, through the tokenizer and template that serving uses."""

    tokenizer: Any
    max_length: int

    def row(self, prompt: Sequence[Turn], answer: str, *, ended: bool) -> Row:
        head = encode_prompt(self.tokenizer, as_messages(prompt))
        return join(head, encode_completion(self.tokenizer, answer, ended=ended), self.max_length)

    def thumb(self, example: KtoExample) -> Thumb:
        row = self.row(example.prompt, example.completion, ended=example.ended)
        return Thumb(example.id, row, example.label, example.weight)

    def pair(self, example: DpoExample) -> Pair:
        chosen = self.row(example.prompt, example.chosen, ended=example.chosen_ended)
        rejected = self.row(example.prompt, example.rejected, ended=example.rejected_ended)
        return Pair(example.id, chosen, rejected, example.q, example.weight)

    def anchor(self, example: AnchorExample) -> Anchor:
        row = self.row(example.prompt, example.completion, ended=example.ended)
        return Anchor(example.id, row, example.weight)

    def item(self, example: TrainingExample) -> Item:
        match example:
            case KtoExample():
                return self.thumb(example)
            case DpoExample():
                return self.pair(example)
            case AnchorExample():
                return self.anchor(example)

    def items(self, examples: Sequence[TrainingExample]) -> list[Item]:
        """Every example that can teach: it has weight, and every answer at least one token."""
        items = [self.item(example) for example in examples]
        return [item for item in items if item.weight > 0 and all(row.answer for row in item.rows)]


def mismatched(items: Sequence[Item], *, seed: int, max_length: int) -> list[Row]:
    """Pairs (x_i, y_j) of different KTO examples, for the baseline z0; none when there is only one example.

    The pairing is fixed for the run: a seeded shuffle rotated by one, so that what lies below the adapter and the
    reference's log-probabilities are computed once. z0 estimates an expectation over such pairs, and which of them a
    step uses is immaterial to it; TRL rotates inside each batch and so recomputes the reference.
    """
    thumbs = [item for item in items if isinstance(item, Thumb)]
    if len(thumbs) < 2:
        return []
    random.Random(f"mismatched:{seed}").shuffle(thumbs)
    rotated = [*thumbs[1:], thumbs[0]]
    count = min(max(len(thumbs) // 4, BASELINE_PAIRS[0]), BASELINE_PAIRS[1])
    pairs = zip(thumbs[:count], rotated[:count], strict=True)
    return [join(x.row.prompt, y.row.answer, max_length) for x, y in pairs]


def baseline_rows(pairs: Sequence[Row], step: int) -> list[Row]:
    """The mismatched pairs step number `step` measures: the next few, round and round."""
    count = min(BASELINE_PER_STEP, len(pairs))
    return [pairs[(step * count + i) % len(pairs)] for i in range(count)]


def steps(items: Sequence[Item], *, size: int, epoch: int, seed: int) -> list[list[Item]]:
    """One epoch: every item once, in steps of nearly equal size, none larger than `size`."""
    shuffled = list(items)
    random.Random(f"{seed}:{epoch}").shuffle(shuffled)
    count = -(-len(shuffled) // size)
    cuts = [len(shuffled) * i // count for i in range(count + 1)]
    return [shuffled[low:high] for low, high in pairwise(cuts)]


def _groups(costs: Sequence[tuple[int, int]], budget: int) -> list[list[int]]:
    """Group indices so that rows * longest stays within `budget` (one index always fits): those of several rows
    first, which are laid out in another way, and of them and of the others the longest first.
    """
    order = sorted(range(len(costs)), key=lambda i: (costs[i][0] == 1, -costs[i][1], i))
    groups: list[list[int]] = []
    rows = width = 0
    for index in order:
        count, length = costs[index]
        if not groups or (rows + count) * max(width, length) > budget:
            groups.append([])
            rows = width = 0
        groups[-1].append(index)
        rows, width = rows + count, max(width, length)
    return groups


def longest(rows: Sequence[Row]) -> int:
    """Tokens of the longest row; 0 of none."""
    return max((len(row.ids) for row in rows), default=0)


def micro_batches(items: Sequence[Item], budget: int) -> list[list[Item]]:
    """Split a step into pieces of at most `budget` padded tokens, a pair's two rows always together."""
    costs = [(len(item.rows), longest(item.rows)) for item in items]
    return [[items[i] for i in group] for group in _groups(costs, budget)]


def by_prompt(rows: Sequence[Row]) -> list[list[int]]:
    """Indices of rows with the same prompt, a list for each prompt."""
    same: dict[tuple[int, ...], list[int]] = {}
    for index, row in enumerate(rows):
        same.setdefault(row.prompt, []).append(index)
    return list(same.values())


def row_batches(rows: Sequence[Row], budget: int) -> list[list[int]]:
    """Indices of rows in batches of at most `budget` padded tokens, answers to one prompt together where they fit."""
    units: list[list[int]] = []
    for group in by_prompt(rows):
        room = max(1, budget // longest([rows[i] for i in group]))
        units += [group[at : at + room] for at in range(0, len(group), room)]
    costs = [(len(unit), longest([rows[i] for i in unit])) for unit in units]
    return [[i for number in group for i in units[number]] for group in _groups(costs, budget)]
