"""Small sets of answers of two versions that are held against each other.

Which answers meet is decided by when they came and by nothing that people said of them, and what comes later changes
no set made before: so a bet on the sets in their order may be looked at after every one of them.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

#: Most answers of one side beside one of the other: beyond that a further one adds next to nothing.
WIDEST = 3
#: Controls left at which history is dealt out one to one; above, more for each answer, below, fewer.
EVEN = 100

Shape = Callable[[int], tuple[int, int]]


class Timed(Protocol):
    """Anything that happened at some time, seconds since the epoch."""

    @property
    def at(self) -> float: ...


T = TypeVar("T", bound=Timed)


@dataclass(frozen=True, slots=True)
class Matched:
    """A set of `treated` and `control` answers: `harms` among all of them, `treated_harms` among the treated."""

    treated: int
    control: int
    harms: int
    treated_harms: int

    @property
    def decisive(self) -> bool:
        """Whether it can tell the two sides apart."""
        return 0 < self.harms < self.treated + self.control

    def mirrored(self) -> "Matched":
        """The same set asked about benefit: harm is what did not happen."""
        size = self.treated + self.control
        return Matched(self.treated, self.control, size - self.harms, self.treated - self.treated_harms)


def counted(treated: Sequence[bool], control: Sequence[bool]) -> Matched:
    """A set from what happened to each of its answers, True being harm."""
    return Matched(len(treated), len(control), sum(treated) + sum(control), sum(treated))


def side_by_side(share: float) -> tuple[int, int]:
    """The most treated and controls of a set where both come in together, the treated being `share` of all."""
    if share <= 0.5:
        return 1, min(WIDEST, max(1, round((1 - share) / share)))
    return min(WIDEST, max(1, round(share / (1 - share)))), 1


def from_history(left: int) -> tuple[int, int]:
    """The next set's treated and controls where `left` controls are all there will ever be.

    Plenty are spent to decide soon, the last ones stretched, so that a slow harm is still met by some. It looks at
    how many are left and at nothing that was voted, as a bet must.
    """
    if left >= EVEN:
        return 1, min(WIDEST, left // EVEN)
    return min(WIDEST, math.ceil(EVEN / max(left, 1))), 1


def lasting(total: int) -> Shape:
    """`from_history` for what there is no end of, as answers: half of the `total` controls is spent like that, the
    other half on ever larger sets.

    With half/n of that half left a set takes n**2 treated, so that a set is always a small part of all that were
    matched before it: harm that begins after many good answers is still met.
    """
    half = total / 2

    def shape(left: int) -> tuple[int, int]:
        return from_history(left) if left > half else (math.ceil((half / max(left, 1)) ** 2), 1)

    return shape


def match(treated: Sequence[bool], control: Sequence[bool], shape: Shape) -> list[Matched]:
    """Sets of arriving answers and a history, True being harm; what does not fill a set waits."""
    sets: list[Matched] = []
    at = beside = 0
    while True:
        some, others = shape(len(control) - beside)
        if at + some > len(treated) or beside + others > len(control):
            return sets
        sets.append(counted(treated[at : at + some], control[beside : beside + others]))
        at, beside = at + some, beside + others


def near(
    treated: Sequence[T], control: Sequence[T], most: tuple[int, int], seconds: float
) -> list[tuple[list[T], list[T]]]:
    """Sets of answers that came in side by side, none further than `seconds` from the one that completed it.

    An answer takes the most recent ones of the other side that are still free, up to `most` (treated, controls); one
    that finds none waits for the next. Whatever nobody came near to is left out. Each answer is in one set at most.
    """
    events = [(row, True) for row in treated] + [(row, False) for row in control]
    events.sort(key=lambda event: event[0].at)
    free: dict[bool, list[T]] = {True: [], False: []}
    sets = []
    for row, own in events:
        others = free[not own]
        if others and row.at - others[-1].at > seconds:
            others.clear()  # the last is the newest: nothing later is nearer to any of them
        if not others:
            free[own].append(row)
            continue
        width = most[1] if own else most[0]
        taken = [other for other in others[-width:] if row.at - other.at <= seconds]
        del others[-len(taken) :]
        sets.append(([row], taken) if own else (taken, [row]))
    return sets
