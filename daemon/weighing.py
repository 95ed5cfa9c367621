"""One metric against its limits: how a row of the gate's table becomes a check with a verdict and a reason. Pure.

A number that is there but not finite, or that cannot be (a share of 1.2), fails whatever its row says: broken
evidence is no evidence. A required number that is not there fails; an optional one is insufficient, unless a part of
it is there, which fails too.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum

from daemon.limits import GateConfig
from store.records import GateResult, Verdict

Metrics = Mapping[str, float]
#: Normal quantile of a two-sided 90% interval, which is a one-sided 95% bound.
Z = 1.6449
#: 1 for a candidate that was trained from base although something else is served.
REBUILT = "train/rebuilt"
#: Slack for rounding where a share is held against 0, 1 or another share.
ROUNDING = 1e-9


class Side(StrEnum):
    """Which side of its limits a value has to keep to. Exactly at a limit keeps it."""

    AT_MOST = "at most"
    AT_LEAST = "at least"


class Need(StrEnum):
    """What a metric that nobody measured means: failure, too little evidence, or that there is nothing to check."""

    REQUIRED = "required"
    OPTIONAL = "optional"
    IF_DUE = "if due"


@dataclass(frozen=True, slots=True)
class Check:
    """One metric against its limits. `value` None: could not be measured.

    `holds`: evidence there is enough of, and it is not good enough; that makes a candidate inconclusive.
    """

    metric: str
    value: float | None
    soft: float | None
    hard: float | None
    verdict: Verdict
    reason: str
    holds: bool = False

    def result(self, iteration: int) -> GateResult:
        return GateResult(iteration, self.metric, self.value, self.soft, self.hard, self.verdict, self.reason)


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table.

    `how` reads `of` (a metric, or the beginning of several names) and weighs it. A limit is the name of a setting of
    `[daemon.gate]` or a constant; of a pair of limits `side` takes the upper or the lower one. None: no such limit.
    """

    metric: str
    how: Callable[["Row", Metrics, GateConfig], Check | None]
    of: str
    side: Side
    soft: str | float | None
    hard: str | float | None
    need: Need

    def limits(self, config: GateConfig) -> tuple[float | None, float | None]:
        """The soft and the hard limit as configured."""
        return self._limit(self.soft, config), self._limit(self.hard, config)

    def _limit(self, limit: str | float | None, config: GateConfig) -> float | None:
        if not isinstance(limit, str):
            return limit
        value = getattr(config, limit)
        if isinstance(value, tuple):
            return float(value[1] if self.side is Side.AT_MOST else value[0])
        return float(value)


def verdict(
    row: Row,
    config: GateConfig,
    said: Verdict,
    reason: str,
    value: float | None = None,
    *,
    holds: bool = False,
) -> Check:
    soft, hard = row.limits(config)
    return Check(row.metric, value, soft, hard, said, reason, holds)


def unusable(row: Row, metrics: Metrics, config: GateConfig, names: list[str]) -> Check | None:
    """The check that a number which is missing or not finite decides; None while all are usable."""
    missing = [name for name in names if name not in metrics]
    for name in names:
        if name in metrics and not math.isfinite(metrics[name]):
            return verdict(row, config, Verdict.FAIL, f"{name} is {metrics[name]}, not a finite number")
    if not missing:
        return None
    told = f"{' and '.join(missing)} {'was' if len(missing) == 1 else 'were'} not measured"
    if row.need is Need.REQUIRED or len(missing) < len(names):
        return verdict(row, config, Verdict.FAIL, told)
    return verdict(row, config, Verdict.INSUFFICIENT, told)


def within(row: Row, config: GateConfig, value: float) -> Check:
    """A number against a soft and a hard limit."""
    if not math.isfinite(value):
        return verdict(row, config, Verdict.FAIL, f"{row.metric} is {value}, not a finite number")
    sign, word = (1, "above") if row.side is Side.AT_MOST else (-1, "below")
    soft, hard = row.limits(config)
    said = f"{row.metric} {value:.4g}"
    if hard is not None and sign * value > sign * hard:
        return verdict(row, config, Verdict.FAIL, f"{said} is {word} its limit {hard:g}", value)
    if soft is not None and sign * value > sign * soft:
        return verdict(row, config, Verdict.SOFT, f"{said} is {word} its soft limit {soft:g}", value)
    kept = f"{said} keeps to {row.side.value} {hard:g}" if hard is not None else said
    return verdict(row, config, Verdict.PASS, kept, value)


def value(row: Row, metrics: Metrics, config: GateConfig) -> Check:
    """The metric itself."""
    return unusable(row, metrics, config, [row.of]) or within(row, config, metrics[row.of])


def nearness(row: Row, metrics: Metrics, config: GateConfig) -> Check:
    """Distance to the incumbent. One rebuilt from base may well differ from it, so beyond the hard limit it only
    warns: its distance to base, its answers, the battery and contests are held against it as they are against any.
    """
    check = value(row, metrics, config)
    if check.verdict is Verdict.FAIL and check.value is not None and metrics.get(REBUILT) == 1.0:
        return replace(check, verdict=Verdict.SOFT, reason=f"{check.reason}; it was rebuilt from base")
    return check


def against_incumbent(
    row: Row, metrics: Metrics, config: GateConfig, compare: Callable[[float, float], float]
) -> Check:
    before = f"incumbent/{row.of}"
    return unusable(row, metrics, config, [row.of, before]) or within(
        row, config, compare(metrics[row.of], metrics[before])
    )


def rise(row: Row, metrics: Metrics, config: GateConfig) -> Check:
    """Candidate minus incumbent."""
    return against_incumbent(row, metrics, config, lambda now, before: now - before)


def drop(row: Row, metrics: Metrics, config: GateConfig) -> Check:
    """Incumbent minus candidate."""
    return against_incumbent(row, metrics, config, lambda now, before: before - now)


def quotient(now: float, before: float) -> float:
    """An incumbent of zero gives 1 if the candidate is zero too, else infinity."""
    if before == 0:
        return 1.0 if now == 0 else math.inf
    return now / before


def ratio(row: Row, metrics: Metrics, config: GateConfig) -> Check:
    """Candidate over incumbent."""
    return against_incumbent(row, metrics, config, quotient)


def growth(row: Row, metrics: Metrics, config: GateConfig) -> Check:
    """Ratio of perplexities, from two mean negative log-likelihoods in nats: exp(candidate - incumbent)."""
    return against_incumbent(row, metrics, config, lambda now, before: math.exp(min(now - before, 700.0)))


def impossible(row: Row, config: GateConfig, numbers: dict[str, float]) -> Check | None:
    """The failing check of shares, given in rising order, that lie outside 0..1 or do not rise."""
    least, under = 0.0, "0"
    for name, number in numbers.items():
        if number < least - ROUNDING or number > 1 + ROUNDING:
            reason = f"{name} is {number:.4g}, and lies between {under} and 1 if it is sound"
            return verdict(row, config, Verdict.FAIL, reason)
        least, under = number, name
    return None


def agreement(row: Row, metrics: Metrics, config: GateConfig) -> Check:
    """AUC of log-probability changes of never-train answers, liked against disliked, by its interval.

    An interval wholly below one half says the update moved against people it never saw: fail. One whose lower end
    is below the limit says too little, and that holds; too few votes hold only where they are required. `need` speaks
    of the interval, once there are votes enough for one.
    """
    low, high, floor = f"{row.of}/auc_low", f"{row.of}/auc_high", row.limits(config)[1]
    votes = ["heldout/n_up", "heldout/n_down"]
    for name in votes:
        if name in metrics and not math.isfinite(metrics[name]):
            return verdict(row, config, Verdict.FAIL, f"{name} is {metrics[name]}, not a finite number")
    ups, downs = (metrics.get(name, 0.0) for name in votes)
    if min(ups, downs) < config.heldout_min:
        reason = (
            f"{ups:g} liked and {downs:g} disliked never-train answers, {config.heldout_min} of each needed"
        )
        required = config.heldout_required and floor is not None
        return verdict(row, config, Verdict.INSUFFICIENT, reason, holds=required)
    bad = unusable(row, metrics, config, [low, high])
    if bad is not None:
        return bad
    bottom, top = metrics[low], metrics[high]
    bad = impossible(row, config, {low: bottom, high: top})
    if bad is not None:
        return bad
    whom = "" if row.of == "heldout" else ", seen from base,"
    if top < 0.5:
        reason = f"held-out agreement{whom} is between {bottom:.2f} and {top:.2f}: against people's votes"
        return verdict(row, config, Verdict.FAIL, reason, bottom)
    if floor is not None and bottom < floor:
        reason = f"held-out agreement may be as low as {bottom:.2f}, {floor:g} needed"
        return verdict(row, config, Verdict.INSUFFICIENT, reason, bottom, holds=True)
    reason = f"held-out agreement{whom} is between {bottom:.2f} and {top:.2f}"
    return verdict(row, config, Verdict.PASS, reason, bottom)
