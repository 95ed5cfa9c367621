"""The interval of a share: one formula for all who show or weigh one."""

import statistics


def wilson(share: float, trials: float, confidence: float) -> tuple[float, float]:
    """Wilson's score interval of a share, two-sided. A tie is half a hit, which makes it a little too wide.
    (0, 1) without trials.
    """
    if not trials:
        return 0.0, 1.0
    z = statistics.NormalDist().inv_cdf((1 + confidence) / 2)
    square = z * z / trials
    middle = (share + square / 2) / (1 + square)
    half = (square * (share * (1 - share) + square / 4)) ** 0.5 / (1 + square)
    return max(0.0, middle - half), min(1.0, middle + half)
