"""Log-probabilities of given answers, no token computed twice, a piece at a time so that chat steps fit in between.

Judging asks about the same tokens over and over: one rubric before every question, several marks after every
answer. The rows of a job are laid out as a tree (`policies.prefix_tree`) and computed as one long row, a token seeing
only what is above it in the tree: exact, and without padding. The beginning that all rows share is kept for the
next job (`policies.prefixes`).

Left out: one forward for several jobs. Short ones fill their pieces less, and that is all it would gain.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from policies.chat import encode_completion
from policies.forward import Forward
from policies.prefix_tree import Row, Target, TokenTree, parent_slots
from policies.prefixes import LONG, PathCache, Prefixes
from store.records import Message

#: Tokens of one forward while nobody chats.
TOKENS = 256


@dataclass
class TokenCount:
    """Tokens that rows had, and tokens that went through the model for them."""

    asked: int = 0
    computed: int = 0

    def add(self, other: "TokenCount") -> None:
        self.asked += other.asked
        self.computed += other.computed


class ScoreJob:
    """Rows of (prompt, answer) token ids, scored a forward at a time."""

    def __init__(self, model: Forward, tree: TokenTree, adapter: str | None, prefixes: Prefixes) -> None:
        self.adapter = adapter
        self.count = TokenCount(tree.asked)
        self._model, self._tree, self._prefixes = model, tree, prefixes
        self._results = [[0.0] * length for length in tree.answers]
        self._cache = PathCache()
        self._begun = False
        # The next token to compute, and whether the trunk is worth keeping once it has been.
        self._next, self._keep_trunk = 0, False

    def advance(self, tokens: int = TOKENS) -> bool:
        """One forward over at most `tokens` tokens. Returns whether all rows are done."""
        if not self._begun:
            self._begin()
        if self._next < len(self._tree.tokens):
            self._compute(self._next, min(self._next + tokens, len(self._tree.tokens)))
        return self._next == len(self._tree.tokens)

    def results(self) -> list[list[float]]:
        """In the order the rows came."""
        return self._results

    def _begin(self) -> None:
        """Start behind what an earlier job left: the trunk is listed first, so that is only a matter of where."""
        self._begun = True
        trunk = self._tree.tokens[: self._tree.trunk]
        prefix, length = self._prefixes.longest(self.adapter, trunk)
        if prefix is not None:
            self._cache.start_with(prefix, length)
        self._next, self._keep_trunk = length, len(trunk) - length >= LONG

    def _compute(self, start: int, stop: int) -> None:
        """The next piece of the tree, as one row."""
        depths = self._tree.depths[start:stop]
        parents, way = parent_slots(depths)
        device = self._model.device
        states = self._model.states(
            torch.tensor([self._tree.tokens[start:stop]], device=device),
            cache=self._cache,
            positions=torch.tensor([depths], device=device),
            mask=visibility(parents, depths[0])[None, None].to(device),
        )[0]
        self._read_targets(states, start)
        # The next token's ancestors; where there is none, all of the way, for the trunk may end here.
        self._cache.keep(way[: self._tree.depths[stop]] if stop < len(self._tree.depths) else way)
        self._next = stop
        self.count.computed += stop - start
        if self._keep_trunk and stop >= self._tree.trunk:
            self._keep_trunk = False
            self._prefixes.add(self._cache.prefix(self.adapter, self._tree.tokens[: self._tree.trunk]))

    def _read_targets(self, states: Tensor, start: int) -> None:
        """Write down what the tokens of a piece that began at `start` say of those after them."""
        indices = [index for index in range(len(states)) if start + index in self._tree.targets]
        if not indices:
            return
        targets = [self._tree.targets[start + index] for index in indices]
        for found, wanted in zip(logprobs(self._model, states[indices], targets), targets, strict=True):
            for value, target in zip(found, wanted, strict=True):
                self._results[target.row][target.at] = value


def visibility(parents: Sequence[int], above: int) -> Tensor:
    """Which slots each token of a piece attends to, bool [piece, above + piece]: itself and what it hangs from.

    Args:
        parents: from `parent_slots`.
        above: slots before the piece.
    """
    visible = torch.zeros(len(parents), above + len(parents), dtype=torch.bool)
    for index, parent in enumerate(parents):
        if parent < above:
            visible[index, : parent + 1] = True
        else:
            visible[index] = visible[parent - above]
        visible[index, above + index] = True
    return visible


def logprobs(model: Forward, states: Tensor, targets: Sequence[Sequence[Target]]) -> list[list[float]]:
    """Log-probability of each target after its state [states, hidden]; the head is applied once a state."""
    logits = model.logits(states)
    # Not log_softmax: that would be a second table of states * vocabulary.
    totals = torch.logsumexp(logits, dim=-1)
    rows = torch.tensor([row for row, wanted in enumerate(targets) for _ in wanted], device=logits.device)
    tokens = torch.tensor([target.token for wanted in targets for target in wanted], device=logits.device)
    values = iter((logits[rows, tokens] - totals[rows]).tolist())
    return [[next(values) for _ in wanted] for wanted in targets]


async def encode_rows(
    prompts: Sequence[Sequence[Message]],
    continuations: Sequence[str],
    tokenizer: Any,
    encode_prompt: Callable[[Sequence[Message]], Awaitable[list[int]]],
) -> list[Row]:
    """Token ids of each prompt and continuation; what appears several times is encoded once."""
    pairs = [(tuple(prompt), text) for prompt, text in zip(prompts, continuations, strict=True)]
    known: dict[tuple[Message, ...], list[int]] = {}
    answers: dict[str, list[int]] = {}
    for prompt, text in pairs:
        if prompt not in known:
            known[prompt] = await encode_prompt(prompt)
            # Hundreds of texts take a while; the loop serves others in between.
            await asyncio.sleep(0)
        if text not in answers:
            answers[text] = encode_completion(tokenizer, text, ended=False)
            await asyncio.sleep(0)
    return [(known[prompt], answers[text]) for prompt, text in pairs]
