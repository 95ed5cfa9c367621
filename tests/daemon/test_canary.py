"""A canary's decision, as a table, and its life in the loop on the fake engine."""

import math
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon import canary
from daemon.canary import Action, Verdict, arms, decide
from daemon.evidence import Finding, Side, Wealth
from daemon.gate import Outcome
from daemon.live import restore_canary, wait
from daemon.loop import Loop, look
from daemon.promote import Order, kept_versions, promote, roll_back
from daemon.rollout import CanaryConfig
from daemon.runtime import Runtime
from daemon.schedule import due
from daemon.serve import restore_serving
from policies.engine import AdapterRef
from policies.fake_engine import FakeEngine, FakeLimits
from store.canaries import in_canary
from store.db import Store
from store.errors import EngineUnavailable, Invalid
from store.records import AdapterStatus, Canary, CanaryOutcome, Intent, IntentKind, IntentStatus, Stage
from tests.clock import Clock
from tests.daemon.conftest import Stale, run, runtime_with, settle_one
from tests.daemon.voters import answer, vote

ONE, TWO, THREE = "it0001-00000001", "it0002-00000002", "it0003-00000003"
HOUR = 3600.0
SETTINGS = CanaryConfig(steps=(0.05, 0.25), votes=20, min_hours=1.0, max_hours=10.0)
CANARY = Canary(1, ONE, None, 1, 0, 0.05, 0.0, 0.0)
ORDER = Order("ann", "because")


def finding(
    metric: str = "thumbs", *, now: float = 0.0, peak: float = 0.0, votes: tuple[int, int] = (20, 20)
) -> Finding:
    sides = [Side(count, 0.5, 0.4, 0.6) for count in votes]
    return Finding(metric, *sides, Wealth(now, peak, 9, 5), limit=3.0)


FINE = finding()
ERRORS = finding("errors")


@pytest.mark.parametrize(
    ("findings", "hours", "action", "reason"),
    [
        ((FINE, ERRORS), 1.0, Action.WIDEN, "no evidence of harm at 5% of people"),
        ((FINE, ERRORS), 0.99, Action.WAIT, "1.0 of 1 hours"),
        ((finding(votes=(19, 99)), ERRORS), 1.0, Action.WAIT, "19 of 20 votes on the canary's"),
        ((finding(votes=(99, 19)), ERRORS), 1.0, Action.WAIT, "19 of 20 votes on the incumbent's"),
        ((finding(votes=(0, 0)), ERRORS), 9.99, Action.WAIT, "0 of 20"),
        ((finding(votes=(0, 0)), ERRORS), 10.0, Action.HOLD, "undecided for 10 hours"),
        ((FINE, ERRORS), 10.0, Action.WIDEN, "no evidence"),
        ((finding(now=math.log(2)), ERRORS), 1.0, Action.WIDEN, "no evidence"),
        ((finding(now=math.log(2.01)), ERRORS), 1.0, Action.WAIT, "it leans to harm: thumbs"),
        ((FINE, finding("errors", now=1.0)), 10.0, Action.HOLD, "it leans to harm: errors"),
        ((finding(peak=2.99), ERRORS), 1.0, Action.WIDEN, "no evidence"),
        ((finding(peak=3.0), ERRORS), 0.0, Action.ROLL_BACK, "thumbs"),
        ((finding(peak=3.0, now=-5.0), ERRORS), 10.0, Action.ROLL_BACK, "thumbs"),
        ((finding(votes=(0, 0)), finding("errors", peak=9.0)), 0.0, Action.ROLL_BACK, "errors"),
    ],
)
def test_what_becomes_of_a_step(
    findings: tuple[Finding, ...], hours: float, action: Action, reason: str
) -> None:
    verdict = decide(CANARY, findings, hours, SETTINGS)
    assert verdict.action is action
    assert reason in verdict.reason
    assert verdict.share == (0.25 if action is Action.WIDEN else None)


def test_after_the_last_step_it_serves_everybody() -> None:
    last = replace(CANARY, step=1, share=0.25)
    assert decide(last, (FINE,), 1.0, SETTINGS).action is Action.PROMOTE
    # Steps that were taken out of the configuration meanwhile count as passed.
    assert decide(CANARY, (FINE,), 1.0, CanaryConfig()).action is Action.PROMOTE
    assert decide(CANARY, (FINE,), 1.0, CanaryConfig(steps=(0.04, 0.5))).share == 0.5


def test_while_paused_only_harm_moves_anything() -> None:
    assert decide(CANARY, (FINE,), 99.0, SETTINGS, paused=True).action is Action.WAIT
    assert decide(CANARY, (finding(peak=4.0),), 0.0, SETTINGS, paused=True).action is Action.ROLL_BACK


@given(
    st.floats(0, 6),
    st.floats(-9, 9),
    st.integers(0, 50),
    st.integers(0, 50),
    st.floats(0, 200),
    st.booleans(),
)
def test_harm_never_passes_a_step(
    peak: float, now: float, treated: int, control: int, hours: float, paused: bool
) -> None:
    found = finding(peak=peak, now=now, votes=(treated, control))
    verdict: Verdict = decide(CANARY, (found,), hours, SETTINGS, paused=paused)
    if peak >= 3.0:
        assert verdict.action is Action.ROLL_BACK
    if verdict.action in (Action.WIDEN, Action.PROMOTE):
        assert min(treated, control) >= 20 and hours >= 1.0 and not paused


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store(clock: Clock) -> Iterator[Store]:
    with Store.memory(clock=clock) as fresh:
        yield fresh


def made(
    store: Store, clock: Clock, directory: Path, engine: FakeEngine | None = None, **canary: Any
) -> Runtime:
    settings = {"steps": [0.3, 0.6], "votes": 10, "min_hours": 0, "max_hours": 10, **canary}
    found = runtime_with(
        store, engine or FakeEngine(FakeLimits(verify=False)), directory, daemon={"canary": settings}
    )
    return replace(found, clock=clock)


@pytest.fixture
def runtime(store: Store, clock: Clock, tmp_path: Path) -> Runtime:
    return made(store, clock, tmp_path)


def crowd(store: Store, clock: Clock, count: int, *, harm: bool) -> None:
    """Everybody votes once, answered by whom the canary's share says; its people like it, or not."""
    trial = store.canaries.open()
    assert trial is not None
    clock.now += 60

    def commit(tx: Store) -> None:
        for number in range(count):
            person = f"person-{number}"
            own = in_canary(person, trial.version, trial.share)
            vote(tx, person, trial.version if own else trial.incumbent, up=not (own and harm), at=clock.now)

    store.atomic(commit)


def serving(store: Store) -> str:
    active = store.adapters.active()
    return active.version if active else "base"


def test_a_promoted_candidate_becomes_a_canary_where_there_are_steps(runtime: Runtime) -> None:
    async def work() -> tuple[str, ...]:
        await settle_one(runtime, ONE)
        return await runtime.engine.resident()

    assert run(work, runtime) == (ONE,)
    store = runtime.store
    trial = store.canaries.open()
    assert trial is not None and (trial.version, trial.incumbent, trial.share) == (ONE, None, 0.3)
    last = store.iterations.last()
    assert last is not None and (last.stage, last.finished_at) == (Stage.CANARY, None)
    assert (store.adapters.get(ONE).status, serving(store)) == (AdapterStatus.CANARY, "base")
    assert store.iterations.running() is None
    assert kept_versions(store, 1) == (ONE,)
    assert [(entry.actor, entry.action) for entry in store.audit.list()] == [("gate", "canary")]


def test_the_gates_own_canary_without_steps_is_held(store: Store, clock: Clock, tmp_path: Path) -> None:
    runtime = made(store, clock, tmp_path, steps=[])
    ended = run(lambda: settle_one(runtime, ONE, Outcome.CANARY), runtime)
    assert ended.stage is Stage.HELD and "daemon.canary.steps" in (ended.reason or "")
    assert store.canaries.open() is None


def test_step_by_step_a_canary_that_does_no_harm_serves_everybody(
    runtime: Runtime, store: Store, clock: Clock
) -> None:
    loop = Loop(runtime)

    async def work() -> None:
        await settle_one(runtime, ONE)
        await loop.live.step()
        assert store.state.get("canary")["action"] == "wait"
        crowd(store, clock, 100, harm=False)
        await loop.live.step()
        trial = store.canaries.open()
        assert trial is not None and (trial.step, trial.share, serving(store)) == (1, 0.6, "base")
        crowd(store, clock, 100, harm=False)
        await loop.live.step()

    run(work, runtime)
    assert serving(store) == ONE
    (ended,) = store.canaries.list()
    last = store.iterations.last()
    assert last is not None and last.stage is Stage.ACTIVE and last.finished_at is not None
    assert ended.outcome is CanaryOutcome.PROMOTED
    promoted, widened, _ = store.audit.list()
    assert (promoted.actor, promoted.action, widened.action) == ("canary", "promote", "widen")
    assert promoted.details["evidence"]["metrics"]["thumbs"]["treated"]["count"] >= 10
    assert [stage.note for stage in store.iterations.stages(last.id)][-2].startswith("60% of people")
    assert store.adapters.activations()[0].actor == "canary"


def test_a_harmful_canary_goes_back_by_itself_with_its_evidence(
    runtime: Runtime, store: Store, clock: Clock
) -> None:
    loop = Loop(runtime)

    async def work() -> tuple[str, ...]:
        await settle_one(runtime, ONE)
        crowd(store, clock, 60, harm=True)
        await loop.tick()
        return await runtime.engine.resident()

    assert run(work, runtime) == ()
    (ended,) = store.canaries.list()
    assert (ended.outcome, serving(store)) == (CanaryOutcome.ROLLED_BACK, "base")
    assert store.adapters.get(ONE).status is AdapterStatus.ROLLED_BACK
    last = store.iterations.last()
    assert last is not None and last.stage is Stage.ROLLED_BACK and "thumbs" in (last.reason or "")
    entry = store.audit.list()[0]
    assert (entry.actor, entry.action, entry.subject) == ("canary", "rollback", ONE)
    thumbs = entry.details["evidence"]["metrics"]["thumbs"]
    assert thumbs["harm_peak"] >= thumbs["limit"] and thumbs["treated"]["low"] > thumbs["control"]["high"]
    assert store.adapters.activations() == []
    situation = look(runtime, running=False)
    assert situation.cooldown_until == clock.now + 60 * runtime.config.daemon.watch.cooldown_minutes
    waiting = due(situation, runtime.config.daemon.schedule).waiting_for
    assert any("automatic rollback" in reason for reason in waiting)


def test_one_person_cannot_end_a_canary(runtime: Runtime, store: Store, clock: Clock) -> None:
    angry = next(name for name in map("angry-{}".format, range(99)) if in_canary(name, ONE, 0.3))

    async def work() -> None:
        await settle_one(runtime, ONE)
        crowd(store, clock, 60, harm=False)

        def commit(tx: Store) -> None:
            for _ in range(300):
                vote(tx, angry, ONE, up=False, at=clock.now)

        store.atomic(commit)
        trial = store.canaries.open()
        assert trial is not None
        treated, _ = arms(store, trial, runtime.config.daemon.canary)
        assert sum(each.principal == angry for each in treated.votes) == 5
        await Loop(runtime).live.step()

    run(work, runtime)
    assert store.canaries.list()[0].outcome is not CanaryOutcome.ROLLED_BACK


def test_people_of_the_other_side_are_left_out(runtime: Runtime, store: Store, clock: Clock) -> None:
    """The incumbent answered a canary's person while the canary was away."""

    async def work() -> None:
        await settle_one(runtime, ONE)
        for number in range(40):
            answer(store, f"person-{number}", None, at=clock.now)
        trial = store.canaries.open()
        assert trial is not None
        _, control = arms(store, trial, runtime.config.daemon.canary)
        own = {f"person-{n}" for n in range(40) if in_canary(f"person-{n}", ONE, 0.3)}
        assert own and not own & {each.principal for each in control.answers}

    run(work, runtime)


async def looking(runtime: Runtime, clock: Clock, hours: float) -> None:
    """honed looks every ten minutes for so long."""
    loop = Loop(runtime)
    for _ in range(round(6 * hours)):
        clock.now += HOUR / 6
        await loop.live.step()


def test_what_nobody_votes_on_is_held_for_a_person(runtime: Runtime, store: Store, clock: Clock) -> None:
    async def work() -> str:
        await settle_one(runtime, ONE)
        await Loop(runtime).live.step()
        await looking(runtime, clock, 9.5)
        assert store.canaries.open() is not None
        await looking(runtime, clock, 0.5)
        assert store.adapters.get(ONE).status is AdapterStatus.HELD
        assert store.canaries.list()[0].outcome is CanaryOutcome.HELD
        assert look(runtime, running=False).cooldown_until is None
        return await promote(runtime, ONE, ORDER)

    assert run(work, runtime) == ONE


@pytest.mark.parametrize("away", ["off", "paused"])
def test_time_off_or_paused_is_no_time_to_decide_in(
    runtime: Runtime, store: Store, clock: Clock, away: str
) -> None:
    async def work() -> None:
        await settle_one(runtime, ONE)
        await Loop(runtime).live.step()
        await looking(runtime, clock, 9.0)
        if away == "paused":
            store.state.set("paused", True)
            await looking(runtime, clock, 30.0)
            store.state.set("paused", False)
        else:
            clock.now += 30 * HOUR
        await Loop(runtime).live.step()
        await looking(runtime, clock, 0.5)
        assert store.canaries.open() is not None
        await looking(runtime, clock, 0.5)

    run(work, runtime)
    assert store.canaries.list()[0].outcome is CanaryOutcome.HELD


def test_time_off_does_not_pass_a_step(store: Store, clock: Clock, tmp_path: Path) -> None:
    runtime = made(store, clock, tmp_path, min_hours=1)

    async def work() -> None:
        await settle_one(runtime, ONE)
        crowd(store, clock, 100, harm=False)
        await Loop(runtime).live.step()
        clock.now += 2 * HOUR
        await Loop(runtime).live.step()
        assert store.state.get("canary")["reasons"] == ["0.0 of 1 hours"]
        await looking(runtime, clock, 1.0)

    run(work, runtime)
    trial = store.canaries.open()
    assert trial is not None and trial.step == 1


def clocked(store: Store, *looks: tuple[float, bool], trial: Canary = CANARY) -> list[float]:
    """Seconds on the clock after every look (when, paused)."""
    return [round(3600 * canary.hours(store, trial, at, paused=paused), 6) for at, paused in looks]


@pytest.mark.parametrize(
    ("looks", "seconds"),
    [
        ([(0.0, False), (2.0, False), (61.0, False), (100.0, False)], [0, 2, 61, 100]),
        # Ten minutes are a look that took long, more was a silence.
        ([(0.0, False), (600.0, False), (1201.0, False), (1203.0, False)], [0, 600, 600, 602]),
        # However short a pause is.
        ([(0.0, False), (2.0, True), (30.0, True), (40.0, False), (42.0, False)], [0, 2, 2, 2, 4]),
        ([(0.0, True), (300.0, True), (301.0, False), (302.0, False)], [0, 0, 0, 1]),
        # The machine's clock was put back.
        ([(500.0, False), (100.0, False), (102.0, False)], [0, 0, 2]),
    ],
)
def test_the_clock_of_a_step(store: Store, looks: list[tuple[float, bool]], seconds: list[float]) -> None:
    assert clocked(store, *looks) == seconds


@pytest.mark.parametrize(("took", "seconds"), [(0.01, 2.0), (0.5, 10.0), (60.0, 300.0)])
def test_looks_that_take_long_are_rare_but_never_stop_the_clock(took: float, seconds: float) -> None:
    assert wait(took) == seconds < canary.LONGEST_GAP


def test_each_step_and_each_canary_has_a_clock_of_its_own(store: Store) -> None:
    assert clocked(store, (0.0, False), (90.0, False)) == [0, 90]
    assert clocked(store, (92.0, False), (95.0, False), trial=replace(CANARY, step=1)) == [0, 3]
    assert clocked(store, (97.0, False), (99.0, False), trial=replace(CANARY, id=2)) == [0, 2]


class Failing(FakeEngine):
    """An engine that has no room for another adapter."""

    async def load(self, adapter: AdapterRef) -> None:
        raise EngineUnavailable("no room")


@pytest.mark.parametrize(
    ("engine", "outcome", "reason"),
    [
        (Stale, CanaryOutcome.ROLLED_BACK, "it passed, and cannot be served: .*log-probabilities"),
        (Failing, CanaryOutcome.HELD, "it passed, and cannot be served: no room"),
    ],
)
def test_a_canary_that_passed_and_cannot_be_served_does_not_try_for_ever(
    store: Store, clock: Clock, tmp_path: Path, engine: type[FakeEngine], outcome: CanaryOutcome, reason: str
) -> None:
    first = made(store, clock, tmp_path, steps=[0.3])
    again = made(store, clock, tmp_path, engine(FakeLimits(verify=False)), steps=[0.3])

    async def work() -> None:
        await settle_one(first, ONE)
        crowd(store, clock, 100, harm=False)

    run(work, first)
    run(Loop(again).live.step, again)
    if outcome is CanaryOutcome.HELD:
        # The cause may pass, so it is tried again, but only as long as any step may take.
        run(lambda: looking(again, clock, 9.5), again)
        assert store.canaries.open() is not None and serving(store) == "base"
        run(lambda: looking(again, clock, 0.5), again)
    (ended,) = store.canaries.list()
    assert ended.outcome is outcome and re.search(reason, ended.reason or "")
    assert serving(store) == "base" and store.adapters.activations() == []
    entry = store.audit.list()[0]
    assert (entry.actor, entry.details["evidence"]["action"]) == ("canary", "promote")
    last = store.iterations.last()
    assert last is not None and last.stage.value == outcome.value


def test_a_cause_that_passes_lets_a_canary_be_served(store: Store, clock: Clock, tmp_path: Path) -> None:
    first = made(store, clock, tmp_path, steps=[0.3])

    async def work() -> None:
        await settle_one(first, ONE)
        crowd(store, clock, 100, harm=False)

    run(work, first)
    failing = made(store, clock, tmp_path, Failing(FakeLimits(verify=False)), steps=[0.3])
    run(Loop(failing).live.step, failing)
    assert serving(store) == "base" and store.canaries.open() is not None
    run(Loop(first).live.step, first)
    assert serving(store) == ONE


def test_nothing_is_trained_while_a_canary_runs(runtime: Runtime, store: Store) -> None:
    loop = Loop(runtime)

    async def work() -> None:
        await settle_one(runtime, ONE)
        store.intents.add(Intent("i1", 1.0, IntentKind.TRAIN, "ann", "now", {}, IntentStatus.PENDING))
        await loop.tick()

    run(work, runtime)
    intent = store.intents.get("i1")
    assert (
        intent.status is IntentStatus.REFUSED and f"a canary is under way: {ONE}" in intent.outcome["message"]
    )
    assert f"a canary is under way: {ONE}" in store.state.get("schedule")["waiting_for"]
    last = store.iterations.last()
    assert last is not None and (last.id, last.stage) == (1, Stage.CANARY)


def test_whoever_asked_for_the_iteration_hears_that_it_is_a_canary(runtime: Runtime, store: Store) -> None:
    async def work() -> None:
        begun = await settle_one(runtime, ONE)
        store.intents.add(Intent("i1", 1.0, IntentKind.TRAIN, "ann", "now", {}, IntentStatus.PENDING))
        store.intents.update("i1", IntentStatus.RUNNING, {"iteration": begun.id})
        await Loop(runtime).tick()

    run(work, runtime)
    intent = store.intents.get("i1")
    assert (intent.status, intent.outcome["stage"]) == (IntentStatus.DONE, "canary")


@pytest.mark.parametrize("named", [None, "base", ONE])
def test_an_operators_rollback_ends_the_canary_and_leaves_the_pointer(
    runtime: Runtime, store: Store, named: str | None
) -> None:
    async def work() -> str:
        await settle_one(runtime, ONE)
        return await roll_back(runtime, named, ORDER)

    assert run(work, runtime) == "base"
    assert store.canaries.list()[0].outcome is CanaryOutcome.ROLLED_BACK
    assert (store.adapters.activations(), store.adapters.get(ONE).status) == ([], AdapterStatus.ROLLED_BACK)
    entry = store.audit.list()[0]
    assert (entry.actor, entry.action, entry.reason) == ("ann", "rollback", "because")
    # Somebody decided it, so nothing has to cool down.
    assert look(runtime, running=False).cooldown_until is None


def test_an_operators_promotion_finishes_the_canary_now(runtime: Runtime, store: Store) -> None:
    async def work() -> str:
        await settle_one(runtime, ONE)
        return await promote(runtime, ONE, ORDER)

    assert run(work, runtime) == ONE == serving(store)
    assert store.canaries.list()[0].outcome is CanaryOutcome.PROMOTED
    last = store.iterations.last()
    assert last is not None and last.stage is Stage.ACTIVE


async def a_canary_beside(runtime: Runtime, *before: str) -> None:
    """Versions served one after the other, then TWO as a canary beside the last."""
    for version in before:
        await settle_one(runtime, version)
        await promote(runtime, version, ORDER)
    await settle_one(runtime, TWO)


@pytest.mark.parametrize(
    ("move", "outcome", "stage"),
    [("rollback", CanaryOutcome.ROLLED_BACK, Stage.ROLLED_BACK), ("promote", CanaryOutcome.HELD, Stage.HELD)],
)
def test_a_canary_does_not_outlive_its_incumbent(
    runtime: Runtime, store: Store, move: str, outcome: CanaryOutcome, stage: Stage
) -> None:
    async def work() -> None:
        await a_canary_beside(runtime, THREE, ONE)
        await (roll_back(runtime, "base", ORDER) if move == "rollback" else promote(runtime, THREE, ORDER))

    run(work, runtime)
    trial = store.canaries.list()[0]
    assert (trial.incumbent, trial.outcome) == (ONE, outcome)
    assert f"{ONE}, which it was compared with, is no longer served" in (trial.reason or "")
    assert store.iterations.list()[0].stage is stage


def test_a_canary_is_proved_again_before_anybody_is_routed_to_it(
    runtime: Runtime, store: Store, clock: Clock, tmp_path: Path
) -> None:
    run(lambda: settle_one(runtime, ONE), runtime)
    again = made(store, clock, tmp_path)

    async def work() -> tuple[str, ...]:
        await restore_serving(again)
        await Loop(again).recover()
        return await again.engine.resident()

    assert run(work, again) == (ONE,)
    assert again.attested == {ONE}
    assert store.canaries.open() is not None
    last = store.iterations.last()
    assert last is not None and last.stage is Stage.CANARY


def test_a_canary_that_does_not_verify_after_a_restart_is_rolled_back(
    runtime: Runtime, store: Store, clock: Clock, tmp_path: Path
) -> None:
    run(lambda: settle_one(runtime, ONE), runtime)
    again = made(store, clock, tmp_path, Stale(FakeLimits(verify=False)))

    async def work() -> tuple[str, ...]:
        await restore_serving(again)
        return await again.engine.resident()

    assert run(work, again) == ()
    (ended,) = store.canaries.list()
    assert ended.outcome is CanaryOutcome.ROLLED_BACK and "log-probabilities" in (ended.reason or "")
    assert store.audit.list()[0].actor == "start"


def test_a_canary_whose_incumbent_had_to_go_ends_at_the_start(
    runtime: Runtime, store: Store, clock: Clock, tmp_path: Path
) -> None:
    async def work() -> None:
        await a_canary_beside(runtime, ONE)
        store.adapters.activate(None, actor="start", reason="damaged", retire_as=AdapterStatus.RETIRED)
        await restore_canary(runtime)

    run(work, runtime)
    ended = store.canaries.list()[0]
    # Nobody said anything against it: a person decides.
    assert ended.outcome is CanaryOutcome.HELD and f"{ONE}, which it was compared with" in (
        ended.reason or ""
    )
    assert store.adapters.get(TWO).status is AdapterStatus.HELD


def test_a_second_canary_is_held(runtime: Runtime, store: Store) -> None:
    async def work() -> Stage:
        await settle_one(runtime, ONE)
        return (await settle_one(runtime, TWO)).stage

    assert run(work, runtime) is Stage.HELD
    assert "another canary" in (store.iterations.list()[0].reason or "")


def test_orders_for_a_canary_that_ended_meanwhile_change_nothing(runtime: Runtime, store: Store) -> None:
    from daemon.promote import end_canary

    async def work() -> None:
        await settle_one(runtime, ONE)
        trial = store.canaries.open()
        assert trial is not None
        await promote(runtime, ONE, ORDER)
        with pytest.raises(Invalid, match="not open"):
            await end_canary(runtime, trial, CanaryOutcome.ROLLED_BACK, ORDER)

    run(work, runtime)
    assert serving(store) == ONE
