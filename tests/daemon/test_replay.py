"""What goes into an iteration's snapshot beside new feedback, and what is written down of it."""

from dataclasses import replace
from pathlib import Path

import pytest

from daemon.iteration import collect
from daemon.runtime import Runtime
from policies.fake_engine import FakeEngine, FakeLimits
from policies.spec import AnchorExample, KtoExample, Snapshot, read_snapshot
from store.db import Store
from store.records import AnchorUse, Choice, FeedbackKind, Iteration, Message, Source, Stage
from tests.daemon.conftest import run, runtime_with
from tests.store.conftest import completion, event


def runtime_of(store: Store, directory: Path, **train: float) -> Runtime:
    return runtime_with(
        store,
        FakeEngine(FakeLimits(verify=False)),
        directory,
        feedback={"never_train": 0.0, "min_examples": 2, "min_contrast": 0.0},
        judge={"enabled": False},
        policies={"train": train},
    )


@pytest.fixture
def runtime(store: Store, tmp_path: Path) -> Runtime:
    return runtime_of(store, tmp_path)


def chat(store: Store, name: str, **changes: object) -> None:
    said = (Choice(0, f"Text of {name}.", "stop", 2),)
    store.completions.begin(
        completion(name, **{"messages": (Message("user", f"About {name}?"),), "choices": said, **changes})
    )


def vote(store: Store, *names: str, adapter: str | None = "it0001-00000001") -> None:
    for name in names:
        chat(store, f"c-{name}", adapter=adapter)
        store.feedback.add(event(name, f"c-{name}"))


async def collected(runtime: Runtime, stage: Stage = Stage.ACTIVE) -> tuple[Iteration, Snapshot]:
    """An iteration as it is sealed; then it ends at a stage."""
    begun = runtime.store.iterations.begin(trigger="test", incumbent=None, config={})
    moved = await collect(runtime, begun)
    snapshot = read_snapshot(runtime.run_directory(begun.id))
    runtime.store.iterations.move(begun.id, stage)
    return moved, snapshot


def forms(snapshot: Snapshot) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for example in snapshot.examples:
        found.setdefault(example.form, set()).add(example.id.removesuffix("/0").removeprefix("c-"))
    return found


def names(prefix: str, count: int) -> list[str]:
    return [f"{prefix}{number}" for number in range(count)]


def test_the_first_iteration_is_all_new(runtime: Runtime) -> None:
    store = runtime.store

    async def work() -> None:
        vote(store, *names("old", 12), adapter=None)
        chat(store, "base-answer")
        it, snapshot = await collected(runtime)
        assert forms(snapshot) == {"kto": set(names("old", 12))}
        assert (it.counts["replayed"], it.counts["anchors"]) == (0, 0)
        assert "rebuild" not in it.counts
        assert not any(row.replayed or row.version for row in store.iterations.examples(it.id))

    run(work, runtime)


def test_a_later_one_repeats_a_quarter_and_anchors_to_base(runtime: Runtime) -> None:
    store = runtime.store

    async def work() -> None:
        vote(store, *names("old", 20))
        await collected(runtime)
        for name in names("base", 10):
            chat(store, name)
        vote(store, *names("new", 12))
        it, snapshot = await collected(runtime, Stage.REJECTED)
        found = forms(snapshot)
        assert (len(found["kto"]), len(found["anchor"])) == (12 + 5, 3)
        assert set(names("new", 12)) < found["kto"] and found["anchor"] < set(names("base", 10))
        assert (it.counts["replayed"], it.counts["anchors"], it.counts["kto_up"]) == (5, 3, 12)
        replayed = {row.feedback_id for row in store.iterations.examples(it.id) if row.replayed}
        assert replayed == found["kto"] - set(names("new", 12))
        uses = store.iterations.anchors(it.id)
        assert uses == [AnchorUse(it.id, use.completion_id) for use in uses]
        assert {use.completion_id for use in uses} == found["anchor"]
        # Replaying uses nothing up and frees nothing: a rejected iteration leaves exactly its new votes unused.
        assert {item.feedback.id for item in store.feedback.unused()} == set(names("new", 12))
        assert store.feedback.learned() == set(names("old", 20))
        anchored = next(iter(found["anchor"]))
        assert [one.id for one in store.iterations.trained_by(anchored)] == [it.id]

    run(work, runtime)


def test_only_the_newest_history_is_looked_at(runtime: Runtime) -> None:
    store = runtime.store
    config = runtime.config.model_copy(
        update={"feedback": runtime.config.feedback.model_copy(update={"max_history": 14})}
    )
    short = replace(runtime, config=config)

    async def work() -> None:
        vote(store, *names("old", 20))
        await collected(short)
        vote(store, *names("new", 12))
        _, snapshot = await collected(short, Stage.REJECTED)
        found = forms(snapshot)["kto"]
        assert set(names("new", 12)) <= found <= {*names("new", 12), "old18", "old19"}

    run(work, short)


def test_the_same_iteration_collected_again_repeats_the_same(runtime: Runtime) -> None:
    store = runtime.store

    async def work() -> None:
        vote(store, *names("old", 20))
        await collected(runtime)
        vote(store, *names("new", 12))
        begun = store.iterations.begin(trigger="test", incumbent=None, config={})
        first = forms(read_snapshot(runtime.run_directory((await collect(runtime, begun)).id)))
        again = forms(read_snapshot(runtime.run_directory((await collect(runtime, begun)).id)))
        assert first == again
        assert {row.feedback_id for row in store.iterations.examples(begun.id)} == first["kto"]

    run(work, runtime)


def test_what_was_taken_back_or_rolled_back_is_not_repeated(runtime: Runtime) -> None:
    store = runtime.store

    async def work() -> None:
        vote(store, *names("gone", 4), *names("kept", 2))
        await collected(runtime)
        vote(store, *names("bad", 6))
        await collected(runtime, Stage.ROLLED_BACK)
        for name in names("gone", 4):
            store.feedback.add(event(f"{name}-back", f"c-{name}", None))
        vote(store, *names("new", 12))
        _, snapshot = await collected(runtime)
        assert forms(snapshot)["kto"] == {*names("new", 12), *names("kept", 2)}

    run(work, runtime)


def test_a_vote_that_changed_is_new_and_not_repeated_beside_itself(runtime: Runtime) -> None:
    store = runtime.store

    async def work() -> None:
        vote(store, *names("old", 2))
        await collected(runtime)
        store.feedback.add(event("changed", "c-old0", False))
        vote(store, *names("new", 12))
        it, snapshot = await collected(runtime)
        labels = {e.id: e.label for e in snapshot.examples if isinstance(e, KtoExample)}
        assert (labels["c-old0/0"], labels["c-old1/0"], len(labels)) == (False, True, 14)
        rows = {row.feedback_id: row.replayed for row in store.iterations.examples(it.id)}
        assert (rows["changed"], rows["old1"], "old0" in rows) == (False, True, False)

    run(work, runtime)


def test_only_answers_that_base_gave_a_person_and_nobody_minds_are_anchors(runtime: Runtime) -> None:
    store = runtime.store

    async def work() -> None:
        vote(store, *names("old", 20))
        await collected(runtime)
        chat(store, "fine")
        chat(store, "adapted", adapter="it0001-00000001")
        chat(store, "sampled", source=Source.SAMPLE)
        chat(store, "opted-out", stored=False, messages=(), choices=())
        chat(store, "disliked")
        store.feedback.add(event("no", "disliked", False))
        vote(store, *names("new", 30))
        await collected(runtime)  # which uses the dislike up
        vote(store, *names("newer", 30))
        _, snapshot = await collected(runtime)
        assert forms(snapshot)["anchor"] == {"fine"}

    run(work, runtime)


def test_anchors_weigh_what_the_other_examples_weigh(runtime: Runtime) -> None:
    store = runtime.store

    async def work() -> None:
        vote(store, *names("old", 4))
        await collected(runtime)
        chat(store, "fine")
        for name in names("new", 20):
            chat(store, f"c-{name}", adapter="it0001-00000001")
            store.feedback.add(event(name, f"c-{name}", 4, kind=FeedbackKind.RATING))
        _, snapshot = await collected(runtime)
        others = [e.weight for e in snapshot.examples if isinstance(e, KtoExample)]
        (anchor,) = [e for e in snapshot.examples if isinstance(e, AnchorExample)]
        assert anchor.weight == pytest.approx(sum(others) / len(others)) and anchor.weight < 0.9

    run(work, runtime)


def test_shares_of_zero_switch_both_off(store: Store, tmp_path: Path) -> None:
    runtime = runtime_of(store, tmp_path, replay_share=0.0, anchor_share=0.0)

    async def work() -> None:
        vote(store, *names("old", 20))
        await collected(runtime)
        chat(store, "fine")
        vote(store, *names("new", 12))
        _, snapshot = await collected(runtime)
        assert forms(snapshot) == {"kto": set(names("new", 12))}

    run(work, runtime)


def test_shares_that_leave_no_room_are_refused() -> None:
    from policies.config import TrainConfig

    with pytest.raises(ValueError, match="replay_share and anchor_share"):
        TrainConfig(replay_share=0.6, anchor_share=0.4)
