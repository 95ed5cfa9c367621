"""Evidence of harm: an e-process over matched sets, and what goes into it."""

import math
import random
from dataclasses import replace
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from daemon import evidence
from daemon.evidence import (
    ODDS,
    Arm,
    Matched,
    Trial,
    bet,
    exceeding,
    from_history,
    harms,
    limit_arms,
    log_gain,
    match,
    side_by_side,
    weigh,
)
from store.outcomes import Answer, Vote

HARM, BENEFIT = Matched(1, 1, 1, 1), Matched(1, 1, 1, 0)
TRIAL = Trial(harm=0.05, shape=side_by_side(0.5), length_margin=1.5, latency_margin=2.0)

pairs = st.lists(st.sampled_from([HARM, BENEFIT]), max_size=60)
shapes = st.sampled_from([(1, 1), (1, 3), (3, 1), (2, 2)])


def votes(ups: list[bool], person: str = "p") -> tuple[Vote, ...]:
    return tuple(Vote(f"{person}{number}", float(number), up) for number, up in enumerate(ups))


def answers(count: int, **changes: object) -> tuple[Answer, ...]:
    usual = Answer("p", 0.0, failed=False, regenerated=False, length=100.0, pace=0.01)
    return tuple(replace(usual, principal=f"p{number}", **changes) for number in range(count))


def test_a_pair_bets_as_the_paper_says() -> None:
    """1 + lambda (2x - 1) with lambda = (odds - 1) / (odds + 1), by hand for odds of 3: 1.5 and 0.5."""
    assert math.exp(log_gain(HARM, 3.0)) == pytest.approx(1.5)
    assert math.exp(log_gain(BENEFIT, 3.0)) == pytest.approx(0.5)
    by_hand = sum((2 * odds / (1 + odds)) ** 2 * (2 / (1 + odds)) for odds in ODDS) / len(ODDS)
    assert math.exp(bet([HARM, BENEFIT, HARM]).log_now) == pytest.approx(by_hand)


@given(st.integers(1, 4), st.integers(1, 4), st.data())
def test_no_bet_gains_on_average_where_both_sides_are_alike(a: int, b: int, data: st.DataObject) -> None:
    """Exactly: the central hypergeometric mean of the likelihood ratio is 1, and less for lower odds."""
    total = data.draw(st.integers(0, a + b))
    low, high = max(0, total - b), min(total, a)
    for odds in ODDS:
        mean = sum(
            Fraction(math.comb(a, x) * math.comb(b, total - x), math.comb(a + b, total))
            * Fraction(math.exp(log_gain(Matched(a, b, total, x), odds)))
            for x in range(low, high + 1)
        )
        assert float(mean) == pytest.approx(1.0)


@given(st.lists(st.tuples(shapes, st.booleans()), max_size=80))
def test_ties_never_count(ties: list[tuple[tuple[int, int], bool]]) -> None:
    sets = [Matched(a, b, (a + b) * harmed, a * harmed) for (a, b), harmed in ties]
    found = bet(sets)
    assert (found.log_now, found.log_peak, found.decisive, found.sets) == (0.0, 0.0, 0, len(sets))


@given(pairs, st.data())
def test_more_harm_never_lowers_the_evidence(sets: list[Matched], data: st.DataObject) -> None:
    if not sets:
        return
    at = data.draw(st.integers(0, len(sets) - 1))
    worse = [*sets[:at], HARM, *sets[at + 1 :]]
    assert bet(worse).log_now >= bet(sets).log_now - 1e-9
    assert bet(worse).log_peak >= bet(sets).log_peak - 1e-9


@given(pairs)
def test_the_peak_is_kept_and_adding_to_it_never_lowers_it(sets: list[Matched]) -> None:
    found = [bet(sets[:count]) for count in range(len(sets) + 1)]
    assert all(one.log_peak >= one.log_now for one in found)
    assert [one.log_peak for one in found] == sorted(one.log_peak for one in found)


def test_a_hundred_thousand_harms_are_still_a_number() -> None:
    assert math.isfinite(bet([HARM] * 100_000).log_now)
    assert bet([BENEFIT] * 100_000).log_now < -1000
    assert evidence.wealth(1e6) == pytest.approx(1e12)


@pytest.mark.parametrize(("treated", "control"), [(0.25, 0.25), (0.2, 0.3), (0.9, 0.9), (0.02, 0.02)])
@pytest.mark.parametrize("shape", [side_by_side(0.05), side_by_side(0.25), side_by_side(0.9), from_history])
def test_a_version_that_is_no_worse_is_seldom_accused(
    treated: float, control: float, shape: evidence.Shape
) -> None:
    """Looked at after every set, over 300 runs: Ville's inequality promises one in ten at the most."""
    rng, alarms = random.Random(f"{treated}{control}"), 0
    for _ in range(300):
        new = [rng.random() < treated for _ in range(200)]
        old = [rng.random() < control for _ in range(200)]
        alarms += bet(match(new, old, shape)).log_peak >= math.log(10)
    # Three standard errors above a tenth would still be chance.
    assert alarms / 300 <= 0.1 + 3 * math.sqrt(0.09 / 300)


def test_a_drop_of_twenty_points_is_found() -> None:
    rng, found = random.Random(1), 0
    for _ in range(100):
        new = [rng.random() < 0.45 for _ in range(400)]
        old = [rng.random() < 0.25 for _ in range(400)]
        found += bet(match(new, old, from_history)).log_peak >= math.log(25)
    assert found >= 95


@pytest.mark.parametrize(
    ("share", "shape"), [(0.05, (1, 3)), (0.25, (1, 3)), (0.34, (1, 2)), (0.5, (1, 1)), (0.75, (3, 1))]
)
def test_the_larger_side_gives_more_to_a_set(share: float, shape: tuple[int, int]) -> None:
    assert side_by_side(share)(1000) == shape


@given(st.integers(0, 600), st.integers(0, 600))
def test_history_is_dealt_out_whole_and_every_set_is_full(treated: int, control: int) -> None:
    sets = match([False] * treated, [True] * control, from_history)
    assert sum(one.control for one in sets) <= control
    assert sum(one.treated for one in sets) <= treated
    assert all(min(one.treated, one.control) == 1 and one.harms == one.control for one in sets)
    assert sum(one.control for one in match([False] * 600, [True] * control, from_history)) == control


def test_a_little_longer_is_no_harm_and_much_longer_is() -> None:
    assert bet(exceeding([140.0] * 200, [100.0] * 200, 1.5)).log_peak == 0.0
    assert bet(exceeding([160.0] * 20, [100.0] * 20, 1.5)).log_peak > math.log(25)


def test_one_person_does_not_decide_alone_but_a_household_counts_in_full() -> None:
    many = votes([True] * 20)
    loud = tuple(Vote("loud", float(number), False) for number in range(100))
    treated, control = limit_arms(Arm((*many, *loud)), Arm(many), 5)
    assert sum(vote.principal == "loud" for vote in treated.votes) == 5
    assert len(treated.votes) == 25 and len(control.votes) == 20
    alone, _ = limit_arms(Arm(loud), Arm(), 5)
    assert len(alone.votes) == 50


@pytest.mark.parametrize(
    ("metric", "treated", "control"),
    [
        ("thumbs", Arm(votes([False] * 60)), Arm(votes([True] * 60))),
        ("regenerations", Arm((), answers(60, regenerated=True)), Arm((), answers(60))),
        ("errors", Arm((), answers(60, failed=True, length=None, pace=None)), Arm((), answers(60))),
        ("length", Arm((), answers(60, length=400.0)), Arm((), answers(60))),
        ("latency", Arm((), answers(60, pace=0.03)), Arm((), answers(60))),
    ],
)
def test_each_metric_alone_can_show_harm(metric: str, treated: Arm, control: Arm) -> None:
    findings = weigh(treated, control, TRIAL)
    assert [one.metric for one in findings if one.harmful] == [metric]
    assert harms(findings)[0].startswith(metric)
    assert harms(weigh(control, treated, TRIAL)) == ()
    assert harms(weigh(control, control, TRIAL)) == ()


def test_the_limits_share_out_the_probability_of_a_false_alarm() -> None:
    with_latency = weigh(Arm(), Arm(), TRIAL)
    without = weigh(Arm(), Arm(), replace(TRIAL, latency_margin=None))
    for findings in (with_latency, without):
        assert sum(math.exp(-one.limit) for one in findings) == pytest.approx(0.05)
    assert [one.metric for one in without] == ["thumbs", "regenerations", "errors", "length"]
    assert with_latency[0].limit == min(one.limit for one in with_latency)


def test_benefit_is_told_beside_harm() -> None:
    (thumbs, *_) = weigh(Arm(votes([True] * 40)), Arm(votes([False] * 40)), TRIAL)
    told = thumbs.details()
    assert float(str(told["benefit"])) > 1000 and told["harm_peak"] == 1.0
    assert thumbs.treated.value == 0.0 and thumbs.control.low is not None and thumbs.control.low > 0.9


@settings(max_examples=30)
@given(st.lists(st.booleans(), max_size=30), st.lists(st.booleans(), max_size=30))
def test_details_are_finite_numbers(new: list[bool], old: list[bool]) -> None:
    import json

    findings = weigh(Arm(votes(new)), Arm(votes(old)), TRIAL)
    assert json.loads(json.dumps(evidence.details(findings), allow_nan=False)).keys() == {
        one.metric for one in findings
    }
