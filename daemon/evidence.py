"""Harm and benefit of one version against another, from people's votes and from what can be counted.

A test that may be looked at after every vote must stay honest however often that is. So the evidence is an e-process,
a bet against "no worse": answers are put into small matched sets, some of the version under trial beside some of its
control, and each set multiplies the wealth by how much likelier it is if the odds of harm are `odds` times the
control's. While the trial does no more harm than the control, no bet gains on average, and by Ville's inequality the
wealth ever reaches 1/alpha with probability alpha at most (Waudby-Smith & Ramdas, arXiv 2010.09686).

For a set of one and one this is their product of 1 + lambda (2x - 1) over pairs that differ, x = 1 for harm, with
lambda = (odds - 1) / (odds + 1); pairs that agree do not count. Larger sets condition on their number of harms, as
Fisher's exact test does (block designs: Turner, Ly & Grünwald, arXiv 2106.02693), so that plentiful controls are not
thrown away: three to one, and a vote says half as much again. lambda is a mixture: the wealth is the mean over
`ODDS`, each held from beginning to end. It needs no tuning, and more harm in any set never lowers it.
"""

import functools
import math
import random
import statistics
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

from judge.evaluate import wilson
from store.outcomes import Answer, Vote

#: Odds ratios bet on, a fifth of the wealth each: from a drop of some ten points to answers that always fail.
ODDS = (1.5, 2.0, 3.0, 6.0, 20.0)
#: Most answers of one side beside one of the other: beyond that a further one adds next to nothing.
WIDEST = 3
#: Controls left at which history is dealt out one to one; above, more for each answer, below, fewer.
EVEN = 100
#: The thumbs' part of the probability of a false alarm: they are what people say, the rest is only counted.
THUMBS_PART = 0.8
#: With fewer people than this, each may count for more: a household has no tenth voter.
FEW_PEOPLE = 10
#: Answers of a person that count for every vote that does.
ANSWERS_A_VOTE = 10
#: Certainty of the intervals shown with rates.
CONFIDENCE = 0.9
#: Wealth is shown up to here.
MOST_SHOWN = 1e12

THUMBS, REGENERATIONS, ERRORS, LENGTH, LATENCY = "thumbs", "regenerations", "errors", "length", "latency"
Shape = Callable[[int], tuple[int, int]]


class ByPerson(Protocol):
    """Anything one person did at some time."""

    @property
    def principal(self) -> str: ...


P = TypeVar("P", bound=ByPerson)


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


@dataclass(frozen=True, slots=True)
class Wealth:
    """Where an e-process stands: natural logarithms of the wealth now and at its highest, and what it saw."""

    log_now: float
    log_peak: float
    sets: int
    decisive: int


@functools.cache
def log_gain(found: Matched, odds: float) -> float:
    """log of the likelihood ratio of a set, odds ratio `odds` against 1, given its number of harms.

    Noncentral against central hypergeometric. Increasing in `treated_harms` for odds above 1, hence at most 1 on
    average for every true odds ratio up to 1.
    """
    low = max(0, found.harms - found.control)
    high = min(found.harms, found.treated)
    total = sum(
        math.comb(found.treated, j) * math.comb(found.control, found.harms - j) * odds**j
        for j in range(low, high + 1)
    )
    ways = math.comb(found.treated + found.control, found.harms)
    return found.treated_harms * math.log(odds) + math.log(ways) - math.log(total)


def log_mean_exp(logs: Sequence[float]) -> float:
    top = max(logs)
    return top + math.log(sum(math.exp(each - top) for each in logs) / len(logs))


def bet(sets: Iterable[Matched]) -> Wealth:
    """The e-process over matched sets in their order. Sets that are not decisive leave it where it is."""
    logs = [0.0] * len(ODDS)
    peak, seen, decisive = 0.0, 0, 0
    for found in sets:
        seen += 1
        if not found.decisive:
            continue
        decisive += 1
        logs = [at + log_gain(found, odds) for at, odds in zip(logs, ODDS, strict=True)]
        peak = max(peak, log_mean_exp(logs))
    return Wealth(log_mean_exp(logs), peak, seen, decisive)


def side_by_side(share: float) -> Shape:
    """Sets where both sides come in together, the treated being `share` of all: as many of each as that makes."""
    if share <= 0.5:
        return lambda _: (1, min(WIDEST, max(1, round((1 - share) / share))))
    return lambda _: (min(WIDEST, max(1, round(share / (1 - share)))), 1)


def from_history(left: int) -> tuple[int, int]:
    """The next set's treated and controls where `left` controls are all there will ever be.

    Plenty are spent to decide soon, the last ones stretched, so that a slow harm is still met by some. It looks at
    how many are left and at nothing that was voted, as a bet must.
    """
    if left >= EVEN:
        return 1, min(WIDEST, left // EVEN)
    return min(WIDEST, math.ceil(EVEN / max(left, 1))), 1


def match(treated: Sequence[bool], control: Sequence[bool], shape: Shape) -> list[Matched]:
    """Matched sets in order of arrival, True being harm; what does not fill a set waits."""
    sets: list[Matched] = []
    at = beside = 0
    while True:
        some, others = shape(len(control) - beside)
        if at + some > len(treated) or beside + others > len(control):
            return sets
        harmed = sum(treated[at : at + some])
        sets.append(Matched(some, others, harmed + sum(control[beside : beside + others]), harmed))
        at, beside = at + some, beside + others


def exceeding(treated: Sequence[float], control: Sequence[float], margin: float) -> list[Matched]:
    """Pairs in order of arrival; harm where the treated is more than `margin` times its match, else benefit.

    So "no worse" means that it is so in half of the pairs at the most: a version a little longer or slower does no
    harm, however many answers say so.
    """
    return [Matched(1, 1, 1, int(a > margin * b)) for a, b in zip(treated, control, strict=False)]


@dataclass(frozen=True, slots=True)
class Arm:
    """What one side did: votes and answers in order of arrival, each person's share already limited."""

    votes: tuple[Vote, ...] = ()
    answers: tuple[Answer, ...] = ()

    def shuffled(self, seed: str) -> "Arm":
        """The same in an order that has nothing to do with time."""
        rng = random.Random(seed)
        votes, answers = list(self.votes), list(self.answers)
        rng.shuffle(votes)
        rng.shuffle(answers)
        return Arm(tuple(votes), tuple(answers))


def limited(rows: Sequence[P], most: int) -> tuple[P, ...]:
    """The first `most` rows of every person."""
    count: Counter[str] = Counter()
    kept = []
    for row in rows:
        count[row.principal] += 1
        if count[row.principal] <= most:
            kept.append(row)
    return tuple(kept)


def limit_arms(treated: Arm, control: Arm, votes_per_person: int) -> tuple[Arm, Arm]:
    """Each person's votes and answers limited on either side, the more loosely the fewer people there are."""

    def within(a: Sequence[P], b: Sequence[P], most: int) -> tuple[tuple[P, ...], tuple[P, ...]]:
        people = len({row.principal for row in (*a, *b)})
        allowed = math.ceil(most * max(1.0, FEW_PEOPLE / max(people, 1)))
        return limited(a, allowed), limited(b, allowed)

    votes = within(treated.votes, control.votes, votes_per_person)
    answers = within(treated.answers, control.answers, votes_per_person * ANSWERS_A_VOTE)
    return Arm(votes[0], answers[0]), Arm(votes[1], answers[1])


@dataclass(frozen=True, slots=True)
class Side:
    """One side of a metric in numbers people read: a rate with its interval, or a median without one."""

    count: int
    value: float | None
    low: float | None = None
    high: float | None = None


def rate(harms: Sequence[bool]) -> Side:
    share = sum(harms) / len(harms) if harms else 0.0
    low, high = wilson(share, len(harms), CONFIDENCE)
    return Side(len(harms), share if harms else None, low, high)


def median(values: Sequence[float]) -> Side:
    return Side(len(values), statistics.median(values) if values else None)


@dataclass(frozen=True, slots=True)
class Finding:
    """One metric of a trial. `limit` is the log-wealth at which it is harm; `benefit` is the opposite process."""

    metric: str
    treated: Side
    control: Side
    harm: Wealth
    limit: float
    benefit: Wealth | None = None

    @property
    def harmful(self) -> bool:
        """Whether the wealth ever reached its limit."""
        return self.harm.log_peak >= self.limit

    @property
    def reason(self) -> str:
        return (
            f"{self.metric}: {shown(self.treated)} against {shown(self.control)}, evidence of harm "
            f"{wealth(self.harm.log_peak):.3g} of {wealth(self.limit):.3g} after {self.harm.decisive} deciding sets"
        )

    def details(self) -> dict[str, object]:
        """For the audit log and status pages; finite numbers only."""
        found: dict[str, object] = {
            "harm": round(wealth(self.harm.log_now), 4),
            "harm_peak": round(wealth(self.harm.log_peak), 4),
            "limit": round(wealth(self.limit), 4),
            "sets": self.harm.sets,
            "decisive": self.harm.decisive,
        }
        if self.benefit is not None:
            found["benefit"] = round(wealth(self.benefit.log_peak), 4)
        for name, side in (("treated", self.treated), ("control", self.control)):
            found[name] = {
                "count": side.count,
                "value": rounded(side.value),
                "low": rounded(side.low),
                "high": rounded(side.high),
            }
        return found


def wealth(log: float) -> float:
    """Wealth from its logarithm, up to what is worth showing."""
    return math.exp(min(log, math.log(MOST_SHOWN)))


def rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)


def shown(side: Side) -> str:
    if side.value is None:
        return "nothing yet"
    spread = "" if side.low is None else f" ({side.low:.2f} to {side.high:.2f})"
    return f"{side.value:.3g}{spread} of {side.count}"


@dataclass(frozen=True, slots=True)
class Trial:
    """How a trial is judged: the probability `harm` of a false alarm in all, and how much longer or slower is harm.

    `latency_margin` None leaves latency out: against history it would measure how busy the machine is now.
    """

    harm: float
    shape: Shape
    length_margin: float
    latency_margin: float | None


def weigh(treated: Arm, control: Arm, trial: Trial) -> tuple[Finding, ...]:
    """Every metric of a trial, thumbs first.

    The probability of a false alarm is split over the metrics (Bonferroni): `THUMBS_PART` to the thumbs, the rest in
    equal parts to the others.
    """
    counted = 3 if trial.latency_margin is None else 4
    thumb_limit = -math.log(THUMBS_PART * trial.harm)
    other_limit = -math.log((1 - THUMBS_PART) * trial.harm / counted)

    def binary(metric: str, limit: float, pick: Callable[[Arm], list[bool]]) -> Finding:
        a, b = pick(treated), pick(control)
        sets = match(a, b, trial.shape)
        benefit = bet([one.mirrored() for one in sets]) if metric == THUMBS else None
        return Finding(metric, rate(a), rate(b), bet(sets), limit, benefit)

    def magnitude(metric: str, margin: float, pick: Callable[[Answer], float | None]) -> Finding:
        a = [value for one in treated.answers if (value := pick(one)) is not None]
        b = [value for one in control.answers if (value := pick(one)) is not None]
        return Finding(metric, median(a), median(b), bet(exceeding(a, b, margin)), other_limit)

    findings = [
        binary(THUMBS, thumb_limit, lambda arm: [not vote.up for vote in arm.votes]),
        binary(REGENERATIONS, other_limit, lambda arm: [one.regenerated for one in arm.answers]),
        binary(ERRORS, other_limit, lambda arm: [one.failed for one in arm.answers]),
        magnitude(LENGTH, trial.length_margin, lambda one: one.length),
    ]
    if trial.latency_margin is not None:
        findings.append(magnitude(LATENCY, trial.latency_margin, lambda one: one.pace))
    return tuple(findings)


def harms(findings: Sequence[Finding]) -> tuple[str, ...]:
    """A reason for every metric whose evidence of harm reached its limit."""
    return tuple(one.reason for one in findings if one.harmful)


def details(findings: Sequence[Finding]) -> dict[str, object]:
    return {one.metric: one.details() for one in findings}
