"""The licensed scorers' opinions of one question's answers as one.

Scores have no common scale; a calibration gives each scorer one (`judge.calibrate`), and only then are they put
together. Pure functions: who is licensed was decided before.

Left out: weights by how good a scorer is. A licence says yes or no, and the calibration of a poor scorer already
keeps its probabilities near one half.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, median
from typing import Literal, Protocol

from judge.scorer import Scores


class Scale(Protocol):
    """What one scorer's scores mean: `judge.calibrate.Calibration`, or anything with its two functions."""

    def probability(self, score: float, /) -> float:
        """Probability that people like an answer of this score, 0..1."""
        ...

    def q(self, score_a: float, score_b: float, /) -> float:
        """Probability that a is the better of two answers to one question; q(a, b) + q(b, a) = 1."""
        ...


@dataclass(frozen=True, slots=True)
class Opinion:
    """One scorer's scores of a question's answers, in their order (None: it abstains), and what they mean."""

    scores: tuple[float | None, ...]
    scale: Scale

    @property
    def covers(self) -> frozenset[int]:
        """Which answers it judges."""
        return frozenset(index for index, score in enumerate(self.scores) if score is not None)


@dataclass(frozen=True, slots=True)
class Panel:
    """What the scorers say together. Answers are named by their place in the question.

    `opinions` are those that count, and each of them judges all of `judged`.
    """

    answers: int
    judged: tuple[int, ...]
    opinions: tuple[Opinion, ...]
    combine: Literal["mean", "majority"]

    def value(self, index: int) -> float | None:
        """Probability that people like this answer, 0..1: the scorers' mean, or for a majority their median.

        For records and reports. Between answers to one question `q` is the better witness: what a prompt adds to
        all its answers cancels there.
        """
        if index not in self.judged:
            return None
        centre = fmean if self.combine == "mean" else median
        return centre([o.scale.probability(_known(o.scores[index])) for o in self.opinions])

    def values(self) -> tuple[float | None, ...]:
        """`value` of every answer, in order."""
        return tuple(self.value(index) for index in range(self.answers))

    def q(self, one: int, other: int) -> float | None:
        """Probability, 0..1, that `one` is the better of two answers; None where either was not judged.

        A majority is more than half of the scorers that count, those without a view among them; then q is the mean
        of those on its side, and without one the two are tied.
        """
        if one not in self.judged or other not in self.judged:
            return None
        each = [o.scale.q(_known(o.scores[one]), _known(o.scores[other])) for o in self.opinions]
        if self.combine == "mean":
            return fmean(each)
        for side in ([q for q in each if q > 0.5], [q for q in each if q < 0.5]):
            if 2 * len(side) > len(each):
                return fmean(side)
        return 0.5

    def standing(self, index: int) -> float | None:
        """Mean probability of beating the question's other answers, 0..1; one half for an answer alone."""
        if index not in self.judged:
            return None
        return fmean([_known(self.q(index, other)) for other in self.judged if other != index] or [0.5])


def convene(opinions: Sequence[Opinion], combine: Literal["mean", "majority"], *, answers: int) -> Panel:
    """The panel for one question.

    Answers can be compared only by scorers that judged them both: a strict scorer that abstains on one answer would
    otherwise raise it above the rest. So the scorers that judge the most answers decide which are judged, and one
    that abstains on any of those is left out of this question.

    Args:
        opinions: one for each licensed scorer.
        combine: `[judge] combine`.
        answers: how many answers the question has.
    """
    widest = max((opinion.covers for opinion in opinions), key=len, default=frozenset[int]())
    counted = tuple(opinion for opinion in opinions if widest and opinion.covers >= widest)
    return Panel(answers, tuple(sorted(widest)), counted, combine)


def opinion(scores: Scores, scale: Scale) -> Opinion:
    """A scorer's answer to one question, with its calibration."""
    return Opinion(tuple(None if score is None else score.value for score in scores), scale)


def _known(value: float | None) -> float:
    if value is None:
        raise ValueError("an answer that was not judged has no score")
    return value
