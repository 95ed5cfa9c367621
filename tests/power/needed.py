"""What the tests that record system calls need of the machine."""

import pytest

from tests.power import trace


def strace() -> None:
    """Without it the other tests still tell something; CI installs it."""
    why = trace.available()
    if why is not None:
        pytest.skip(why)
