"""The distinct tokens of many rows, each listed once: rows that begin alike share what they have in common.

Sorted, the rows are the branches of a tree of tokens met one after the other, so a row's own tokens are those after
what it shares with the row before it. A token listed at depth d hangs from the last one listed at depth d - 1. That
is all the structure there is: two lists of numbers. Nothing here knows tensors.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

#: Token ids of a prompt and of the answer whose log-probabilities are wanted.
Row = tuple[Sequence[int], Sequence[int]]


class Target(NamedTuple):
    """Token number `at` of row number `row`'s answer is `token`."""

    row: int
    at: int
    token: int


@dataclass(frozen=True, slots=True)
class TokenTree:
    """Tokens in an order in which whatever precedes a token in its row is listed before it."""

    tokens: list[int]
    depths: list[int]
    """Where each token stands in its row, from 0."""
    targets: dict[int, list[Target]]
    """Index of a listed token -> the answer tokens it is followed by."""
    trunk: int
    """So many tokens every row begins with, and none of them is followed by a target."""
    answers: list[int]
    """Tokens of each row's answer."""
    asked: int
    """Tokens of all rows, shared or not."""


def grow_tree(rows: Sequence[Row]) -> TokenTree:
    """The tree of the rows' inputs: everything but each answer's last token, which nothing follows.

    Raises:
        ValueError: a prompt without tokens, after which nothing has a probability.
    """
    if not all(len(prompt) for prompt, _ in rows):
        raise ValueError("a prompt to score after has no tokens")
    # A row without an answer asks for nothing, so it costs nothing.
    inputs = {number: [*prompt, *answer[:-1]] for number, (prompt, answer) in enumerate(rows) if len(answer)}
    tokens: list[int] = []
    depths: list[int] = []
    targets: dict[int, list[Target]] = {}
    trunk = min((len(rows[number][0]) - 1 for number in inputs), default=0)
    before: list[int] = []
    path: list[int] = []
    for number in sorted(inputs, key=inputs.__getitem__):
        row, (prompt, answer) = inputs[number], rows[number]
        common = common_length(before, row)
        trunk = min(trunk, common) if before else trunk
        del path[common:]
        path += range(len(tokens), len(tokens) + len(row) - common)
        tokens += row[common:]
        depths += range(common, len(row))
        before = row
        for at, token in enumerate(answer):
            targets.setdefault(path[len(prompt) - 1 + at], []).append(Target(number, at, token))
    asked = sum(len(prompt) + len(answer) for prompt, answer in rows)
    return TokenTree(tokens, depths, targets, trunk, [len(answer) for _, answer in rows], asked)


def common_length(one: Sequence[int], other: Sequence[int]) -> int:
    """How many tokens two rows have in common from the start."""
    if one == other:
        return len(one)
    shorter = min(len(one), len(other))
    return next((at for at in range(shorter) if one[at] != other[at]), shorter)


def parent_slots(depths: Sequence[int]) -> tuple[list[int], list[int]]:
    """Where each token of a piece hangs from, and the way from the root to the piece's last token; both in slots.

    Slot s < depths[0] holds the token at depth s above the piece; the piece's own tokens have the slots after those.
    A token at depth 0 hangs from slot -1.
    """
    above = depths[0]
    way = list(range(above))
    parents = []
    for index, depth in enumerate(depths):
        del way[depth:]
        parents.append(way[-1] if way else -1)
        way.append(above + index)
    return parents, way
