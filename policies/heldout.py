"""Agreement with votes never trained on: does the update raise what was liked over what was disliked?

AUC needs no threshold and no calibration; its interval says how little a few votes prove.
"""

import math
from bisect import bisect_left, bisect_right
from collections.abc import Sequence

#: Normal quantile of a two-sided 90% interval.
Z = 1.6449


def auc(ups: Sequence[float], downs: Sequence[float]) -> float:
    """Probability that a random up value exceeds a random down value, ties half.

    Raises:
        ZeroDivisionError: one side is empty.
    """
    ordered = sorted(downs)
    # Downs strictly below count one, equal ones a half: the mean of the two insertion points.
    wins = sum(bisect_left(ordered, up) + bisect_right(ordered, up) for up in ups) / 2
    return wins / (len(ups) * len(downs))


def auc_interval(ups: Sequence[float], downs: Sequence[float]) -> tuple[float, float]:
    """90% score interval: every value whose own standard error leaves the observed AUC within reach.

    Newcombe, Stat. Med. 25(4), 2006, 559-573, method 5: the variance of Hanley and McNeil (Radiology 143, 1982,
    29-36) at the value in question, both sides counted as of their mean size. At one half that is Mann and Whitney's
    test, so few votes say no more than they can; a percentile bootstrap of five a side does. Ties make it wider than
    need be.

    Raises:
        ZeroDivisionError: one side is empty.
    """
    found, sizes = auc(ups, downs), (len(ups), len(downs))
    return _lower_end(found, *sizes), 1.0 - _lower_end(1.0 - found, *sizes)


def _lower_end(found: float, m: int, n: int) -> float:
    """The smallest AUC that `found` is no more than `Z` standard errors above."""
    size = (m + n) / 2 - 1

    def too_small(theta: float) -> bool:
        variance = theta * (1 - theta) / (m * n)
        variance *= 1 + size * ((1 - theta) / (2 - theta) + theta / (1 + theta))
        return found - theta > Z * math.sqrt(variance)

    low, high = 0.0, found
    for _ in range(50):  # halving: to the last bit of what a share of votes may mean
        middle = (low + high) / 2
        low, high = (middle, high) if too_small(middle) else (low, middle)
    return low


def heldout_metrics(changes: Sequence[tuple[bool, float]], *, name: str = "heldout") -> dict[str, float]:
    """Counts, and AUC with its interval where both labels exist.

    Args:
        changes: per held-out answer its label and its log-probability change, candidate minus the other.
        name: what the metrics are called: "heldout" against the incumbent, "heldout_base" against base.
    """
    ups = [change for label, change in changes if label]
    downs = [change for label, change in changes if not label]
    metrics: dict[str, float] = {f"{name}/n_up": len(ups), f"{name}/n_down": len(downs)}
    if ups and downs:
        low, high = auc_interval(ups, downs)
        metrics |= {f"{name}/auc": auc(ups, downs), f"{name}/auc_low": low, f"{name}/auc_high": high}
    return metrics
