"""Reliability of raters: crowds with known accuracies, and properties."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from judge.raters import Rater, believed, below_chance, rate, worth


def crowd(accuracies: dict[str, float], answers: int, *, seed: int = 0) -> dict[int, dict[str, bool]]:
    rng = random.Random(seed)
    goods = [rng.random() < 0.5 for _ in range(answers)]
    return {
        number: {who: good == (rng.random() < accuracy) for who, accuracy in accuracies.items()}
        for number, good in enumerate(goods)
    }


def test_accuracies_are_found_again() -> None:
    true = {"a": 0.95, "b": 0.9, "c": 0.8, "d": 0.7, "hostile": 0.1}
    found = rate(crowd(true, 200), {})
    assert {name: round(found[name].accuracy, 1) for name in true} == pytest.approx(true, abs=0.11)
    assert [name for name, one in found.items() if below_chance(one, least=5)] == ["hostile"]


def test_one_who_contradicts_everybody_is_below_chance_after_five_shared_answers() -> None:
    votes = {number: {"a": True, "b": True, "m": False} for number in range(6)}
    found = rate(votes, {})
    assert below_chance(found["m"], least=5)
    assert worth(found["a"], least=5) == 1


def test_two_who_contradict_each_other_tell_nothing_of_who_is_wrong() -> None:
    found = rate({number: {"a": True, "b": False} for number in range(20)}, {})
    assert found["a"].accuracy == pytest.approx(found["b"].accuracy)
    assert not any(below_chance(one, least=5) for one in found.values())


def test_an_operators_labels_decide_against_a_majority() -> None:
    votes = {number: {"a": True, "b": True, "c": True, "expert": False} for number in range(10)}
    found = rate(votes, dict.fromkeys(range(10), False))
    assert [below_chance(found[name], least=5) for name in ("a", "b", "c", "expert")] == [
        True,
        True,
        True,
        False,
    ]


def test_nobody_is_told_by_answers_only_they_voted_on() -> None:
    found = rate({number: {"a": number % 2 == 0} for number in range(50)}, {})
    assert found == {"a": Rater(believed(), 0)}


@pytest.mark.parametrize(
    ("accuracy", "shared", "counts"),
    [(0.8, 10, 1.0), (0.9, 10, 1.0), (0.65, 10, 0.5), (0.5, 10, 0.0), (0.2, 10, 0.0), (0.2, 4, 1.0)],
)
def test_what_a_vote_counts_falls_to_nothing_at_chance(accuracy: float, shared: int, counts: float) -> None:
    assert worth(Rater(accuracy, shared), least=5) == pytest.approx(counts)


VOTES = st.dictionaries(
    st.integers(0, 9), st.dictionaries(st.sampled_from("abcd"), st.booleans(), min_size=1)
)


@settings(max_examples=60, deadline=None)
@given(VOTES, st.dictionaries(st.integers(0, 9), st.booleans()))
def test_turning_every_vote_and_truth_round_changes_nobodys_accuracy(
    votes: dict[int, dict[str, bool]], truths: dict[int, bool]
) -> None:
    turned = {answer: {who: not up for who, up in said.items()} for answer, said in votes.items()}
    one, other = rate(votes, truths), rate(turned, {answer: not good for answer, good in truths.items()})
    assert {who: r.accuracy for who, r in one.items()} == pytest.approx(
        {who: r.accuracy for who, r in other.items()}
    )
    assert all(0 < rater.accuracy < 1 for rater in one.values())
