"""The loop answers intents and starts iterations; here on the fake engine, without a trainer."""

import asyncio
from pathlib import Path

from daemon.loop import Loop, look
from daemon.runtime import Runtime
from policies.fake_engine import FakeEngine, FakeLimits
from store.db import Store
from store.records import Intent, IntentKind, IntentStatus, Stage
from tests.daemon.conftest import run, runtime_with, settle_one

ONE = "it0001-00000001"


def intend(runtime: Runtime, kind: IntentKind, name: str = "i1", **arguments: object) -> None:
    intent = Intent(name, 1.0, kind, "ann", "because", dict(arguments), IntentStatus.PENDING)
    runtime.store.intents.add(intent)


def test_pause_and_resume_are_remembered_and_audited(runtime: Runtime) -> None:
    loop = Loop(runtime)

    async def work() -> None:
        intend(runtime, IntentKind.PAUSE)
        await loop.tick()
        assert runtime.store.state.get("paused") is True
        assert "paused" in runtime.store.state.get("schedule")["waiting_for"][0]
        intend(runtime, IntentKind.RESUME, "i2")
        await loop.tick()

    run(work, runtime)
    assert runtime.store.state.get("paused") is False
    assert [entry.action for entry in runtime.store.audit.list()] == ["resume", "pause"]
    assert runtime.store.intents.pending() == []


def test_a_rollback_intent_is_carried_out(runtime: Runtime) -> None:
    async def work() -> None:
        await settle_one(runtime, ONE)
        intend(runtime, IntentKind.ROLLBACK)
        await Loop(runtime).tick()

    run(work, runtime)
    assert runtime.store.adapters.active() is None
    assert runtime.store.intents.get("i1").outcome == {"serving": "base"}


def test_what_cannot_be_done_is_refused_with_its_reason_and_the_loop_goes_on(runtime: Runtime) -> None:
    async def work() -> None:
        intend(runtime, IntentKind.ROLLBACK)
        intend(runtime, IntentKind.PROMOTE, "i2", version="it0009-00000009")
        intend(runtime, IntentKind.PAUSE, "i3")
        await Loop(runtime).tick()

    run(work, runtime)
    found = [runtime.store.intents.get(name) for name in ("i1", "i2", "i3")]
    assert [intent.status.value for intent in found] == ["refused", "failed", "done"]
    assert "nothing to roll back" in found[0].outcome["message"]
    assert "it0009-00000009" in found[1].outcome["message"]


def test_a_train_intent_without_feedback_ends_with_what_is_missing(runtime: Runtime) -> None:
    loop = Loop(runtime)

    async def work() -> None:
        intend(runtime, IntentKind.TRAIN)
        await loop.tick()
        assert loop.task is not None
        await asyncio.wait([loop.task])
        await loop.tick()

    run(work, runtime)
    intent = runtime.store.intents.get("i1")
    assert intent.status is IntentStatus.DONE
    assert intent.outcome["stage"] == "aborted"
    assert "0 training examples" in intent.outcome["reason"]
    last = runtime.store.iterations.last()
    assert last is not None and last.stage is Stage.ABORTED
    assert last.config["daemon"]["gate"]["kl_step_hard"] == runtime.config.daemon.gate.kl_step_hard


def test_an_iteration_interrupted_too_often_is_failed(runtime: Runtime) -> None:
    begun = runtime.store.iterations.begin(trigger="test", incumbent=None, config={})
    runtime.store.iterations.move(begun.id, Stage.TRAINING, changes={"attempt": 3})
    run(Loop(runtime).recover, runtime)
    ended = runtime.store.iterations.get(begun.id)
    assert ended.stage is Stage.FAILED
    assert "3th time" in (ended.reason or "") or "3" in (ended.reason or "")


def test_an_iteration_whose_snapshot_is_damaged_fails_and_says_so(store: Store, tmp_path: Path) -> None:
    runtime = runtime_with(store, FakeEngine(FakeLimits(verify=False)), tmp_path)
    begun = store.iterations.begin(trigger="test", incumbent=None, config={})
    store.iterations.move(begun.id, Stage.TRAINING)
    runtime.run_directory(begun.id).mkdir(parents=True)
    loop = Loop(runtime)

    async def work() -> None:
        await loop.recover()
        assert loop.task is not None
        await asyncio.wait([loop.task])

    run(work, runtime)
    ended = store.iterations.get(begun.id)
    assert ended.stage is Stage.FAILED
    assert "snapshot.json" in (ended.reason or "")


def test_failures_in_a_row_are_counted_for_the_waiting_time(runtime: Runtime) -> None:
    for stage in (Stage.ACTIVE, Stage.FAILED, Stage.FAILED):
        begun = runtime.store.iterations.begin(trigger="test", incumbent=None, config={})
        runtime.store.iterations.move(begun.id, stage)
    assert look(runtime, running=False).failures == 2
