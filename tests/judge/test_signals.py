"""Weights of weak signals, fitted on people whose habits are known."""

import random
from collections.abc import Mapping
from dataclasses import replace

import pytest

from judge.background import Background
from judge.config import SignalsConfig
from judge.pairs import build
from judge.signals import Worth, observed, refit
from store.records import Evidence
from tests.judge.test_pairs import ALL, answer, said

#: How a signal is sent.
SENT = {"copy_click": ("click", "copy"), "share": ("click", "share"), "regenerate": ("regenerate", "z")}


def crowd(
    liked: float, copied: Mapping[bool, float], *, by: str = "copy_click", count: int = 2000
) -> list[Evidence]:
    """Thumbs, up with probability `liked`; and a signal with the probability that it has given the thumb."""
    draw, found = random.Random(5), []
    for number in range(count):
        one, up = answer(f"a{number}", f"Text {number}."), draw.random() < liked
        found.append(said(one, "thumb", up, who=f"p{number % 30}"))
        if draw.random() < copied[up]:
            kind, value = SENT[by]
            found.append(said(one, kind, value, who=f"p{number % 30}"))
    return found


@pytest.mark.parametrize("liked", [0.5, 0.9])
@pytest.mark.parametrize(
    ("by", "given", "expected"),
    [
        (
            "copy_click",
            {True: 0.6, False: 0.2},
            0.71,
        ),  # odds ratio (0.6/0.4) / (0.2/0.8) = 6: (6 - 1) / (6 + 1)
        ("copy_click", {True: 0.3, False: 0.3}, 0.0),  # says nothing, however many thumbs are up
        ("copy_click", {True: 0.2, False: 0.6}, 0.0),  # here it says the contrary: none, not a dislike
        ("regenerate", {True: 0.2, False: 0.6}, 0.71),
        ("share", {True: 0.6, False: 0.2}, 0.71),
    ],
)
def test_a_signal_weighs_by_how_far_it_moves_the_odds(
    liked: float, by: str, given: Mapping[bool, float], expected: float
) -> None:
    found = refit(crowd(liked, given, by=by), SignalsConfig())
    assert getattr(found.signals, by) == pytest.approx(expected, abs=0.12)
    assert set(found.seen) == {by}
    others = {name: getattr(found.signals, name) for name in SENT if name != by}
    assert others == {name: getattr(SignalsConfig(), name) for name in others}


@pytest.mark.parametrize(
    ("count", "signals"),
    [(60, SignalsConfig()), (2000, SignalsConfig(refit_min=0)), (2000, SignalsConfig(refit_min=1500))],
)
def test_too_few_or_switched_off_the_configured_weights_stay(count: int, signals: SignalsConfig) -> None:
    assert refit(crowd(0.5, {True: 0.6, False: 0.2}, count=count), signals) == Worth(signals)


def test_thumbs_of_one_sign_fit_nothing() -> None:
    assert refit(crowd(1.0, {True: 0.5, False: 0.5}), SignalsConfig()) == Worth(SignalsConfig())


def test_below_the_floor_a_signal_is_none() -> None:
    slight = crowd(0.5, {True: 0.45, False: 0.35}, count=4000)  # odds ratio 1.52: a weight of 0.21
    assert refit(slight, SignalsConfig(refit_floor=0.5)).signals.copy_click == 0.0
    assert refit(slight, SignalsConfig(refit_floor=0.0)).signals.copy_click == pytest.approx(0.21, abs=0.1)


def test_who_only_copied_or_is_of_two_minds_is_not_counted() -> None:
    one = answer("a", "Text.")
    assert observed([said(one, "click", "copy")], SignalsConfig()) == ([], [], [])
    assert observed([said(one, "rating", 3), said(one, "click", "copy")], SignalsConfig()) == ([], [], [])
    both = [said(one, "rating", 5, who="ann"), said(one, "click", "share", who="ann")]
    assert observed(both, SignalsConfig()) == ([(False, False, True)], [True], ["ann"])


def alone(count: int, kind: str, value: str, *, up: bool, who: str = "mallory") -> list[Evidence]:
    """Thumbs of one person, each beside a signal."""
    found = []
    for number in range(count):
        one = answer(f"{who}{number}", f"Own {number}.")
        found += [said(one, "thumb", up, who=who), said(one, kind, value, who=who)]
    return found


@pytest.mark.parametrize("up", [True, False])
def test_nobody_says_alone_what_others_mean_by_a_signal(up: bool) -> None:
    honest = crowd(0.5, {True: 0.0, False: 0.0}, count=120)
    for kind, value in SENT.values():
        found = refit([*honest, *alone(400, kind, value, up=up)], SignalsConfig())
        assert found == Worth(SignalsConfig())


def test_who_says_more_counts_no_more() -> None:
    honest = crowd(0.5, {True: 0.6, False: 0.2}, count=600)
    told = refit(honest, SignalsConfig()).signals.copy_click
    against = refit([*honest, *alone(600, "click", "copy", up=False)], SignalsConfig()).signals.copy_click
    assert against > told - 0.15


def test_who_is_alone_here_means_what_they_mean() -> None:
    mine = [
        *alone(100, "click", "copy", up=True, who="ann"),
        *crowd(0.3, {True: 0.0, False: 0.0}, count=120),
    ]
    own = [replace(item, feedback=replace(item.feedback, principal="ann")) for item in mine]
    assert refit(own, SignalsConfig()).signals.copy_click > 0.5


def test_what_was_fitted_weighs_in_training() -> None:
    evidence = [said(answer("a", "One."), "click", "copy"), said(answer("b", "Two."), "thumb", False)]
    fitted = Worth(ALL.signals.model_copy(update={"copy_click": 0.75}), {"copy_click": 80})
    background = Background(signals=fitted)
    assert [one.weight for one in build(evidence, {}, ALL, background).likings] == [0.75, 1.0]
    assert background.fitted == {"copy_click": {"weight": 0.75, "seen": 80}}
    assert Background().fitted == {}
