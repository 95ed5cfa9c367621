"""How far each person's votes agree with operators' and with everybody else's on the same answers. Pure.

The one-coin model of Dawid and Skene (1979), fitted by EM: every answer is good or bad, and every person says so
rightly with a probability of their own. Operators' labels are known truths. Left out: separate errors for good
and bad answers, which need more shared answers than there are; and tastes, which one truth per answer cannot tell
from error: somebody of another taste than everybody else is held to be unreliable, so operators are shown who is.
"""

import math
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import TypeVar

#: What is believed of somebody before any answer is shared: right 4 times of 5 (a Beta distribution's counts).
RIGHT, WRONG = 4.0, 1.0
#: EM steps; it has long settled by then.
STEPS = 50
#: No vote is worth more than this many to one.
SUREST = 0.95

Answered = TypeVar("Answered", bound=Hashable)


@dataclass(frozen=True, slots=True)
class Rater:
    """`accuracy`: how probably a vote of theirs is right, 0..1. `shared`: answers that say so."""

    accuracy: float
    shared: int


def believed() -> float:
    """The accuracy of somebody of whom nothing is known."""
    return RIGHT / (RIGHT + WRONG)


def rate(votes: Mapping[Answered, Mapping[str, bool]], truths: Mapping[Answered, bool]) -> dict[str, Rater]:
    """Everybody who voted.

    Args:
        votes: who liked which answer. Those of one person only, without a truth, tell nothing.
        truths: operators' labels, by answer.
    """
    people = sorted({person for said in votes.values() for person in said})
    telling = {answer: said for answer, said in votes.items() if answer in truths or len(said) > 1}
    shared = dict.fromkeys(people, 0)
    for said in telling.values():
        for person in said:
            shared[person] += 1
    accuracy = dict.fromkeys(people, believed())
    for _ in range(STEPS):
        right = dict.fromkeys(people, RIGHT)
        for answer, said in telling.items():
            good = float(truths[answer]) if answer in truths else _good(said, accuracy)
            for person, liked in said.items():
                right[person] += good if liked else 1 - good
        accuracy = {person: right[person] / (RIGHT + WRONG + shared[person]) for person in people}
    return {person: Rater(accuracy[person], shared[person]) for person in people}


def _good(said: Mapping[str, bool], accuracy: Mapping[str, float]) -> float:
    """How probably an answer is good, for these votes."""
    odds = 0.0
    for person, liked in said.items():
        # Somebody below chance is not believed the other way round: they may be right where others are few.
        sure = min(SUREST, max(0.5, accuracy[person]))
        odds += math.log(sure / (1 - sure)) * (1 if liked else -1)
    return 1 / (1 + math.exp(-odds))


def worth(rater: Rater, *, least: int) -> float:
    """What a vote of theirs counts, 0..1: nothing at chance, all of it from what is believed of everybody.

    `least`: with fewer shared answers nothing is known, and it counts in full.
    """
    if rater.shared < least:
        return 1.0
    return min(1.0, max(0.0, (2 * rater.accuracy - 1) / (2 * believed() - 1)))


def below_chance(rater: Rater, *, least: int) -> bool:
    """Whether enough shared answers say that their votes are more often wrong than right."""
    return rater.shared >= least and rater.accuracy < 0.5
