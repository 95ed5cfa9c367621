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
    Finding,
    Trial,
    allowed,
    bet,
    exceeds,
    harms,
    limited,
    log_gain,
    people_needed,
    weigh,
)
from daemon.matching import Matched, Shape, from_history, lasting, match
from store.outcomes import Answer, Vote

HARM, BENEFIT = Matched(1, 1, 1, 1), Matched(1, 1, 1, 0)
TRIAL = Trial(harm=0.05, share=0.5, length_margin=1.5, latency_margin=2.0)
HISTORY = replace(TRIAL, share=None, latency_margin=None)

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
@pytest.mark.parametrize(
    "shape", [lambda _: (1, 3), lambda _: (1, 1), lambda _: (3, 1), from_history, lasting(200)]
)
def test_a_version_that_is_no_worse_is_seldom_accused(treated: float, control: float, shape: Shape) -> None:
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


def test_sets_of_thousands_are_still_numbers() -> None:
    for found in (Matched(50_000, 1, 50_000, 50_000), Matched(3000, 3000, 3000, 1700)):
        for odds in ODDS:
            assert math.isfinite(log_gain(found, odds))
    assert math.exp(log_gain(Matched(50_000, 1, 50_000, 50_000), 20.0)) == pytest.approx(20.0, rel=1e-3)


def test_a_little_longer_is_no_harm_and_much_longer_is() -> None:
    assert bet([exceeds(140.0, 100.0, 1.5)] * 200).log_peak == 0.0
    assert bet([exceeds(160.0, 100.0, 1.5)] * 20).log_peak > math.log(25)


def test_each_person_counts_for_so_many_and_a_household_for_more() -> None:
    loud = tuple(Vote("loud", float(number), False) for number in range(100))
    rows = (*votes([True] * 20), *loud)
    assert len(limited(rows, 5)) == 25
    assert len(limited(loud, 5, ())) == 50
    assert len(limited(loud, 5, {f"p{number}" for number in range(20)})) == 5
    assert [allowed(5, people) for people in (0, 1, 3, 10, 99)] == [50, 50, 17, 5, 5]


@given(st.lists(st.sampled_from("abcdefghijklmnop"), max_size=120), st.sets(st.sampled_from("xyz")))
def test_what_counted_goes_on_to_count_whoever_comes_later(people: list[str], known: set[str]) -> None:
    rows = [Vote(person, float(number), True) for number, person in enumerate(people)]
    whole = limited(rows, 2, known)
    for count in range(len(rows)):
        part = limited(rows[:count], 2, known)
        assert part == whole[: len(part)]


def thumbs_of(treated: Arm, control: Arm, trial: Trial = TRIAL) -> Finding:
    return weigh(treated, control, trial)[0]


@pytest.mark.parametrize(("people", "harmful"), [(1, False), (2, False), (3, True), (60, True)])
def test_fewer_than_three_people_do_not_end_what_others_vote_on_too(people: int, harmful: bool) -> None:
    downs = Arm(tuple(Vote(f"n{number % people}", float(number), False) for number in range(60)))
    found = thumbs_of(downs, Arm(votes([True] * 60)))
    assert found.harm.log_peak > found.limit and (found.people, found.needed) == (people, 3)
    assert found.harmful is harmful
    assert ("of the 3 people it takes" in found.reason) is not harmful


@pytest.mark.parametrize("people", [1, 2])
def test_a_household_decides_if_all_of_it_does(people: int) -> None:
    def household(up: bool) -> Arm:
        return Arm(tuple(Vote(f"n{number % people}", float(number), up) for number in range(60)))

    assert thumbs_of(household(False), household(True), HISTORY).harmful
    one_alone = Arm(tuple(replace(vote, up=vote.principal != "n0") for vote in household(False).votes))
    found = thumbs_of(one_alone, household(True), HISTORY)
    assert found.harmful is (people == 1)


@pytest.mark.parametrize(
    ("treated", "control", "by_will", "needed"),
    [("", "", True, 0), ("a", "", True, 1), ("ab", "ab", True, 2), ("a", "bc", True, 3), ("abcd", "", True, 3),
     ("a", "bc", False, 1), ("ab", "cdef", False, 2), ("abcd", "", False, 3)],
)  # fmt: skip
def test_people_it_takes(treated: str, control: str, by_will: bool, needed: int) -> None:
    sides = [[Vote(person, 0.0, True) for person in side] for side in (treated, control)]
    assert people_needed(*sides, by_will=by_will) == needed


def test_bets_are_on_so_many_votes_of_a_person_and_numbers_of_all() -> None:
    downs = Arm(tuple(Vote(f"n{number % 4}", float(number), False) for number in range(40)))
    found = thumbs_of(downs, Arm(votes([True] * 40)), replace(TRIAL, votes_each=5))
    assert (found.treated.count, found.harm.sets) == (40, 20)


def busy(seed: int, count: int, share: float) -> tuple[Arm, Arm]:
    """Answers alike on both sides over a day whose first hours are idle, the rest three times as slow."""
    rng, sides = random.Random(seed), ([], [])
    for number in range(count):
        at = number * 86400 / count
        pace = (1.0 if at < 4 * 3600 else 3.0) * rng.lognormvariate(-3.0, 0.3)
        person = rng.randrange(400)
        sides[person >= 400 * share].append(Answer(f"p{person}", at, False, False, 100.0, pace))
    return Arm((), tuple(sides[0])), Arm((), tuple(sides[1]))


@pytest.mark.parametrize("share", [0.05, 0.25])
def test_a_busy_hour_is_not_the_canarys_doing(share: float) -> None:
    trial = replace(TRIAL, share=share, harm=0.0125)
    for seed in range(2):
        found = weigh(*busy(seed, 4000, share), trial)
        assert harms(found) == ()
        assert found[-1].metric == "latency" and found[-1].harm.sets > 4000 * share * 0.5
    slow = Arm((), tuple(replace(one, pace=3 * (one.pace or 0)) for one in busy(0, 4000, share)[0].answers))
    assert harms(weigh(slow, busy(0, 4000, share)[1], trial))[0].startswith("latency")


def test_an_outage_of_both_sides_is_not_the_canarys_doing() -> None:
    def failing(arm: Arm) -> Arm:
        return Arm((), tuple(replace(one, failed=50_000 < one.at < 55_000) for one in arm.answers))

    treated, control = busy(1, 4000, 0.05)
    assert harms(weigh(failing(treated), failing(control), replace(TRIAL, share=0.05))) == ()
    assert harms(weigh(failing(treated), control, replace(TRIAL, share=0.05)))[0].startswith("errors")


@pytest.mark.parametrize(("later", "met"), [(300.0, True), (301.0, False)])
def test_answers_minutes_apart_are_not_held_against_each_other(later: float, met: bool) -> None:
    """Such as when nobody asked the incumbent any more by the time all that was asked failed."""
    failing = Arm((), answers(60, failed=True, at=later))
    found = weigh(failing, Arm((), answers(60)), TRIAL)
    assert (harms(found) != ()) is met and (found[2].harm.sets > 0) is met


@pytest.mark.parametrize(("days", "met"), [(1.0, True), (1.01, False)])
def test_votes_days_apart_are_not_either(days: float, met: bool) -> None:
    downs = Arm(tuple(replace(vote, at=86_400 * days) for vote in votes([False] * 60, "n")))
    ups = Arm(tuple(replace(vote, at=0.0) for vote in votes([True] * 60)))
    assert thumbs_of(downs, ups).harmful is met


def test_harm_after_many_good_answers_is_still_met_in_a_history() -> None:
    before, good = Arm((), answers(800)), answers(3000)
    bad = tuple(replace(one, failed=True, length=None, pace=None) for one in answers(900))
    assert harms(weigh(Arm((), good), before, HISTORY)) == ()
    assert harms(weigh(Arm((), (*good, *bad)), before, HISTORY))[0].startswith("errors")


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
