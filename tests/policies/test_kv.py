"""Rows of keys and values: joining, leaving and growing never mix up whose is whose."""

import torch
from transformers.cache_utils import DynamicCache

from policies.kv import LENGTH, RowCache, split_prompt

LAYERS, HEADS, SIZE = 2, 2, 3


def prompt(value: float, length: int) -> DynamicCache:
    """A prompt whose every key is `value` and every value its negative."""
    cache = DynamicCache()
    for layer in range(LAYERS):
        states = torch.full((1, HEADS, length, SIZE), value)
        cache.update(states, -states, layer)
    return cache


def step(cache: RowCache, values: list[float]) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """One decoding step that writes `values[row]`; returns each row's visible keys and values of the last layer."""
    positions, mask = cache.begin_step()
    new = torch.tensor(values)[:, None, None, None].expand(-1, HEADS, 1, SIZE)
    for layer in range(LAYERS):
        keys, held = cache.update(new, -new, layer)
    visible = mask if mask.dtype == torch.bool else mask == 0
    assert positions.shape == (len(values), 1)
    return [
        (keys[row][:, visible[row, 0, 0]], held[row][:, visible[row, 0, 0]]) for row in range(len(values))
    ]


def column(keys: torch.Tensor) -> list[float]:
    """One number per position, all heads and sizes agreeing."""
    assert torch.equal(keys, keys[:1, :, :1].expand_as(keys))
    return keys[0, :, 0].tolist()


def test_rows_of_different_lengths_see_only_themselves() -> None:
    cache = RowCache()
    cache.join(prompt(1.0, 4))
    cache.join(prompt(2.0, 2))
    (first, negative), (second, _) = step(cache, [10.0, 20.0])
    assert column(first) == [1.0] * 4 + [10.0]
    assert column(negative) == [-1.0] * 4 + [-10.0]
    assert column(second) == [2.0] * 2 + [20.0]


def test_the_last_row_fills_the_gap_of_one_that_leaves() -> None:
    cache = RowCache()
    for value, length in ((1.0, 5), (2.0, 2), (3.0, 3)):
        cache.join(prompt(value, length))
    step(cache, [10.0, 20.0, 30.0])
    cache.leave(0)
    assert cache.lengths == [4, 3]
    (moved, _), (stayed, _) = step(cache, [31.0, 21.0])
    assert column(moved) == [3.0] * 3 + [30.0, 31.0]
    assert column(stayed) == [2.0] * 2 + [20.0, 21.0]


def test_a_row_that_joins_where_a_longer_one_was_sees_nothing_of_it() -> None:
    cache = RowCache()
    cache.join(prompt(1.0, 6))
    step(cache, [10.0])
    cache.leave(0)
    cache.join(prompt(2.0, 2))
    ((keys, _),) = step(cache, [20.0])
    assert column(keys) == [2.0, 2.0, 20.0]


def test_growing_keeps_what_was_there() -> None:
    cache = RowCache()
    cache.join(prompt(1.0, LENGTH - 1))
    cache.join(prompt(2.0, 3))
    for number in range(5):
        (first, _), (second, _) = step(cache, [10.0 + number, 20.0 + number])
    assert column(first) == [1.0] * (LENGTH - 1) + [10.0, 11.0, 12.0, 13.0, 14.0]
    assert column(second) == [2.0] * 3 + [20.0, 21.0, 22.0, 23.0, 24.0]


def test_a_prompt_is_read_whole_and_in_order() -> None:
    assert split_prompt(list(range(7)), 3) == [[0, 1, 2], [3, 4, 5], [6]]
    assert split_prompt([1, 2], 2) == [[1, 2]]
