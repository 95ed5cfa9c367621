"""Kept keys and values: the way through a tree stays in place, and kept prefixes stay few."""

import torch

from policies.kv import LENGTH
from policies.prefixes import PathCache, Prefix, Prefixes

LAYERS, HEADS, SIZE = 2, 2, 3


def put(cache: PathCache, numbers: list[float]) -> list[float]:
    """Compute a piece whose keys are these numbers and whose values their negatives; what attention then sees."""
    states = torch.tensor(numbers)[None, None, :, None].expand(1, HEADS, -1, SIZE)
    for layer in range(LAYERS):
        keys, values = cache.update(states, -states, layer)
        assert torch.equal(keys, -values)
    return keys[0, 0, :, 0].tolist()


def prefix(tokens: list[int], adapter: str | None = None) -> Prefix:
    states = [torch.zeros(1, HEADS, len(tokens), SIZE) for _ in range(LAYERS)]
    return Prefix(adapter, tokens, states, states)


def test_the_next_piece_follows_the_way_that_was_kept() -> None:
    cache = PathCache()
    assert put(cache, [10.0, 11.0, 20.0, 21.0]) == [10.0, 11.0, 20.0, 21.0]
    cache.keep([0, 2, 3])
    assert cache.get_seq_length() == 3
    assert put(cache, [30.0]) == [10.0, 20.0, 21.0, 30.0]
    cache.keep([])
    assert put(cache, [40.0, 41.0]) == [40.0, 41.0]


def test_a_way_longer_than_the_buffer_is_kept_whole() -> None:
    cache = PathCache()
    numbers = [float(number) for number in range(2 * LENGTH + 1)]
    put(cache, numbers[:LENGTH])
    cache.keep(range(LENGTH))
    assert put(cache, numbers[LENGTH:]) == numbers


def test_a_kept_prefix_is_a_copy_that_others_begin_with() -> None:
    first = PathCache()
    put(first, [1.0, 2.0, 3.0])
    first.keep([0, 1, 2])
    kept = first.prefix(None, [7, 8])
    first.keep([])
    put(first, [9.0, 9.0, 9.0])
    for length in (2, 1):
        other = PathCache()
        other.start_with(kept, length)
        assert put(other, [5.0]) == [[1.0, 2.0, 5.0], [1.0, 5.0]][2 - length]
    # Whoever began with it left it as it was.
    assert kept.keys[0][0, 0, :, 0].tolist() == [1.0, 2.0]


def test_the_longest_beginning_of_the_same_adapter_is_found() -> None:
    prefixes = Prefixes()
    short, long, others = prefix([1, 2, 9]), prefix([1, 2, 3, 4]), prefix([1, 2, 3, 5, 6], "other")
    for entry in (short, long, others):
        prefixes.add(entry)
    assert prefixes.longest(None, [1, 2, 3, 5]) == (long, 3)
    assert prefixes.longest("other", [1, 2, 3, 5]) == (others, 4)
    assert prefixes.longest(None, [8]) == (None, 0)
    assert prefixes.longest("unknown", [1]) == (None, 0)


def test_the_least_recently_used_goes_first() -> None:
    prefixes = Prefixes(kept=6)
    one, two, three = prefix([1] * 3), prefix([2] * 3), prefix([3] * 2)
    prefixes.add(one)
    prefixes.add(two)
    prefixes.longest(None, [1])
    prefixes.add(three)
    assert prefixes.tokens == 5
    assert prefixes.longest(None, [2]) == (None, 0)
    assert prefixes.longest(None, [1]) == (one, 1)


def test_one_that_would_need_all_the_room_and_more_displaces_nothing() -> None:
    prefixes = Prefixes(kept=3)
    prefixes.add(prefix([1, 2]))
    prefixes.add(prefix([5, 6, 7, 8]))
    assert prefixes.tokens == 2


def test_a_longer_one_takes_the_place_of_its_own_beginning() -> None:
    prefixes = Prefixes()
    prefixes.add(prefix([1, 2]))
    prefixes.add(prefix([1, 2], "other"))
    prefixes.add(prefix([1, 2, 3]))
    assert prefixes.tokens == 5


def test_an_adapter_that_goes_takes_its_prefixes_with_it() -> None:
    prefixes = Prefixes()
    prefixes.add(prefix([1, 2]))
    prefixes.add(prefix([1, 2, 3], "other"))
    prefixes.forget("other")
    assert prefixes.tokens == 2
