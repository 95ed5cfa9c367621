"""A causal language model cut below its first adapted block, so that what is frozen is computed once.

With adapters on the top N blocks only, the hidden states below never change: not between epochs, not between policy,
incumbent and base. They are kept per sequence and every later forward starts from them.

How: the model's own forward runs, with its block list swapped for the lower blocks (and the norm for the identity) or
for the upper ones (fed the kept states as `inputs_embeds`). Masks and rotary embeddings stay the model's business,
which reaching into its blocks directly would have to copy. That works for the Llama family's layout (`.model.layers`,
`.model.norm`) with uniform blocks; whatever differs, or computes something else when tried, is not cut.

On top of that, positions that all rows of a batch begin with (the template's system turn) go through the blocks once
per batch instead of once per row, and so does a prompt with several answers where that is worth it (`layout.py`).
Several prompts with a few short answers each (the battery) go further: their distinct tokens form a tree
(`prefix_tree.py`) computed as one row, a token seeing what is above it and nothing else.

Sequences are padded on the right and, where each is one row, no mask is passed: under causal attention no real
position sees the padding.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import takewhile
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import DynamicCache

from policies.batches import Row
from policies.layout import Layout, bundles, inputs, lay_out
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


def _again(forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """What a block computes, keeping nothing but its input where a gradient will be wanted."""
    if not torch.is_grad_enabled():
        return forward(*args, **kwargs)
    return checkpoint(forward, *args, use_reentrant=False, **kwargs)


class CutModel:
    """Final hidden states of sequences, through kept lower states and shared beginnings where that is exact.

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
        self._cut = self._shares = self._bundles = self._recomputes = False
        self.packs = blocks is not None and self._packs_exactly()
        """Whether `tree_states` may be asked."""
        if blocks is not None:
            self._lower, self._upper = nn.ModuleList(blocks[:first]), nn.ModuleList(blocks[first:])
            # Blocks of several kinds (sliding and full attention, say) are chosen by index, which the cut shifts.
            if not self._mixed():
                self._try_shortcuts()

    @property
    def cut(self) -> bool:
        """Whether lower states are kept; False means every forward is whole."""
        return self._cut

    def whole(self) -> None:
        """Cut nothing from here on, share nothing: the simple way, which the other is held against."""
        self._cut = self._shares = self._bundles = False

    def recompute(self) -> bool:
        """From here on keep a block's input for the backward pass and compute the block again, and keep no lower
        states: as little memory as there can be. Returns whether that is new, and possible.
        """
        if self._recomputes or not self._upper:
            return False
        self._recomputes = True
        self.forget()
        self._room = 0
        for block in self._upper:
            block.forward = partial(_again, block.forward)  # an instance's own, over its class's
        return True

    def answer_states(self, rows: Sequence[Row]) -> Tensor:
        """Final (normed) states (N, H) of the positions before each answer token, rows one after the other.

        Differentiable in the adapter.
        """
        # A block computed again would add its keys and values to the shared ones a second time.
        again = self._recomputes and torch.is_grad_enabled()
        shared = shared_prefix(rows) if self._shares and not again else 0
        together: list[list[int]] = []
        alone = list(range(len(rows)))
        if self._bundles:
            together, alone = bundles(rows, shared=shared, width=self._inner.config.hidden_size)
        # In forwards of their own: a sequence of several answers is longer, and rows beside it would be filled up.
        parts = [groups for groups in (together, [[index] for index in alone]) if groups]
        order = [index for groups in parts for group in groups for index in group]
        states = [self._states([[rows[i] for i in group] for group in groups], shared) for groups in parts]
        flat = torch.cat(states)
        if order == list(range(len(rows))):
            return flat
        found = dict(zip(order, flat.split([len(rows[index].answer) for index in order]), strict=True))
        return torch.cat([found[index] for index in range(len(rows))])

    def _states(self, groups: Sequence[Sequence[Row]], shared: int) -> Tensor:
        """The same for groups of rows with one prompt each, a sequence for every group."""
        layout = lay_out(groups)
        if self._cut:
            below = self._below(groups, shared)
            with _with_blocks(self._inner, self._upper, self._inner.norm):
                states = self._run("inputs_embeds", below, layout, shared=shared, empty=self._first)
        else:
            states = self._run("input_ids", layout.ids(self._device), layout, shared=shared, empty=0)
        width = states.shape[1]
        rows = (row for group in groups for row in group)
        places = [
            number * width + place - shared
            for row, (number, path) in zip(rows, layout.paths, strict=True)
            for place in path[row.start - 1 : len(row.ids) - 1]
        ]
        return states.flatten(0, 1)[torch.tensor(places, dtype=torch.long, device=self._device)]

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

    def _run(self, name: str, values: Tensor, layout: Layout, *, shared: int, empty: int) -> Tensor:
        """The model's forward on values (B, T, ...): final states (B, T - shared, H), the shared positions once.

        Every row of a batch begins with the template's system turn, so its keys and values are computed for one
        row and handed to all; gradients come back to them through every row.

        Args:
            name: what the values are, as the model's forward calls it.
            empty: blocks missing under these; the cache gives them a length all the same, since masks and
                positions are read off the first.
        """
        seen: dict[str, Any] = {}
        if layout.packed:
            seen["attention_mask"] = layout.sight(self._device)[:, :, shared:]
            seen["position_ids"] = layout.position_ids(self._device)[:, shared:]
        if not shared:
            return self._inner(**{name: values}, use_cache=False, **seen).last_hidden_state
        cache = DynamicCache()
        self._inner(**{name: values[:1, :shared]}, past_key_values=cache, use_cache=True)
        for layer in cache.layers[:empty]:
            nothing = torch.zeros(1, 1, shared, 1, device=self._device)
            layer.update(nothing, nothing)
        cache.batch_repeat_interleave(len(values))
        rest = self._inner(**{name: values[:, shared:]}, past_key_values=cache, use_cache=True, **seen)
        return rest.last_hidden_state

    def _lower_states(self, layout: Layout, shared: int) -> Tensor:
        ids = layout.ids(self._device)
        with _with_blocks(self._inner, self._lower, nn.Identity()):
            rest = self._run("input_ids", ids, layout, shared=shared, empty=0)
            if not shared:
                return rest
            head = self._inner(input_ids=ids[:1, :shared], use_cache=False).last_hidden_state
        return torch.cat([head.expand(len(ids), -1, -1), rest], dim=1)

    @torch.no_grad()
    def _below(self, groups: Sequence[Sequence[Row]], shared: int) -> Tensor:
        """States (B, T, H) under the first adapted block, a sequence for every group."""
        missing = [
            left for group in groups if (left := [row for row in group if inputs(row) not in self._kept])
        ]
        fresh: dict[tuple[int, ...], Tensor] = {}
        if missing:
            layout = lay_out(missing)
            lower = self._lower_states(layout, shared)
            for row, (number, path) in zip(
                (row for group in missing for row in group), layout.paths, strict=True
            ):
                fresh[inputs(row)] = lower[number, path]
                self._keep(inputs(row), fresh[inputs(row)])
        sequences = []
        for group in groups:
            found = [self._kept.get(inputs(row), fresh.get(inputs(row))) for row in group]
            known = [states for states in found if states is not None]
            prompt = group[0].start
            sequences.append(torch.cat([known[0][:prompt], *(states[prompt:] for states in known)]))
        return nn.utils.rnn.pad_sequence(sequences, batch_first=True)

    def _keep(self, key: tuple[int, ...], states: Tensor) -> None:
        if states.nbytes <= self._room and key not in self._kept:
            self._kept[key] = states
            self._room -= states.nbytes

    @torch.no_grad()
    def _try_shortcuts(self) -> None:
        """Take those that compute on two made-up rows what the whole forward does."""
        head, tail = range(3, 5 + SHARED), range(40, 49)
        rows = [Row((*head, *end), len(head)) for end in (tail, range(48, 39, -1))]
        apart, bundled = [[row] for row in rows], [rows]
        whole = self._states(apart, 0)
        limit = TOLERANCE[whole.dtype] * whole.abs().max().clamp(min=1)

        def exact(groups: Sequence[Sequence[Row]], shared: int = 0) -> bool:
            found = self._states(groups, shared)
            self.forget()
            return bool((found - whole).abs().max() <= limit)

        self._cut = self._first > 0
        self._cut = self._cut and exact(apart)
        self._shares = exact(apart, SHARED)
        self._bundles = not self._windowed() and exact(bundled)

    def _windowed(self) -> bool:
        """Whether a token sees only so many before it: masks made here would leave that out."""
        config = self._inner.config
        return bool(getattr(config, "sliding_window", None)) and getattr(config, "use_sliding_window", True)

    def _mixed(self) -> bool:
        return len(set(getattr(self._inner.config, "layer_types", None) or [])) > 1

    @torch.no_grad()
    def _packs_exactly(self) -> bool:
        """Try a tree of two made-up rows against each row alone."""
        # Each kind of attention would need a mask of its own.
        if self._mixed() or self._windowed():
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
