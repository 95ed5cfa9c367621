"""A rollback that takes the bad adapter's feedback out of training, and the release that brings it back."""

from dataclasses import replace
from pathlib import Path

import pytest

from daemon.iteration import collect
from daemon.loop import Loop
from daemon.quarantine import learned_by, overtaken
from daemon.runtime import Runtime
from policies.fake_engine import FakeEngine, FakeLimits
from policies.spec import read_snapshot
from store.db import Store
from store.records import Example, Intent, IntentKind, IntentStatus, Iteration, Message, Split, Stage
from tests.daemon.conftest import run, runtime_with, settle_one
from tests.store.conftest import completion, event

ONE, TWO, THREE = "it0001-00000001", "it0002-00000002", "it0003-00000003"

#: d was continued from c, from b, from a; x from a; r was trained from base while d was served, s continues r.
PARENTS = {"a": None, "b": "a", "c": "b", "d": "c", "x": "a", "r": "d", "s": "r"}


@pytest.mark.parametrize(
    ("target", "learned"),
    [("d", ("d", "c", "b", "a")), ("r", ("r",)), ("s", ("s", "r")), ("a", ("a",)), (None, ())],
)
def test_what_is_in_a_versions_weights_begins_where_it_was_last_trained_from_base(
    target: str | None, learned: tuple[str, ...]
) -> None:
    assert learned_by(target, PARENTS, {"r"}) == learned


@pytest.fixture
def runtime(store: Store, tmp_path: Path) -> Runtime:
    """Two votes are enough to train, none is set aside, nobody judges, nothing is repeated."""
    return runtime_with(
        store,
        FakeEngine(FakeLimits(verify=False)),
        tmp_path,
        feedback={"never_train": 0.0, "min_examples": 2, "min_contrast": 0.0},
        judge={"enabled": False},
        policies={"train": {"replay_share": 0.0}},
    )


def vote(store: Store, *names: str) -> None:
    for name in names:
        answer = f"answer-{name}"
        if store.completions.find(answer) is None:
            store.completions.begin(completion(answer, messages=(Message("user", f"About {name}?"),)))
        store.feedback.add(event(name, answer))


async def learn(runtime: Runtime, version: str, *votes: str) -> Iteration:
    """An iteration that learned from these votes and was promoted, or is a canary."""
    vote(runtime.store, *votes)
    ended = await settle_one(runtime, version)
    rows = [Example(ended.id, name, f"answer-{name}", Split.TRAIN, "kto", True, 1.0) for name in votes]
    runtime.store.iterations.add_examples(rows)
    return ended


async def snapshot_ids(runtime: Runtime) -> set[str]:
    """The votes the next iteration would train on."""
    begun = runtime.store.iterations.begin(trigger="test", incumbent=None, config={})
    collected = await collect(runtime, begun)
    runtime.store.iterations.move(begun.id, Stage.FAILED)
    if collected.stage is Stage.ABORTED:
        return set()
    examples = read_snapshot(runtime.run_directory(begun.id)).examples
    return {example.id.removeprefix("answer-").removesuffix("/0") for example in examples}


async def order(runtime: Runtime, kind: IntentKind, name: str, **arguments: object) -> Intent:
    runtime.store.intents.add(
        Intent(name, 1.0, kind, "ann", "it tells lies", dict(arguments), IntentStatus.PENDING)
    )
    await Loop(runtime).answer_intents()
    return runtime.store.intents.get(name)


def test_a_rollback_with_quarantine_keeps_the_votes_out_until_they_are_released(runtime: Runtime) -> None:
    store = runtime.store

    async def work() -> None:
        await learn(runtime, ONE, "good1", "good2")
        await learn(runtime, TWO, "bad1", "bad2")
        await learn(runtime, THREE, "bad3", "good2")
        vote(store, "new1", "new2")
        ended = await order(runtime, IntentKind.ROLLBACK, "i1", version=ONE, quarantine=True)
        assert ended.outcome == {"serving": ONE, "quarantined": 3, "iterations": [2, 3]}
        assert {row.feedback_id for row in store.quarantine.held()} == {"bad1", "bad2", "bad3"}
        assert await snapshot_ids(runtime) == {"new1", "new2"}
        # Something new on a held answer does not bring back what was held of it.
        store.feedback.add(event("other", "answer-bad1", principal="bob"))
        assert await snapshot_ids(runtime) == {"new1", "new2", "bad1"}
        (held,) = [row for row in store.iterations.examples(5) if row.completion_id == "answer-bad1"]
        assert held.feedback_id == "other"
        released = await order(runtime, IntentKind.RELEASE, "i2", iteration=2)
        assert (released.status, released.outcome) == (IntentStatus.DONE, {"released": 2})
        assert await snapshot_ids(runtime) == {"new1", "new2", "bad1", "bad2"}

    run(work, runtime)
    actions = [(entry.action, entry.subject, entry.details) for entry in store.audit.list()]
    assert ("release", "iteration 2", {"released": 2}) in actions
    moved = {"from": THREE, "quarantined": 3, "iterations": [2, 3]}
    assert ("rollback", ONE, moved) in actions
    assert [row.feedback_id for row in store.quarantine.held()] == ["bad3"]


def test_a_rollback_without_it_holds_nothing(runtime: Runtime) -> None:
    async def work() -> Intent:
        await learn(runtime, ONE, "one", "two")
        return await order(runtime, IntentKind.ROLLBACK, "i1")

    assert run(work, runtime).outcome == {"serving": "base"}
    assert runtime.store.quarantine.history() == []
    assert [entry.details for entry in runtime.store.audit.list(1)] == [{"from": ONE}]


def test_a_rollback_that_fails_holds_nothing(runtime: Runtime) -> None:
    async def work() -> Intent:
        await learn(runtime, ONE, "one")
        return await order(runtime, IntentKind.ROLLBACK, "i1", version=ONE, quarantine=True)

    assert run(work, runtime).status is IntentStatus.REFUSED
    assert runtime.store.quarantine.history() == []


def test_what_an_open_canary_learned_from_is_held_with_the_version_it_was_trained_from(
    store: Store, tmp_path: Path
) -> None:
    runtime = runtime_with(
        store, FakeEngine(FakeLimits(verify=False)), tmp_path, daemon={"canary": {"steps": [0.5]}}
    )

    async def work() -> tuple[Intent, Intent]:
        for version, votes in ((ONE, ("one",)), (TWO, ("two",))):
            await learn(runtime, version, *votes)
            trial = store.canaries.open()
            assert trial is not None
            await order(runtime, IntentKind.PROMOTE, f"promote-{version}", version=trial.version)
        await learn(runtime, THREE, "three", "one")
        return (
            await order(runtime, IntentKind.ROLLBACK, "i1", version=ONE, quarantine=True),
            await order(runtime, IntentKind.RELEASE, "i2", iteration=3),
        )

    ended, released = run(work, runtime)
    assert ended.outcome == {"serving": ONE, "quarantined": 2, "iterations": [2, 3]}
    assert released.outcome == {"released": 1} and store.canaries.open() is None
    assert [row.feedback_id for row in store.quarantine.held()] == ["two"]


def test_what_only_the_line_before_a_rebuild_learned_from_is_not_in_the_rebuilt_ones_weights(
    runtime: Runtime,
) -> None:
    store = runtime.store

    async def work() -> Intent:
        await learn(runtime, ONE, "old", "both")
        rebuilt = await learn(runtime, TWO, "both")
        store.metrics.add(rebuilt.id, {"train/from_base": 1.0})
        await learn(runtime, THREE, "old", "both")
        return await order(runtime, IntentKind.ROLLBACK, "i1", quarantine=True)

    assert run(work, runtime).outcome["quarantined"] == 1
    assert [row.feedback_id for row in store.quarantine.held()] == ["old"]


def test_a_release_of_nothing_is_refused(runtime: Runtime) -> None:
    async def work() -> Intent:
        return await order(runtime, IntentKind.RELEASE, "i1", all=True)

    ended = run(work, runtime)
    assert ended.status is IntentStatus.REFUSED
    assert ended.outcome == {"message": "nothing is in quarantine"}
    assert runtime.store.audit.list() == []


def test_votes_held_while_judges_worked_do_not_train(
    runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The snapshot was collected, an operator rolled back with quarantine, then the iteration goes on."""
    import daemon.iteration

    store = runtime.store
    judge = daemon.iteration.judging.judge

    async def slow(runtime: Runtime, iteration: Iteration, preferences: object) -> object:
        await order(runtime, IntentKind.ROLLBACK, "i1", quarantine=True)
        return await judge(runtime, iteration, preferences)

    async def work() -> Iteration:
        await learn(runtime, ONE, "bad")
        # Said of an answer that trained: with it, the vote that trained is looked at again.
        store.feedback.add(event("again", "answer-bad", principal="bob"))
        vote(store, "new")
        monkeypatch.setattr(daemon.iteration.judging, "judge", slow)
        begun = store.iterations.begin(trigger="test", incumbent=ONE, config={})
        return await collect(runtime, begun)

    ended = run(work, runtime)
    assert ended.stage is Stage.ABORTED
    assert ended.reason == "1 of the events collected were put into quarantine meanwhile; the others wait"
    assert store.iterations.examples(ended.id) == []
    assert {item.feedback.id for item in store.feedback.unused()} == {"again", "new"}


def test_only_what_would_train_is_overtaken(store: Store) -> None:
    vote(store, "bad")
    begun = store.iterations.begin(trigger="test", incumbent=None, config={})
    row = Example(begun.id, "bad", "answer-bad", Split.TRAIN, "kto", True, 1.0)
    store.iterations.add_examples([row])
    assert overtaken(store, [row]) is None
    store.quarantine.hold([begun.id], kept=(), actor="ann", reason="why")
    assert overtaken(store, [replace(row, split=Split.NEVER_TRAIN)]) is None
    assert (overtaken(store, [row]) or "").startswith("1 of the events")
