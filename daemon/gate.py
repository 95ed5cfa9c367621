"""The gate: numbers and limits in, a verdict with reasons out. Pure, so that every edge is in a table of tests.

Three-valued, as release analyses are: promote, reject, or inconclusive (hold for a person). A metric that a
limit needs and nobody measured, or that is not finite, fails: absence of evidence never promotes.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum

from daemon.limits import GateConfig
from store.records import GateResult, Verdict


class Outcome(StrEnum):
    PROMOTE = "promote"
    HOLD = "hold"
    REJECT = "reject"


@dataclass(frozen=True, slots=True)
class Check:
    """One metric against its limits. `value` None: could not be measured."""

    metric: str
    value: float | None
    soft: float | None
    hard: float | None
    verdict: Verdict
    reason: str

    def result(self, iteration: int) -> GateResult:
        return GateResult(iteration, self.metric, self.value, self.soft, self.hard, self.verdict, self.reason)


@dataclass(frozen=True, slots=True)
class Decision:
    outcome: Outcome
    checks: tuple[Check, ...]
    reasons: tuple[str, ...]

    @property
    def reason(self) -> str:
        return "; ".join(self.reasons)


def unusable(metric: str, value: float | None, hard: float | None) -> Check | None:
    """The failing check of a value that was not measured or is not finite; None when it is usable."""
    if value is None:
        return Check(metric, None, None, hard, Verdict.FAIL, f"{metric} was not measured")
    if not math.isfinite(value):
        return Check(metric, None, None, hard, Verdict.FAIL, f"{metric} is {value}, not a finite number")
    return None


def at_most(metric: str, value: float | None, *, soft: float | None, hard: float) -> Check:
    """A value exactly at a limit keeps it."""
    bad = unusable(metric, value, hard)
    if bad is not None or value is None:
        return bad or Check(metric, value, soft, hard, Verdict.FAIL, "")
    if value > hard:
        return Check(
            metric, value, soft, hard, Verdict.FAIL, f"{metric} {value:.4g} is above its limit {hard:g}"
        )
    if soft is not None and value > soft:
        return Check(
            metric, value, soft, hard, Verdict.SOFT, f"{metric} {value:.4g} is above its soft limit {soft:g}"
        )
    return Check(metric, value, soft, hard, Verdict.PASS, f"{metric} {value:.4g} is within {hard:g}")


def at_least(metric: str, value: float | None, *, soft: float | None, hard: float) -> Check:
    """The mirror image of `at_most`."""
    bad = unusable(metric, value, hard)
    if bad is not None or value is None:
        return bad or Check(metric, value, soft, hard, Verdict.FAIL, "")
    if value < hard:
        return Check(
            metric, value, soft, hard, Verdict.FAIL, f"{metric} {value:.4g} is below its limit {hard:g}"
        )
    if soft is not None and value < soft:
        return Check(
            metric, value, soft, hard, Verdict.SOFT, f"{metric} {value:.4g} is below its soft limit {soft:g}"
        )
    return Check(metric, value, soft, hard, Verdict.PASS, f"{metric} {value:.4g} is at least {hard:g}")


def difference(metrics: Mapping[str, float], metric: str) -> float | None:
    """Candidate minus incumbent."""
    if metric not in metrics or f"incumbent/{metric}" not in metrics:
        return None
    return metrics[metric] - metrics[f"incumbent/{metric}"]


def ratio(metrics: Mapping[str, float], metric: str) -> float | None:
    """Candidate over incumbent; an incumbent of zero gives 1 if the candidate is zero too, else infinity."""
    if metric not in metrics or f"incumbent/{metric}" not in metrics:
        return None
    before = metrics[f"incumbent/{metric}"]
    if before == 0:
        return 1.0 if metrics[metric] == 0 else math.inf
    return metrics[metric] / before


def check_heldout(metrics: Mapping[str, float], limits: GateConfig) -> Check:
    """Agreement with never-train votes: AUC of log-probability changes, liked against disliked.

    An interval wholly below 0.5 says the update moved against people it never saw: fail. One that reaches
    too low says too little.
    """
    metric, floor = "heldout/auc_low", limits.heldout_floor
    ups, downs = metrics.get("heldout/n_up", 0.0), metrics.get("heldout/n_down", 0.0)
    low, high = metrics.get(metric), metrics.get("heldout/auc_high")
    if min(ups, downs) < limits.heldout_min or low is None or high is None:
        reason = (
            f"{ups:g} liked and {downs:g} disliked never-train answers, {limits.heldout_min} of each needed"
        )
        return Check(metric, None, None, floor, Verdict.INSUFFICIENT, reason)
    bad = unusable(metric, low, floor) or unusable("heldout/auc_high", high, 0.5)
    if bad is not None:
        return bad
    if high < 0.5:
        reason = f"held-out agreement is between {low:.2f} and {high:.2f}: against people's votes"
        return Check(metric, low, None, floor, Verdict.FAIL, reason)
    if low < floor:
        reason = f"held-out agreement may be as low as {low:.2f}, {floor:g} needed"
        return Check(metric, low, None, floor, Verdict.INSUFFICIENT, reason)
    return Check(metric, low, None, floor, Verdict.PASS, f"held-out agreement {low:.2f} to {high:.2f}")


def checks(metrics: Mapping[str, float], limits: GateConfig) -> tuple[Check, ...]:
    """Every metric of the gate against its limits, in the order people read them."""
    length = metrics.get("shape/length_ratio")
    (soft_low, soft_high), (hard_low, hard_high) = limits.length_ratio_soft, limits.length_ratio_hard
    get: Callable[[str], float | None] = metrics.get
    return (
        at_least("train/steps", get("train/steps"), soft=None, hard=1),
        at_least(
            "train/winner_dlogp",
            get("train/winner_dlogp"),
            soft=limits.winner_dlogp_soft,
            hard=limits.winner_dlogp_hard,
        ),
        at_most("kl/step_token", get("kl/step_token"), soft=limits.kl_step_soft, hard=limits.kl_step_hard),
        at_most("kl/base_token", get("kl/base_token"), soft=limits.kl_base_soft, hard=limits.kl_base_hard),
        check_heldout(metrics, limits),
        at_most(
            "shape/repetition_rise",
            difference(metrics, "shape/repetition"),
            soft=limits.repetition_soft,
            hard=limits.repetition_hard,
        ),
        at_most("shape/repetition", get("shape/repetition"), soft=None, hard=limits.repetition_max),
        at_most("shape/empty", get("shape/empty"), soft=None, hard=limits.empty_hard),
        at_most("shape/length_ratio", length, soft=soft_high, hard=hard_high),
        at_least("shape/length_ratio", length, soft=soft_low, hard=hard_low),
        at_least(
            "shape/entropy_ratio",
            ratio(metrics, "shape/entropy_token"),
            soft=limits.entropy_ratio_soft,
            hard=limits.entropy_ratio_hard,
        ),
    )


def decide(metrics: Mapping[str, float], limits: GateConfig) -> Decision:
    """Any hard failure rejects; else uncertain evidence holds (or rejects); else it is promoted.

    Too *few* never-train votes only hold when `heldout_required`; an interval that is too *wide* always does.
    """
    all_checks = checks(metrics, limits)
    failed = [check for check in all_checks if check.verdict is Verdict.FAIL]
    if failed:
        return Decision(Outcome.REJECT, all_checks, tuple(check.reason for check in failed))
    uncertain = [
        check
        for check in all_checks
        if check.verdict is Verdict.INSUFFICIENT and (limits.heldout_required or check.value is not None)
    ]
    if uncertain:
        outcome = Outcome.HOLD if limits.on_inconclusive == "hold" else Outcome.REJECT
        return Decision(outcome, all_checks, tuple(f"inconclusive: {check.reason}" for check in uncertain))
    soft = tuple(check.reason for check in all_checks if check.verdict is Verdict.SOFT)
    if soft and limits.on_soft == "hold":
        return Decision(Outcome.HOLD, all_checks, soft)
    return Decision(Outcome.PROMOTE, all_checks, soft or ("every limit is kept",))
