"""Keys and values of tokens that scoring needs again: the way to the next token, and prefixes kept between calls."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from transformers.cache_utils import Cache

from policies.kv import LENGTH, empty_like, grown
from policies.prefix_tree import common_length

#: Tokens a prefix must add to what is kept already to be kept as well: a rubric, not a greeting.
LONG = 128
#: Tokens kept in all, of all adapters, the least recently used going first. A token takes
#: 2 * layers * kv_heads * head_dim * bytes: at most 90 MiB for the embedded model.
KEPT = 2048


@dataclass(frozen=True, slots=True, eq=False)
class Prefix:
    """Keys and values of `tokens` as this adapter computes them, per layer [1, kv_heads, tokens, head_dim]."""

    adapter: str | None
    tokens: Sequence[int]
    keys: list[Tensor]
    values: list[Tensor]


class PathCache(Cache):
    """A transformers cache of one row: slot s holds the token at depth s on the way to the piece being computed.

    The piece follows in the slots behind. It may hold several branches, so which of its slots belong to the way to
    the next piece is for `keep` to say.
    """

    def __init__(self) -> None:
        super().__init__(layers=[])
        self.keys: list[Tensor] = []
        self.values: list[Tensor] = []
        self._held = 0

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """What attention calls: put the piece ([1, heads, piece, dim]) behind the way, get both."""
        del args, kwargs
        if layer_idx == len(self.keys):
            self.keys.append(empty_like(key_states))
            self.values.append(empty_like(value_states))
        held, used = self._held, self._held + key_states.shape[2]
        for buffers, states in ((self.keys, key_states), (self.values, value_states)):
            buffers[layer_idx] = with_room(buffers[layer_idx], used)
            buffers[layer_idx][:, :, held:used] = states
        return self.keys[layer_idx][:, :, :used], self.values[layer_idx][:, :, :used]

    def keep(self, way: Sequence[int]) -> None:
        """After a piece: `way[d]` is the slot of the token at depth d on the way to the next one."""
        first = next((depth for depth, slot in enumerate(way) if slot != depth), len(way))
        if first < len(way):
            for buffer in (*self.keys, *self.values):
                # Indexing copies before it is written, so overlap does no harm.
                buffer[:, :, first : len(way)] = buffer[:, :, way[first:]]
        self._held = len(way)

    def get_seq_length(self, layer_idx: int = 0) -> int:
        del layer_idx
        return self._held

    def start_with(self, prefix: Prefix, length: int) -> None:
        """Begin behind the first `length` tokens of a kept prefix."""
        # Room for one more makes it a copy: what is kept is never written to.
        self.keys = [with_room(keys[:, :, :length], length + 1) for keys in prefix.keys]
        self.values = [with_room(values[:, :, :length], length + 1) for values in prefix.values]
        self._held = length

    def prefix(self, adapter: str | None, tokens: Sequence[int]) -> Prefix:
        """A copy of the first slots, which hold `tokens`."""
        length = len(tokens)
        keys = [buffer[:, :, :length].clone() for buffer in self.keys]
        return Prefix(adapter, tokens, keys, [buffer[:, :, :length].clone() for buffer in self.values])


class Prefixes:
    """The most recently used prefixes, `kept` tokens in all. For one thread."""

    def __init__(self, kept: int = KEPT) -> None:
        self._kept = kept
        # The most recent last.
        self._entries: list[Prefix] = []

    @property
    def tokens(self) -> int:
        """Tokens whose keys and values are held."""
        return sum(len(entry.tokens) for entry in self._entries)

    def longest(self, adapter: str | None, tokens: Sequence[int]) -> tuple[Prefix | None, int]:
        """The prefix that has most of the beginning of `tokens`, now the most recent, and how many it has."""
        own = [entry for entry in self._entries if entry.adapter == adapter]
        best = max(own, key=lambda entry: common_length(entry.tokens, tokens), default=None)
        length = common_length(best.tokens, tokens) if best else 0
        if best is None or length == 0:
            return None, 0
        self._entries.remove(best)
        self._entries.append(best)
        return best, length

    def add(self, prefix: Prefix) -> None:
        """Keep one more; what it makes superfluous and what there is no room for goes."""
        size = len(prefix.tokens)
        if size > self._kept:
            return

        def superfluous(entry: Prefix) -> bool:
            return entry.adapter == prefix.adapter and entry.tokens == prefix.tokens[: len(entry.tokens)]

        self._entries = [entry for entry in self._entries if not superfluous(entry)]
        while self.tokens + size > self._kept:
            self._entries.pop(0)
        self._entries.append(prefix)

    def forget(self, adapter: str | None) -> None:
        """Drop an adapter's prefixes."""
        self._entries = [entry for entry in self._entries if entry.adapter != adapter]


def with_room(buffer: Tensor, length: int) -> Tensor:
    """The buffer [1, heads, length, dim], or its content in one of at least `length`, doubled until it fits."""
    have = buffer.shape[2]
    if length <= have:
        return buffer
    size = max(have, LENGTH)
    while size < length:
        size *= 2
    return grown(buffer, 1, size)
