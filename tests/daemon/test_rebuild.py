"""When a second candidate is trained from base, which of two is kept, and that a crash in between repeats nothing."""

import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon import iteration as iterations
from daemon import rebuild
from daemon.gate import Decision, Outcome
from daemon.limits import GateConfig
from daemon.promote import Order, roll_back
from daemon.rebuild import Due, Standing, Trained, choose, kept, outstanding, rebuild_due, standing
from daemon.runtime import Runtime
from policies import spec
from policies.fake_engine import FakeEngine, FakeLimits
from policies.spec import Report, read_snapshot
from store.db import Store
from store.files import write_json
from store.records import Adapter, AdapterStatus, Iteration, Message, Stage
from tests.daemon.conftest import attestation, report_of, run, runtime_with
from tests.daemon.measured import GOOD
from tests.store.conftest import completion, event


def stands(since: int, kl: float | None = 0.1, path: float = 0.1, asked: str | None = None) -> Standing:
    return Standing(since, kl, path, asked)


@pytest.mark.parametrize(
    ("found", "every", "at", "why"),
    [
        (None, 1, 0.0, None),
        (stands(0), 5, 0.8, None),
        (stands(4), 5, 0.8, None),
        (stands(5), 5, 0.8, "5 candidates were trained"),
        (stands(6), 5, 0.8, "6 candidates were trained"),
        (stands(5), 0, 0.8, None),
        (stands(0), 1, 0.8, None),
        (stands(1, 0.35), 5, 0.8, None),
        (stands(1, 0.361), 5, 0.8, "0.361 nats/token from base"),
        (stands(1, 0.44), 5, 1.0, None),
        (stands(1, None), 5, 0.8, None),
        (stands(1, path=1.19), 5, 0.8, None),
        (stands(1, path=1.21), 5, 0.8, "path from base is 1.21 nats/token, 1.2 is"),
        (stands(0, path=1.6), 0, 0.8, "path from base is 1.6 nats/token"),
        (stands(0, path=1.49), 0, 9.0, None),
        (stands(0, path=1.5), 0, 9.0, "1.5 is where one is due"),
        (stands(0, path=math.nan), 0, 9.0, "path from base is not known"),
        (stands(0, path=math.inf), 0, 9.0, "path from base is not known"),
        (stands(1, asked="ann was forgotten"), 0, 9.0, "ann was forgotten"),
    ],
)
def test_when_a_rebuild_is_due(found: Standing | None, every: int, at: float, why: str | None) -> None:
    limits = GateConfig(kl_base_hard=0.45, kl_path_hard=1.5)
    due = rebuild_due(found, every=every, at=at, limits=limits)
    assert (due is None) == (why is None)
    if due is not None and why is not None:
        assert why in due.why
        assert due.asked_for == (found is not None and found.asked_for is not None)


@pytest.mark.parametrize(
    ("asked", "last", "why"),
    [
        (None, 5.0, None),
        ({"reason": "forget ann", "at": 4.0}, 5.0, None),
        ({"reason": "forget ann", "at": 5.0}, 5.0, "forget ann"),
        ({"reason": "forget ann", "at": 6.0}, 5.0, "forget ann"),
        (True, 5.0, "True"),
        ({"reason": "no time"}, 5.0, "no time"),
    ],
)
def test_a_request_stands_until_an_adapter_from_base_came_after_it(
    asked: Any, last: float, why: str | None
) -> None:
    assert outstanding(asked, last) == why


def one(outcome: Outcome, *, rebuilt: bool, auc: float | None = 0.5, kl: float | None = 0.1) -> Trained:
    version = "rebuilt" if rebuilt else "continued"
    metrics = {rebuild.AUC_LOW: auc, rebuild.KL_BASE: kl}
    adapter = Adapter(version, None, 1, Path(version), "d", AdapterStatus.CANDIDATE, 1.0, 1.0)
    decision = Decision(outcome, (), ("why",))
    measured = {name: value for name, value in metrics.items() if value is not None}
    return Trained(adapter, report_of(version, []), measured, decision, rebuilt)


@pytest.mark.parametrize(
    ("continued", "rebuilt", "winner"),
    [
        ({"outcome": Outcome.PROMOTE, "auc": 0.1}, {"outcome": Outcome.CANARY, "auc": 0.9}, "continued"),
        ({"outcome": Outcome.HOLD, "auc": 0.9}, {"outcome": Outcome.CANARY, "auc": 0.1}, "rebuilt"),
        ({"outcome": Outcome.REJECT, "auc": 0.9}, {"outcome": Outcome.HOLD, "auc": 0.1}, "rebuilt"),
        ({"outcome": Outcome.PROMOTE, "auc": 0.6}, {"outcome": Outcome.PROMOTE, "auc": 0.5}, "continued"),
        ({"outcome": Outcome.PROMOTE, "kl": 0.1}, {"outcome": Outcome.PROMOTE, "kl": 0.2}, "continued"),
        ({"outcome": Outcome.PROMOTE}, {"outcome": Outcome.PROMOTE}, "rebuilt"),
        ({"outcome": Outcome.PROMOTE, "auc": None}, {"outcome": Outcome.PROMOTE, "auc": 0.1}, "rebuilt"),
        (
            {"outcome": Outcome.PROMOTE, "auc": 0.2},
            {"outcome": Outcome.PROMOTE, "auc": math.nan},
            "continued",
        ),
        ({"outcome": Outcome.PROMOTE, "kl": math.nan}, {"outcome": Outcome.PROMOTE, "kl": 9.0}, "rebuilt"),
        ({"outcome": Outcome.REJECT, "kl": None}, {"outcome": Outcome.REJECT, "kl": None}, "rebuilt"),
    ],
)
def test_which_of_two_candidates_is_kept(continued: Any, rebuilt: Any, winner: str) -> None:
    a, b = one(**continued, rebuilt=False), one(**rebuilt, rebuilt=True)
    assert [best.candidate.version for best in (choose(a, b)[0], choose(b, a)[0])] == [winner, winner]
    best, passed_over = kept([a, b], Due("5 promotions"))
    assert (best.candidate.version, len(passed_over)) == (winner, 1)
    assert passed_over[0].candidate.version != winner
    assert best.decision.reasons == ("why", passed_over[0].reason)
    assert "5 promotions" in passed_over[0].reason


@pytest.mark.parametrize(
    ("outcome", "winner"),
    [
        (Outcome.PROMOTE, "rebuilt"),
        (Outcome.CANARY, "rebuilt"),
        (Outcome.HOLD, "continued"),
        (Outcome.REJECT, "continued"),
    ],
)
def test_where_something_has_to_go_a_rebuilt_one_that_passes_is_kept(outcome: Outcome, winner: str) -> None:
    continued = one(Outcome.PROMOTE, rebuilt=False, auc=0.9)
    best, _ = choose(continued, one(outcome, rebuilt=True, auc=0.1), asked_for=True)
    assert best.candidate.version == winner


@given(
    *[st.tuples(st.sampled_from(list(Outcome)), st.floats(allow_nan=True), st.floats(allow_nan=True))] * 2,
    st.booleans(),
)  # fmt: skip
def test_a_choice_never_keeps_the_worse_verdict_and_does_not_depend_on_the_order(
    first: tuple[Outcome, float, float], second: tuple[Outcome, float, float], asked: bool
) -> None:
    a = one(first[0], rebuilt=False, auc=first[1], kl=first[2])
    b = one(second[0], rebuilt=True, auc=second[1], kl=second[2])
    best, other = choose(a, b, asked_for=asked)
    assert (best, other) == choose(b, a, asked_for=asked)
    order = list(Outcome)
    worse = order.index(best.decision.outcome) < order.index(other.decision.outcome)
    assert not worse or (asked and best.rebuilt and rebuild.passes(best))


def test_one_candidate_alone_is_kept() -> None:
    only = one(Outcome.HOLD, rebuilt=False)
    assert kept([only], None) == (only, ())
    assert kept([only], Due("the other could not be trained")) == (only, ())


@pytest.fixture
def runtime(store: Store, tmp_path: Path) -> Runtime:
    """Two votes are enough, none is set aside, nobody judges; a rebuild after two promotions."""
    return runtime_with(
        store,
        FakeEngine(FakeLimits(verify=False)),
        tmp_path,
        feedback={"never_train": 0.0, "min_examples": 2, "min_contrast": 0.0},
        judge={"enabled": False},
        policies={"train": {"rebuild_every": 2, "free_memory_mb": 0}},
    )


def vote(store: Store, *names: str) -> None:
    for name in names:
        store.completions.begin(completion(f"c-{name}", messages=(Message("user", f"About {name}?"),)))
        store.feedback.add(event(name, f"c-{name}", not name.startswith("no")))


def trained_as(directory: Path, rows: list[spec.AttestationRow], **metrics: float) -> Report:
    """What the trainer leaves behind when it is done, with these numbers."""
    told = read_snapshot(directory).spec
    measured = {**GOOD, "train/from_base": float(told.from_base), **metrics}
    report = report_of(told.version, rows).model_copy(update={"metrics": measured})
    write_json(directory / spec.REPORT, report.model_dump(mode="json"))
    spec.write_manifest(directory, [spec.SPEC, spec.EXAMPLES, spec.REPORT])
    return report


async def collected(runtime: Runtime, *votes: str) -> Iteration:
    vote(runtime.store, *votes)
    active = runtime.store.adapters.active()
    begun = runtime.store.iterations.begin(
        trigger="test", incumbent=active.version if active else None, config={}
    )
    return await iterations.collect(runtime, begun)


async def finish(runtime: Runtime, it: Iteration, **metrics: dict[str, float]) -> Iteration:
    """The rest of an iteration whose runs left these numbers."""
    for rebuilt in (False, True) if "rebuild" in it.counts else (False,):
        directory = runtime.run_directory(it.id, rebuilt=rebuilt)
        version = read_snapshot(directory).spec.version
        own = metrics.get("rebuilt" if rebuilt else "continued", {})
        trained_as(directory, await attestation(version), **own)
    return await iterations.run(runtime, it)


async def three(runtime: Runtime) -> list[Iteration]:
    """Promoted iterations, the first from base."""
    ended = []
    for number in range(3):
        it = await collected(runtime, *(f"{kind}{number}{i}" for kind in ("yes", "no") for i in range(3)))
        assert "rebuild" not in it.counts
        ended.append(await finish(runtime, it))
        assert ended[-1].stage is Stage.ACTIVE, ended[-1].reason
    return ended


def test_candidates_are_counted_back_to_the_one_from_base(runtime: Runtime) -> None:
    assert standing(runtime.store) is None

    async def work() -> None:
        await three(runtime)
        found = standing(runtime.store)
        assert found == Standing(2, 0.1, pytest.approx(0.2))
        rebuild.request(runtime.store, "ann was forgotten", at=runtime.clock())
        assert rebuild.due_now(runtime) == Due("it was asked for (ann was forgotten)", asked_for=True)
        await roll_back(runtime, None, Order("ann", "dull"))
        assert standing(runtime.store) == Standing(2, 0.1, pytest.approx(0.15), "ann was forgotten")

    run(work, runtime)


def test_a_due_iteration_trains_two_candidates_and_keeps_the_better_one(runtime: Runtime) -> None:
    store = runtime.store

    async def work() -> None:
        await three(runtime)
        it = await collected(runtime, "yes-new", "no-new")
        assert it.counts["rebuild"]["why"].startswith("2 candidates were trained")
        assert "trained from base: 2 candidates" in (store.iterations.stages(it.id)[-1].note or "")
        first, second = (read_snapshot(runtime.run_directory(it.id, rebuilt=r)) for r in (False, True))
        assert runtime.run_directory(it.id, rebuilt=True).name == "0004-rebuild"
        assert (first.spec.start, second.spec.start) == ("incumbent", "base")
        assert first.spec.incumbent == second.spec.incumbent is not None
        assert first.spec.version != second.spec.version
        assert second.spec.optim.learning_rate > first.spec.optim.learning_rate
        assert second.spec.kl.step_soft == second.spec.kl.base_soft
        # All eighteen past votes and the two new ones; the other a quarter of its mix at the most.
        assert len([e for e in second.examples if e.form == "kto"]) == 20
        assert it.counts["replayed"] <= 1 and len(first.examples) <= 4
        better = {"kl/base_token": 0.01}
        ended = await finish(runtime, it, rebuilt=better)
        assert (ended.stage, ended.candidate) == (Stage.ACTIVE, second.spec.version)
        assert "rebuilt from base" in (ended.reason or "")
        adapter, passed_over = (store.adapters.get(s.spec.version) for s in (second, first))
        assert str(adapter.path) == "iterations/0004-rebuild/adapter"
        assert (adapter.parent, adapter.status) == (it.incumbent, AdapterStatus.ACTIVE)
        assert (passed_over.status, str(passed_over.path)) == (
            AdapterStatus.REJECTED,
            "iterations/0004/adapter",
        )
        assert store.metrics.get(it.id)["kl/base_token"] == 0.01
        (told,) = [entry for entry in store.audit.list() if entry.action == "pass over"]
        assert told.subject == first.spec.version and second.spec.version in told.reason
        assert standing(store) == Standing(0, 0.01, 0.01)
        # What only the rebuilt one learned counts, for it is what is served.
        assert store.feedback.unused() == []
        assert it.id in [one.id for one in store.iterations.trained_by("c-yes00")]

    run(work, runtime)


def test_what_only_the_candidate_that_was_passed_over_learned_does_not_count(runtime: Runtime) -> None:
    store = runtime.store

    async def work() -> None:
        await three(runtime)
        it = await collected(runtime, "yes-new", "no-new")
        ended = await finish(runtime, it, continued={"kl/base_token": 0.01})
        replayed = [row for row in store.iterations.examples(it.id) if row.replayed]
        assert len(replayed) == 18
        own = {row.completion_id for row in replayed if row.version is None}
        learned = {
            f"c-{kind}{n}{i}" for kind in ("yes", "no") for n in range(3) for i in range(3)
            if it.id in [x.id for x in store.iterations.trained_by(f"c-{kind}{n}{i}")]
        }  # fmt: skip
        assert learned == own and len(own) == it.counts["replayed"]
        assert ended.candidate == read_snapshot(runtime.run_directory(it.id)).spec.version

    run(work, runtime)


def test_a_crash_between_the_two_runs_repeats_neither(runtime: Runtime, tmp_path: Path) -> None:
    """The first run is sealed, the second is not: taken up again, the first is only read."""

    async def work() -> None:
        await three(runtime)
        it = await collected(runtime, "yes-new", "no-new")
        first, second = (runtime.run_directory(it.id, rebuilt=rebuilt) for rebuilt in (False, True))
        version = read_snapshot(first).spec.version
        trained_as(first, await attestation(version))
        before = {file: file.stat().st_mtime_ns for file in first.iterdir()}
        # There is no model of that name, so the second run's real child ends with a reason.
        ended = await iterations.run(runtime, it)
        assert {file: file.stat().st_mtime_ns for file in first.iterdir()} == before
        assert (second / "trainer.log").is_file() and not (first / "trainer.log").exists()
        assert (ended.stage, ended.candidate) == (Stage.ACTIVE, version)
        (told,) = [e for e in runtime.store.audit.list() if e.action == "one of two failed"]
        assert "the trainer ended with status 1: OSError" in told.reason

    run(work, runtime)


def test_where_neither_could_be_trained_the_iteration_fails(runtime: Runtime) -> None:
    async def work() -> None:
        await three(runtime)
        it = await collected(runtime, "yes-new", "no-new")
        for rebuilt in (False, True):
            (runtime.run_directory(it.id, rebuilt=rebuilt) / spec.SNAPSHOT).unlink()
        ended = await iterations.run(runtime, it)
        assert ended.stage is Stage.FAILED and "snapshot.json" in (ended.reason or "")
        assert {item.feedback.id for item in runtime.store.feedback.unused()} == {"yes-new", "no-new"}

    run(work, runtime)


def test_a_rebuilt_adapter_rolls_back_to_what_was_served_before_it(runtime: Runtime) -> None:
    async def work() -> None:
        before = (await three(runtime))[-1].candidate
        it = await collected(runtime, "yes-new", "no-new")
        await finish(runtime, it, rebuilt={"kl/base_token": 0.01})
        assert await roll_back(runtime, None, Order("ann", "dull")) == before

    run(work, runtime)


async def iterate(runtime: Runtime, name: str, **metrics: dict[str, float]) -> tuple[bool, Iteration]:
    """One more iteration: whether a rebuild was trained in it, and how it ended."""
    it = await collected(runtime, f"yes-{name}", f"no-{name}")
    return "rebuild" in it.counts, await finish(runtime, it, **metrics)


BAD = {"kl/base_token": 9.0}


def test_a_lost_rebuild_comes_again_after_so_many_candidates_promoted_or_not(runtime: Runtime) -> None:
    """Rebuilds are due after two candidates. Rejections neither put one off nor bring one each time."""

    async def work() -> list[tuple[bool, Stage]]:
        await three(runtime)
        better = {"kl/base_token": 0.01}
        ended = [
            await iterate(runtime, "d", continued=better),  # the rebuilt one is lost to the continued one
            await iterate(runtime, "e", continued=BAD),
            await iterate(runtime, "f", continued=BAD, rebuilt=BAD),  # rejected, and so is the rebuilt one
            await iterate(runtime, "g", continued=BAD),
            await iterate(runtime, "h", continued=BAD),
            await iterate(runtime, "i", continued=BAD, rebuilt=better),
        ]
        return [(tried, it.stage) for tried, it in ended]

    active, rejected = Stage.ACTIVE, Stage.REJECTED
    assert run(work, runtime) == [
        (True, active),
        (False, rejected),
        (True, rejected),
        (False, rejected),
        (False, rejected),
        (True, active),
    ]


@pytest.mark.parametrize("step", [math.nan, 1.5], ids=["older than the ledger", "used up"])
def test_a_path_that_is_unknown_or_used_up_is_left_by_a_rebuild(
    store: Store, tmp_path: Path, step: float
) -> None:
    """Also where none is due by number: continued candidates fail, and the rebuilt one begins a path of its own."""
    runtime = runtime_with(
        store,
        FakeEngine(FakeLimits(verify=False)),
        tmp_path,
        feedback={"never_train": 0.0, "min_examples": 2, "min_contrast": 0.0},
        judge={"enabled": False},
        policies={"train": {"rebuild_every": 0, "free_memory_mb": 0}},
    )

    async def work() -> None:
        store.metrics.add((await three(runtime))[-1].id, {"kl/step_token": step})
        found = standing(store)
        assert found is not None and not found.path < runtime.config.daemon.gate.kl_path_hard
        tried, ended = await iterate(runtime, "d")
        assert tried and ended.stage is Stage.ACTIVE
        assert "(continued: reject" in (ended.reason or "")
        found = standing(store)
        assert found is not None and found.path == pytest.approx(0.1)
        assert (await iterate(runtime, "e"))[0] is False

    run(work, runtime)
