"""Keys and values of the answers being decoded together: one buffer per layer, a row per answer.

Rows are left-aligned and as long as their own answer; a mask hides what lies beyond. Joining writes one row,
leaving moves the last row into the gap, a step writes one column per row: nothing is ever concatenated, which is
what makes a growing batch cheap. Buffers grow by doubling, so memory follows use:
2 * layers * rows * kv_heads * length * head_dim * bytes (embedded model, 16 rows of 512 tokens: 360 MiB).
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache, DynamicCache

#: Smallest buffer length; doubled as answers grow.
LENGTH = 128


class RowCache(Cache):
    """A transformers cache whose rows have lengths of their own. `lengths` counts tokens held per row."""

    def __init__(self) -> None:
        super().__init__(layers=[])
        self.keys: list[Tensor] = []
        self.values: list[Tensor] = []
        self.lengths: list[int] = []
        self._slots = torch.zeros(0, dtype=torch.long)
        self._columns = torch.zeros(0, dtype=torch.long)
        self._used = 0

    @property
    def rows(self) -> int:
        return len(self.lengths)

    def join(self, prefilled: DynamicCache) -> None:
        """Add one prompt's keys and values (each layer [1, heads, length, dim]) as the last row."""
        length, row = prefilled.get_seq_length(), self.rows
        if not self.keys:
            self.keys = [empty_like(layer.keys) for layer in prefilled.layers]
            self.values = [empty_like(layer.values) for layer in prefilled.layers]
        self._reserve(row + 1, length + 1)
        for index, layer in enumerate(prefilled.layers):
            self.keys[index][row, :, :length] = layer.keys[0]
            self.values[index][row, :, :length] = layer.values[0]
        self.lengths.append(length)

    def beginning(self, row: int, length: int) -> DynamicCache:
        """A copy of a row's first `length` tokens, for a prompt that begins alike."""
        cache = DynamicCache()
        for layer, (keys, values) in enumerate(zip(self.keys, self.values, strict=True)):
            copies = [buffer[row : row + 1, :, :length].clone() for buffer in (keys, values)]
            cache.update(copies[0], copies[1], layer)
        return cache

    def leave(self, row: int) -> None:
        """Drop a row; the last one takes its place."""
        held = self.lengths.pop()
        last = len(self.lengths)
        if last == 0:
            # One long answer must not keep its memory for ever.
            self.keys, self.values = [], []
        if row == last:
            return
        for buffer in (*self.keys, *self.values):
            buffer[row, :, :held] = buffer[last, :, :held]
        self.lengths[row] = held

    def begin_step(self) -> tuple[Tensor, Tensor]:
        """Make room for one token a row. Returns positions [rows, 1] and the mask [rows, 1, 1, length]."""
        self._used = max(self.lengths) + 1
        self._reserve(self.rows, self._used)
        device = self.keys[0].device
        self._columns = torch.tensor(self.lengths, device=device)
        self._slots = torch.arange(self.rows, device=device)
        visible = torch.arange(self._used, device=device)[None, :] <= self._columns[:, None]
        self.lengths = [length + 1 for length in self.lengths]
        return self._columns[:, None], visible[:, None, None, :]

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """What attention calls: store this step's keys and values ([rows, heads, 1, dim]), get all of them."""
        del args, kwargs
        keys, values = self.keys[layer_idx], self.values[layer_idx]
        keys[self._slots, :, self._columns] = key_states[:, :, 0]
        values[self._slots, :, self._columns] = value_states[:, :, 0]
        rows = len(self._slots)
        return keys[:rows, :, : self._used], values[:rows, :, : self._used]

    def get_seq_length(self, layer_idx: int = 0) -> int:
        del layer_idx
        return max(self.lengths, default=0)

    def _reserve(self, rows: int, length: int) -> None:
        have_rows, have_length = self.keys[0].shape[0], self.keys[0].shape[2]
        if rows <= have_rows and length <= have_length:
            return
        new_rows = have_rows if rows <= have_rows else max(rows, 2 * have_rows)
        new_length = max(have_length, LENGTH)
        while new_length < length:
            new_length *= 2
        self.keys = [grown(buffer, new_rows, new_length) for buffer in self.keys]
        self.values = [grown(buffer, new_rows, new_length) for buffer in self.values]


def empty_like(states: Tensor) -> Tensor:
    """A buffer of no rows and no length for states of [1, heads, length, dim]."""
    return states.new_empty(0, states.shape[1], 0, states.shape[3])


def grown(old: Tensor, rows: int, length: int) -> Tensor:
    """A buffer's content in a larger one. Zeroed: 0 * nan is nan, so a mask would not hide garbage."""
    new = old.new_zeros(rows, old.shape[1], length, old.shape[3])
    new[: old.shape[0], :, : old.shape[2]] = old
    return new


def split_prompt(tokens: Sequence[int], size: int) -> list[list[int]]:
    """A prompt in pieces of at most `size` tokens, so that others decode in between."""
    return [list(tokens[start : start + size]) for start in range(0, len(tokens), size)]
