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
    low, high = auc_interval(ups, downs, seed=1)
    assert 0 <= low < auc(ups, downs) < high <= 1
    assert auc_interval(ups, downs, seed=1) == (low, high)


@pytest.mark.parametrize("changes", [[], [(True, 1.0)], [(False, 1.0), (False, 2.0)]])
def test_without_both_labels_there_is_no_auc(changes: list[tuple[bool, float]]) -> None:
    metrics = heldout_metrics(changes, seed=0)
    assert set(metrics) == {"heldout/n_up", "heldout/n_down"}
    assert metrics["heldout/n_up"] + metrics["heldout/n_down"] == len(changes)


def test_agreement_is_measured_on_both_labels() -> None:
    metrics = heldout_metrics([(True, 1.0), (False, -1.0), (True, 2.0)], seed=0)
    assert (metrics["heldout/auc"], metrics["heldout/n_up"], metrics["heldout/n_down"]) == (1.0, 2, 1)
