"""The gate's verdict: what becomes of failures, uncertainty and warnings, and what may be claimed. Its rows are in
test_checks.py.
"""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.gate import Claim, Outcome, checks, decide
from daemon.limits import GateConfig
from store.records import Verdict
from tests.daemon.measured import CONTEST, GOOD, HELDOUT, RECHECKED, REQUIRED

LIMITS = GateConfig()
#: A contest that shows nothing, on enough prompts; and a warning.
UNCERTAIN = {"contest/win_low": 0.4}
WARNING = {"kl/step_token": 0.2}
DEPENDENT = {"contest/independent": 0.0}


def test_a_good_candidate_is_promoted_and_says_why_it_is_better() -> None:
    decision = decide(GOOD, LIMITS)
    assert (decision.outcome, decision.claim) == (Outcome.PROMOTE, Claim.IMPROVED)
    assert decision.reason == "every limit is kept; improved: held-out agreement is between 0.55 and 0.85"


def test_the_first_iterations_on_a_laptop_need_neither_judge_nor_battery_nor_many_votes() -> None:
    decision = decide(REQUIRED, LIMITS)
    assert (decision.outcome, decision.claim) == (Outcome.PROMOTE, Claim.UNPROVEN)
    assert "improved" not in decision.reason


@pytest.mark.parametrize("metric", sorted(REQUIRED))
@pytest.mark.parametrize("canary", [False, True])
def test_what_nobody_measured_rejects(metric: str, canary: bool) -> None:
    without = {name: value for name, value in GOOD.items() if name != metric}
    assert decide(without, LIMITS, canary=canary).outcome is Outcome.REJECT


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("metric", sorted({**GOOD, **RECHECKED}.keys() - {"contest/independent"}))
def test_what_is_not_finite_rejects(metric: str, value: float) -> None:
    decision = decide({**GOOD, **RECHECKED, metric: value}, LIMITS)
    assert decision.outcome is Outcome.REJECT
    assert "not a finite number" in decision.reason


P, C, H, R = Outcome.PROMOTE, Outcome.CANARY, Outcome.HOLD, Outcome.REJECT


@pytest.mark.parametrize(
    ("changes", "settings", "without", "with_steps"),
    [
        ({}, {}, P, C),
        (WARNING, {}, P, C),
        (WARNING, {"on_soft": "canary"}, H, C),
        (WARNING, {"on_soft": "hold"}, H, H),
        (UNCERTAIN, {}, H, H),
        (UNCERTAIN, {"on_inconclusive": "canary"}, H, C),
        (UNCERTAIN, {"on_inconclusive": "reject"}, R, R),
        (UNCERTAIN | WARNING, {"on_inconclusive": "canary", "on_soft": "hold"}, H, H),
        (UNCERTAIN | WARNING, {"on_inconclusive": "canary", "on_soft": "promote"}, H, C),
        (UNCERTAIN | {"kl/step_token": 0.4}, {"on_inconclusive": "canary"}, R, R),
    ],
)
def test_the_more_careful_of_what_is_configured_is_done(
    changes: dict[str, float], settings: dict[str, object], without: Outcome, with_steps: Outcome
) -> None:
    limits = GateConfig.model_validate(settings)
    assert decide({**GOOD, **changes}, limits).outcome is without
    assert decide({**GOOD, **changes}, limits, canary=True).outcome is with_steps


#: Votes enough, which say too little to be inconclusive by themselves; and which say no worse.
UNPROVEN, NO_WORSE = HELDOUT | {"heldout/auc_low": 0.4}, HELDOUT | {"heldout/auc_low": 0.47}


@pytest.mark.parametrize(
    ("settings", "without", "with_steps"),
    [({}, H, H), ({"on_inconclusive": "canary"}, H, C), ({"on_inconclusive": "reject"}, R, R)],
)
def test_a_warning_is_inconclusive_where_votes_do_not_say_improved(
    settings: dict[str, object], without: Outcome, with_steps: Outcome
) -> None:
    limits = GateConfig.model_validate(settings)
    for canary, outcome, passed in ((False, without, P), (True, with_steps, C)):
        for said, claim in ((UNPROVEN, Claim.UNPROVEN), (NO_WORSE, Claim.NO_WORSE)):
            for warning in (WARNING, {"train/scale": 0.5}):
                decision = decide({**REQUIRED, **said, **warning}, limits, canary=canary)
                assert (decision.outcome, decision.claim) == (outcome, claim)
                assert "inconclusive: it warns" in decision.reason
        few = {"heldout/n_up": 4.0}
        for other in (REQUIRED | HELDOUT | WARNING, REQUIRED | UNPROVEN, REQUIRED | UNPROVEN | few | WARNING):
            decision = decide(other, limits, canary=canary)
            assert decision.outcome is passed and "inconclusive" not in decision.reason


def test_reasons_tell_uncertainty_warnings_and_a_canary_that_is_not_there() -> None:
    limits = GateConfig(on_inconclusive="canary", on_soft="canary")
    decision = decide({**GOOD, **UNCERTAIN, **WARNING}, limits)
    inconclusive, warning, held, _ = decision.reasons
    assert inconclusive.startswith("inconclusive: contest/win_low 0.40")
    assert warning == "kl/step_token 0.2 is above its soft limit 0.15"
    assert held == "held, for no steps of a canary are configured"


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
    (check,) = [c for c in checks(REQUIRED, LIMITS) if c.metric == "heldout/auc_low"]
    assert check.verdict is Verdict.INSUFFICIENT
    assert "0 liked and 0 disliked" in check.reason


VOTES = {**REQUIRED, **HELDOUT}
JUDGED = {**REQUIRED, **CONTEST}


@pytest.mark.parametrize(
    ("metrics", "changes", "claim"),
    [
        (VOTES, {"heldout/auc_low": 0.5}, Claim.NO_WORSE),
        (VOTES, {"heldout/auc_low": 0.5 + 1e-6}, Claim.IMPROVED),
        (VOTES, {"heldout/auc_low": 0.45}, Claim.UNPROVEN),
        (VOTES, {"heldout/auc_low": 0.45 + 1e-6}, Claim.NO_WORSE),
        (VOTES, {"heldout/n_up": 4.0}, Claim.UNPROVEN),
        (VOTES, {"heldout/n_up": 9.0}, Claim.NO_WORSE),
        (VOTES, {"heldout/n_down": 9.0, "heldout/auc_low": 0.45}, Claim.UNPROVEN),
        (VOTES, {"heldout/n_up": 10.0, "heldout/n_down": 10.0}, Claim.IMPROVED),
        (VOTES, {"kl/step_token": 0.4}, Claim.UNPROVEN),
        (JUDGED, {}, Claim.IMPROVED),
        (JUDGED, DEPENDENT, Claim.UNPROVEN),
        (JUDGED, {"contest/win_low": 0.5}, Claim.NO_WORSE),
        (JUDGED, {"contest/win_lc_low": 0.5}, Claim.NO_WORSE),
        (JUDGED, {"contest/win_lc_low": 0.45}, Claim.UNPROVEN),
        (JUDGED, {"contest/win_low": 0.45}, Claim.UNPROVEN),
        (JUDGED, HELDOUT | DEPENDENT, Claim.IMPROVED),
        (JUDGED, HELDOUT | {"heldout/n_up": 5.0}, Claim.IMPROVED),
        (JUDGED, HELDOUT | {"contest/win_low": 0.48}, Claim.IMPROVED),
    ],
)
def test_improved_is_said_only_on_evidence_that_was_not_trained_on(
    metrics: dict[str, float], changes: dict[str, float], claim: Claim
) -> None:
    decision = decide({**metrics, **changes}, LIMITS)
    assert decision.claim is claim
    if decision.outcome is not Outcome.REJECT:
        assert str(claim) in decision.reason
    assert ("improved" in decision.reason) is (claim is Claim.IMPROVED)


def test_an_independent_contest_needs_to_say_that_it_is() -> None:
    silent = {name: value for name, value in JUDGED.items() if name != "contest/independent"}
    assert decide(silent, LIMITS).claim is Claim.UNPROVEN


NAMES = sorted({**GOOD, **RECHECKED})
ANY = {
    name: st.one_of(
        st.just({**GOOD, **RECHECKED}[name]), st.floats(), st.sampled_from([0.0, 0.4, 0.6, 1.0, 5.0])
    )
    for name in NAMES
}
SETTINGS = st.fixed_dictionaries(
    {
        "on_soft": st.sampled_from(["promote", "canary", "hold"]),
        "on_inconclusive": st.sampled_from(["hold", "canary", "reject"]),
        "heldout_required": st.booleans(),
    }
)


@st.composite
def some_metrics(draw: st.DrawFn) -> dict[str, float]:
    """A good candidate with a few metrics changed and a few missing."""
    changed = draw(st.sets(st.sampled_from(NAMES), max_size=6))
    missing = draw(st.sets(st.sampled_from(NAMES), max_size=3))
    metrics = {**GOOD, **RECHECKED} | {name: draw(ANY[name]) for name in sorted(changed)}
    return {name: value for name, value in metrics.items() if name not in missing}


@given(some_metrics(), SETTINGS, st.booleans())
def test_no_combination_with_a_hard_failure_is_promoted_or_tried(
    metrics: dict[str, float], settings: dict[str, object], canary: bool
) -> None:
    decision = decide(metrics, GateConfig.model_validate(settings), canary=canary)
    if any(check.verdict is Verdict.FAIL for check in decision.checks):
        assert decision.outcome is Outcome.REJECT
    if any(check.holds for check in decision.checks):
        assert decision.outcome is not Outcome.PROMOTE
    if decision.outcome is Outcome.CANARY:
        assert canary
    assert decision.reason


@given(some_metrics(), SETTINGS, st.booleans())
def test_no_combination_is_called_improved_without_evidence(
    metrics: dict[str, float], settings: dict[str, object], canary: bool
) -> None:
    decision = decide(metrics, GateConfig.model_validate(settings), canary=canary)
    votes = min(metrics.get("heldout/n_up", 0), metrics.get("heldout/n_down", 0)) >= 10
    agreed = votes and metrics.get("heldout/auc_low", 0) > 0.5
    bounds = [metrics.get(f"contest/{name}", 0) for name in ("win_low", "win_lc_low")]
    won = metrics.get("contest/independent") == 1 and min(bounds) > 0.5
    if decision.claim is Claim.IMPROVED:
        assert agreed or won
        assert all(check.verdict is not Verdict.FAIL for check in decision.checks)
    assert ("improved" in decision.reason) is (decision.claim is Claim.IMPROVED)
