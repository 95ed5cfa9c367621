"""In which way a decoding step is computed, found out while decoding: with how many threads, by which weights.

A step with few rows is many small products, and threads meet at the end of each: on a machine that has nothing else
to do two threads take two thirds of the time of one, beside a busy neighbour five times as long, each product waiting
for a thread that waits for a core. Which weights are faster for one or two rows depends on the machine as well. So
the steps themselves are timed, and now and then some go another way; what such trials may cost is a small share of
the time.
"""

import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from statistics import median
from typing import NamedTuple

#: Of the time spent decoding, what trials may cost.
SHARE = 0.02
#: Steps of a trial; the first one wakes threads and does not count.
TRIAL = 3
#: Steps between two trials at least.
REST = 12
#: A rival must take so much less of the time.
FASTER = 0.95
#: Steps whose median is what a step usually takes.
RECENT = 5


class Way(NamedTuple):
    """Of computing a step."""

    threads: int
    plain: bool
    """By the plain weights, not the packed ones."""


@dataclass
class Choice:
    """The way for steps of one size, among `ways`."""

    ways: tuple[Way, ...]
    best: Way
    recent: deque[float] = field(default_factory=lambda: deque(maxlen=RECENT))
    """Seconds of the newest steps the best way."""
    rival: Way | None = None
    """On trial now."""
    tried: list[float] = field(default_factory=list)
    budget: float = 0.0
    """Seconds that trials may still cost; negative until the last one is paid for."""
    rested: int = REST
    costs: dict[Way, float] = field(default_factory=dict)
    """Seconds each rival's last trial cost."""

    def way(self) -> Way:
        """For the next step."""
        if self.rival is None and self.recent and self.rested >= REST and self.budget >= 0:
            self.rival = self._cheapest()
        return self.best if self.rival is None else self.rival

    def took(self, seconds: float) -> None:
        """The step that `way` was asked for took so long."""
        if self.rival is not None:
            self._judge(self.rival, seconds)
            return
        self.recent.append(seconds)
        self.budget += SHARE * seconds
        self.rested += 1

    def _judge(self, rival: Way, seconds: float) -> None:
        self.tried.append(seconds)
        if len(self.tried) < TRIAL:
            return
        found, usual = self.tried[1:], median(self.recent)
        if min(found) < FASTER * usual:
            self.costs, self.best = {}, rival
            self.recent = deque(found, RECENT)
        else:
            # Put last among its like, so that rivals that cost nothing take turns.
            self.costs.pop(rival, None)
            self.costs[rival] = max(0.0, sum(self.tried) - TRIAL * usual)
            self.budget = -self.costs[rival]
        self.rival, self.tried, self.rested = None, [], 0

    def _cheapest(self) -> Way | None:
        """Of the ways beside the best one, that whose trial cost least, or longest ago; None: there is none."""
        order = list(self.costs)
        return min(
            (way for way in self.ways if self._beside(way)),
            key=lambda way: (self.costs[way], order.index(way)) if way in self.costs else (0.0, -1),
            default=None,
        )

    def _beside(self, way: Way) -> bool:
        """Whether a way is one change away from the best."""
        if way.plain is not self.best.plain:
            return way.threads == self.best.threads
        numbers = sorted({one.threads for one in self.ways})
        return abs(numbers.index(way.threads) - numbers.index(self.best.threads)) == 1


class Pace:
    """Ways of steps, by how many rows they have.

    Args:
        go: has the calling thread compute in a way.
        thin: up to so many rows there is a choice of weights.
        clock: seconds.
    """

    def __init__(
        self, go: Callable[[Way], None], *, thin: int = 0, clock: Callable[[], float] = time.perf_counter
    ) -> None:
        self._go, self._thin, self._clock = go, thin, clock
        self._most = 1
        self._choices: dict[tuple[int, int], Choice] = {}

    def limit(self, most: int) -> None:
        """From now on at most so many threads; what all that is no step gets."""
        self._most = most
        self._go(Way(most, False))

    @contextmanager
    def step(self, rows: int) -> Iterator[None]:
        """One decoding step of so many rows."""
        choice = self._choice(rows)
        self._go(choice.way())
        began = self._clock()
        try:
            yield
            choice.took(self._clock() - began)
        finally:
            self._go(Way(self._most, False))

    def _choice(self, rows: int) -> Choice:
        key = (self._most, size_of(rows))
        if key not in self._choices:
            ways = ways_of(self._most, plain=rows <= self._thin)
            self._choices[key] = Choice(ways, ways[-1])
        return self._choices[key]


def size_of(rows: int) -> int:
    """Steps of about as many rows are alike: the next power of two."""
    return 1 << (rows - 1).bit_length()


def ways_of(most: int, *, plain: bool) -> tuple[Way, ...]:
    """All there are, the likeliest last. Threads are powers of two, and `most` itself."""
    numbers = (*(1 << bit for bit in range(most.bit_length()) if 1 << bit < most), most)
    return tuple(Way(threads, one) for one in ((False, True) if plain else (False,)) for threads in numbers)
