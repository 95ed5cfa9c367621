"""What is measured of a scorer, against hand counts and against made-up judges."""

import math
from dataclasses import replace

import numpy as np
import pytest

from judge.humans import HumanItem, scored
from judge.measure import MIN_PROMPTS, agreement, measure
from judge.scorer import Question, Score, Scores
from store.records import Message
from tests.judge.crowd import Crowd, Opinion, crowd, noisy


def item(*answers: tuple[str, bool], prompt: str = "What?") -> HumanItem:
    asked = Question((Message("user", prompt),), tuple(text for text, _ in answers))
    return HumanItem(asked, tuple(good for _, good in answers), "thumb", "key")


def measured(items: list[HumanItem], scores: list[Scores]) -> dict[str, float]:
    return measure(items, scores, confidence=0.9, seed=0)


def votes(goods: str, values: list[float], lengths: list[int] | None = None) -> dict[str, float]:
    """One answer a question; goods as "+-"."""
    texts = ["x" * length for length in lengths or range(1, len(goods) + 1)]
    rows = enumerate(zip(texts, goods, strict=True))
    items = [item((text, sign == "+"), prompt=f"Number {number}?") for number, (text, sign) in rows]
    return measured(items, [(Score(value),) for value in values])


@pytest.mark.parametrize(
    ("goods", "values", "auc"),
    [
        ("++--", [3, 4, 1, 2], 1.0),
        ("++--", [1, 2, 3, 4], 0.0),
        ("++--", [2, 4, 1, 3], 0.75),
        ("++--", [1, 1, 1, 1], 0.5),
        ("+-", [1, 1 + 1e-12], 0.5),
        ("++", [1, 2], None),
        ("--", [1, 2], None),
    ],
)
def test_auc_is_the_share_of_liked_above_disliked(goods: str, values: list[float], auc: float | None) -> None:
    assert votes(goods, values).get("auc") == auc


def test_agreement_needs_no_scale() -> None:
    made = crowd(1)
    plain = measured(made.items, made.judged(noisy(1, 1.0)))
    scaled = measured(made.items, made.judged(noisy(1, 1.0, scale=1000.0)))
    assert plain == pytest.approx(scaled, rel=1e-4)


def drawn(seed: int, singles: int) -> dict[str, float]:
    made = crowd(seed, comparisons=0, singles=singles)
    return agreement(scored(made.items, made.judged(noisy(seed, 1.0))), confidence=0.9, seed=0)


def test_the_interval_holds_the_truth_about_as_often_as_it_says() -> None:
    truth = np.mean([drawn(seed, singles=400)["auc"] for seed in range(20)])
    held = [drawn(seed, singles=80) for seed in range(100, 200)]
    covered = np.mean([found["auc_lower"] <= truth <= found["auc_upper"] for found in held])
    assert 0.82 <= covered <= 0.98


def one_prompt(made: Crowd, share: int) -> list[HumanItem]:
    """The first `share` items all about one prompt, differently written."""
    same = [(Message("user", f"The same question{'?' * number}"),) for number in range(share)]
    return [
        replace(item, question=replace(item.question, prompt=same[number])) if number < share else item
        for number, item in enumerate(made.items)
    ]


def test_labels_about_too_few_prompts_have_no_interval() -> None:
    made = crowd(12, comparisons=0, singles=60)
    scores = made.judged(noisy(12, 0.5))
    few, enough = (
        measured(one_prompt(made, 61 - prompts), scores) for prompts in (MIN_PROMPTS - 1, MIN_PROMPTS)
    )
    assert (few["prompts"], enough["prompts"]) == (MIN_PROMPTS - 1, MIN_PROMPTS)
    assert few["auc"] == enough["auc"]
    assert "auc_lower" not in few and "auc_lower" in enough


def test_a_prompt_asked_many_times_is_one_piece_of_evidence() -> None:
    made = crowd(13, comparisons=0, singles=60)
    scores = made.judged(noisy(13, 1.0))
    apart, together = measured(made.items, scores), measured(one_prompt(made, 40), scores)
    widths = [found["auc_upper"] - found["auc_lower"] for found in (apart, together)]
    assert apart["auc"] == together["auc"]
    assert widths[1] > 1.2 * widths[0]


def test_the_interval_is_drawn_over_questions_not_answers() -> None:
    made = crowd(3, comparisons=30, singles=0)
    scores = made.judged(noisy(3, 1.0))
    # Everything said twice within its question is no more evidence than once.
    doubled = [
        HumanItem(
            Question(item.question.prompt, item.question.answers * 2), item.goods * 2, item.source, item.key
        )
        for item in made.items
    ]
    once, twice = measured(made.items, scores), measured(doubled, [row * 2 for row in scores])
    for name in ("auc", "auc_lower", "auc_upper"):
        assert once[name] == pytest.approx(twice[name])


def test_the_same_seed_gives_the_same_numbers() -> None:
    made = crowd(4)
    scores = made.judged(noisy(4, 1.0))
    assert measured(made.items, scores) == measured(made.items, scores)
    other = measure(made.items, scores, confidence=0.9, seed=1)
    assert other["auc_lower"] != measured(made.items, scores)["auc_lower"]


def test_too_few_of_one_opinion_have_no_interval() -> None:
    values = [float(number) for number in range(40)]
    lopsided = votes("-" * 4 + "+" * 36, values)
    assert lopsided["auc"] == 1.0 and "auc_lower" not in lopsided
    assert "auc_lower" in votes("-" * 5 + "+" * 35, values)


def test_comparisons_are_counted_within_questions_ties_half() -> None:
    items = [
        item(("a", True), ("bb", False)),
        item(("a", False), ("bb", True)),
        item(("a", True), ("b", False)),
    ]
    scores: list[Scores] = [(Score(9), Score(8)), (Score(1), Score(0)), (Score(5), Score(5))]
    found = measured(items, scores)
    assert (found["n_comparisons"], found["accuracy"]) == (3, 0.5)
    assert votes("+-", [1, 0])["n_comparisons"] == 0 and "accuracy" not in votes("+-", [1, 0])


def test_counts_of_labels_balance_and_abstentions() -> None:
    items = [item(("a", True), ("b", False)), item(("c", True)), item(("d", True))]
    scores: list[Scores] = [(Score(1), None), (Score(math.nan),), (Score(2),)]
    found = measured(items, scores)
    assert (found["labels"], found["balance"], found["abstained"]) == (2, 1.0, 0.5)


def test_nothing_to_measure_leaves_keys_out_and_never_gives_nan() -> None:
    nothing = {"labels": 0.0, "asked": 0.0, "beyond": 0.0, "prompts": 0.0}
    assert measured([], []) == nothing
    assert measured([item(("a", True))], [(None,)]) == nothing | {"asked": 1.0, "abstained": 1.0}
    for goods in ("+", "+-", "++++", "+-+-+-+-+-+-"):
        for values in ([1.0] * len(goods), [float(n) for n in range(len(goods))]):
            assert all(math.isfinite(value) for value in votes(goods, values).values())


@pytest.mark.parametrize(
    ("goods", "values", "lengths", "correlation"),
    [
        ("++++", [1, 2, 3, 4], [10, 20, 30, 40], 1.0),
        ("++++", [4, 3, 2, 1], [10, 20, 30, 40], -1.0),
        ("++++", [1, 2, 3, 4], [10, 20, 30, 4000], 1.0),
        # Liked answers are longer and score higher, but within each opinion length says nothing: no fault.
        ("++++----", [7, 6, 7, 6, 1, 2, 1, 2], [90, 91, 91, 90, 10, 11, 11, 10], 0.0),
        # 1 over the liked, -1 over the disliked.
        ("++--", [1, 2, 1, 2], [10, 20, 20, 10], 0.0),
        ("++--", [1, 1, 1, 1], [10, 20, 20, 10], None),
        ("++--", [1, 2, 3, 4], [10, 10, 10, 10], None),
        ("+-", [1, 2], [10, 20], None),
    ],
)
def test_length_correlation_is_among_answers_people_judge_alike(
    goods: str, values: list[float], lengths: list[int], correlation: float | None
) -> None:
    assert votes(goods, values, lengths).get("length_correlation") == pytest.approx(correlation)


def test_ties_are_counted_within_questions_where_there_are_enough() -> None:
    pairs = [item(("a", True), ("b", False)) for _ in range(12)]
    scores: list[Scores] = [(Score(n), Score(n + (n < 3))) for n in range(12)]
    assert measured(pairs, scores)["tie_rate"] == 0.75
    # Too few of those: liked against disliked anywhere, 0 against 1 and 0.
    assert votes("+--", [0, 1, 0])["tie_rate"] == 0.5
    assert "tie_rate" not in votes("++", [0, 0])


def test_swap_consistency_is_there_for_scorers_that_compare() -> None:
    items = [item(("a", True), ("b", False))]
    assert measured(items, [(Score(1, 1.0), Score(0, 0.5))])["swap_consistency"] == 0.75
    assert "swap_consistency" not in measured(items, [(Score(1), Score(0))])


@pytest.mark.parametrize("opinion", [lambda quality, text: 3.0, lambda quality, text: -quality])
def test_a_judge_that_says_nothing_of_use_has_no_spread(opinion: Opinion) -> None:
    made: Crowd = crowd(5)
    assert measured(made.items, made.judged(opinion))["spread"] == 0
