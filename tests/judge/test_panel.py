"""Several scorers' opinions as one."""

from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from judge.calibrate import Calibration
from judge.panel import Opinion, Panel, convene, opinion
from judge.scorer import Score

PLATT = Calibration("platt", slope=1.0, intercept=0.0)
STRICT = Calibration("platt", slope=1.0, intercept=-3.0)


def says(*scores: float | None, scale: Calibration = PLATT) -> Opinion:
    return Opinion(scores, scale)


def test_one_scorer_alone_is_the_panel() -> None:
    panel = convene([says(1.0, 0.0)], "mean", answers=2)
    assert panel.values() == pytest.approx((PLATT.probability(1.0), 0.5))
    assert panel.q(0, 1) == pytest.approx(PLATT.q(1.0, 0.0))
    assert panel.q(1, 0) == pytest.approx(1 - PLATT.q(1.0, 0.0))


def test_the_mean_is_of_probabilities_not_of_scores() -> None:
    panel = convene([says(2.0, 0.0), says(-1.0, 0.0)], "mean", answers=2)
    assert panel.value(0) == pytest.approx((PLATT.probability(2) + PLATT.probability(-1)) / 2)
    assert panel.q(0, 1) == pytest.approx((PLATT.q(2, 0) + PLATT.q(-1, 0)) / 2)


@pytest.mark.parametrize(
    ("gaps", "q"),
    [
        ((2.0, 1.0, -1.0), (PLATT.q(2, 0) + PLATT.q(1, 0)) / 2),
        ((-2.0, -1.0, 1.0), (PLATT.q(-2, 0) + PLATT.q(-1, 0)) / 2),
        ((2.0, -2.0), 0.5),
        ((2.0, 0.0, 0.0), 0.5),
        ((2.0, 0.0), 0.5),
        ((2.0, 2.0, 0.0), PLATT.q(2, 0)),
        ((2.0,), PLATT.q(2, 0)),
    ],
)
def test_a_majority_speaks_for_its_own_side_alone(gaps: tuple[float, ...], q: float) -> None:
    panel = convene([says(gap, 0.0) for gap in gaps], "majority", answers=2)
    assert panel.q(0, 1) == pytest.approx(q)
    assert panel.q(1, 0) == pytest.approx(1 - q)


def test_a_majoritys_value_is_the_median() -> None:
    panel = convene([says(9.0), says(0.0), says(0.0)], "majority", answers=1)
    assert panel.value(0) == pytest.approx(0.5)
    assert panel.standing(0) == 0.5


@pytest.mark.parametrize("opinions", [[], [says(None, None)], [says(None, None), says(None, None)]])
def test_when_all_abstain_so_does_the_panel(opinions: list[Opinion]) -> None:
    panel = convene(opinions, "mean", answers=2)
    assert panel.values() == (None, None)
    assert panel.q(0, 1) is None
    assert panel.standing(0) is None


def test_a_scorer_that_abstains_on_some_answers_does_not_tilt_the_rest() -> None:
    panel = convene([says(0.0, 0.0, 0.0), says(0.0, None, 0.0, scale=STRICT)], "mean", answers=3)
    assert panel.judged == (0, 1, 2)
    assert panel.values() == (0.5, 0.5, 0.5)


def test_an_answer_nobody_judged_has_no_value_and_the_others_keep_theirs() -> None:
    panel = convene([says(1.0, None, 0.0), says(1.0, None, 0.0)], "mean", answers=3)
    assert panel.judged == (0, 2)
    assert panel.value(1) is None and panel.q(0, 1) is None
    assert len(panel.opinions) == 2


def test_scores_become_an_opinion() -> None:
    assert opinion((Score(1.5), None), PLATT).scores == (1.5, None)


def test_standing_is_the_mean_chance_against_the_others() -> None:
    panel = convene([says(2.0, 0.0, 0.0)], "mean", answers=3)
    assert panel.standing(0) == pytest.approx(PLATT.q(2, 0))
    assert panel.standing(1) == pytest.approx((0.5 + PLATT.q(0, 2)) / 2)


ROW = st.lists(st.one_of(st.none(), st.floats(-5, 5)), min_size=4, max_size=4)


@given(st.lists(ROW, max_size=4), st.sampled_from(["mean", "majority"]))
def test_q_is_a_probability_and_its_mirror_image(
    rows: list[list[float | None]], how: Literal["mean", "majority"]
) -> None:
    panel: Panel = convene([says(*row) for row in rows], how, answers=4)
    for one in range(4):
        for other in range(4):
            q, mirrored = panel.q(one, other), panel.q(other, one)
            assert (q is None) == (mirrored is None)
            if q is not None and mirrored is not None:
                assert 0 <= q <= 1
                assert q + mirrored == pytest.approx(1)
    assert all(value is None or 0 <= value <= 1 for value in panel.values())
