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
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

from daemon.matching import Matched, counted, from_history, lasting, match, near, side_by_side
from store.outcomes import Answer, Span, Vote
from store.shares import wilson

#: Odds ratios bet on, a fifth of the wealth each: from a drop of some ten points to answers that always fail.
ODDS = (1.5, 2.0, 3.0, 6.0, 20.0)
#: The thumbs' part of the probability of a false alarm: they are what people say, the rest is only counted.
THUMBS_PART = 0.8
#: With fewer people than this, each may count for more: a household has no tenth voter.
FEW_PEOPLE = 10
#: People whose harm it takes; all of them where there are fewer.
HARMED_PEOPLE = 3
#: Answers of a person that count in an hour for every vote that does.
ANSWERS_A_VOTE = 10
#: Votes and answers of one side that are looked at in all. Reading more would take longer than it is worth.
MOST_VOTES, MOST_ANSWERS = 20_000, 50_000
#: Seconds within which answers of two sides are matched: what an hour does to both cancels out. Votes are too few for
#: less than a day.
NEAR_ANSWERS, NEAR_VOTES = 300.0, 86_400.0
#: Certainty of the intervals shown with rates.
CONFIDENCE = 0.9
#: Wealth is shown up to here.
MOST_SHOWN = 1e12

THUMBS, REGENERATIONS, ERRORS, LENGTH, LATENCY = "thumbs", "regenerations", "errors", "length", "latency"


class ByPerson(Protocol):
    """Anything one person did at some time."""

    @property
    def principal(self) -> str: ...

    @property
    def at(self) -> float: ...


P = TypeVar("P", bound=ByPerson)


@dataclass(frozen=True, slots=True)
class Wealth:
    """Where an e-process stands: natural logarithms of the wealth now and at its highest, and what it saw."""

    log_now: float
    log_peak: float
    sets: int
    decisive: int


@functools.cache
def log_gains(found: Matched) -> tuple[float, ...]:
    """`log_gain` for each of `ODDS`."""
    return tuple(log_gain(found, odds) for odds in ODDS)


def log_gain(found: Matched, odds: float) -> float:
    """log of the likelihood ratio of a set, odds ratio `odds` against 1, given its number of harms.

    Noncentral against central hypergeometric. Increasing in `treated_harms` for odds above 1, hence at most 1 on
    average for every true odds ratio up to 1.
    """
    low = max(0, found.harms - found.control)
    high = min(found.harms, found.treated)
    logs = [
        log_comb(found.treated, j) + log_comb(found.control, found.harms - j) + j * math.log(odds)
        for j in range(low, high + 1)
    ]
    ways = log_comb(found.treated + found.control, found.harms)
    return found.treated_harms * math.log(odds) + ways - log_mean_exp(logs) - math.log(len(logs))


def log_comb(n: int, k: int) -> float:
    """log of n over k: sets may be of thousands, which no float can count the ways of."""
    return math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)


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
        logs = [at + gain for at, gain in zip(logs, log_gains(found), strict=True)]
        peak = max(peak, log_mean_exp(logs))
    return Wealth(log_mean_exp(logs), peak, seen, decisive)


def exceeds(treated: float, control: float, margin: float) -> Matched:
    """A pair; harm where the treated is more than `margin` times its match, else benefit.

    So "no worse" means that it is so in half of the pairs at the most: a version a little longer or slower does no
    harm, however many answers say so.
    """
    return Matched(1, 1, 1, int(treated > margin * control))


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


def allowed(most: int, people: int) -> int:
    """Votes of a person that count among so many people: a household has no tenth voter."""
    return math.ceil(most * max(1.0, FEW_PEOPLE / max(people, 1)))


def limited(rows: Sequence[P], most: int, known: Iterable[str] | None = None) -> tuple[P, ...]:
    """The first `most` rows of every person; with people `known` before, as many as are `allowed` by then.

    A row that counted goes on to count, whoever comes later: what is looked at only grows.
    """
    people = None if known is None else set(known)
    count: Counter[str] = Counter()
    kept = []
    for row in rows:
        count[row.principal] += 1
        if people is not None:
            people.add(row.principal)
        if count[row.principal] <= (most if people is None else allowed(most, len(people))):
            kept.append(row)
    return tuple(kept)


def hourly(version: str | None, since: float, votes_per_person: int, before: float = math.inf) -> Span:
    """Answers that count: so many of a person in every hour, so that nobody fills it and it never is full."""
    most = ANSWERS_A_VOTE * votes_per_person
    return Span(version, since, before, limit=MOST_ANSWERS, most=most, period=3600.0)


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
    """One metric of a trial. `limit` is the log-wealth at which it is harm; `benefit` is the opposite process.

    `people` had something to hold against the treated, `needed` of them must have.
    """

    metric: str
    treated: Side
    control: Side
    harm: Wealth
    limit: float
    benefit: Wealth | None = None
    people: int = 0
    needed: int = 0

    @property
    def harmful(self) -> bool:
        """Whether the wealth ever reached its limit, and not by too few people."""
        return self.harm.log_peak >= self.limit and self.people >= self.needed

    @property
    def reason(self) -> str:
        few = "" if self.people >= self.needed else f", by {self.people} of the {self.needed} people it takes"
        return (
            f"{self.metric}: {shown(self.treated)} against {shown(self.control)}, evidence of harm "
            f"{wealth(self.harm.log_peak):.3g} of {wealth(self.limit):.3g} "
            f"after {self.harm.decisive} deciding sets{few}"
        )

    def details(self) -> dict[str, object]:
        """For the audit log and status pages; finite numbers only."""
        found: dict[str, object] = {
            "harm": round(wealth(self.harm.log_now), 4),
            "harm_peak": round(wealth(self.harm.log_peak), 4),
            "limit": round(wealth(self.limit), 4),
            "sets": self.harm.sets,
            "decisive": self.harm.decisive,
            "people": self.people,
            "people_needed": self.needed,
        }
        if self.benefit is not None:
            found["benefit"] = round(wealth(self.benefit.log_peak), 4)
        for name, side in (("treated", self.treated), ("control", self.control)):
            values = {"value": side.value, "low": side.low, "high": side.high}
            found[name] = {"count": side.count, **{key: rounded(value) for key, value in values.items()}}
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
class Sized:
    """Length or seconds per token of one answer."""

    principal: str
    at: float
    size: float


@dataclass(frozen=True, slots=True)
class Trial:
    """How a trial is judged: the probability `harm` of a false alarm in all, and how much longer or slower is harm.

    `share` of people are the treated's where both sides come in side by side; None: the control is a history.
    `latency_margin` None leaves latency out: against history it would measure how busy the machine is now.
    `votes_each`: the votes of a person that are bet on.
    """

    harm: float
    share: float | None
    length_margin: float
    latency_margin: float | None
    votes_each: int = sys.maxsize


def sets_of(
    treated: Sequence[P], control: Sequence[P], share: float | None, harmed: Callable[[P], bool]
) -> list[Matched]:
    """Matched sets of votes or of answers: in time side by side, or beside a history, which answers must not end."""
    votes = not any(isinstance(row, Answer) for row in (*treated[:1], *control[:1]))
    if share is None:
        shape = from_history if votes else lasting(len(control))
        return match([harmed(row) for row in treated], [harmed(row) for row in control], shape)
    seconds = NEAR_VOTES if votes else NEAR_ANSWERS
    groups = near(treated, control, side_by_side(share), seconds)
    return [counted([harmed(row) for row in own], [harmed(row) for row in other]) for own, other in groups]


def people_needed(treated: Iterable[ByPerson], control: Iterable[ByPerson], *, by_will: bool) -> int:
    """How many people it takes to call harm: three, or everybody on the treated side where there are fewer.

    What people do by will (votes, retries) takes three wherever three take part on either side: few whom the hash
    gave to a canary do not speak for all. A failed answer says the same whoever got it.
    """
    own = {row.principal for row in treated}
    everybody = own | {row.principal for row in control} if by_will else own
    return HARMED_PEOPLE if len(everybody) >= HARMED_PEOPLE else len(own)


def weigh(treated: Arm, control: Arm, trial: Trial) -> tuple[Finding, ...]:
    """Every metric of a trial, thumbs first.

    The probability of a false alarm is split over the metrics (Bonferroni): `THUMBS_PART` to the thumbs, the rest in
    equal parts to the others.
    """
    parts = 3 if trial.latency_margin is None else 4
    other_limit = -math.log((1 - THUMBS_PART) * trial.harm / parts)
    findings = [
        thumbs(treated, control, trial),
        answered(REGENERATIONS, treated, control, trial, other_limit),
        answered(ERRORS, treated, control, trial, other_limit),
        magnitude(LENGTH, lengths(treated), lengths(control), trial, other_limit),
    ]
    if trial.latency_margin is not None:
        findings.append(magnitude(LATENCY, paces(treated), paces(control), trial, other_limit))
    return tuple(findings)


def thumbs(treated: Arm, control: Arm, trial: Trial) -> Finding:
    """Votes; the numbers shown are of all of them, the bets are on `votes_each` of every person."""

    def down(vote: Vote) -> bool:
        return not vote.up

    a, b = limited(treated.votes, trial.votes_each), limited(control.votes, trial.votes_each)
    sets = sets_of(a, b, trial.share, down)
    return Finding(
        THUMBS,
        rate([down(vote) for vote in treated.votes]),
        rate([down(vote) for vote in control.votes]),
        bet(sets),
        -math.log(THUMBS_PART * trial.harm),
        bet([one.mirrored() for one in sets]),
        people=len({vote.principal for vote in a if down(vote)}),
        needed=people_needed(a, b, by_will=True),
    )


def answered(metric: str, treated: Arm, control: Arm, trial: Trial, limit: float) -> Finding:
    """What happened to answers: retried, or failed."""

    def harmed(one: Answer) -> bool:
        return one.regenerated if metric == REGENERATIONS else one.failed

    a, b = treated.answers, control.answers
    return Finding(
        metric,
        rate([harmed(one) for one in a]),
        rate([harmed(one) for one in b]),
        bet(sets_of(a, b, trial.share, harmed)),
        limit,
        people=len({one.principal for one in a if harmed(one)}),
        needed=people_needed(a, b, by_will=metric == REGENERATIONS),
    )


def lengths(arm: Arm) -> list[Sized]:
    return [Sized(one.principal, one.at, one.length) for one in arm.answers if one.length is not None]


def paces(arm: Arm) -> list[Sized]:
    return [Sized(one.principal, one.at, one.pace) for one in arm.answers if one.pace is not None]


def magnitude(metric: str, treated: list[Sized], control: list[Sized], trial: Trial, limit: float) -> Finding:
    """Lengths or seconds per token, in pairs: near in time side by side, any two where there is a history."""
    margin = trial.length_margin if metric == LENGTH else (trial.latency_margin or math.inf)
    if trial.share is None:
        pairs = list(zip(treated, control, strict=False))
    else:
        pairs = [(own[0], other[0]) for own, other in near(treated, control, (1, 1), NEAR_ANSWERS)]
    return Finding(
        metric,
        median([one.size for one in treated]),
        median([one.size for one in control]),
        bet([exceeds(own.size, other.size, margin) for own, other in pairs]),
        limit,
        people=len({own.principal for own, other in pairs if own.size > margin * other.size}),
        needed=people_needed([own for own, _ in pairs], (), by_will=False),
    )


def harms(findings: Sequence[Finding]) -> tuple[str, ...]:
    """A reason for every metric whose evidence of harm reached its limit."""
    return tuple(one.reason for one in findings if one.harmful)


def details(findings: Sequence[Finding]) -> dict[str, object]:
    return {one.metric: one.details() for one in findings}
