"""The plots: rows of the store in, a chart and the same numbers as a table out."""

import pytest

from api import plots
from api.plots import quantile, spans
from store.history import Limits, Near
from store.judging import Licence
from store.outcomes import Thumbs
from store.records import Activation, AdapterStatus, Stage, StageEntry

NUMBERS = {
    1: {"heldout/auc": 0.6, "heldout/auc_low": 0.4, "heldout/auc_high": 0.8, "kl/base_token": 0.05},
    2: {"kl/base_token": 0.1},
    3: {"heldout/auc": 0.7, "heldout_base/auc": 0.9, "kl/base_token": 4.0},
}


def test_agreement_has_a_row_for_every_iteration_that_has_any_newest_first() -> None:
    plot = plots.agreement(NUMBERS)
    assert plot.chart is not None and plot.names == ("against the incumbent", "against base")
    assert plot.headings == [
        "Iteration",
        "against the incumbent",
        "against the incumbent, low",
        "against the incumbent, high",
        "against base",
    ]
    assert plot.rows == [[3, 0.7, None, None, 0.9], [1, 0.6, 0.4, 0.8, None]]


def test_without_a_single_number_a_plot_is_a_sentence() -> None:
    for plot in (
        plots.agreement({}),
        plots.wins(NUMBERS),
        plots.thumbs([]),
        plots.judges([]),
        plots.phases({}),
    ):
        assert plot.chart is None and plot.rows == () and plot.says


def test_the_budget_is_the_newest_that_candidates_were_held_against() -> None:
    limits = {1: {"kl/base_token": Limits(0.2, 0.4)}, 3: {"kl/base_token": Limits(0.25, 0.45)}}
    chart = str(plots.distance(NUMBERS, limits).chart)
    assert "soft limit" in chart and "hard limit" in chart
    assert ">4<" in chart, "the one that ran away is told by its number"
    assert "limit" not in str(plots.distance(NUMBERS, {}).chart)


def test_thumbs_are_told_with_their_interval() -> None:
    plot = plots.thumbs([Thumbs(None, 5, 15, 3, 1, 0.0, 0.0), Thumbs("it0001-a", 0, 0, 0, 0, 0.0, 0.0)])
    base, first = plot.rows
    assert base[:4] == ["base", 5, 15, 0.25] and base[6:] == [3, 1]
    assert base[4] == pytest.approx(0.112, abs=1e-3) and base[5] == pytest.approx(0.469, abs=1e-3)
    assert first == ["it0001-a", 0, 0, None, None, None, 0, 0]


def licence(iteration: int, scorer: str, **measures: float) -> Licence:
    return Licence(iteration, scorer, "v", False, (), measures, {}, {}, 0.0)


def test_every_scorer_is_a_series_over_the_iterations_it_was_measured_in() -> None:
    history = [licence(2, "rubric", auc=0.55), licence(2, "relevance"), licence(1, "relevance", auc=0.7)]
    plot = plots.judges(history)
    assert plot.names == ("relevance", "rubric")
    assert plot.rows == [[2, None, 0.55], [1, 0.7, None]]


def entries(*moves: tuple[Stage, float]) -> list[StageEntry]:
    return [StageEntry(1, stage, at) for stage, at in moves]


@pytest.mark.parametrize(
    ("moves", "seconds"),
    [
        ([], {}),
        ([(Stage.QUEUED, 0.0)], {}),
        ([(Stage.QUEUED, 0.0), (Stage.TRAINING, 5.0)], {"queued": 5.0}),
        (
            [
                (Stage.TRAINING, 0.0),
                (Stage.EVALUATING, 60.0),
                (Stage.ACTIVE, 70.0),
                (Stage.ROLLED_BACK, 900.0),
            ],
            {"training": 60.0, "evaluating": 10.0},
        ),
        ([(Stage.TRAINING, 0.0), (Stage.CANARY, 60.0), (Stage.ACTIVE, 9000.0)], {"training": 60.0}),
        (
            [(Stage.TRAINING, 0.0), (Stage.QUEUED, 10.0), (Stage.TRAINING, 11.0), (Stage.FAILED, 31.0)],
            {"training": 30.0, "queued": 1.0},
        ),
    ],
)
def test_time_is_that_of_work_and_repeated_work_adds_up(
    moves: list[tuple[Stage, float]], seconds: dict[str, float]
) -> None:
    assert spans(entries(*moves)) == seconds


def test_phases_show_the_newest_and_tell_all() -> None:
    stages = {n: entries((Stage.TRAINING, 0.0), (Stage.ACTIVE, 60.0 * n)) for n in range(1, 31)}
    plot = plots.phases(stages, most=4)
    assert len(plot.rows) == 30 and plot.rows[0] == [30, 1800.0]
    assert str(plot.chart).count("<rect") == 4


def move(id: int, version: str | None = "it0001-a") -> Activation:
    return Activation(id, 0.0, version, None, "gate", "r", AdapterStatus.SUPERSEDED)


def test_latency_is_told_of_moves_with_enough_answers_on_both_sides() -> None:
    near = [Near(1, -float(n), None, 0.1 * n, 10) for n in range(1, 6)]
    near += [Near(1, float(n), 0.05, 0.2, 10) for n in range(4)]
    near += [Near(2, -1.0, None, 9.0, 10)] * 2 + [Near(2, 1.0, None, 9.0, 10)] * 5
    near += [Near(1, 2.0, None, 30.0, 0)]
    plot = plots.swaps([move(2), move(1)], near, minutes=30)
    assert plot.rows == [[1, "it0001-a", 5, 30.0, 48.0, 4, 20.0, 20.0, 30.0]]
    assert plots.swaps([], [], minutes=30).chart is None


@pytest.mark.parametrize(
    ("values", "share", "found"),
    [
        ([1.0], 0.95, 1.0),
        ([1.0, 2.0], 0.5, 1.5),
        ([4.0, 1.0, 2.0, 3.0, 5.0], 0.25, 2.0),
        ([1.0, 3.0], 1.0, 3.0),
    ],
)
def test_quantiles_lie_between_the_nearest_two(values: list[float], share: float, found: float) -> None:
    assert quantile(values, share) == pytest.approx(found)
