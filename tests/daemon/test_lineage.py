"""Every move of the pointer settles all iterations of the lines it leaves and takes up, so that replay follows."""

import pytest

from daemon.gate import Outcome
from daemon.promote import Order, promote, roll_back
from daemon.runtime import Runtime
from daemon.serve import step_back
from store.db import Store
from store.records import Example, Split, Stage
from tests.daemon.conftest import run, settle_one
from tests.store.conftest import completion, event

NAMES = ("it0001-00000001", "it0002-00000002", "it0003-00000003")
ONE, TWO, THREE = NAMES
ORDER = Order("ann", "because")


async def three(runtime: Runtime) -> None:
    """Versions that were promoted in turn, each trained on a vote of its own: v1, v2, v3."""
    store = runtime.store
    for number, version in enumerate(NAMES, start=1):
        vote = f"v{number}"
        store.completions.begin(completion(f"answer-{vote}"))
        store.feedback.add(event(vote, f"answer-{vote}"))
        ended = await settle_one(runtime, version)
        row = Example(ended.id, vote, f"answer-{vote}", Split.TRAIN, "kto", True, 1.0)
        store.iterations.add_examples([row])


def stages(store: Store) -> list[Stage]:
    """Oldest first."""
    return [one.stage for one in store.iterations.list()][::-1]


A, R = Stage.ACTIVE, Stage.ROLLED_BACK


@pytest.mark.parametrize(
    ("moves", "expected", "learned"),
    [
        ([("back", TWO)], [A, A, R], {"v1", "v2"}),
        ([("back", ONE)], [A, R, R], {"v1"}),
        ([("back", "base")], [R, R, R], set()),
        # Served again, by either door, with all that is in its weights.
        ([("back", "base"), ("back", TWO)], [A, A, R], {"v1", "v2"}),
        ([("back", "base"), ("promote", THREE)], [A, A, A], {"v1", "v2", "v3"}),
        ([("back", ONE), ("back", THREE)], [A, A, A], {"v1", "v2", "v3"}),
        ([("back", None), ("back", None)], [A, R, R], {"v1"}),
        # A person prefers an older one: that says nothing bad of what is left.
        ([("promote", ONE)], [A, A, A], {"v1", "v2", "v3"}),
    ],
)
def test_a_move_settles_every_iteration_of_both_lines(
    runtime: Runtime, moves: list[tuple[str, str | None]], expected: list[Stage], learned: set[str]
) -> None:
    async def work() -> None:
        await three(runtime)
        for how, version in moves:
            await (
                roll_back(runtime, version, ORDER)
                if how == "back"
                else promote(runtime, version or "base", ORDER)
            )

    run(work, runtime)
    store = runtime.store
    assert stages(store) == expected
    assert store.feedback.learned() == learned
    assert store.feedback.unused() == [], "what trained once is used up, wherever its iteration stands"


def test_what_was_left_on_the_way_says_with_whom(runtime: Runtime) -> None:
    async def work() -> None:
        await three(runtime)
        await roll_back(runtime, ONE, ORDER)
        await roll_back(runtime, THREE, ORDER)

    run(work, runtime)
    told = [(entry.stage, entry.note) for entry in runtime.store.iterations.stages(2)[-2:]]
    assert told == [(R, f"left with {THREE}: because"), (A, f"served again with {THREE}: because")]
    assert [entry.stage for entry in runtime.store.iterations.stages(1)][-1] is A
    assert runtime.store.iterations.get(1).reason == "why", (
        "the target of a rollback that was active stays as it is"
    )


def test_what_was_trained_from_base_brings_nothing_else_back(runtime: Runtime) -> None:
    async def work() -> None:
        await three(runtime)
        runtime.store.metrics.add(3, {"train/from_base": 1.0})
        await roll_back(runtime, "base", ORDER)
        await roll_back(runtime, THREE, ORDER)

    run(work, runtime)
    assert stages(runtime.store) == [R, R, A]


def test_a_held_candidate_on_a_line_stays_held(runtime: Runtime) -> None:
    async def work() -> None:
        await settle_one(runtime, ONE)
        await settle_one(runtime, TWO, Outcome.HOLD)
        await settle_one(runtime, THREE)
        await roll_back(runtime, "base", ORDER)

    run(work, runtime)
    assert stages(runtime.store) == [R, Stage.HELD, R]


def test_a_start_that_steps_back_to_a_version_left_before_takes_its_line_up(runtime: Runtime) -> None:
    """Two was left when three was served again, as an earlier release did; at the next start three is broken."""
    store = runtime.store

    async def work() -> None:
        await three(runtime)
        await roll_back(runtime, ONE, ORDER)

    run(work, runtime)
    store.adapters.activate(THREE, actor="old release", reason="before lines were settled")
    three_again = store.adapters.active()
    assert three_again is not None and stages(store) == [A, R, R]
    step_back(store, three_again, "weights do not match", damaged=True)
    active = store.adapters.active()
    assert active is not None and active.version == TWO
    assert stages(store) == [A, A, R]
    assert "weights do not match" in (store.iterations.get(3).reason or "")
