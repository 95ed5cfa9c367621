"""Swap attestation: what the engine computes must be what the trainer measured."""

import math
from pathlib import Path

import pytest

from daemon.attest import gap, load_and_attest, worst_gap
from daemon.runtime import Runtime
from policies.fake_engine import FakeLimits
from store.db import Store
from store.errors import AttestationFailed
from store.records import Iteration, Stage
from tests.daemon.conftest import Stale, attestation, candidate_of, run, runtime_with


@pytest.mark.parametrize(
    ("expected", "measured", "difference"),
    [([-1.0, -2.0], [-1.0, -2.5], 0.25), ([], [], 0.0), ([-1.0], [-1.0, -1.0], math.inf)],
)
def test_the_gap_is_a_mean_and_infinite_when_token_counts_differ(
    expected: list[float], measured: list[float], difference: float
) -> None:
    assert gap(expected, measured) == difference


def test_the_worst_row_counts_and_nan_never_passes() -> None:
    assert worst_gap([[-1.0], [-1.0]], [[-1.0], [-1.5]]) == 0.5
    assert worst_gap([[-1.0]], [[math.nan]]) == math.inf
    assert worst_gap([], []) == math.inf


def iteration(store: Store) -> Iteration:
    begun = store.iterations.begin(trigger="test", incumbent=None, config={})
    return store.iterations.move(begun.id, Stage.EVALUATING)


def test_an_adapter_that_computes_what_was_measured_is_attested(runtime: Runtime) -> None:
    async def work() -> None:
        candidate = candidate_of(iteration(runtime.store), "it0001-00000001")
        await load_and_attest(runtime, candidate, await attestation(candidate.version))
        assert await runtime.engine.resident() == (candidate.version,)

    run(work, runtime)
    assert runtime.attested == {"it0001-00000001"}


def test_a_stale_engine_is_caught_and_the_adapter_not_left_in_it(store: Store, tmp_path: Path) -> None:
    runtime = runtime_with(store, Stale(FakeLimits(verify=False)), tmp_path)

    async def work() -> None:
        candidate = candidate_of(iteration(store), "it0001-00000001")
        with pytest.raises(AttestationFailed, match="differ from the trainer's"):
            await load_and_attest(runtime, candidate, await attestation(candidate.version))
        assert await runtime.engine.resident() == ()

    run(work, runtime)
    assert runtime.attested == set()


def test_nothing_to_compare_with_is_no_proof(runtime: Runtime) -> None:
    async def work() -> None:
        with pytest.raises(AttestationFailed, match="no log-probabilities"):
            await load_and_attest(runtime, candidate_of(iteration(runtime.store), "it0001-00000001"), [])

    run(work, runtime)
