"""Log-probabilities of given answers: plain forwards, a few rows at a time so that chat steps fit in between."""

from collections.abc import Sequence
from typing import Any

import torch

#: Padded tokens of one forward: bounds how long a chat waits behind it.
TOKENS = 512


class ScoreJob:
    """Rows of (prompt, answer) token ids, scored a forward at a time."""

    def __init__(
        self, model: Any, rows: Sequence[tuple[Sequence[int], Sequence[int]]], adapter: str | None
    ) -> None:
        self.model, self.rows, self.adapter = model, rows, adapter
        # Rows of like length together waste the least padding.
        self._order = sorted(range(len(rows)), key=lambda index: len(rows[index][0]) + len(rows[index][1]))
        self._results: dict[int, list[float]] = {}

    def advance(self) -> bool:
        """Score the next few rows. Returns whether all are done."""
        if self._order:
            chosen: list[int] = []
            longest = 0
            while self._order:
                prompt, answer = self.rows[self._order[0]]
                longest = max(longest, len(prompt) + len(answer))
                if chosen and longest * (len(chosen) + 1) > TOKENS:
                    break
                chosen.append(self._order.pop(0))
            for index, scores in zip(chosen, self._forward(chosen, longest), strict=True):
                self._results[index] = scores
        return not self._order

    def results(self) -> list[list[float]]:
        """In the order the rows came."""
        return [self._results[index] for index in range(len(self.rows))]

    def _forward(self, chosen: Sequence[int], longest: int) -> list[list[float]]:
        """Right-padded, so causal attention never sees the padding and needs no mask."""
        ids = torch.zeros(len(chosen), longest, dtype=torch.long)
        for row, index in enumerate(chosen):
            tokens = [*self.rows[index][0], *self.rows[index][1]]
            ids[row, : len(tokens)] = torch.tensor(tokens)
        states = self.model.base_model(input_ids=ids.to(self.model.device), use_cache=False).last_hidden_state
        head = self.model.get_output_embeddings()
        scores = []
        for row, index in enumerate(chosen):
            prompt, answer = self.rows[index]
            # The state before each answer token predicts it.
            wanted = states[row, len(prompt) - 1 : len(prompt) + len(answer) - 1]
            logprobs = torch.log_softmax(head(wanted).float(), dim=-1)
            targets = torch.tensor(list(answer), device=logprobs.device)[:, None]
            scores.append(logprobs.gather(1, targets)[:, 0].tolist())
        return scores
