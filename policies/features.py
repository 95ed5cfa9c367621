"""A causal language model cut below its first adapted block, so that what is frozen is computed once.

With adapters on the top N blocks only, the hidden states below never change: not between epochs, not between policy,
incumbent and base. They are kept per sequence and every later forward starts from them.

How: the model's own forward runs, with its block list swapped for the lower blocks (and the norm for the identity) or
for the upper ones (fed the kept states as `inputs_embeds`). Masks and rotary embeddings stay the model's business,
which reaching into its blocks directly would have to copy. That works for the Llama family's layout (`.model.layers`,
`.model.norm`) with uniform blocks; whatever differs, or computes something else when tried, is not cut.

Sequences are padded on the right and no mask is passed: under causal attention no real position sees the padding.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from policies.batches import Row

#: Hidden states kept at most. Past it they are computed again each time, which is slower, never wrong.
CACHE_BYTES = 2 * 1024**3
#: Largest difference of the cut forward from the whole one, relative to the states' largest value.
TOLERANCE = 2e-5


def blocks_of(causal: Any) -> nn.ModuleList | None:
    """The decoder blocks of a Llama-like model; None for any other layout."""
    blocks = getattr(getattr(causal, "model", None), "layers", None)
    return blocks if isinstance(blocks, nn.ModuleList) and hasattr(causal.model, "norm") else None


@contextmanager
def _with_blocks(inner: Any, blocks: nn.ModuleList, norm: nn.Module) -> Iterator[None]:
    whole, whole_norm = inner.layers, inner.norm
    inner.layers, inner.norm = blocks, norm
    try:
        yield
    finally:
        inner.layers, inner.norm = whole, whole_norm


class CutModel:
    """Final hidden states of sequences, through kept lower states where that is exact.

    Args:
        causal: the model (adapters already inside its blocks).
        first: index of the first adapted block; 0 means nothing below can be kept.
    """

    def __init__(self, causal: Any, first: int, *, cache_bytes: int = CACHE_BYTES) -> None:
        self._inner = causal.base_model
        self._device = next(causal.parameters()).device
        self._kept: dict[tuple[int, ...], Tensor] = {}
        self._room = cache_bytes
        blocks = blocks_of(causal)
        self._lower = self._upper = nn.ModuleList()
        self._cut = False
        if blocks is not None and first > 0:
            self._lower, self._upper = nn.ModuleList(blocks[:first]), nn.ModuleList(blocks[first:])
            self._cut = self._exact()

    @property
    def cut(self) -> bool:
        """Whether lower states are kept; False means every forward is whole."""
        return self._cut

    def states(self, rows: Sequence[Row]) -> Tensor:
        """Final (normed) hidden states (B, T, H) of rows, padded on the right; differentiable in the adapter."""
        if not self._cut:
            return self._inner(input_ids=self._ids(rows), use_cache=False).last_hidden_state
        with _with_blocks(self._inner, self._upper, self._inner.norm):
            return self._inner(inputs_embeds=self._below(rows), use_cache=False).last_hidden_state

    def answer_states(self, rows: Sequence[Row]) -> Tensor:
        """States (N, H) of the positions before each answer token, rows one after the other."""
        states = self.states(rows)
        return torch.cat([states[i, row.start - 1 : len(row.ids) - 1] for i, row in enumerate(rows)])

    def answer_ids(self, rows: Sequence[Row]) -> Tensor:
        """Answer tokens (N,), in the order of `answer_states`."""
        return torch.tensor([token for row in rows for token in row.answer], device=self._device)

    def forget(self) -> None:
        """Drop everything kept."""
        for kept in self._kept.values():
            self._room += kept.nbytes
        self._kept.clear()

    def _ids(self, rows: Sequence[Row]) -> Tensor:
        longest = max(len(row.ids) for row in rows)
        return torch.tensor(
            [[*row.ids, *[0] * (longest - len(row.ids))] for row in rows], device=self._device
        )

    @torch.no_grad()
    def _below(self, rows: Sequence[Row]) -> Tensor:
        missing = [row for row in rows if row.ids not in self._kept]
        fresh: dict[tuple[int, ...], Tensor] = {}
        if missing:
            with _with_blocks(self._inner, self._lower, nn.Identity()):
                lower = self._inner(input_ids=self._ids(missing), use_cache=False).last_hidden_state
            for row, states in zip(missing, lower, strict=True):
                fresh[row.ids] = states[: len(row.ids)].clone()
                self._keep(row, fresh[row.ids])
        found = [self._kept.get(row.ids, fresh.get(row.ids)) for row in rows]
        return nn.utils.rnn.pad_sequence([states for states in found if states is not None], batch_first=True)

    def _keep(self, row: Row, states: Tensor) -> None:
        if states.nbytes <= self._room and row.ids not in self._kept:
            self._kept[row.ids] = states
            self._room -= states.nbytes

    @torch.no_grad()
    def _exact(self) -> bool:
        # Blocks of several kinds (sliding and full attention, say) are chosen by index, which the cut shifts.
        if len(set(getattr(self._inner.config, "layer_types", None) or [])) > 1:
            return False
        ids = torch.arange(3, 19, device=self._device)[None]
        whole = self._inner(input_ids=ids, use_cache=False).last_hidden_state
        with _with_blocks(self._inner, self._lower, nn.Identity()):
            lower = self._inner(input_ids=ids, use_cache=False).last_hidden_state
        with _with_blocks(self._inner, self._upper, self._inner.norm):
            cut = self._inner(inputs_embeds=lower, use_cache=False).last_hidden_state
        return bool((whole - cut).abs().max() <= TOLERANCE * whole.abs().max().clamp(min=1))
