"""Weights against the tilt of who votes: on populations whose tilt is known."""

import random
from dataclasses import replace

import pytest

from judge.background import Background
from judge.config import PropensityConfig
from judge.pairs import build
from judge.propensity import Shown, effective, habits, weights
from tests.judge.test_pairs import ALL, answer, said

CONFIG = PropensityConfig()


def population(chance: float, longer: float, count: int = 4000, seed: int = 3) -> list[Shown]:
    """Half the answers have 10 words, half 200; the long ones are spoken of `longer` times as often."""
    draw = random.Random(seed)
    found = []
    for number in range(count):
        long = number % 2 == 1
        spoken = draw.random() < chance * (longer if long else 1)
        found.append(Shown(f"c{number}", f"p{number % 40}", 200 if long else 10, 12, 1, spoken))
    return found


def test_what_is_seldom_spoken_of_counts_for_as_much_more() -> None:
    shown = population(0.1, 4.0)
    found = weights(shown, CONFIG)
    assert found.keys() == {one.completion_id for one in shown if one.spoken}
    means = {
        words: sum(found[one.completion_id] for one in shown if one.spoken and one.answer_words == words)
        / sum(one.spoken and one.answer_words == words for one in shown)
        for words in (10, 200)
    }
    assert means[10] / means[200] == pytest.approx(4.0, rel=0.2)
    assert sum(found.values()) / len(found) == pytest.approx(1.0)
    # Weighed, short answers have the share among votes that they have among answers: half.
    short = sum(found[one.completion_id] for one in shown if one.spoken and one.answer_words == 10)
    assert short / sum(found.values()) == pytest.approx(0.5, abs=0.05)
    assert 0.5 < effective(found) < 0.9


def test_where_everything_is_spoken_of_alike_nothing_changes_much() -> None:
    found = weights(population(0.3, 1.0), CONFIG)
    assert all(value == pytest.approx(1.0, abs=0.15) for value in found.values())
    assert effective(found) > 0.98


def test_who_speaks_of_everything_counts_for_less_each_time() -> None:
    draw = random.Random(4)
    shown = [
        Shown(f"c{number}", who, 50, 12, 1, draw.random() < rate)
        for number, (who, rate) in enumerate([("eager", 0.9), ("rare", 0.2)] * 1000)
    ]
    found = weights(shown, CONFIG)
    mean = {
        who: sum(found[one.completion_id] for one in shown if one.spoken and one.person == who)
        / sum(one.spoken and one.person == who for one in shown)
        for who in ("eager", "rare")
    }
    assert mean["rare"] > 2 * mean["eager"]


def test_an_answer_does_not_tell_of_itself_how_often_its_reader_speaks() -> None:
    one = Shown("a", "ann", 5, 5, 1, True)
    quiet = replace(one, completion_id="b", spoken=False)
    other = replace(one, completion_id="c", person="bob")
    # Two of three are spoken of, and that counts as five answers had before.
    assert habits([one, quiet, other]) == [
        pytest.approx(2 / 3),
        pytest.approx((1 + 5 * 2 / 3) / (1 + 5)),
        pytest.approx(2 / 3),
    ]
    assert habits([one, quiet])[0] == habits([quiet, one])[0] == 0.5


@pytest.mark.parametrize(("spoken", "silent"), [(0, 500), (500, 0), (99, 500), (500, 99)])
def test_too_few_of_either_kind_weigh_nothing(spoken: int, silent: int) -> None:
    shown = [Shown(f"c{n}", "ann", 10, 10, 1, n < spoken) for n in range(spoken + silent)]
    assert weights(shown, CONFIG) == {}
    assert effective({}) == 1.0


def test_off_is_off() -> None:
    assert weights(population(0.1, 4.0), PropensityConfig(enabled=False)) == {}


def test_no_weight_is_beyond_its_bounds_before_the_mean_is_taken_out() -> None:
    found = list(
        weights(population(0.01, 60.0, count=20000), PropensityConfig(smallest=0.5, largest=2.0)).values()
    )
    assert max(found) / min(found) <= 2.0 / 0.5 + 1e-9


def test_examples_and_pairs_carry_the_weight_of_their_answer() -> None:
    evidence = [
        said(answer("a", "One."), "thumb", True, who="ann"),
        said(answer("b", "Two."), "thumb", False, who="bob"),
        said(answer("c", "Three."), "edit", "Four.", who="eve"),
    ]
    found = build(evidence, {}, ALL, Background(propensity={"a": 2.0, "c": 0.5}))
    assert [one.weight for one in found.likings] == [2.0, 1.0]
    assert found.pairs[0].weight == pytest.approx(0.5 * ALL.signals.edit)
