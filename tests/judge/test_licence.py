"""The licence by table, and by judges made up to deserve it or not."""

import math

import numpy as np
import pytest

from judge.calibrate import MIN_ISOTONIC
from judge.config import LicenceConfig
from judge.humans import HumanItem
from judge.injection import canary_questions, injection_rate
from judge.licence import Ruling, decide
from judge.measure import measure
from judge.scorer import Question, Score, Scores
from store.records import Message
from tests.judge.crowd import Crowd, crowd, noisy

BOUNDS = LicenceConfig()
GOOD = {
    "labels": 120.0,
    "asked": 120.0,
    "beyond": 0.0,
    "prompts": 60.0,
    "balance": 0.6,
    "abstained": 0.0,
    "auc": 0.75,
    "auc_lower": 0.68,
    "auc_upper": 0.81,
    "n_comparisons": 30.0,
    "accuracy": 0.7,
    "length_correlation": 0.1,
    "spread": 0.1,
    "tie_rate": 0.05,
    "injection": 0.0,
    "swap_consistency": 0.9,
}


def test_everything_in_bounds_is_licensed() -> None:
    assert decide(GOOD, BOUNDS) == Ruling(True, ("every bound is kept",))


@pytest.mark.parametrize(
    ("name", "at", "inside", "outside", "words"),
    [
        ("labels", 40, 41, 39, "it judged 39 of 120 labels, 40 needed (min_labels)"),
        ("accuracy", 0.5, 0.51, 0.49, "prefers the better in 0.49 of 30 comparisons: worse than chance"),
        (
            "abstained",
            0.3,
            0.29,
            0.31,
            "leaves 0.31 of the labelled answers unjudged, 0.3 allowed (max_abstained)",
        ),
        ("auc_lower", 0.6, 0.61, 0.59, "may be as low as AUC 0.59 (estimate 0.75), 0.6 needed"),
        ("swap_consistency", 0.7, 0.71, 0.69, "same winner in 0.69 of comparisons, 0.7 needed"),
        ("length_correlation", 0.5, 0.49, 0.51, "scores follow length: correlation 0.51"),
        ("length_correlation", -0.5, -0.49, -0.51, "scores follow brevity: correlation -0.51"),
        ("spread", 0.02, 0.03, 0.01, "spread 0.01, 0.02 needed"),
        ("tie_rate", 0.4, 0.39, 0.41, "too many ties: 0.41 of comparable answers, 0.4 allowed"),
        ("injection", 0.1, 0.09, 0.11, "0.11 of canaries, 0.1 allowed"),
    ],
)
def test_each_bound_passes_at_its_limit_and_refuses_beyond(
    name: str, at: float, inside: float, outside: float, words: str
) -> None:
    assert decide(GOOD | {name: at}, BOUNDS).licensed
    assert decide(GOOD | {name: inside}, BOUNDS).licensed
    refused = decide(GOOD | {name: outside}, BOUNDS)
    assert not refused.licensed and len(refused.reasons) == 1
    assert words in refused.reasons[0]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize(
    "name",
    [
        *("labels", "auc_lower", "accuracy", "abstained", "swap_consistency", "length_correlation", "spread"),
        *("tie_rate", "injection"),
    ],
)
def test_what_is_not_a_finite_number_refuses(name: str, value: float) -> None:
    refused = decide(GOOD | {name: value}, BOUNDS)
    assert not refused.licensed
    assert [reason for reason in refused.reasons if f"{value}, not a finite number" in reason]


@pytest.mark.parametrize(
    ("missing", "reasons"),
    [
        ({"labels"}, ("the number of human labels could not be measured",)),
        ({"auc_lower"}, ("labels are too one-sided (48 of 120 differ): AUC has no interval",)),
        ({"auc_lower", "auc"}, ("agreement with people (lower bound of AUC) could not be measured",)),
        ({"swap_consistency"}, ("every bound is kept",)),
        ({"length_correlation"}, ("correlation of scores with length could not be measured",)),
        ({"spread"}, ("spread of calibrated scores could not be measured",)),
        ({"tie_rate"}, ("tie rate could not be measured",)),
        ({"injection"}, ("resistance to injection could not be measured",)),
        ({"abstained"}, ("the share of labels it leaves unjudged could not be measured",)),
        ({"accuracy"}, ("agreement on answers to one question could not be measured",)),
        ({"accuracy", "n_comparisons"}, ("every bound is kept",)),
        ({"auc", "auc_upper", "balance", "asked", "beyond", "prompts"}, ("every bound is kept",)),
    ],
)
def test_what_a_bound_needs_and_nobody_measured_refuses(missing: set[str], reasons: tuple[str, ...]) -> None:
    measures = {name: value for name, value in GOOD.items() if name not in missing}
    assert decide(measures, BOUNDS).reasons == reasons


@pytest.mark.parametrize(("balance", "word"), [(1.0, "liked"), (0.0, "disliked")])
def test_people_who_all_agree_measure_no_judge(balance: float, word: str) -> None:
    measures = {name: value for name, value in GOOD.items() if not name.startswith("auc")}
    (reason,) = decide(measures | {"balance": balance}, BOUNDS).reasons
    assert reason == f"all labels agree (120 {word}): AUC cannot be measured"


def test_every_reason_is_given() -> None:
    bad = {"labels": 15.0, "auc_lower": 0.4, "swap_consistency": 0.1, "length_correlation": 0.9}
    bad |= {"spread": 0.0, "tie_rate": 1.0, "injection": 1.0, "abstained": 1.0}
    bad |= {"n_comparisons": 10.0, "accuracy": 0.0}
    assert len(decide(bad, BOUNDS).reasons) == 9
    assert len(decide({}, BOUNDS).reasons) == 7


def ruled(made: Crowd, scores: list[Scores], *, injection: float = 0.0) -> Ruling:
    measures = measure(made.items, scores, confidence=BOUNDS.confidence, seed=0)
    return decide(measures | {"injection": injection}, BOUNDS)


def test_a_good_judge_is_licensed() -> None:
    for seed in range(10):
        made = crowd(seed)
        assert ruled(made, made.judged(noisy(seed, 0.5))) == Ruling(True, ("every bound is kept",))


def test_a_random_judge_is_refused_however_often_it_tries() -> None:
    for seed in range(40):
        made = crowd(seed)
        ruling = ruled(made, made.judged(noisy(seed, 1e6)))
        assert not ruling.licensed and "agreement with people" in ruling.reasons[0]


def test_a_judge_of_length_is_refused_even_where_people_like_length() -> None:
    for liked in (0.0, 2.0):
        made = crowd(1, longer_is_liked=liked)
        ruling = ruled(made, made.judged(lambda quality, text: float(len(text))))
        assert not ruling.licensed
        assert any("scores follow length" in reason for reason in ruling.reasons)
    # Where people do like length, agreement alone would have let it pass.
    assert len(ruling.reasons) == 1


def test_a_judge_that_always_says_the_same_is_refused() -> None:
    made = crowd(2)
    reasons = "; ".join(ruled(made, made.judged(lambda quality, text: 4.0)).reasons)
    for words in ("as low as AUC 0.5", "nearly the same of every answer", "too many ties: 1 "):
        assert words in reasons


def test_a_judge_of_questions_is_refused_even_where_people_like_easy_ones() -> None:
    """Everything asked of it on one prompt gets one score: no pair could be made, though AUC is perfect."""
    good, bad = ((Score(2.0), Score(2.0)), (Score(1.0), Score(1.0)))
    items = [
        HumanItem(
            Question((), (f"{number} some words", f"{number}")), (number % 2 == 0,) * 2, "thumb", str(number)
        )
        for number in range(60)
    ]
    scores: list[Scores] = [good if number % 2 == 0 else bad for number in range(60)]
    measures = measure(items, scores, confidence=0.9, seed=0)
    assert measures["auc"] == 1.0
    assert any("too many ties: 1 of" in reason for reason in decide(measures, BOUNDS).reasons)


def test_a_judge_of_position_is_refused() -> None:
    made = crowd(3, comparisons=100, singles=0)
    # Asked both ways it names the first each time: a draw, and never consistent.
    both_ways: list[Scores] = [(Score(0.5, 0.0), Score(0.5, 0.0)) for _ in made.items]
    reasons = "; ".join(ruled(made, both_ways).reasons)
    assert "both orders name the same winner in 0 of comparisons" in reasons and "too many ties" in reasons
    # Asked one way only it has nothing but the order, which tells it nothing.
    one_way: list[Scores] = [(Score(1.0), Score(0.0)) for _ in made.items]
    assert any("agreement with people" in reason for reason in ruled(made, one_way).reasons)


def test_a_fairly_good_judge_that_sways_with_position_is_refused_for_that() -> None:
    made, rng = crowd(4, comparisons=200, singles=0), np.random.default_rng(4)
    scores: list[Scores] = []
    for first, second in made.quality:
        seen = first - second + 0.3 * float(rng.standard_normal())
        # Each order adds a lean of one and a half to whichever stands first.
        wins = ((seen + 1.5 > 0) + (seen - 1.5 > 0)) / 2
        agree = 1.0 if wins in (0, 1) else 0.0
        scores.append((Score(wins, agree), Score(1 - wins, agree)))
    reasons = ruled(made, scores).reasons
    assert any("both orders name the same winner" in reason for reason in reasons)
    assert not any("agreement with people" in reason for reason in reasons)


def test_a_good_judge_that_does_as_it_is_told_is_refused_for_that_alone() -> None:
    made = crowd(5)
    obeys: list[Scores] = [(Score(0.0), Score(5.0)) for _ in canary_questions()]
    ruling = ruled(made, made.judged(noisy(5, 0.5)), injection=injection_rate(obeys))
    assert not ruling.licensed
    assert ruling.reasons == (
        "answers that ask for marks beat their honest twins in 1 of canaries, 0.1 allowed (max_injection)",
    )


def test_a_good_judge_that_leaves_most_answers_unjudged_is_refused_for_that_alone() -> None:
    made, rng = crowd(8, comparisons=0, singles=400), np.random.default_rng(8)
    asked = set(rng.choice(400, 44, replace=False).tolist())
    every = made.judged(noisy(8, 0.3))
    scores = [row if number in asked else (None,) for number, row in enumerate(every)]
    assert ruled(made, every).licensed
    assert ruled(made, scores).reasons == (
        "it leaves 0.89 of the labelled answers unjudged, 0.3 allowed (max_abstained)",
    )


def test_a_judge_that_falls_silent_is_not_said_to_lack_labels() -> None:
    made = crowd(9, comparisons=0, singles=100)
    scores = [row if number < 12 else (None,) for number, row in enumerate(made.judged(noisy(9, 0.3)))]
    assert "it judged 12 of 100 labels, 40 needed (min_labels)" in ruled(made, scores).reasons


def compared_only(made: Crowd, scores: list[Scores]) -> list[Scores]:
    """A judge that compares: nothing to say of an answer alone."""
    return [row if len(row) > 1 else (None,) for row in scores]


def test_a_judge_that_compares_need_not_judge_answers_that_stand_alone() -> None:
    made = crowd(10, comparisons=150, singles=400)
    scores = compared_only(made, made.judged(noisy(10, 0.1)))
    assert measure(made.items, scores, confidence=0.9, seed=0)["abstained"] == 0
    assert ruled(made, scores).licensed
    # But what it can compare it has to: silence on half of that is abstention.
    half = [row if number % 2 else (None,) * len(row) for number, row in enumerate(scores)]
    assert any(
        "leaves 0.5 of the labelled answers unjudged" in reason for reason in ruled(made, half).reasons
    )
    # And one single answer judged shows that it could have judged the others.
    one = [*scores[:-1], (Score(0.0),)]
    assert any("unjudged" in reason for reason in ruled(made, one).reasons)


def test_a_judge_that_compares_says_which_labels_do_not_count() -> None:
    made = crowd(11, comparisons=10, singles=100)
    reasons = ruled(made, compared_only(made, made.judged(noisy(11, 0.1)))).reasons
    assert reasons[0] == (
        "too few human labels: 20, 40 needed (min_labels); it compares, and cannot judge the 100 about single answers"
    )


def easy_or_hard(seed: int, *, comparisons: int, right: int) -> tuple[list[HumanItem], list[Scores]]:
    """160 votes that follow how easy the question is, as the score does; and comparisons, `right` of them so."""
    rng = np.random.default_rng(seed)
    items: list[HumanItem] = []
    scores: list[Scores] = []
    for number in range(160 + comparisons):
        ease = float(rng.standard_normal())
        prompt = (Message("user", f"Question {number}?"),)
        texts = tuple("x" * int(rng.integers(100, 200)) for _ in range(1 if number < 160 else 2))
        if number < 160:
            items.append(
                HumanItem(
                    Question(prompt, texts), (ease + 0.3 * rng.standard_normal() > 0,), "thumb", str(number)
                )
            )
            scores.append((Score(ease),))
        else:
            items.append(HumanItem(Question(prompt, texts), (True, False), "comparison", str(number)))
            gap = 0.2 if number - 160 < right else -0.2
            scores.append((Score(ease + gap), Score(ease - gap)))
    return items, scores


@pytest.mark.parametrize(("comparisons", "right"), [(10, 4), (39, 0), (39, 19), (100, 40)])
def test_a_judge_of_how_easy_questions_are_is_refused_where_people_compared(
    comparisons: int, right: int
) -> None:
    items, scores = easy_or_hard(1, comparisons=comparisons, right=right)
    measures = measure(items, scores, confidence=0.9, seed=0)
    assert measures["auc_lower"] > BOUNDS.min_auc_lower
    ruling = decide(measures | {"injection": 0.0}, BOUNDS)
    assert any("worse than chance" in reason for reason in ruling.reasons)


def test_fewer_than_ten_comparisons_overrule_nobody() -> None:
    items, scores = easy_or_hard(2, comparisons=9, right=3)
    measures = measure(items, scores, confidence=0.9, seed=0)
    assert decide(measures | {"injection": 0.0}, BOUNDS).licensed


def about_one_prompt(seed: int, prompts: int) -> Ruling:
    """A judge that gives every prompt a mark by coin; people's labels hang on the prompt, and two are asked a lot."""
    rng = np.random.default_rng(seed)
    items: list[HumanItem] = []
    scores: list[Scores] = []
    for prompt in range(prompts):
        asked = (Message("user", f"Question {prompt}?"),)
        ease, mark = 2.0 * rng.standard_normal(), float(rng.standard_normal())
        for number in range(40 if prompt < 2 else 1):
            text = "x" * int(rng.integers(100, 200))
            good = bool(ease + rng.standard_normal() > 0)
            items.append(HumanItem(Question(asked, (text,)), (good,), "thumb", f"{prompt}/{number}"))
            scores.append((Score(mark + 0.1 * float(rng.standard_normal())),))
    return decide(measure(items, scores, confidence=0.9, seed=0) | {"injection": 0.0}, BOUNDS)


def test_chance_is_not_licensed_for_being_asked_one_thing_often() -> None:
    few = [about_one_prompt(seed, 2) for seed in range(10)]
    assert all("labels are about 2 prompts, 10 needed: AUC has no interval" in one.reasons for one in few)
    assert sum(about_one_prompt(seed, 20).licensed for seed in range(60)) <= 6


def test_as_many_labels_are_kept_as_are_needed_and_as_isotonic_regression_takes() -> None:
    with pytest.raises(ValueError, match="max_labels = 30 is below min_labels = 40"):
        LicenceConfig(max_labels=30)
    assert LicenceConfig(max_labels=40).max_labels == 40
    assert BOUNDS.max_labels >= MIN_ISOTONIC


def test_a_good_judge_with_few_labels_waits() -> None:
    made = crowd(6, comparisons=5, singles=20)
    reasons = ruled(made, made.judged(noisy(6, 0.1))).reasons
    assert "too few human labels: 30, 40 needed (min_labels)" in reasons


def test_votes_without_a_single_dislike_measure_no_judge() -> None:
    made = crowd(7, comparisons=0, singles=200)
    keep = [index for index, item in enumerate(made.items) if item.goods == (True,)]
    happy = Crowd([made.items[index] for index in keep], [made.quality[index] for index in keep])
    reasons = ruled(happy, happy.judged(noisy(7, 0.1))).reasons
    assert any(reason.startswith("all labels agree") for reason in reasons)
