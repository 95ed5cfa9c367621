"""How rows stand in one forward: a sequence for each, or one for all answers to the same prompt.

    prompt | answer | answer | ...

The prompt is there once. An answer's tokens have the positions they would have after the prompt alone, and see the
prompt and what stands before them in their own answer. So the states are those of rows computed one by one, and the
gradients too, which come back to the prompt from all answers. An answer's last token is left out: nothing follows it.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from policies.batches import Row, by_prompt

#: Segment of the prompt, and of what fills a sequence up; answers count from 1.
_PROMPT, _FILL = 0, -1


@dataclass(frozen=True, slots=True)
class Layout:
    """Sequences (B, T), filled up on the right."""

    tokens: list[list[int]]
    """Of each sequence, not filled up."""
    segments: list[list[int]]
    """Of each token the answer it belongs to, from 1 in each sequence; 0 in the prompt."""
    positions: list[list[int]]
    """Of each token where it stands in its row, from 0."""
    paths: list[tuple[int, list[int]]]
    """Of each row its sequence, and where in it the tokens of the row stand, the last one left out."""

    @property
    def width(self) -> int:
        return max(map(len, self.tokens))

    @property
    def packed(self) -> bool:
        """Whether a sequence has several answers: then it needs a mask and positions of its own."""
        return len(self.tokens) < len(self.paths)

    def ids(self, device: torch.device) -> Tensor:
        """Tokens (B, T)."""
        return _filled(self.tokens, 0, device)

    def position_ids(self, device: torch.device) -> Tensor:
        """(B, T)."""
        return _filled(self.positions, 0, device)

    def sight(self, device: torch.device) -> Tensor:
        """Which tokens each token sees, bool (B, 1, T, T). What fills up sees itself, lest a softmax be empty."""
        segment = _filled(self.segments, _FILL, device)
        own = segment[:, :, None] == segment[:, None, :]
        causal = torch.ones(self.width, self.width, dtype=torch.bool, device=device).tril()
        return ((own | (segment[:, None, :] == _PROMPT)) & causal)[:, None]


def inputs(row: Row) -> tuple[int, ...]:
    """What of a row has to be computed: all but the answer's last token."""
    return row.ids[:-1] if row.answer else row.ids


def worth_packing(rows: Sequence[Row], *, shared: int, width: int) -> bool:
    """Whether one sequence for these answers to one prompt is cheaper than a sequence for each.

    A token fewer saves some 12 width^2 multiplications a block (projections and a gated layer of usual shape).
    Answers that share a sequence are compared with each other only to be masked: a pair of tokens costs 2 width,
    and attention takes about three times as long for each, its products being small (measured in docs/log.md).

    Args:
        shared: tokens at the beginning that the whole batch computes once anyway.
        width: of the hidden states.
    """
    prompt = rows[0].start
    answers = [len(inputs(row)) - prompt for row in rows]
    long = prompt + sum(answers)
    together = (long - shared) * long
    apart = sum((prompt + answer - shared) * (prompt + answer) for answer in answers)
    return (len(rows) - 1) * (prompt - shared) * 2 * width > together - apart


def bundles(rows: Sequence[Row], *, shared: int, width: int) -> tuple[list[list[int]], list[int]]:
    """Indices of rows that are to share a sequence, a list for each; and of those that stand alone.

    Args:
        shared, width: as for `worth_packing`.
    """
    together = [
        group
        for group in by_prompt(rows)
        if len(group) > 1 and worth_packing([rows[i] for i in group], shared=shared, width=width)
    ]
    within = {index for group in together for index in group}
    return together, [index for index in range(len(rows)) if index not in within]


def lay_out(groups: Sequence[Sequence[Row]]) -> Layout:
    """A sequence for every group of rows with the same prompt; paths are in the order of the rows."""
    layout = Layout([], [], [], [])
    for number, rows in enumerate(groups):
        prompt = rows[0].prompt
        tokens, segments, positions = list(prompt), [_PROMPT] * len(prompt), list(range(len(prompt)))
        for segment, row in enumerate(rows, start=_PROMPT + 1):
            answer = inputs(row)[len(prompt) :]
            layout.paths.append(
                (number, [*range(len(prompt)), *range(len(tokens), len(tokens) + len(answer))])
            )
            tokens += answer
            segments += [segment] * len(answer)
            positions += range(len(prompt), len(prompt) + len(answer))
        layout.tokens.append(tokens)
        layout.segments.append(segments)
        layout.positions.append(positions)
    return layout


def _filled(values: Sequence[Sequence[int]], fill: int, device: torch.device) -> Tensor:
    longest = max(map(len, values))
    return torch.tensor([[*own, *[fill] * (longest - len(own))] for own in values], device=device)
