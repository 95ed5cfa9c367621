"""The loop answers intents and starts iterations; here on the fake engine, without a trainer."""

import asyncio
import contextlib
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from daemon import promote
from daemon.config import Config
from daemon.loop import Loop, look
from daemon.runtime import Runtime
from policies.engine import AdapterRef
from policies.fake_engine import FakeEngine, FakeLimits
from store.db import Store
from store.records import AdapterStatus, Intent, IntentKind, IntentStatus, Iteration, Stage
from tests.clock import Clock
from tests.daemon.conftest import candidate_of, report_of, run, runtime_with, settle_one
from tests.store.conftest import completion, event
from tests.store.faulty import read_only

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


def test_labels_are_written_down_and_texts_of_ones_own_become_recorded_answers(runtime: Runtime) -> None:
    runtime.store.completions.begin(completion("c1"))

    async def work() -> None:
        intend(runtime, IntentKind.LABEL, completion_id="c1", choice_index=1, good=False)
        intend(runtime, IntentKind.LABEL, "i2", prompt="Name a river.", better="The Rhine.", worse="Paris.")
        await Loop(runtime).tick()

    run(work, runtime)
    written, about = runtime.store.labels.recent(9)
    if written.id == "i1":
        written, about = about, written
    assert (about.completion_id, about.choice_index, about.good) == ("c1", 1, False)
    recorded = runtime.store.completions.get(written.completion_id)
    assert (written.choice_index, written.other_id, written.other_index) == (0, recorded.id, 1)
    assert [choice.text for choice in recorded.choices] == ["The Rhine.", "Paris."]
    assert recorded.source.value == "label" and recorded.messages[-1].content == "Name a river."
    assert {entry.action for entry in runtime.store.audit.list()} == {"label"}
    assert runtime.store.intents.pending() == []


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


def test_who_is_excluded_is_not_written_into_iterations(store: Store, tmp_path: Path) -> None:
    told = {"store": {"directory": tmp_path, "privacy": {"excluded": ["key:ann"]}}}
    engine = FakeEngine(FakeLimits(verify=False))
    runtime = Runtime(Config.model_validate(told), store, engine, tmp_path / "model", "b" * 16)

    async def work() -> None:
        intend(runtime, IntentKind.TRAIN)
        loop = Loop(runtime)
        await loop.tick()
        await loop.stop()

    run(work, runtime)
    last = store.iterations.last()
    assert last is not None and "key:ann" not in str(last.config)
    assert last.config["store"]["privacy"]["redact"]


def test_asking_for_an_iteration_while_one_runs_follows_it(runtime: Runtime) -> None:
    loop = Loop(runtime)

    async def work() -> None:
        intend(runtime, IntentKind.TRAIN)
        intend(runtime, IntentKind.TRAIN, "i2")
        await loop.tick()
        assert loop.task is not None
        await asyncio.wait([loop.task])
        await loop.tick()

    run(work, runtime)
    found = [runtime.store.intents.get(name).outcome["iteration"] for name in ("i1", "i2")]
    assert found == [1, 1]
    assert len(runtime.store.iterations.list()) == 1


class Exploding(FakeEngine):
    """An engine that fails in a way nobody foresaw."""

    async def load(self, adapter: AdapterRef) -> None:
        raise RuntimeError("out of memory")


def test_an_order_that_fails_in_an_unforeseen_way_does_not_stop_the_loop(
    store: Store, tmp_path: Path
) -> None:
    runtime = runtime_with(store, Exploding(FakeLimits(verify=False)), tmp_path)
    held = candidate_of(store.iterations.begin(trigger="test", incumbent=None, config={}), ONE)
    store.iterations.move(1, Stage.HELD)
    store.adapters.add(replace(held, status=AdapterStatus.HELD))
    store.iterations.save_report(1, report_of(ONE, []).model_dump(mode="json"))

    async def work() -> None:
        intend(runtime, IntentKind.PROMOTE, version=ONE)
        intend(runtime, IntentKind.PAUSE, "i2")
        await Loop(runtime).tick()

    run(work, runtime)
    assert store.intents.get("i1").outcome == {"message": "RuntimeError: out of memory"}
    assert store.intents.get("i2").status is IntentStatus.DONE


def test_an_iteration_nobody_works_on_is_failed_and_whoever_asked_is_told(runtime: Runtime) -> None:
    begun = runtime.store.iterations.begin(trigger="test", incumbent=None, config={})
    intend(runtime, IntentKind.TRAIN)
    runtime.store.intents.update("i1", IntentStatus.RUNNING, {"iteration": begun.id})
    run(Loop(runtime).tick, runtime)
    assert runtime.store.iterations.get(begun.id).stage is Stage.FAILED
    assert runtime.store.intents.get("i1").status is IntentStatus.FAILED


def test_whoever_asked_for_an_iteration_that_ended_in_a_crash_is_told_after_it(runtime: Runtime) -> None:
    begun = runtime.store.iterations.begin(trigger="test", incumbent=None, config={})
    intend(runtime, IntentKind.TRAIN)
    runtime.store.intents.update("i1", IntentStatus.RUNNING, {"iteration": begun.id})
    runtime.store.iterations.move(begun.id, Stage.ACTIVE, changes={"reason": "fine"})
    run(Loop(runtime).tick, runtime)
    assert runtime.store.intents.get("i1").outcome["stage"] == "active"


def test_a_stop_in_good_order_does_not_count_as_a_crash(store: Store, tmp_path: Path) -> None:
    runtime = runtime_with(store, FakeEngine(FakeLimits(verify=False)), tmp_path)
    begun = store.iterations.begin(trigger="test", incumbent=None, config={})
    store.iterations.move(begun.id, Stage.TRAINING)
    loop = Loop(runtime)

    async def work() -> None:
        await loop.recover()
        assert store.iterations.get(begun.id).attempt == 2
        await loop.stop()

    run(work, runtime)
    assert store.iterations.get(begun.id).attempt == 1


def test_a_stop_while_an_iteration_settles_does_not_reopen_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun = threading.Event()

    def slow_disk(name: str) -> None:
        if name == "settle.before_commit":
            begun.set()
            time.sleep(0.3)

    monkeypatch.setattr(promote, "failpoint", slow_disk)
    with contextlib.closing(Store.open(tmp_path / "honed.db")) as store:
        runtime = runtime_with(store, FakeEngine(FakeLimits(verify=False)), tmp_path)

        async def work() -> None:
            loop = Loop(runtime)
            loop.task = asyncio.create_task(settle_one(runtime, "it0001-00000001"))
            await asyncio.to_thread(begun.wait, 10)
            await loop.stop()

        run(work, runtime)
        assert [entry.stage for entry in store.iterations.stages(1)][-1] is Stage.ACTIVE
        assert store.iterations.running() is None


def test_an_iteration_interrupted_too_often_is_failed(runtime: Runtime) -> None:
    begun = runtime.store.iterations.begin(trigger="test", incumbent=None, config={})
    runtime.store.iterations.move(begun.id, Stage.TRAINING, changes={"attempt": 3})
    run(Loop(runtime).recover, runtime)
    ended = runtime.store.iterations.get(begun.id)
    assert ended.stage is Stage.FAILED
    assert ended.reason == "interrupted in training on attempt 3; not taken up again"


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


def test_votes_a_failed_iteration_did_not_learn_from_still_count(runtime: Runtime) -> None:
    store = runtime.store
    store.completions.begin(completion("c1", created_at=1.0))
    served = store.iterations.begin(trigger="test", incumbent=None, config={})
    store.iterations.move(served.id, Stage.ACTIVE)
    store.feedback.add(event("f1", created_at=served.created_at + 1))
    failed = store.iterations.begin(trigger="test", incumbent=None, config={})
    store.iterations.move(failed.id, Stage.FAILED)
    assert look(runtime, running=False).new_feedback == 1


def test_where_nothing_can_be_stored_the_loop_waits_and_then_says_why_an_iteration_broke(
    runtime: Runtime,
) -> None:
    loop = Loop(runtime)

    async def out_of_room() -> Iteration:
        raise OSError(28, "No space left on device")

    async def work() -> None:
        begun = runtime.store.iterations.begin(trigger="test", incumbent=None, config={})
        loop.task = asyncio.create_task(out_of_room())
        intend(runtime, IntentKind.PAUSE)
        with read_only(runtime.store):
            for _ in range(2):
                await loop.tick()
            assert runtime.store.iterations.get(begun.id).stage is Stage.QUEUED
            assert runtime.store.intents.get("i1").status is IntentStatus.PENDING
        await loop.tick()
        ended = runtime.store.iterations.get(begun.id)
        assert (ended.stage, ended.reason) == (Stage.FAILED, "OSError: [Errno 28] No space left on device")
        assert runtime.store.intents.get("i1").status is IntentStatus.DONE

    run(work, runtime)


def test_after_the_clock_was_set_back_neither_votes_nor_a_pause_wait_for_it(tmp_path: Path) -> None:
    clock = Clock(1e9)
    with Store.memory(clock=clock) as store:
        runtime = replace(runtime_with(store, FakeEngine(), tmp_path), clock=clock)
        begun = store.iterations.begin(trigger="test", incumbent=None, config={})
        store.iterations.move(begun.id, Stage.ABORTED)
        store.audit.add(actor="watch", action="rollback", subject="base", reason="harm")
        store.completions.begin(completion("c1"))
        store.feedback.add(event("f1", created_at=999.0))
        ahead = look(runtime, running=False)
        assert (ahead.new_feedback, ahead.cooldown_until is not None) == (0, True)
        clock.now = 1000.0
        found = look(runtime, running=False)
        assert (found.new_feedback, found.cooldown_until) == (1, None)
