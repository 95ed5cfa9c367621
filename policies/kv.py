"""Keys and values of rows decoded together, in buffers that outlive the steps.

Every row starts at position 0 of its own slot and has its own length, so a row joins or leaves without moving
another, nothing is padded on the left, and no step copies what is already there. Slots beyond a row's length hold
stale numbers that the mask hides; they are always finite (buffers start as zeros), since 0 * nan would be nan.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin

#: Buffers grow to a multiple of this many positions, and by half of what they hold.
GRAIN = 64


@dataclass(slots=True)
class Window:
    """Where the next forward writes and how far it looks, the same in every layer."""

    rows: int = 0
    span: int = 0
    """Positions visible to the longest row after the write."""
    start: int = 0
    """First position written, if it is the same in every row."""
    slots: Tensor | None = None
    """Row indices (rows,), when each row writes one position of its own."""
    positions: Tensor | None = None


class RowsLayer(CacheLayerMixin):
    """One layer's buffers, (slots, heads, positions, size)."""

    is_sliding = False

    def __init__(self, window: Window) -> None:
        super().__init__()
        self._window = window

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        self.keys = key_states.new_zeros(0)
        self.values = value_states.new_zeros(0)
        self.is_initialized = True

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Write (rows, heads, q, size) where the window says; returns views of (rows, heads, span, size)."""
        del args, kwargs
        at = self._window
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        self.keys = _fitted(self.keys, key_states, at)
        self.values = _fitted(self.values, value_states, at)
        if at.positions is None:
            self.keys[: at.rows, :, at.start : at.span] = key_states
            self.values[: at.rows, :, at.start : at.span] = value_states
        else:
            self.keys[at.slots, :, at.positions] = key_states[:, :, 0]
            self.values[at.slots, :, at.positions] = value_states[:, :, 0]
        return self.keys[: at.rows, :, : at.span], self.values[: at.rows, :, : at.span]

    def copy_row(self, source: "RowsLayer", slot: int, to: int, length: int) -> None:
        """Take over the first `length` positions of a row of the same or another buffer."""
        at = Window(rows=to + 1, span=length)
        for name in ("keys", "values"):
            given = getattr(source, name)
            own = getattr(self, name) if self.is_initialized else given.new_zeros(0)
            own = _fitted(own, given[:1], at)
            own[to, :, :length] = given[slot, :, :length]
            setattr(self, name, own)
        self.is_initialized = True

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        del query_length
        return self._window.span, 0

    def get_seq_length(self) -> int:
        return self._window.start

    def get_max_length(self) -> int:
        return -1


class RowsCache(Cache):
    """The buffers of all layers. Callers set `window` before each forward."""

    def __init__(self, layers: int) -> None:
        self.window = Window()
        super().__init__(layers=[RowsLayer(self.window) for _ in range(layers)])

    def one_row(self, start: int, end: int) -> None:
        """The next forward writes positions start to end of slot 0."""
        self._set(Window(rows=1, span=end, start=start))

    def one_each(self, lengths: list[int], device: torch.device) -> None:
        """The next forward writes one position per row, each at its own length."""
        if len(set(lengths)) == 1:
            self._set(Window(rows=len(lengths), span=lengths[0] + 1, start=lengths[0]))
            return
        slots = torch.arange(len(lengths), device=device)
        positions = torch.tensor(lengths, device=device)
        self._set(Window(len(lengths), max(lengths) + 1, 0, slots, positions))

    def copy_row(self, source: "RowsCache", slot: int, to: int, length: int) -> None:
        """Copy a row's first `length` positions into slot `to`, from this or another cache."""
        for own, given in zip(self.layers, source.layers, strict=True):
            own.copy_row(given, slot, to, length)

    def _set(self, window: Window) -> None:
        for name in Window.__slots__:
            setattr(self.window, name, getattr(window, name))


def _fitted(buffer: Tensor, like: Tensor, at: Window) -> Tensor:
    """The buffer, or a larger one with the same content, with room for the window."""
    held_rows, held_span = (buffer.shape[0], buffer.shape[2]) if buffer.ndim == 4 else (0, 0)
    if held_rows >= at.rows and held_span >= at.span:
        return buffer
    rows = max(held_rows, at.rows)
    span = held_span
    if span < at.span:
        span = -(-max(at.span, span + span // 2) // GRAIN) * GRAIN
    larger = like.new_zeros(rows, like.shape[1], span, like.shape[3])
    if held_rows:
        larger[:held_rows, :, :held_span] = buffer
    return larger
