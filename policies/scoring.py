"""Log-probabilities of given answers: plain forwards, a piece at a time so that chat steps fit in between."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import DynamicCache

#: Tokens of one forward while nobody chats.
TOKENS = 256


class ScoreJob:
    """Rows of (prompt, answer) token ids, scored a forward at a time."""

    def __init__(
        self, model: Any, rows: Sequence[tuple[Sequence[int], Sequence[int]]], adapter: str | None
    ) -> None:
        self.model, self.rows, self.adapter = model, rows, adapter
        # Rows of like length together waste the least padding.
        self._order = sorted(range(len(rows)), key=self._length)
        self._results: dict[int, list[float]] = {}
        # A row too long for one forward: how far it has been read, and what was read.
        self._read = 0
        self._cache = DynamicCache()

    def advance(self, tokens: int = TOKENS) -> bool:
        """One forward over at most `tokens` tokens, padding included. Returns whether all rows are done."""
        if self._order and (self._read or self._length(self._order[0]) > tokens):
            self._read_on(self._order[0], tokens)
        elif self._order:
            self._score_together(tokens)
        return not self._order

    def results(self) -> list[list[float]]:
        """In the order the rows came."""
        return [self._results[index] for index in range(len(self.rows))]

    def _length(self, index: int) -> int:
        prompt, answer = self.rows[index]
        return len(prompt) + len(answer)

    def _score_together(self, tokens: int) -> None:
        """The next rows that fit, padded on the right: causal attention never sees that, so no mask is needed."""
        chosen = [self._order.pop(0)]
        while self._order and self._length(self._order[0]) * (len(chosen) + 1) <= tokens:
            chosen.append(self._order.pop(0))
        ids = torch.zeros(len(chosen), self._length(chosen[-1]), dtype=torch.long)
        for row, index in enumerate(chosen):
            ids[row, : self._length(index)] = torch.tensor([*self.rows[index][0], *self.rows[index][1]])
        states = self.model.base_model(input_ids=ids.to(self.model.device), use_cache=False).last_hidden_state
        for row, index in enumerate(chosen):
            prompt, answer = self.rows[index]
            # The state before each answer token predicts it.
            wanted = states[row, len(prompt) - 1 : len(prompt) + len(answer) - 1]
            self._results[index] = self._logprobs(wanted, answer)

    def _read_on(self, index: int, tokens: int) -> None:
        """The next piece of one long row, the pieces before it kept as keys and values."""
        prompt, answer = self.rows[index]
        piece = [*prompt, *answer][self._read : self._read + tokens]
        ids = torch.tensor([piece], device=self.model.device)
        states = self.model.base_model(
            input_ids=ids, past_key_values=self._cache, use_cache=True
        ).last_hidden_state
        # Answer tokens predicted by this piece: those whose position before lies in it.
        first = max(len(prompt) - 1, self._read)
        last = min(len(prompt) + len(answer) - 1, self._read + len(piece))
        if first < last:
            targets = answer[first - len(prompt) + 1 : last - len(prompt) + 1]
            wanted = states[0, first - self._read : last - self._read]
            self._results.setdefault(index, []).extend(self._logprobs(wanted, targets))
        self._read += len(piece)
        if self._read == self._length(index):
            self._results.setdefault(index, [])
            self._order.pop(0)
            self._read, self._cache = 0, DynamicCache()

    def _logprobs(self, states: Tensor, targets: Sequence[int]) -> list[float]:
        """Log-probability of each target after its state [targets, hidden]."""
        logprobs = torch.log_softmax(self.model.get_output_embeddings()(states).float(), dim=-1)
        wanted = torch.tensor(list(targets), device=logprobs.device, dtype=torch.long)[:, None]
        values: list[float] = logprobs.gather(1, wanted)[:, 0].tolist()
        return values
