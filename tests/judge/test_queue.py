"""The queue's choice: what is worth most, spread out, with a uniform fifth; blind to order and to time."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from judge.queue import Candidate, Given, choose, disagreement, opinions_of, pair_id, pairs_of, uniform
from store.records import Message


def answer(name: str, text: str | None = None, prompt: str = "Why?", index: int = 0) -> Given:
    return Given((name, index), (Message("user", prompt),), name if text is None else text)


def candidate(number: int, *opinions: float, cluster: str = "", traffic: float = 1.0) -> Candidate:
    prompt = f"question {number}"
    return Candidate(
        answer(f"a{number}", prompt=prompt), answer(f"b{number}", prompt=prompt), opinions, cluster, traffic
    )


@pytest.mark.parametrize(
    ("opinions", "expected"),
    [
        ((), 0.5),
        ((0.5,), 0.5),
        ((1.0,), 0.0),
        ((0.0, 0.0), 0.0),
        ((0.5, 0.5), 0.5),
        ((0.0, 1.0), 1.0),
        ((0.2, 0.8), 0.6 + 0.4 / 2),
    ],
)
def test_disagreement(opinions: tuple[float, ...], expected: float) -> None:
    assert disagreement(opinions) == pytest.approx(expected)


@given(st.lists(st.floats(0, 1), max_size=5))
def test_disagreement_is_a_share_and_the_same_seen_from_the_other_side(opinions: list[float]) -> None:
    assert 0 <= disagreement(opinions) <= 1
    assert disagreement([1 - one for one in opinions]) == pytest.approx(disagreement(opinions))


def test_pairs_are_of_different_answers_to_one_prompt_that_nobody_labelled() -> None:
    answers = [
        answer("a"),
        answer("b"),
        answer("c", "a"),
        answer("d", " "),
        answer("e", prompt="Other?"),
        answer("f"),
    ]
    names = {frozenset((p.left.place[0], p.right.place[0])) for p in pairs_of(answers, settled={("f", 0)})}
    assert names == {frozenset("ab")}
    assert pairs_of([answer("a"), answer("b", prompt="why")], settled=()) == [], (
        "nearly the same prompt is another"
    )


def test_sides_are_the_pairs_own_lot_whichever_came_first() -> None:
    pairs = [(answer(f"a{n}"), answer(f"b{n}")) for n in range(200)]
    shown = [pairs_of([one, other], settled=())[0] for one, other in pairs]
    again = [pairs_of([other, one], settled=())[0] for one, other in pairs]
    assert [(p.left, p.right) for p in shown] == [(p.left, p.right) for p in again]
    assert 60 < sum(p.left.place[0].startswith("a") for p in shown) < 140
    assert pair_id(("a", 0), ("b", 1)) == pair_id(("b", 1), ("a", 0)) != pair_id(("a", 1), ("b", 0))


def test_a_fifth_is_drawn_whatever_scorers_say() -> None:
    """Pairs that no scorer doubts come up as often among the uniform ones as they exist."""
    sure = [candidate(n, 1.0) for n in range(500)]
    doubted = [candidate(n, 0.0, 1.0) for n in range(500, 1000)]
    assert 150 < sum(uniform(one.id) for one in (*sure, *doubted)) < 250
    chosen = choose([*sure, *doubted], 100)
    fair = [one for one in chosen if uniform(one.id)]
    assert len(fair) == 20
    assert 4 <= sum(one.opinions == (1.0,) for one in fair) <= 16
    assert all(one.opinions == (0.0, 1.0) for one in chosen if not uniform(one.id))


def test_one_at_a_time_draws_like_many_at_once() -> None:
    pool = [candidate(n, 0.5 + n / 200) for n in range(60)]
    at_once = choose(pool, 20)
    left, singly = list(pool), []
    for given_ in range(20):
        (one,) = choose(left, 1, given=given_)
        singly.append(one)
        left.remove(one)
    assert sum(uniform(one.id) for one in at_once) == sum(uniform(one.id) for one in singly) == 4
    assert {one.id for one in at_once} == {one.id for one in singly}


def test_subjects_take_turns_and_frequent_ones_come_first() -> None:
    often = [candidate(n, 0.5, cluster="often", traffic=0.5) for n in range(40)]
    seldom = [candidate(n, 0.5, cluster="seldom", traffic=0.2) for n in range(40, 80)]
    chosen = [one for one in choose([*seldom, *often], 50) if not uniform(one.id)]
    assert [one.cluster for one in chosen[:3]] == ["often", "often", "seldom"]


def test_one_pair_for_each_prompt_and_nothing_from_nothing() -> None:
    answers = [answer(f"c{n}") for n in range(6)]
    assert len(choose(pairs_of(answers, settled=()), 10)) == 1
    assert choose([], 10) == choose([candidate(1)], 0) == []


@given(
    st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), max_size=20), st.integers(0, 30), st.integers(0, 7)
)
def test_any_choice_is_distinct_and_as_long_as_it_can_be(
    views: list[tuple[float, float]], limit: int, before: int
) -> None:
    pool = [candidate(n, *view) for n, view in enumerate(views)]
    chosen = choose(pool, limit, given=before)
    assert len(chosen) == min(limit, len(pool)) == len({one.id for one in chosen})


def test_scores_of_one_question_are_compared_and_no_others() -> None:
    (pair,) = pairs_of([answer("a"), answer("b")], settled=())
    left, right = pair.left.place, pair.right.place
    scores = {
        left: {("one", "q1"): 2.0, ("one", "q2"): 5.0, ("two", "q1"): 1.0},
        right: {("one", "q2"): 3.0, ("two", "q3"): 1.0},
    }
    scales = dict.fromkeys(("one", "two"), lambda first, second: first - second)
    assert opinions_of(pair, scores, scales) == (2.0,)
    assert opinions_of(pair, scores, {}) == ()
    for one, other in itertools.product((left, right), repeat=2):
        assert opinions_of(pair, {one: {("one", "q"): 1.0}, other: {("one", "q"): 1.0}}, {}) == ()
