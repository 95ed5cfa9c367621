"""q means what it says: simulated judges of known noise, fitted, then held to fresh pairs."""

import json
import math
from dataclasses import fields, replace

import numpy as np
import pytest

from judge.calibrate import Calibration, fit, fit_scored, validate
from judge.humans import Scored, scored
from tests.judge.crowd import SHARPNESS, Opinion, crowd, noisy, sigmoid


@pytest.mark.parametrize(
    ("comparisons", "singles", "kind"),
    [
        (0, 80, "platt"),
        (39, 0, "platt"),
        (40, 0, "pairwise"),
        (40, 600, "pairwise"),
        (0, 499, "platt"),
        (0, 500, "isotonic"),
        (10, 480, "isotonic"),
    ],
)
def test_the_evidence_chooses_the_fit(comparisons: int, singles: int, kind: str) -> None:
    made = crowd(1, comparisons=comparisons, singles=singles)
    calibration = fit(made.items, made.judged(noisy(1, 0.5)))
    assert (calibration.kind, calibration.comparisons) == (kind, comparisons)
    assert calibration.labels == 2 * comparisons + singles


def shares(q: np.ndarray, first: np.ndarray) -> list[tuple[float, float]]:
    """Mean q and the share in which the first was better, for each tenth of q that holds enough pairs."""
    tenths = [(q >= low) & (q < low + 0.1) for low in np.arange(0, 1, 0.1)]
    return [(float(q[here].mean()), float(first[here].mean())) for here in tenths if here.sum() >= 500]


@pytest.mark.parametrize(
    ("noise", "scale"),
    [(0.0, 1.0), (0.7, 1.0), (0.7, 500.0), (2.0, 0.01)],
    ids=["exact", "fair", "wide", "poor"],
)
def test_among_fresh_comparisons_of_one_q_the_better_share_is_q(noise: float, scale: float) -> None:
    made, fresh = crowd(6, comparisons=4000, singles=0), crowd(5, comparisons=16000, singles=0)
    calibration = fit(made.items, made.judged(noisy(6, noise, scale=scale)))
    value = scored(fresh.items, fresh.judged(noisy(5, noise, scale=scale))).value.reshape(-1, 2)
    q = np.array([calibration.q(first, second) for first, second in value])
    found = shares(q, np.array([item.goods[0] for item in fresh.items]))
    assert len(found) >= 6
    for said, came in found:
        assert came == pytest.approx(said, abs=0.05)


@pytest.mark.parametrize(("singles", "kind"), [(499, "platt"), (6000, "isotonic")])
@pytest.mark.parametrize("noise", [0.3, 0.7])
def test_fitted_to_votes_q_is_who_is_the_liked_one_of_two(singles: int, kind: str, noise: float) -> None:
    made, fresh = crowd(6, comparisons=0, singles=singles), crowd(7, comparisons=0, singles=40000)
    calibration = fit(made.items, made.judged(noisy(6, noise)))
    assert calibration.kind == kind
    answers = scored(fresh.items, fresh.judged(noisy(7, noise)))
    value, good = answers.value.reshape(-1, 2), answers.good.reshape(-1, 2)
    decided = good[:, 0] != good[:, 1]
    q = np.array([calibration.q(first, second) for first, second in value[decided]])
    found = shares(q, good[decided, 0])
    assert len(found) >= 6
    for said, came in found:
        assert came == pytest.approx(said, abs=0.07)


def test_comparisons_see_through_what_differs_between_prompts() -> None:
    """A score that moves with the prompt: fitted across prompts q is far too modest, within them it is right."""
    made = crowd(4, comparisons=800, singles=0)
    offsets = np.random.default_rng(4).standard_normal(800) * 3
    values = [
        [quality + offset for quality in row] for row, offset in zip(made.quality, offsets, strict=True)
    ]
    answers = scored(made.items, made.judged(lambda quality, text: quality))
    moved = replace(answers, value=np.concatenate(values))
    apart = replace(moved, question=np.arange(1600))  # the same labels as if each stood alone
    assert fit_scored(moved).q(1.0, 0.0) == pytest.approx(sigmoid(SHARPNESS), abs=0.03)
    assert fit_scored(apart).q(1.0, 0.0) < 0.7


def test_probability_rises_with_the_score_and_matches_the_share_of_likes() -> None:
    for singles in (400, 4000):
        made = crowd(5, comparisons=0, singles=singles)
        calibration = fit(made.items, made.judged(noisy(5, 0.5)))
        p = [calibration.probability(value) for value in np.linspace(-4, 4, 50)]
        assert p == sorted(p) and p[0] >= 0.02 and p[-1] <= 0.98
        answers = scored(made.items, made.judged(noisy(5, 0.5)))
        mean = np.mean([calibration.probability(value) for value in answers.value])
        assert mean == pytest.approx(answers.good.mean(), abs=0.02)


@pytest.mark.parametrize(("comparisons", "singles"), [(0, 100), (60, 0), (0, 600)])
@pytest.mark.parametrize(
    "opinion",
    [
        lambda quality, text: -quality,
        lambda quality, text: 1.0,
        lambda quality, text: 1e-15 * quality,
        lambda quality, text: None,
    ],
)
def test_a_judge_against_people_or_without_an_opinion_is_constant(
    comparisons: int, singles: int, opinion: Opinion
) -> None:
    made = crowd(6, comparisons=comparisons, singles=singles)
    calibration = fit(made.items, made.judged(opinion))
    assert calibration.kind == "constant"
    assert calibration.q(5.0, -5.0) == 0.5
    assert calibration.probability(9.0) == calibration.probability(-9.0)


def test_a_judge_that_tells_prompts_apart_but_not_their_answers_is_constant() -> None:
    made = crowd(11, comparisons=50, singles=0)
    answers = scored(made.items, made.judged(lambda quality, text: 0.0))
    by_prompt = replace(answers, value=answers.question.astype(float))
    assert fit_scored(by_prompt).kind == "constant"


def with_ease(seed: int, *, singles: int, comparisons: int, within: float) -> Scored:
    """Votes whose score follows quality; comparisons whose score follows it by `within`, beside noise."""
    made, rng = crowd(seed, comparisons=comparisons, singles=singles), np.random.default_rng(seed)
    answers = scored(made.items, made.judged(noisy(seed, 0.2)))
    alone = answers.question >= comparisons
    return replace(
        answers, value=np.where(alone, answers.value, within * answers.value + rng.standard_normal())
    )


@pytest.mark.parametrize(("singles", "comparisons"), [(160, 39), (160, 10), (600, 39), (600, 10)])
def test_a_few_comparisons_lost_leave_no_scale_whatever_votes_say(singles: int, comparisons: int) -> None:
    against = with_ease(1, singles=singles, comparisons=comparisons, within=-1.0)
    assert fit_scored(against).kind == "constant"


@pytest.mark.parametrize(("singles", "kind"), [(160, "platt"), (600, "isotonic")])
def test_votes_make_q_no_bolder_than_comparisons_do(singles: int, kind: str) -> None:
    """Within questions the score says nearly nothing; across them it says much."""
    answers = with_ease(2, singles=singles, comparisons=39, within=1.0)
    rng = np.random.default_rng(3)
    pairs = answers.question < 39
    vague = replace(
        answers, value=np.where(pairs, answers.value + 5 * rng.standard_normal(len(pairs)), answers.value)
    )
    votes_only = vague.of(np.unique(vague.prompt[~pairs]))
    votes, bounded, agreed = (fit_scored(one) for one in (votes_only, vague, answers))
    assert votes.kind == bounded.kind == agreed.kind == kind
    assert votes.q(1.0, -1.0) > 0.9
    assert 0.5 < bounded.q(1.0, -1.0) < 0.75
    # Comparisons that bear the votes out leave nearly all of it, and make nothing bolder.
    apart = fit_scored(replace(answers, question=np.arange(len(pairs))))
    assert 0.8 < agreed.q(1.0, -1.0) <= apart.q(1.0, -1.0) + 1e-9
    mean = np.mean([bounded.probability(value) for value in vague.value])
    assert mean == pytest.approx(vague.good.mean(), abs=0.02)


def test_folds_keep_a_prompt_together() -> None:
    """One prompt in many items is on one side of a fold: nothing of what is tested was fitted to."""
    made = crowd(12, comparisons=0, singles=60)
    answers = scored(made.items, made.judged(noisy(12, 0.3)))
    assert validate(replace(answers, prompt=answers.question % 4), seed=0) == {}
    rng = np.random.default_rng(12)
    # A score that knows the prompt and nothing else, and prompts that decide what is liked.
    prompt = answers.question % 6
    liked = rng.permutation(np.array([True, True, True, False, False, False]))[prompt]
    known = replace(answers, prompt=prompt, good=liked, value=prompt.astype(float))
    assert validate(known, seed=0)["calibration/brier"] > 0.2


def test_labels_of_one_kind_make_it_constant() -> None:
    made = crowd(7, comparisons=0, singles=50)
    liked = [item for item in made.items if item.goods == (True,)]
    scores = [row for item, row in zip(made.items, made.judged(noisy(7, 1.0)), strict=True) if item.goods[0]]
    calibration = fit(liked, scores)
    assert calibration.kind == "constant" and calibration.probability(0.0) > 0.9


def test_a_perfect_judge_stays_finite_and_modest() -> None:
    made = crowd(8, comparisons=40, singles=0)
    rows = [[1.0 if good else 0.0 for good in item.goods] for item in made.items]
    answers = scored(made.items, made.judged(lambda quality, text: quality))
    calibration = fit_scored(replace(answers, value=np.concatenate(rows)))
    assert math.isfinite(calibration.slope) and 0.9 < calibration.q(1.0, 0.0) <= 0.98


@pytest.mark.parametrize(("comparisons", "singles"), [(0, 80), (60, 0), (0, 600), (0, 0)])
def test_it_is_written_down_whole_as_plain_json(comparisons: int, singles: int) -> None:
    made = crowd(9, comparisons=comparisons, singles=singles)
    calibration = fit(made.items, made.judged(noisy(9, 0.5)))
    stored = json.loads(json.dumps(calibration.to_json(), allow_nan=False))
    assert set(stored) == {field.name for field in fields(Calibration)}
    assert Calibration.from_json(stored) == calibration


@pytest.mark.parametrize(
    ("calibration", "a", "b", "q"),
    [
        (Calibration("platt", 2.0, 5.0), 1.0, 0.5, sigmoid(1.0)),
        (Calibration("pairwise", 2.0, -5.0), 0.5, 1.0, sigmoid(-1.0)),
        # Both so likely that each probability is clipped: q still sees the difference.
        (Calibration("platt", 2.0, 50.0), 1.0, 0.5, sigmoid(1.0)),
        (Calibration("platt", 2.0, 0.0), 9.0, -9.0, 0.98),
        (Calibration("platt", 2.0, 0.0), -9e9, 9e9, 0.02),
        (Calibration("isotonic", 0.0, 0.0, ((0.0, 0.25), (1.0, 0.75))), 1.0, 0.0, 0.9),
        (Calibration("isotonic", 0.0, 0.0, ((0.0, 0.25), (1.0, 0.75))), 0.5, 0.5, 0.5),
        (Calibration("constant", 0.0, 1.0), 9.0, 0.0, 0.5),
    ],
)
def test_q_by_hand(calibration: Calibration, a: float, b: float, q: float) -> None:
    assert calibration.q(a, b) == pytest.approx(q)
    assert calibration.q(b, a) == pytest.approx(1 - q)


def test_cross_validation_tells_a_good_judge_from_none() -> None:
    made = crowd(10)
    good = validate(scored(made.items, made.judged(noisy(10, 0.3))), seed=0)
    none = validate(scored(made.items, made.judged(noisy(10, 1e6))), seed=0)
    assert good["calibration/brier"] < 0.22 < none["calibration/brier"]
    assert good["calibration/ece"] < 0.15
    assert validate(scored(made.items[:4], made.judged(noisy(10, 0.3))[:4]), seed=0) == {}
