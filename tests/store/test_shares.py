"""The interval of a share."""

import pytest

from store.shares import wilson


def test_wilson_against_a_calculation_by_hand() -> None:
    # 15 of 20, z = 1.96: (0.75 + 0.096 +- sqrt(0.192 * (0.1875 + 0.048))) / 1.192.
    lower, upper = wilson(0.75, 20, 0.95)
    assert (lower, upper) == (pytest.approx(0.531, abs=1e-3), pytest.approx(0.888, abs=1e-3))
    assert wilson(1.0, 3, 0.9)[1] == 1.0
    assert wilson(0.45, 100, 0.95) == pytest.approx((0.3561, 0.5476), abs=1e-4)
    assert wilson(0.0, 0, 0.95) == (0.0, 1.0)
