"""Which judged answers become pairs: every rule by table, the promises by property."""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from judge import judged as rule
from judge.calibrate import Calibration
from judge.config import PairsConfig
from judge.judged import (
    JudgedQuestion,
    answers_of,
    as_pair,
    cap_share,
    gap,
    one_per_prompt,
    outranked,
    pairs_from,
    ranking_agreement,
    takes_base,
    wants_base,
)
from judge.pairs import Answer, Liking, Pair, Preferences
from judge.panel import Opinion, convene
from store.judging import JudgedPair, PairOrigin
from store.records import Choice, Completion, CompletionStatus, Message, Sampling, Source

RULES = PairsConfig()
SCALE = Calibration("platt", slope=1.0, intercept=0.0)
PROMPT = (Message("user", "How do I boil an egg?"),)
TEXTS = ("In water, slowly.", "With much patience.", "Ask somebody else!!", "No idea, honestly.")


def question(
    scores: Sequence[float | None],
    texts: Sequence[str] = TEXTS,
    *,
    name: str = "s1",
    origin: PairOrigin = PairOrigin.CANDIDATES,
    base: frozenset[int] = frozenset(),
    prompt: tuple[Message, ...] = PROMPT,
) -> JudgedQuestion:
    answers = tuple(Answer(name, n, prompt, text, True) for n, text in enumerate(texts[: len(scores)]))
    panel = convene([Opinion(tuple(scores), SCALE)], "mean", answers=len(scores))
    return JudgedQuestion(answers, panel, origin, base)


def only(asked: JudgedQuestion, rules: PairsConfig = RULES, *, consistency: float = 1.0) -> JudgedPair:
    (pair,) = pairs_from([asked], rules, iteration=3, consistency=consistency)
    return pair


def sides(pair: JudgedPair) -> tuple[int, int, str | None]:
    return pair.chosen[1], pair.rejected[1], pair.dropped


def test_best_against_worst_with_the_calibrated_q() -> None:
    pair = only(question([0.0, 2.0, -2.0, 0.5]))
    assert sides(pair) == (1, 2, None)
    assert pair.q == pytest.approx(SCALE.q(2.0, -2.0))
    assert (pair.weight, pair.iteration, pair.origin) == (RULES.weight, 3, PairOrigin.CANDIDATES)
    assert pair.details["values"] == pytest.approx([SCALE.probability(2), SCALE.probability(-2)])
    assert pair.details["lengths"] == [19, 19]


@pytest.mark.parametrize(
    ("gap_", "reason"),
    [(0.0, rule.TIE), (math.log(0.6 / 0.4) - 1e-6, rule.TIE), (math.log(0.6 / 0.4) + 1e-6, None)],
)
def test_below_min_q_is_a_tie(gap_: float, reason: str | None) -> None:
    assert only(question([gap_, 0.0])).dropped == reason


@pytest.mark.parametrize(
    ("lengths", "reason"),
    [
        ((10, 20), None),
        ((20, 10), None),
        ((10, 21), rule.LENGTH),
        ((21, 10), rule.LENGTH),
        ((9, 0), rule.LENGTH),
    ],
)
def test_lengths_in_characters_stay_within_the_ratio(lengths: tuple[int, int], reason: str | None) -> None:
    assert only(question([2.0, -2.0], ["x" * lengths[0], "y" * lengths[1]])).dropped == reason


def test_of_answers_as_good_as_the_best_the_shortest_is_chosen() -> None:
    texts = ["b" * 20, "a" * 12, "c" * 15, "d" * 18]
    assert sides(only(question([2.0, 1.9, -2.0, 1.9], texts))) == (1, 2, None)
    assert sides(only(question([2.0, 1.7, -2.0, 1.7], texts))) == (0, 2, None)


def test_of_answers_as_bad_as_the_worst_the_longest_is_rejected() -> None:
    texts = ["a" * 12, "b" * 12, "c" * 15, "d" * 18]
    assert sides(only(question([2.0, -2.0, -1.9, -1.9], texts))) == (0, 3, None)


def test_where_the_shortest_against_the_longest_is_out_of_ratio_the_next_is_tried() -> None:
    texts = ["a" * 12, "b" * 40, "c" * 20]
    assert sides(only(question([2.0, -1.9, -2.0], texts))) == (0, 2, None)


def test_identical_texts_never_pair_but_another_answer_may() -> None:
    assert only(question([2.0, -2.0], ["Same text.", "Same  text. "])).dropped == rule.SAME_TEXT
    texts = ["Same text.", "Same text.", "Another."]
    assert sides(only(question([2.0, -2.0, -1.95], texts))) == (0, 2, None)


@pytest.mark.parametrize("scores", [(None, None), (1.0, None), (None, None, 2.0)])
def test_without_two_judged_answers_the_panel_abstains(scores: tuple[float | None, ...]) -> None:
    pair = only(question(scores))
    assert (pair.dropped, pair.q) == (rule.ABSTAINED, 0.5)


def test_an_answer_nobody_judged_is_in_no_pair() -> None:
    assert sides(only(question([None, 1.0, -1.0, 0.0]))) == (1, 2, None)


def test_one_answer_alone_is_no_pair_at_all() -> None:
    assert pairs_from([question([1.0])], RULES, iteration=3) == []


def test_the_surest_pair_of_a_prompt_stays_of_those_nothing_speaks_against() -> None:
    shouted = (Message("user", "HOW do I boil an egg"),)
    known = {
        "a": recorded("a", *TEXTS[:2]),
        "b": recorded("b", *TEXTS[:2], prompt=shouted),
        "c": recorded("c", *TEXTS[:2], prompt=(Message("user", "Why?"),)),
        "d": recorded("d", *TEXTS[:2]),
        "e": recorded("e", *TEXTS[:2]),
    }
    asked = [
        question([1.0, -1.0], name="a"),
        question([2.0, -2.0], name="b", prompt=shouted),
        question([1.0, -1.0], name="c", prompt=(Message("user", "Why?"),)),
        question([0.0, 0.0], name="d"),
        question([3.0, -3.0], name="e"),
    ]
    found = pairs_from(asked, RULES, iteration=3)
    disliked = replace(found[-1], dropped=rule.PEOPLE_DISLIKED)
    kept = one_per_prompt([*found[:-1], disliked], known)
    assert [pair.dropped for pair in kept] == [rule.SAME_PROMPT, None, None, rule.TIE, rule.PEOPLE_DISLIKED]


def test_an_unsteady_judge_is_less_sure_and_then_not_sure_enough() -> None:
    plain = SCALE.q(1.0, -1.0)
    steady = only(question([1.0, -1.0]), consistency=0.9)
    assert steady.q == pytest.approx(0.9 * plain + 0.1 * (1 - plain))
    assert steady.dropped is None
    assert only(question([1.0, -1.0]), consistency=0.6).dropped == rule.INCONSISTENT
    assert only(question([0.1, -0.1]), consistency=0.6).dropped == rule.TIE


@pytest.mark.parametrize(
    ("now", "before", "agreement"),
    [
        ((1, 2, 3), (4, 5, 6), 1.0),
        ((1, 2, 3), (6, 5, 4), 0.0),
        ((1, 2), (5, 5), 0.5),
        ((1, 2, 3), (4, 6, 5), 2 / 3),
        ((1, None, 3), (4, 5, 6), 1.0),
        ((1, None), (4, 5), 1.0),
    ],
)
def test_agreement_of_rankings_is_kendalls(
    now: tuple[float | None, ...], before: tuple[float | None, ...], agreement: float
) -> None:
    assert ranking_agreement([(now, before)]) == pytest.approx(agreement)


def test_agreement_is_the_mean_over_questions_that_have_any() -> None:
    assert ranking_agreement([((1, 2), (1, 2)), ((1, 2), (2, 1)), ((1, None), (1, 2))]) == 0.5
    assert ranking_agreement([]) == 1.0


def test_a_revision_is_chosen_or_nothing() -> None:
    won = only(question([-1.0, 1.0], origin=PairOrigin.REVISION))
    lost = only(question([1.0, -1.0], origin=PairOrigin.REVISION))
    assert (*sides(won), won.origin) == (1, 0, None, PairOrigin.REVISION)
    assert sides(lost) == (1, 0, rule.WORSE)
    assert only(question([None, 1.0], origin=PairOrigin.REVISION)).dropped == rule.ABSTAINED


def test_an_answer_of_base_is_rejected_and_never_chosen() -> None:
    base = frozenset({3})
    assert sides(only(question([2.0, 0.0, -3.0, -1.0], base=base))) == (0, 3, None)
    assert only(question([2.0, 0.0, -3.0, -1.0], base=base)).details["base_rejected"]
    assert sides(only(question([2.0, 0.0, -3.0, 4.0], base=base))) == (0, 2, None)
    assert sides(only(question([0.0, 2.0], base=frozenset({1})))) == (0, 1, rule.WORSE)


def test_the_gap_is_that_of_the_models_own_answers() -> None:
    asked = question([1.0, 0.0, -1.0, -9.0], base=frozenset({3}))
    assert gap([asked]) == pytest.approx(2 * SCALE.q(1.0, -1.0) - 1)
    assert gap([asked, question([0.0, 0.0])]) == pytest.approx(SCALE.q(1.0, -1.0) - 0.5)
    assert gap([question([1.0]), question([1.0, None])]) is None
    assert gap([question([1.0, -1.0], origin=PairOrigin.REVISION)]) is None


@pytest.mark.parametrize(
    ("now", "first", "wants"),
    [(0.5, 1.0, True), (0.51, 1.0, False), (None, 1.0, False), (0.1, None, False), (0.3, 0.3, False)],
)
def test_base_is_wanted_once_the_gap_has_halved(now: float | None, first: float | None, wants: bool) -> None:
    assert wants_base(now, first) is wants


def test_which_prompts_take_base_is_stable_and_near_the_share() -> None:
    prompts = [(Message("user", f"Question {n}"),) for n in range(1000)]
    taken = [takes_base(prompt, 0.25) for prompt in prompts]
    assert 0.2 < sum(taken) / 1000 < 0.3
    assert taken == [takes_base((Message("user", f"question {n}!"),), 0.25) for n in range(1000)]
    assert not any(takes_base(prompt, 0.0) for prompt in prompts)
    assert all(takes_base(prompt, 1.0) for prompt in prompts)


def recorded(name: str, *texts: str, prompt: tuple[Message, ...] = PROMPT, **changes: Any) -> Completion:
    made = Completion(
        id=name,
        created_at=1.0,
        principal="honed",
        source=Source.SAMPLE,
        messages=prompt,
        sampling=Sampling(),
        adapter=None,
        engine="fake",
        status=CompletionStatus.DONE,
        choices=tuple(Choice(n, text, "stop") for n, text in enumerate(texts)),
    )
    return replace(made, **changes)


SAMPLES = {
    "s1": recorded("s1", "Good.", "Bad."),
    "s2": recorded("s2", "Good.", "Bad.", prompt=(Message("user", "?"),)),
}
JUDGED = JudgedPair(3, PairOrigin.CANDIDATES, ("s1", 0), ("s1", 1), 0.8, 0.5)


def vote(text: str, *, up: bool) -> Liking:
    return Liking(Answer("chat", 0, PROMPT, text, True), up, 1.0, ())


def people(*likings: Liking, pairs: tuple[Pair, ...] = (), heldout: tuple[Liking, ...] = ()) -> Preferences:
    return Preferences(likings, pairs, heldout, {})


EDITED = Pair(PROMPT, "Best.", True, Answer("chat", 0, PROMPT, "Worst.", True), 0.9, 0.7, ())


@pytest.mark.parametrize(
    ("preferences", "reason"),
    [
        (people(), None),
        (people(vote("Good.", up=True), vote("Bad.", up=False)), None),
        (people(vote("Good.", up=False)), rule.PEOPLE_DISLIKED),
        (people(vote("Good. ", up=True), vote("Good.", up=False)), rule.PEOPLE_DISLIKED),
        (people(vote(" Bad.", up=True)), rule.PEOPLE_LIKED),
        (people(vote("Else.", up=False)), None),
        (people(pairs=(EDITED,)), rule.HUMAN_PAIR),
        (people(heldout=(vote("Good.", up=False), vote("Bad.", up=True))), None),
    ],
)
def test_what_people_said_outranks_the_judge(preferences: Preferences, reason: str | None) -> None:
    (pair,) = outranked([JUDGED], preferences, SAMPLES)
    assert pair.dropped == reason


def test_what_people_said_of_another_prompt_does_not_count() -> None:
    other = replace(JUDGED, chosen=("s2", 0), rejected=("s2", 1))
    said = people(vote("Good.", up=False), pairs=(EDITED,))
    assert outranked([other], said, SAMPLES) == [other]


def test_a_pair_dropped_before_keeps_its_first_reason() -> None:
    (pair,) = outranked([replace(JUDGED, dropped=rule.TIE)], people(vote("Good.", up=False)), SAMPLES)
    assert pair.dropped == rule.TIE


@pytest.mark.parametrize(
    ("human", "share", "weights"),
    [
        (10.0, 0.5, [0.5, 0.5, 0.5]),
        (0.75, 0.5, [0.25, 0.25, 0.25]),
        (1.5, 0.5, [0.5, 0.5, 0.5]),
        (0.0, 0.5, [0.5, 0.5, 0.5]),
        (0.75, 1.0, [0.5, 0.5, 0.5]),
        (3.0, 0.2, [0.25, 0.25, 0.25]),
    ],
)
def test_judged_weight_is_scaled_to_its_share(human: float, share: float, weights: list[float]) -> None:
    pairs = [replace(JUDGED, chosen=(f"s{n}", 0)) for n in range(3)]
    aside = replace(JUDGED, dropped=rule.TIE)
    capped = cap_share([*pairs, aside], human, share)
    assert [pair.weight for pair in capped[:3]] == pytest.approx(weights)
    assert capped[3] == aside


def test_a_pair_without_weight_is_dropped() -> None:
    (none_left,) = cap_share([JUDGED], 1.0, 0.0)
    (never_had,) = cap_share([replace(JUDGED, weight=0.0)], 0.0, 0.5)
    assert none_left.dropped == never_had.dropped == rule.SHARE


def test_a_judged_pair_with_its_texts() -> None:
    pair = as_pair(JUDGED, SAMPLES)
    assert (pair.id, pair.prompt) == ("judge/s1/0/s1/1", PROMPT)
    assert (pair.chosen, pair.rejected.text, pair.chosen_ended) == ("Good.", "Bad.", True)
    assert (pair.q, pair.weight) == (0.8, 0.5)


def test_an_answer_cut_short_by_its_reader_can_still_be_the_rejected_side() -> None:
    cut = recorded("s1", "Good.", "Bad.", status=CompletionStatus.CANCELLED)
    assert as_pair(JUDGED, {"s1": cut}).rejected.text == "Bad."
    assert answers_of(cut) == ()


def test_an_answer_ended_by_a_stop_string_did_not_end_itself() -> None:
    assert [answer.ended for answer in answers_of(recorded("a", "Good."))] == [True]
    stopped = recorded("a", "Good.", sampling=Sampling(stop=("\n",)))
    assert [answer.ended for answer in answers_of(stopped)] == [False]


SCORE = st.one_of(st.none(), st.floats(-4, 4))
ANSWERS = st.lists(st.tuples(SCORE, st.text("ab ", max_size=30)), min_size=2, max_size=5)
PAIRS = st.builds(
    PairsConfig,
    min_q=st.floats(0.51, 0.9),
    max_length_ratio=st.floats(1, 3),
    near_tie=st.floats(0, 0.3),
)


@given(ANSWERS, PAIRS, st.floats(0, 1), st.sets(st.integers(0, 4)))
def test_whatever_trains_keeps_every_promise(
    answers: list[tuple[float | None, str]], rules: PairsConfig, consistency: float, base: set[int]
) -> None:
    scores, texts = zip(*answers, strict=True)
    pair = only(question(scores, texts, base=frozenset(base)), rules, consistency=consistency)
    if pair.dropped is not None:
        return
    chosen, rejected = pair.chosen[1], pair.rejected[1]
    better, worse = scores[chosen], scores[rejected]
    assert better is not None and worse is not None and better > worse
    assert rules.min_q <= pair.q <= 1
    shorter, longer = sorted((len(texts[chosen]), len(texts[rejected])))
    assert longer <= rules.max_length_ratio * shorter
    assert texts[chosen].split() != texts[rejected].split()
    assert chosen not in base


@given(st.floats(-4, 4), st.integers(2, 5), PAIRS)
def test_equal_scores_make_no_pair(score: float, count: int, rules: PairsConfig) -> None:
    texts = [f"answer {n}" for n in range(count)]
    assert only(question([score] * count, texts), rules).dropped == rule.TIE


@given(st.lists(st.floats(0, 1), max_size=8), st.floats(0, 50), st.floats(0, 1))
def test_judged_weight_never_exceeds_its_share(weights: list[float], human: float, share: float) -> None:
    pairs = [replace(JUDGED, weight=weight) for weight in weights]
    capped = cap_share(pairs, human, share)
    total = sum(pair.weight for pair in capped if pair.dropped is None)
    assert all(new.weight <= old.weight for new, old in zip(capped, pairs, strict=True))
    if human > 0:
        assert total <= share * (total + human) + 1e-9
    else:
        assert total == pytest.approx(sum(weights))
