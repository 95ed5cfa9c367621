"""A model as the embedded engine asks it: states and logits of tokens that follow what a cache holds."""

from typing import Any, Protocol

import torch
from torch import Tensor
from transformers.cache_utils import Cache


class Forward(Protocol):
    """One version of the model, ready to decode and to score.

    In all of it `ids` is int64 [rows, tokens]; `positions` likewise, by default those after what `cache` holds;
    `mask` is bool [rows, 1, tokens, held + tokens], by default causal. The new keys and values go into `cache`.
    """

    @property
    def device(self) -> torch.device: ...

    def states(
        self, ids: Tensor, *, cache: Cache, positions: Tensor | None = None, mask: Tensor | None = None
    ) -> Tensor:
        """Final hidden states [rows, tokens, hidden]."""
        ...

    def next_logits(
        self, ids: Tensor, *, cache: Cache, positions: Tensor | None = None, mask: Tensor | None = None
    ) -> Tensor:
        """What may follow the last token of each row: float32 [rows, vocabulary]."""
        ...

    def logits(self, states: Tensor) -> Tensor:
        """The output head over states [n, hidden]: float32 [n, vocabulary]."""
        ...


class Whole:
    """A transformers model as it is: any architecture, any device."""

    def __init__(self, model: Any) -> None:
        self._model = model

    @property
    def device(self) -> torch.device:
        device: torch.device = self._model.device
        return device

    def states(
        self, ids: Tensor, *, cache: Cache, positions: Tensor | None = None, mask: Tensor | None = None
    ) -> Tensor:
        inner = self._model.base_model
        out = inner(
            input_ids=ids, position_ids=positions, attention_mask=mask, past_key_values=cache, use_cache=True
        )
        states: Tensor = out.last_hidden_state
        return states

    def next_logits(
        self, ids: Tensor, *, cache: Cache, positions: Tensor | None = None, mask: Tensor | None = None
    ) -> Tensor:
        out = self._model(
            input_ids=ids,
            position_ids=positions,
            attention_mask=mask,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        )
        logits: Tensor = out.logits[:, -1].float()
        return logits

    def logits(self, states: Tensor) -> Tensor:
        logits: Tensor = self._model.get_output_embeddings()(states).float()
        return logits
