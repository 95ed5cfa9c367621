"""The gate, by table: at each limit, above it, NaN, infinite, missing."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.gate import Outcome, checks, decide, ratio
from daemon.limits import GateConfig
from store.records import Verdict

LIMITS = GateConfig()
GOOD = {
    "train/steps": 12.0,
    "train/winner_dlogp": 0.05,
    "kl/step_token": 0.05,
    "kl/base_token": 0.1,
    "heldout/n_up": 8.0,
    "heldout/n_down": 9.0,
    "heldout/auc_low": 0.55,
    "heldout/auc_high": 0.85,
    "shape/repetition": 0.05,
    "incumbent/shape/repetition": 0.06,
    "shape/empty": 0.0,
    "shape/length_ratio": 1.1,
    "shape/entropy_token": 2.0,
    "incumbent/shape/entropy_token": 2.1,
}


def test_a_good_candidate_is_promoted() -> None:
    decision = decide(GOOD, LIMITS)
    assert (decision.outcome, decision.reasons) == (Outcome.PROMOTE, ("every limit is kept",))


@pytest.mark.parametrize(
    ("metric", "at_limit", "beyond"),
    [
        ("train/steps", 1.0, 0.0),
        ("train/winner_dlogp", LIMITS.winner_dlogp_hard, LIMITS.winner_dlogp_hard - 1e-6),
        ("kl/step_token", LIMITS.kl_step_hard, LIMITS.kl_step_hard + 1e-6),
        ("kl/base_token", LIMITS.kl_base_hard, LIMITS.kl_base_hard + 1e-6),
        ("shape/repetition", 0.06 + LIMITS.repetition_hard - 1e-9, 0.06 + LIMITS.repetition_hard + 1e-6),
        ("shape/empty", LIMITS.empty_hard, LIMITS.empty_hard + 1e-6),
        ("shape/length_ratio", LIMITS.length_ratio_hard[1], LIMITS.length_ratio_hard[1] + 1e-6),
        ("shape/length_ratio", LIMITS.length_ratio_hard[0], LIMITS.length_ratio_hard[0] - 1e-6),
        (
            "shape/entropy_token",
            2.1 * LIMITS.entropy_ratio_hard + 1e-9,
            2.1 * LIMITS.entropy_ratio_hard - 1e-6,
        ),
    ],
)
def test_a_limit_is_kept_exactly_at_it_and_broken_beyond(metric: str, at_limit: float, beyond: float) -> None:
    assert decide({**GOOD, metric: at_limit}, LIMITS).outcome is Outcome.PROMOTE
    rejected = decide({**GOOD, metric: beyond}, LIMITS)
    assert rejected.outcome is Outcome.REJECT
    assert metric.split("/")[1].split("_")[0] in rejected.reason


def test_rises_in_repetition_that_are_small_each_do_not_add_up_past_the_limit() -> None:
    looping = {
        "shape/repetition": LIMITS.repetition_max + 0.01,
        "incumbent/shape/repetition": LIMITS.repetition_max,
    }
    decision = decide({**GOOD, **looping}, LIMITS)
    assert decision.outcome is Outcome.REJECT
    assert "shape/repetition 0.46" in decision.reason


REQUIRED = [name for name in GOOD if not name.startswith("heldout/")]


@pytest.mark.parametrize("metric", REQUIRED)
def test_what_nobody_measured_rejects(metric: str) -> None:
    without = {name: value for name, value in GOOD.items() if name != metric}
    assert decide(without, LIMITS).outcome is Outcome.REJECT


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("metric", [*REQUIRED, "heldout/auc_low", "heldout/auc_high"])
def test_what_is_not_finite_rejects(metric: str, value: float) -> None:
    assert decide({**GOOD, metric: value}, LIMITS).outcome is Outcome.REJECT


def test_a_soft_breach_warns_or_holds_as_configured() -> None:
    metrics = {**GOOD, "kl/step_token": 0.2}
    promoted = decide(metrics, LIMITS)
    assert promoted.outcome is Outcome.PROMOTE
    assert "kl/step_token 0.2 is above its soft limit" in promoted.reason
    assert decide(metrics, GateConfig(on_soft="hold")).outcome is Outcome.HOLD


@pytest.mark.parametrize(
    ("heldout", "limits", "outcome"),
    [
        ({"heldout/auc_low": 0.1, "heldout/auc_high": 0.49}, {}, Outcome.REJECT),
        ({"heldout/auc_low": 0.1, "heldout/auc_high": 0.5}, {}, Outcome.HOLD),
        ({"heldout/auc_low": 0.1, "heldout/auc_high": 0.9}, {}, Outcome.HOLD),
        ({"heldout/auc_low": 0.1, "heldout/auc_high": 0.9}, {"on_inconclusive": "reject"}, Outcome.REJECT),
        ({"heldout/auc_low": 0.3, "heldout/auc_high": 0.9}, {}, Outcome.PROMOTE),
        ({"heldout/n_up": 4.0}, {}, Outcome.PROMOTE),
        ({"heldout/n_up": 4.0}, {"heldout_required": True}, Outcome.HOLD),
        ({"heldout/n_down": 0.0, "heldout/auc_low": 0.1}, {}, Outcome.PROMOTE),
    ],
)
def test_held_out_votes_reject_hold_or_say_nothing(
    heldout: dict[str, float], limits: dict[str, object], outcome: Outcome
) -> None:
    assert decide({**GOOD, **heldout}, GateConfig.model_validate(limits)).outcome is outcome


def test_without_any_held_out_votes_the_check_is_there_and_says_so() -> None:
    bare = {name: value for name, value in GOOD.items() if not name.startswith("heldout/")}
    (check,) = [c for c in checks(bare, LIMITS) if c.metric == "heldout/auc_low"]
    assert check.verdict is Verdict.INSUFFICIENT
    assert "0 liked and 0 disliked" in check.reason


def test_a_silent_incumbent_is_no_division_by_zero() -> None:
    assert ratio({"x": 0.0, "incumbent/x": 0.0}, "x") == 1.0
    assert ratio({"x": 1.0, "incumbent/x": 0.0}, "x") == math.inf


@given(
    st.fixed_dictionaries(
        {name: st.one_of(st.floats(), st.sampled_from([0.0, 0.1, 1.0, 5.0])) for name in GOOD}
    ),
    st.sets(st.sampled_from(sorted(GOOD))),
)
def test_no_combination_with_a_hard_failure_is_promoted(metrics: dict[str, float], missing: set[str]) -> None:
    left = {name: value for name, value in metrics.items() if name not in missing}
    decision = decide(left, LIMITS)
    if any(check.verdict is Verdict.FAIL for check in decision.checks):
        assert decision.outcome is Outcome.REJECT
    assert decision.reason
