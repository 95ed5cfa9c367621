"""Agreement with votes never trained on: does the update raise what was liked over what was disliked?

AUC needs no threshold and no calibration; its interval says how little a few votes prove.
"""

import random
from bisect import bisect_left, bisect_right
from collections.abc import Sequence

#: Bootstrap draws of the interval.
DRAWS = 1000


def auc(ups: Sequence[float], downs: Sequence[float]) -> float:
    """Probability that a random up value exceeds a random down value, ties half.

    Raises:
        ZeroDivisionError: one side is empty.
    """
    ordered = sorted(downs)
    # Downs strictly below count one, equal ones a half: the mean of the two insertion points.
    wins = sum(bisect_left(ordered, up) + bisect_right(ordered, up) for up in ups) / 2
    return wins / (len(ups) * len(downs))


def auc_interval(ups: Sequence[float], downs: Sequence[float], *, seed: int) -> tuple[float, float]:
    """90% bootstrap interval, each side resampled by itself so that no draw lacks a class."""
    rng = random.Random(f"auc:{seed}")
    drawn = sorted(auc(rng.choices(ups, k=len(ups)), rng.choices(downs, k=len(downs))) for _ in range(DRAWS))
    return drawn[round(0.05 * (DRAWS - 1))], drawn[round(0.95 * (DRAWS - 1))]


def heldout_metrics(
    changes: Sequence[tuple[bool, float]], *, seed: int, name: str = "heldout"
) -> dict[str, float]:
    """Counts, and AUC with its interval where both labels exist.

    Args:
        changes: per held-out answer its label and its log-probability change, candidate minus the other.
        name: what the metrics are called: "heldout" against the incumbent, "heldout_base" against base.
    """
    ups = [change for label, change in changes if label]
    downs = [change for label, change in changes if not label]
    metrics: dict[str, float] = {f"{name}/n_up": len(ups), f"{name}/n_down": len(downs)}
    if ups and downs:
        low, high = auc_interval(ups, downs, seed=seed)
        metrics |= {f"{name}/auc": auc(ups, downs), f"{name}/auc_low": low, f"{name}/auc_high": high}
    return metrics
