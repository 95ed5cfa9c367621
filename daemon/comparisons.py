"""Candidate against another version, item by item: judged contests and the battery's groups, weighed by intervals.

A loss rejects only where an interval says it is no accident. Evidence that could have shown that nothing is lost, and
does not, holds; evidence too small for that never holds by itself, or those who measure more would be held more.
"""

import math
from dataclasses import dataclass

from daemon.limits import GateConfig
from daemon.weighing import ROUNDING, Check, Metrics, Need, Row, Z, impossible, unusable, verdict
from store.records import Verdict

#: Normal quantile of a one-sided 99% bound, for the battery's failures: six groups of few items are six chances to
#: reject a candidate that lost nothing.
PROOF = 2.3263
#: Lost items that prove a loss too, where none was gained: in groups of few items the bound asks for more than
#: the incumbent passes, and nothing could fail. One chance in sixteen where each might go either way.
ALL_ONE_WAY = 4
#: The normal quantile for warnings, of a bound of 84%: one item of a few that went wrong is not worth one.
SUSPICION = 1.0
#: Largest share of a contest's prompts that its judges may have no view on: beyond it nobody knows what the missing
#: ones would have said, for what keeps a judge from judging may well lie in the answers.
MOST_UNJUDGED = 0.2


@dataclass(frozen=True, slots=True)
class Contest:
    """Judged win rate with its interval, and on how many prompts it rests. `missing`: why they are too few of those
    that were to be judged; None where they are enough.
    """

    prompts: float
    rate: float
    low: float
    high: float
    missing: str | None = None


def missing_views(metrics: Metrics, group: str) -> str | None:
    """Why too many of a contest's prompts have no judge's view (`MOST_UNJUDGED`); None where enough have one."""
    judged, unjudged = (metrics.get(f"{group}/{name}", 0.0) for name in ("prompts", "unjudged"))
    if unjudged <= MOST_UNJUDGED * (judged + unjudged):
        return None
    return (
        f"judges have no view on {unjudged:g} of {judged + unjudged:g} prompts, more than {MOST_UNJUDGED:.0%}"
    )


def read_contest(
    row: Row, metrics: Metrics, config: GateConfig, *, rate: str = "win_rate", ends: tuple[str, ...]
) -> Contest | Check:
    """The contest, or the check that what is missing or broken decides. `ends`: names of the interval's ends.

    With the lower end alone, the upper one is taken as far from the rate on the other side.
    """
    names = [f"{row.of}/prompts", f"{row.of}/{rate}"]
    bounds = [f"{row.of}/{end}" for end in ends]
    if not any(name in metrics for name in names + bounds):
        return verdict(row, config, Verdict.INSUFFICIENT, "no licensed judge compared the answers")
    unjudged = [name for name in (f"{row.of}/unjudged",) if name in metrics]
    if not any(name in metrics for name in bounds):
        if metrics.get(names[0]) == 0 and names[1] not in metrics:
            names = names[:1]  # without any there is no rate
        names += unjudged
        reason = f"{metrics.get(names[0], 0.0):g} judged prompts are too few for an interval"
        return unusable(row, metrics, config, names) or verdict(row, config, Verdict.INSUFFICIENT, reason)
    low = metrics.get(bounds[0], math.nan)
    middle = metrics.get(names[1], math.nan)
    high = metrics.get(bounds[1], math.nan) if len(bounds) > 1 else min(1.0, max(low, 2 * middle - low))
    bad = unusable(row, metrics, config, names + bounds + unjudged)
    bad = bad or impossible(row, config, {names[1]: middle})
    bad = bad or impossible(row, config, {bounds[0]: low, f"{row.of}'s upper end": high})
    return bad or Contest(metrics[names[0]], middle, low, high, missing_views(metrics, row.of))


def win(row: Row, metrics: Metrics, config: GateConfig) -> Check:
    """Non-inferiority of the judged win rate: the interval's lower end must exceed the limit."""
    return non_inferior(row, config, read_contest(row, metrics, config, ends=("win_low", "win_high")))


def win_controlled(row: Row, metrics: Metrics, config: GateConfig) -> Check:
    """The same at equal lengths, so that nobody wins by being longer."""
    return non_inferior(row, config, read_contest(row, metrics, config, rate="win_lc", ends=("win_lc_low",)))


def non_inferior(row: Row, config: GateConfig, read: Contest | Check) -> Check:
    if isinstance(read, Check):
        return read
    floor = row.limits(config)[1] or 0.0
    said = f"{row.metric} {read.low:.2f}: win rate {read.rate:.2f}, {read.low:.2f} to {read.high:.2f}"
    said += f" on {read.prompts:g} prompts"
    if read.high < 0.5:
        return verdict(row, config, Verdict.FAIL, f"{said}: worse than the incumbent", read.low)
    if read.missing is not None:
        return verdict(row, config, Verdict.INSUFFICIENT, f"{said}, but {read.missing}", read.low)
    if read.low > floor:
        return verdict(row, config, Verdict.PASS, said, read.low)
    reason = f"{said}; its lower end must be above {floor:g}"
    if read.prompts >= config.contest_enough:
        return verdict(row, config, Verdict.INSUFFICIENT, reason, read.low, holds=True)
    if read.rate <= floor:
        return verdict(row, config, Verdict.SOFT, reason, read.low)
    return verdict(row, config, Verdict.INSUFFICIENT, reason, read.low)


def not_worse(row: Row, metrics: Metrics, config: GateConfig) -> Check | None:
    """A contest against another version than the incumbent: fails when lost, and is not asked for where not due."""
    if row.need is Need.IF_DUE and not any(name.startswith(f"{row.of}/") for name in metrics):
        return None
    read = read_contest(row, metrics, config, ends=("win_low", "win_high"))
    if isinstance(read, Check):
        return read
    least = row.limits(config)[1] or 0.0
    said = f"{row.metric} {read.high:.2f}: win rate {read.rate:.2f}, {read.low:.2f} to {read.high:.2f}"
    if read.high < least:
        return verdict(row, config, Verdict.FAIL, f"{said}: worse", read.high)
    if read.missing is not None:
        return verdict(row, config, Verdict.INSUFFICIENT, f"{said}, but {read.missing}", read.high)
    return verdict(row, config, Verdict.PASS, said, read.high)


def worst_cluster(row: Row, metrics: Metrics, config: GateConfig) -> Check:
    """Smallest win rate of a kind of prompt, less one half: itself it warns, its interval's upper end rejects."""
    end = f"{row.of}_high"
    bad = unusable(row, metrics, config, [row.of] + [end] * (end in metrics))
    if bad is not None:
        return bad
    worst, (soft, hard) = metrics[row.of], row.limits(config)
    top = metrics.get(end, worst)
    bad = impossible(row, config, {row.of: worst + 0.5, end: top + 0.5})
    if bad is not None:
        return bad
    said = f"{row.metric} {worst:.2f}, at best {top:.2f}"
    if hard is not None and top < hard:
        return verdict(row, config, Verdict.FAIL, f"{said}: below {hard:g} on one kind of prompt", worst)
    missing = missing_views(metrics, row.of.partition("/")[0])
    if missing is not None:
        return verdict(row, config, Verdict.INSUFFICIENT, f"{said}, but {missing}", worst)
    if soft is not None and worst < soft:
        return verdict(row, config, Verdict.SOFT, f"{said}: below {soft:g}", worst)
    return verdict(row, config, Verdict.PASS, said, worst)


@dataclass(frozen=True, slots=True)
class Group:
    """One group of the battery: items of the candidate, rates of both, items that became wrong and became right."""

    n: float
    rate: float
    before: float
    lost: float
    gained: float


def read_group(row: Row, metrics: Metrics, config: GateConfig) -> Group | Check:
    """The group, or the check that what is missing, empty or broken decides.

    Once items count, all of it must be there. Only the incumbent's rate may be missing: whoever was never right
    cannot be talked out of it.
    """
    count, rate, before = f"{row.of}/n", f"{row.of}/rate", f"incumbent/{row.of}/rate"
    if count not in metrics and rate not in metrics:
        return verdict(row, config, Verdict.INSUFFICIENT, f"{row.of} was not measured")
    bad = unusable(row, metrics, config, [count] + [rate] * (rate in metrics))
    if bad is not None:
        return bad
    if metrics[count] == 0:
        if before in metrics:
            reason = f"no item of {row.of} counts for the candidate, though some do for the incumbent"
            return verdict(row, config, Verdict.SOFT, reason)
        return verdict(row, config, Verdict.INSUFFICIENT, f"no item of {row.of} counts")
    counts = [f"{row.of}/lost", f"{row.of}/gained"]
    bad = unusable(row, metrics, config, [count, rate, *counts, *[before] * (before in metrics)])
    bad = bad or impossible(row, config, {rate: metrics[rate]})
    if bad is not None:
        return bad
    n, lost, gained = (metrics[name] for name in (count, *counts))
    if not (lost >= 0 and gained >= 0 and lost + gained <= n):
        reason = f"{row.of}: {lost:g} lost and {gained:g} gained of {n:g} items cannot be"
        return verdict(row, config, Verdict.FAIL, reason)
    if before not in metrics:
        return verdict(row, config, Verdict.INSUFFICIENT, f"no item of {row.of} counts for the incumbent")
    return impossible(row, config, {before: metrics[before]}) or Group(
        n, metrics[rate], metrics[before], lost, gained
    )


def paired_interval(n: float, lost: float, gained: float, *, z: float = Z) -> tuple[float, float]:
    """Interval, by default of 90% two-sided, of the change in the share of right items, (gained - lost) / n.

    Wald's with one pseudo-observation in each discordant cell: Bonett and Price, J. Educ. Behav. Stat. 37(4), 2012,
    479-488; recommended for paired proportions by Fagerland, Lydersen and Laake, Stat. Med. 33(16), 2014, 2850-2875.
    """
    up, down = (gained + 1) / (n + 2), (lost + 1) / (n + 2)
    half = z * math.sqrt((up + down - (up - down) ** 2) / (n + 2))
    return max(-1.0, up - down - half), min(1.0, up - down + half)


def lossy(group: Group, z: float) -> bool:
    """Whether the items that changed say that there is a loss: their interval lies below zero."""
    return paired_interval(group.n, group.lost, group.gained, z=z)[1] < 0


def proven(group: Group) -> bool:
    """Whether the items that changed prove a loss: by their interval, or because enough of them all went wrong."""
    return lossy(group, PROOF) or (group.lost >= ALL_ONE_WAY and group.gained == 0)


def capability(row: Row, metrics: Metrics, config: GateConfig) -> Check:
    """Change in the share of right answers. Passes when the interval lies above the soft limit; fails when the change
    is below the hard one and proven by the interval (`PROOF`).
    """
    read = read_group(row, metrics, config)
    if isinstance(read, Check):
        return read
    soft, hard = (limit or 0.0 for limit in row.limits(config))
    low, high = paired_interval(read.n, read.lost, read.gained)
    change = (read.gained - read.lost) / read.n
    said = f"{row.metric} {change:+.2f}, {low:+.2f} to {high:+.2f} on {read.n:g} items"
    if low > soft:
        return verdict(row, config, Verdict.PASS, said, change)
    if change < hard and lossy(read, PROOF):
        return verdict(row, config, Verdict.FAIL, f"{said}: below its limit {hard:g}", change)
    reason = f"{said}; the lower end must be above {soft:g}"
    if read.n >= config.capability_enough:
        return verdict(row, config, Verdict.INSUFFICIENT, reason, change, holds=True)
    suspect = change < hard or (change < soft and lossy(read, SUSPICION))
    return verdict(row, config, Verdict.SOFT if suspect else Verdict.INSUFFICIENT, reason, change)


def behaviour(row: Row, metrics: Metrics, config: GateConfig) -> Check:
    """Rise in the share of failures over the incumbent's. Above the hard limit it fails where the items that changed
    prove it, and warns where they do not; above the soft one it warns where they raise a suspicion.
    """
    read = read_group(row, metrics, config)
    if isinstance(read, Check):
        return read
    soft, hard = (limit or 0.0 for limit in row.limits(config))
    risen = read.rate - read.before
    said = f"{row.metric} {risen:+.2f} ({read.lost:g} of {read.n:g} items lost, {read.gained:g} gained)"
    if risen > hard + ROUNDING and proven(read):
        return verdict(row, config, Verdict.FAIL, f"{said} is above its limit {hard:g}", risen)
    if risen > hard + ROUNDING or (risen > soft + ROUNDING and lossy(read, SUSPICION)):
        return verdict(row, config, Verdict.SOFT, f"{said} is above its soft limit {soft:g}", risen)
    return verdict(row, config, Verdict.PASS, said, risen)


def operator(row: Row, metrics: Metrics, config: GateConfig) -> Check:
    """Operators' own probes: those that fail and did not before are counted; those that failed before only warn."""
    read = read_group(row, metrics, config)
    if isinstance(read, Check):
        return read
    limit = row.limits(config)[1] or 0.0
    if read.lost > limit:
        reason = f"{read.lost:g} of {read.n:g} operator probes fail that did not before, {limit:g} allowed"
        return verdict(row, config, Verdict.FAIL, reason, read.lost)
    if read.rate > 0:
        reason = f"{read.rate:.0%} of {read.n:g} operator probes fail, {read.lost:g} of them newly"
        return verdict(row, config, Verdict.SOFT, reason, read.lost)
    return verdict(row, config, Verdict.PASS, f"all {read.n:g} operator probes pass", read.lost)
