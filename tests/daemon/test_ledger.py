"""The KL ledger: paths that add up, budgets that run out, and a beta that answers them."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.iteration import measurements
from daemon.ledger import (
    Entry,
    budgets,
    latest,
    ledger_of,
    next_beta,
    path,
    path_with,
    with_paths,
)
from daemon.limits import GateConfig
from daemon.runtime import Runtime, adapter_path
from daemon.snapshot import trainer_spec
from policies import spec
from store.db import Store
from store.errors import NotFound
from store.records import Adapter, AdapterStatus, Stage
from tests.daemon.conftest import report_of

LIMITS = GateConfig()


def entry(
    number: int,
    step: float,
    base: float,
    *,
    parent: str | None = "x",
    rebuilt: bool = False,
    pull: float = 1.0,
) -> Entry:
    from_base = rebuilt or parent is None
    return Entry(number, f"it{number}", parent, 1.0, step, base, "active", from_base, pull)


CHAIN = (entry(1, 0.1, 0.1, parent=None), entry(2, 0.05, 0.18), entry(3, 0.02, 0.16))


def test_a_path_is_the_sum_of_its_steps() -> None:
    assert [row.path for row in with_paths(CHAIN)] == pytest.approx([0.1, 0.15, 0.17])
    assert path(CHAIN) == pytest.approx(0.17)
    assert path(()) == 0.0


def test_an_adapter_rebuilt_from_base_begins_a_new_path() -> None:
    chain = (*CHAIN, entry(4, 0.3, 0.12, rebuilt=True), entry(5, 0.04, 0.15))
    assert [row.path for row in with_paths(chain)] == pytest.approx([0.1, 0.15, 0.17, 0.12, 0.16])


def test_a_step_nobody_measured_makes_the_path_unknown_and_the_budget_spent() -> None:
    chain = (CHAIN[0], entry(2, math.nan, 0.2), CHAIN[2])
    assert math.isnan(path(chain))
    _, walked = budgets(chain, LIMITS)
    assert (walked.left, walked.share) == (0.0, math.inf)


def test_what_is_left_of_both_budgets() -> None:
    distance, walked = budgets(CHAIN, LIMITS)
    assert (distance.metric, walked.metric) == ("kl/base_token", "kl/path_token")
    assert (distance.spent, distance.left) == (0.16, pytest.approx(LIMITS.kl_base_hard - 0.16))
    assert (walked.spent, walked.share) == (pytest.approx(0.17), pytest.approx(0.17 / LIMITS.kl_path_hard))
    assert [budget.left for budget in budgets((), LIMITS)] == [LIMITS.kl_base_hard, LIMITS.kl_path_hard]


@pytest.mark.parametrize(
    ("row", "beta"),
    [
        (entry(1, 0.15, 0.15, parent=None), 0.1),  # on target
        (entry(1, 0.12, 0.12, parent=None), 0.1 * math.exp(-0.1)),
        (entry(1, 0.18, 0.18, parent=None), 0.1 * math.exp(0.1)),
        (entry(1, 0.0, 0.0, parent=None), 0.1 * math.exp(-0.25)),  # clipped
        (entry(1, 9.9, 8.6, parent=None), 0.1 * math.exp(0.25)),
        (entry(2, 0.01, 0.3), 0.1 * math.exp(0.1)),  # a short step, too far from base
        (entry(2, 0.4, 0.25, rebuilt=True), 0.1),  # the whole way in one run: only the cumulative budget
        (entry(2, math.nan, 0.1), 0.1 * math.exp(0.25)),  # unknown is too much
        (entry(2, 0.1, math.nan), 0.1 * math.exp(0.25)),
        (entry(2, 0.15, 0.1, pull=2.0), 0.2),  # goes on from the beta that was used
        (entry(2, 9.9, 9.9, pull=4.0), 0.4),
        (entry(2, 0.0, 0.0, pull=0.25), 0.025),
    ],
)
def test_more_kl_than_the_target_raises_beta_and_less_lowers_it(row: Entry, beta: float) -> None:
    assert next_beta(0.1, [entry(0, 0.0, 0.0), row], LIMITS) == pytest.approx(beta)


def test_a_run_that_overshot_raises_beta_though_its_scaled_adapter_is_within_budget() -> None:
    with Store.memory() as store:
        first = {"kl/unscaled_step_token": 1.3, "kl/unscaled_base_token": 1.4}
        record(store, None, {**step(0.08, 0.1), **first})
        (row,) = latest(store)
        assert next_beta(0.1, [row], LIMITS) == pytest.approx(0.1 * math.exp(0.25))
        assert (row.step, row.base, path([row])) == (0.08, 0.1, 0.1), "the account is of what is served"
        record(store, row.version, step(0.08, 0.1))
        (older,) = latest(store)
        assert next_beta(0.1, [older], LIMITS) < 0.1, "a run that does not say is taken as it is"


def test_beta_is_the_configured_one_before_anything_was_trained() -> None:
    assert next_beta(0.1, (), LIMITS) == 0.1


@given(
    st.floats(0.001, 10),
    st.floats(0.01, 100),
    st.floats(),
    st.floats(),
    st.booleans(),
)
def test_beta_stays_within_four_times_the_configured_one(
    beta: float, pull: float, step: float, base: float, rebuilt: bool
) -> None:
    row = entry(1, step, base, rebuilt=rebuilt, pull=pull)
    assert beta / 4.0001 <= next_beta(beta, [row], LIMITS) <= beta * 4.0001


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_a_path_never_shrinks_and_is_at_least_its_last_step(steps: list[float]) -> None:
    chain = [
        entry(number, step, 0.1, parent=None if number == 0 else "x") for number, step in enumerate(steps)
    ]
    paths = [row.path for row in with_paths(chain)]
    assert paths == sorted(paths)
    assert paths[-1] >= steps[-1] - 1e-9 or len(steps) == 1


def record(
    store: Store,
    parent: str | None,
    metrics: dict[str, float],
    *,
    stage: Stage = Stage.ACTIVE,
    beta: float = 0.1,
) -> str:
    """A trained iteration as the loop leaves it. Returns its candidate."""
    config = {"policies": {"train": {"beta": beta}}}
    iteration = store.iterations.begin(trigger="test", incumbent=parent, config=config)
    version = f"it{iteration.id:04d}"
    place, status = adapter_path(iteration.id), AdapterStatus.SUPERSEDED
    store.adapters.add(Adapter(version, parent, iteration.id, place, "d" * 64, status, 0.5, 1.0))
    store.metrics.add(iteration.id, {"train/steps": 3.0, **metrics})
    store.iterations.move(iteration.id, stage, changes={"candidate": version})
    return version


def step(kl: float, base: float, **more: float) -> dict[str, float]:
    return {"kl/step_token": kl, "kl/base_token": base} | {
        f"train/{name}": value for name, value in more.items()
    }


def test_the_ledger_of_an_adapter_is_read_from_base_up() -> None:
    with Store.memory() as store:
        one = record(store, None, step(0.1, 0.1))
        two = record(store, one, step(0.05, 0.18))
        record(store, two, step(0.9, 0.9), stage=Stage.REJECTED)
        rows = ledger_of(store, two)
        assert [(row.version, row.outcome, row.scale) for row in rows] == [
            (one, "active", 0.5),
            (two, "active", 0.5),
        ]
        assert rows[-1].path == pytest.approx(0.15)
        assert path_with(store, two, step(0.02, 0.16)) == pytest.approx(0.17)
        assert path_with(store, two, step(0.4, 0.16, from_base=1.0)) == 0.16
        assert path_with(store, None, step(0.2, 0.2)) == 0.2
        assert math.isnan(path_with(store, two, {}))
        assert ledger_of(store, None) == ()
        with pytest.raises(NotFound):
            ledger_of(store, "nothing")


def test_a_rebuilt_adapter_ends_the_chain_though_it_has_a_parent() -> None:
    with Store.memory() as store:
        one = record(store, None, step(0.1, 0.1))
        two = record(store, one, step(0.3, 0.12, from_base=1.0))
        three = record(store, two, step(0.05, 0.15))
        assert [row.version for row in ledger_of(store, three)] == [two, three]
        assert path(ledger_of(store, three)) == pytest.approx(0.17)


def test_an_adapter_its_iteration_passed_over_has_no_numbers_of_its_own() -> None:
    with Store.memory() as store:
        one = record(store, None, step(0.1, 0.1))
        other = Adapter("other", None, 1, adapter_path(1), "e" * 64, AdapterStatus.REJECTED, 1.0, 1.0)
        store.adapters.add(other)
        assert math.isnan(path(ledger_of(store, "other")))
        assert path(ledger_of(store, one)) == 0.1


def test_the_trainer_is_told_the_next_beta_and_the_gate_the_path(runtime: Runtime) -> None:
    one = record(runtime.store, None, step(0.05, 0.05))
    begun = runtime.store.iterations.begin(trigger="test", incumbent=one, config={})
    told = trainer_spec(runtime, begun, version="it0002", incumbent=runtime.store.adapters.get(one))
    assert told.loss.beta == pytest.approx(0.1 * math.exp(-0.25))
    snapshot = spec.Snapshot(spec=told, examples=[], heldout=[], probes=[])
    spec.write_snapshot(runtime.run_directory(begun.id), snapshot)
    report = report_of("it0002", []).model_copy(update={"metrics": step(0.02, 0.06)})
    found = measurements(runtime, begun, report, rebuilt=False)
    assert found["kl/path_token"] == pytest.approx(0.07)
    assert found["train/beta"] == told.loss.beta
    assert (told.kl.path, told.kl.path_hard, found["train/rebuilt"]) == (0.05, LIMITS.kl_path_hard, 0.0)


def test_the_trainer_is_told_every_hard_limit_of_the_gate_and_no_path_nobody_knows(runtime: Runtime) -> None:
    one = record(runtime.store, record(runtime.store, None, step(0.1, 0.1)), {"kl/base_token": 0.1})
    begun = runtime.store.iterations.begin(trigger="test", incumbent=one, config={})
    served = runtime.store.adapters.get(one)
    kl = trainer_spec(runtime, begun, version="it0002", incumbent=served).kl
    assert kl.path is None
    assert (kl.prompt_hard, kl.cluster_hard, kl.sequence_hard, kl.forward_hard) == (
        LIMITS.kl_prompt_hard,
        LIMITS.kl_cluster_hard,
        LIMITS.kl_sequence_hard,
        LIMITS.kl_forward_hard,
    )


def test_a_candidate_rebuilt_beside_an_incumbent_is_told_apart_from_a_first_one(runtime: Runtime) -> None:
    one = record(runtime.store, None, step(0.05, 0.05))
    for incumbent, rebuilt in ((one, True), (None, False)):
        begun = runtime.store.iterations.begin(trigger="test", incumbent=incumbent, config={})
        served = runtime.store.adapters.get(incumbent) if incumbent else None
        told = trainer_spec(runtime, begun, version="it9", incumbent=served, rebuilt=rebuilt)
        snapshot = spec.Snapshot(spec=told, examples=[], heldout=[], probes=[])
        spec.write_snapshot(runtime.run_directory(begun.id, rebuilt=rebuilt), snapshot)
        metrics = {**step(0.4, 0.2, from_base=1.0), "train/rebuilt": 1.0 - rebuilt}
        report = report_of("it9", []).model_copy(update={"metrics": metrics})
        found = measurements(runtime, begun, report, rebuilt=rebuilt)
        assert (told.from_base, found["train/rebuilt"]) == (True, float(rebuilt)), (
            "never by the report's word"
        )


def test_the_latest_entry_is_of_the_newest_that_was_trained_whatever_became_of_it() -> None:
    with Store.memory() as store:
        assert latest(store) == ()
        one = record(store, None, step(0.1, 0.1))
        two = record(store, one, step(0.4, 0.5, beta=0.05), stage=Stage.REJECTED, beta=0.1)
        store.iterations.begin(trigger="test", incumbent=one, config={})
        (row,) = latest(store)
        assert (row.version, row.outcome, row.pull) == (two, "rejected", 0.5)
        assert next_beta(0.2, [row], LIMITS) == pytest.approx(0.2 * 0.5 * math.exp(0.25))
