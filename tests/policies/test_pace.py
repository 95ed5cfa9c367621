"""The way of a decoding step: what is fastest now is found, and looking for it costs little."""

from collections import Counter
from collections.abc import Callable

import pytest

from policies.pace import REST, SHARE, TRIAL, Pace, Way, size_of, ways_of

QUIET = {1: 0.036, 2: 0.028}
BUSY = {1: 0.038, 2: 0.180}
MANY = {1: 0.100, 2: 0.060, 4: 0.040, 8: 0.030, 12: 0.045}


class Machine:
    """Steps take what the table says; time passes only in them."""

    def __init__(self, most: int, thin: int = 0) -> None:
        self.way, self.now = Way(0, False), 0.0
        self.taken: list[int] = []
        self.pace = Pace(self.go, thin=thin, clock=lambda: self.now)
        self.pace.limit(most)

    def go(self, way: Way) -> None:
        self.way = way

    @property
    def threads(self) -> int:
        return self.way.threads

    def decode(self, steps: int, seconds: dict[int, float], *, rows: int = 1) -> list[int]:
        """Threads of each of these steps."""
        before = len(self.taken)
        for _ in range(steps):
            with self.pace.step(rows):
                self.taken.append(self.threads)
                self.now += seconds[self.threads]
        return self.taken[before:]


@pytest.mark.parametrize(
    ("most", "seconds", "best"), [(2, QUIET, 2), (2, BUSY, 1), (12, MANY, 8), (2, {1: 1.0, 2: 1.0}, 2)]
)
def test_the_fastest_is_found_and_kept(most: int, seconds: dict[int, float], best: int) -> None:
    machine = Machine(most)
    machine.decode(8 * REST, seconds)
    later = Counter(machine.decode(2000, seconds))
    assert later.most_common(1)[0][0] == best
    assert later[best] > 2000 * REST / (REST + TRIAL + 1)


def test_trials_cost_a_small_share_of_the_time() -> None:
    machine = Machine(2)
    machine.decode(100, BUSY)
    began = machine.now
    machine.decode(5000, BUSY)
    assert 2 in machine.taken[100:]
    spent = machine.now - began
    assert spent <= 5000 * BUSY[1] * (1 + SHARE) + TRIAL * BUSY[2]


def test_a_neighbour_that_comes_and_goes_is_noticed() -> None:
    machine = Machine(2)
    assert machine.decode(200, QUIET)[-1] == 2
    busy = machine.decode(200, BUSY)
    assert busy[-1] == 1 and busy.count(2) <= REST + 2 * TRIAL
    quiet = machine.decode(3000, QUIET)
    assert quiet[-1] == 2


def test_one_slow_step_changes_nothing() -> None:
    machine = Machine(2)
    machine.decode(400, QUIET)
    for _ in range(20):
        machine.decode(1, {1: 0.036, 2: 0.5})
        found = machine.decode(100, QUIET)
        assert found.count(1) <= 4 * TRIAL


def test_sizes_are_found_apart() -> None:
    machine = Machine(2)
    machine.decode(100, BUSY)
    assert machine.decode(100, QUIET, rows=8).count(2) > 80
    assert machine.decode(20, BUSY).count(1) == 20


def test_large_pieces_of_work_get_all_and_a_limit_holds() -> None:
    machine = Machine(2)
    machine.decode(100, BUSY)
    assert machine.threads == 2
    machine.pace.limit(1)
    assert machine.threads == 1 and set(machine.decode(100, QUIET)) == {1}
    machine.pace.limit(2)
    assert machine.threads == 2


@pytest.mark.parametrize("best", ways_of(4, plain=True))
def test_weights_are_found_with_their_threads(best: Way) -> None:
    """Every change towards the fastest way makes a step faster."""
    machine, taken = Machine(4, thin=2), []
    for _ in range(2000):
        with machine.pace.step(2):
            taken.append(machine.way)
            away = abs(best.threads.bit_length() - machine.threads.bit_length())
            machine.now += 0.03 * 1.4**away * (1.0 if machine.way.plain is best.plain else 1.3)
    later = Counter(taken[500:])
    assert later.most_common(1)[0][0] == best
    assert later[best] > 1500 * REST / (REST + TRIAL + 1)
    with machine.pace.step(3):
        assert not machine.way.plain
    assert machine.way == Way(4, False)


def test_rivals_that_cost_nothing_take_turns() -> None:
    machine, taken = Machine(2, thin=2), set()
    for _ in range(100):
        with machine.pace.step(1):
            taken.add(machine.way)
            machine.now += 0.03
    assert taken == {Way(2, True), Way(1, True), Way(2, False)}


def test_a_step_that_fails_says_nothing_about_time() -> None:
    machine = Machine(2)
    with pytest.raises(ZeroDivisionError), machine.pace.step(1):
        raise ZeroDivisionError
    assert machine.threads == 2
    machine.decode(50, QUIET)


def threads_of(most: int) -> list[int]:
    ways = ways_of(most, plain=True)
    assert [way.threads for way in ways if way.plain] == [way.threads for way in ways if not way.plain]
    assert ways_of(most, plain=False) == tuple(way for way in ways if not way.plain)
    return [way.threads for way in ways if way.plain]


@pytest.mark.parametrize(
    ("function", "given", "wanted"),
    [
        (threads_of, 1, [1]),
        (threads_of, 2, [1, 2]),
        (threads_of, 6, [1, 2, 4, 6]),
        (threads_of, 8, [1, 2, 4, 8]),
        (size_of, 1, 1),
        (size_of, 2, 2),
        (size_of, 3, 4),
        (size_of, 8, 8),
        (size_of, 9, 16),
    ],
)
def test_sizes(function: Callable[[int], object], given: int, wanted: object) -> None:
    assert function(given) == wanted
