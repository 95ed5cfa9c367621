"""A causal language model cut below its first adapted block, so that what is frozen is computed once.

With adapters on the top N blocks only, the hidden states below never change: not between epochs, not between policy,
incumbent and base. They are kept per sequence and every later forward starts from them.

How: the model's own forward runs, with its block list swapped for the lower blocks (and the norm for the identity) or
for the upper ones (fed the kept states as `inputs_embeds`). Masks and rotary embeddings stay the model's business,
which reaching into its blocks directly would have to copy. That works for the Llama family's layout (`.model.layers`,
`.model.norm`) with uniform blocks; whatever differs, or computes something else when tried, is not cut.

On top of that, positions that all rows of a batch begin with (the template's system turn) go through the blocks once
per batch instead of once per row. Several prompts with a few short answers each (the battery) go further: their
distinct tokens form a tree (`prefix_tree.py`) computed as one row, a token seeing what is above it and nothing else.

Sequences are padded on the right and no mask is passed: under causal attention no real position sees the padding.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import takewhile
from typing import Any

import torch
from torch import Tensor, nn
from transformers import DynamicCache

from policies.batches import Row
from policies.prefix_tree import TokenTree, grow_tree, parent_slots
from policies.scoring import visibility

#: Hidden states kept at most. Past it they are computed again each time, which is slower, never wrong.
CACHE_BYTES = 2 * 1024**3
#: Largest difference of the shortcuts from the whole forward, relative to the states' largest value. Another order of
#: sums differs by a few 1e-5 (at the first token, which all others attend to); what is wrong differs by about 1.
TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 2e-2}
#: A shared beginning shorter than this is not worth a forward of its own.
SHARED = 8


def shared_prefix(rows: Sequence[Row]) -> int:
    """Tokens all rows begin with, short of the first position an answer is read from; 0 where not worth it."""
    shortest = min(row.start for row in rows) - 1
    columns = zip(*(row.ids[:shortest] for row in rows), strict=True)
    length = sum(1 for _ in takewhile(lambda column: len(set(column)) == 1, columns))
    return length if len(rows) > 1 and length >= SHARED else 0


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
        self._first = first
        self._cut = False
        self.packs = blocks is not None and self._packs_exactly()
        """Whether `tree_states` may be asked."""
        if blocks is not None and first > 0:
            self._lower, self._upper = nn.ModuleList(blocks[:first]), nn.ModuleList(blocks[first:])
            self._cut = self._exact()

    @property
    def cut(self) -> bool:
        """Whether lower states are kept; False means every forward is whole."""
        return self._cut

    def whole(self) -> None:
        """Cut nothing from here on, share nothing: the simple way, which the other is held against."""
        self._cut = False

    def answer_states(self, rows: Sequence[Row]) -> Tensor:
        """Final (normed) states (N, H) of the positions before each answer token, rows one after the other.

        Differentiable in the adapter.
        """
        shared = shared_prefix(rows) if self._cut else 0
        if self._cut:
            below = self._below(rows)
            with _with_blocks(self._inner, self._upper, self._inner.norm):
                states = self._run("inputs_embeds", below, shared=shared, empty=self._first)
        else:
            states = self._run("input_ids", self._ids(rows), shared=0, empty=0)
        ends = [(row.start - 1 - shared, len(row.ids) - 1 - shared) for row in rows]
        return torch.cat([states[i, low:high] for i, (low, high) in enumerate(ends)])

    def tree_states(self, tree: TokenTree) -> Tensor:
        """Final (normed) states (T, H) of a tree's tokens, in their order, as if every row was computed alone."""
        seen: dict[str, Any] = {
            "position_ids": torch.tensor([tree.depths], device=self._device),
            "attention_mask": visibility(parent_slots(tree.depths)[0], 0)[None, None].to(self._device),
            "use_cache": False,
        }
        ids = torch.tensor([tree.tokens], device=self._device)
        if not self._cut:
            return self._inner(input_ids=ids, **seen).last_hidden_state[0]
        # No row has a negative token, so a tree is never taken for one.
        key = (*tree.tokens, -1, *tree.depths)
        below = self._kept.get(key)
        if below is None:
            with torch.no_grad(), _with_blocks(self._inner, self._lower, nn.Identity()):
                below = self._inner(input_ids=ids, **seen).last_hidden_state[0]
            self._keep(key, below)
        with _with_blocks(self._inner, self._upper, self._inner.norm):
            return self._inner(inputs_embeds=below[None], **seen).last_hidden_state[0]

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

    def _run(self, name: str, values: Tensor, *, shared: int, empty: int) -> Tensor:
        """The model's forward on values (B, T, ...): final states (B, T - shared, H), the shared positions once.

        Every row of a batch begins with the template's system turn, so its keys and values are computed for one
        row and handed to all; gradients come back to them through every row.

        Args:
            name: what the values are, as the model's forward calls it.
            empty: blocks missing under these; the cache gives them a length all the same, since masks and
                positions are read off the first.
        """
        if not shared:
            return self._inner(**{name: values}, use_cache=False).last_hidden_state
        cache = DynamicCache()
        self._inner(**{name: values[:1, :shared]}, past_key_values=cache, use_cache=True)
        for layer in cache.layers[:empty]:
            nothing = torch.zeros(1, 1, shared, 1, device=self._device)
            layer.update(nothing, nothing)
        cache.batch_repeat_interleave(len(values))
        rest = self._inner(**{name: values[:, shared:]}, past_key_values=cache, use_cache=True)
        return rest.last_hidden_state

    def _lower_states(self, ids: Tensor, shared: int) -> Tensor:
        with _with_blocks(self._inner, self._lower, nn.Identity()):
            rest = self._run("input_ids", ids, shared=shared, empty=0)
            if not shared:
                return rest
            head = self._inner(input_ids=ids[:1, :shared], use_cache=False).last_hidden_state
        return torch.cat([head.expand(len(ids), -1, -1), rest], dim=1)

    @torch.no_grad()
    def _below(self, rows: Sequence[Row]) -> Tensor:
        """States (B, T, H) under the first adapted block."""
        missing = [row for row in rows if row.ids not in self._kept]
        fresh: dict[tuple[int, ...], Tensor] = {}
        if missing:
            lower = self._lower_states(self._ids(missing), shared_prefix(missing))
            for row, states in zip(missing, lower, strict=True):
                fresh[row.ids] = states[: len(row.ids)].clone()
                self._keep(row.ids, fresh[row.ids])
        found = [self._kept.get(row.ids, fresh.get(row.ids)) for row in rows]
        return nn.utils.rnn.pad_sequence([states for states in found if states is not None], batch_first=True)

    def _keep(self, key: tuple[int, ...], states: Tensor) -> None:
        if states.nbytes <= self._room and key not in self._kept:
            self._kept[key] = states
            self._room -= states.nbytes

    @torch.no_grad()
    def _exact(self) -> bool:
        """Try both shortcuts on two made-up rows against the whole forward."""
        # Blocks of several kinds (sliding and full attention, say) are chosen by index, which the cut shifts.
        if self._mixed():
            return False
        head, tail = range(3, 3 + SHARED), range(40, 48)
        ids = torch.tensor([[*head, *tail], [*head, *reversed(tail)]], device=self._device)
        whole = self._inner(input_ids=ids, use_cache=False).last_hidden_state
        lower = self._lower_states(ids, SHARED)
        with _with_blocks(self._inner, self._upper, self._inner.norm):
            cut = self._run("inputs_embeds", lower, shared=0, empty=0)
            once = self._run("inputs_embeds", lower, shared=SHARED, empty=self._first)
        worst = max((whole - cut).abs().max(), (whole[:, SHARED:] - once).abs().max())
        return bool(worst <= TOLERANCE[whole.dtype] * whole.abs().max().clamp(min=1))

    def _mixed(self) -> bool:
        return len(set(getattr(self._inner.config, "layer_types", None) or [])) > 1

    @torch.no_grad()
    def _packs_exactly(self) -> bool:
        """Try a tree of two made-up rows against each row alone."""
        # Each kind of attention would need a mask of its own.
        if self._mixed():
            return False
        head, tails = tuple(range(3, 3 + SHARED)), (tuple(range(40, 48)), tuple(range(50, 58)))
        tree = grow_tree([(head, tail) for tail in tails])
        packed = self.tree_states(tree)
        worst, largest = 0.0, 1.0
        for number, tail in enumerate(tails):
            ids = torch.tensor([[*head, *tail]], device=self._device)
            alone = self._inner(input_ids=ids, use_cache=False).last_hidden_state[0, SHARED - 1 : -1]
            places = [at for at, found in tree.targets.items() if any(one.row == number for one in found)]
            worst = max(worst, float((packed[places] - alone).abs().max()))
            largest = max(largest, float(alone.abs().max()))
        return worst <= TOLERANCE[packed.dtype] * largest
