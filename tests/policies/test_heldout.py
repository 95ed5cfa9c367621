import random

import pytest

from policies.heldout import auc, auc_interval, heldout_metrics


@pytest.mark.parametrize(
    ("ups", "downs", "wanted"),
    [
        ([2.0], [1.0], 1.0),
        ([1.0], [2.0], 0.0),
        ([1.0], [1.0], 0.5),
        ([1.0, 3.0], [2.0, 3.0], (0 + 0 + 1 + 0.5) / 4),
    ],
)
def test_auc_counts_wins_and_half_of_ties(ups: list[float], downs: list[float], wanted: float) -> None:
    assert auc(ups, downs) == wanted


def test_the_interval_contains_the_value_and_repeats() -> None:
    ups, downs = [0.1, 0.9, 0.4, 0.8], [0.3, 0.2, 0.7]
    low, high = auc_interval(ups, downs)
    assert 0 <= low < auc(ups, downs) < high <= 1
    assert auc_interval(downs, ups) == pytest.approx((1 - high, 1 - low))


def test_the_interval_against_a_calculation_by_hand() -> None:
    # 25 of 25 pairs won: 1 - t = 1.6449 sqrt(t (1 - t) (1 + 4 (1 - t) / (2 - t) + 4 t / (1 + t)) / 25) at t = 0.7211.
    ups, downs = [6.0, 7.0, 8.0, 9.0, 10.0], [1.0, 2.0, 3.0, 4.0, 5.0]
    low, high = auc_interval(ups, downs)
    spread = low * (1 - low) / 25 * (1 + 4 * (1 - low) / (2 - low) + 4 * low / (1 + low))
    assert (1 - low, high) == pytest.approx((1.6449 * spread**0.5, 1.0))
    assert auc_interval(downs, ups) == pytest.approx((0.0, 1 - low))


def simulated(a_side: int, shift: float, runs: int) -> list[tuple[float, float]]:
    """Intervals of runs in which the liked answers rose by `shift` standard deviations more."""
    rng = random.Random(f"{a_side}:{shift}")
    return [
        auc_interval([rng.gauss(shift, 1) for _ in range(a_side)], [rng.gauss(0, 1) for _ in range(a_side)])
        for _ in range(runs)
    ]


@pytest.mark.parametrize("a_side", [5, 12, 20])
def test_votes_that_say_nothing_seldom_prove_anything(a_side: int) -> None:
    found = simulated(a_side, 0.0, 4000)
    assert sum(low > 0.5 for low, _ in found) / len(found) < 0.06
    assert sum(high < 0.5 for _, high in found) / len(found) < 0.06


@pytest.mark.parametrize("a_side", [5, 12, 20])
@pytest.mark.parametrize(("shift", "wanted"), [(0.0, 0.5), (0.7416, 0.7), (1.466, 0.85)])
def test_the_interval_covers_what_it_says(a_side: int, shift: float, wanted: float) -> None:
    found = simulated(a_side, shift, 2000)
    covered = sum(low <= wanted <= high for low, high in found) / len(found)
    assert 0.88 <= covered <= 0.96


@pytest.mark.parametrize("changes", [[], [(True, 1.0)], [(False, 1.0), (False, 2.0)]])
def test_without_both_labels_there_is_no_auc(changes: list[tuple[bool, float]]) -> None:
    metrics = heldout_metrics(changes)
    assert set(metrics) == {"heldout/n_up", "heldout/n_down"}
    assert metrics["heldout/n_up"] + metrics["heldout/n_down"] == len(changes)


def test_agreement_is_measured_on_both_labels() -> None:
    metrics = heldout_metrics([(True, 1.0), (False, -1.0), (True, 2.0)])
    assert (metrics["heldout/auc"], metrics["heldout/n_up"], metrics["heldout/n_down"]) == (1.0, 2, 1)
