"""The live watch in the loop, on the fake engine: harm goes back by itself, everything else stays."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from daemon.evidence import Arm
from daemon.loop import Loop, look
from daemon.promote import Order, promote, roll_back
from daemon.rollout import WatchConfig
from daemon.runtime import Runtime
from daemon.schedule import due
from daemon.watch import Watched, findings, history, over, watched, way_back
from policies.engine import AdapterRef
from policies.fake_engine import FakeEngine, FakeLimits
from store.db import Store
from store.errors import EngineUnavailable
from store.outcomes import Vote
from store.records import AdapterStatus, CompletionStatus, Intent, IntentKind, IntentStatus, Stage
from tests.clock import Clock
from tests.daemon.conftest import Stale, run, runtime_with, settle_one
from tests.daemon.voters import answer, vote, votes

ONE, TWO = "it0001-00000001", "it0002-00000002"
ORDER = Order("ann", "because")


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store(clock: Clock) -> Iterator[Store]:
    with Store.memory(clock=clock) as fresh:
        yield fresh


def made(store: Store, clock: Clock, directory: Path, engine: FakeEngine | None = None) -> Runtime:
    found = runtime_with(store, engine or FakeEngine(FakeLimits(verify=False)), directory)
    return replace(found, clock=clock)


@pytest.fixture
def runtime(store: Store, clock: Clock, tmp_path: Path) -> Runtime:
    return made(store, clock, tmp_path)


def serving(store: Store) -> str:
    active = store.adapters.active()
    return active.version if active else "base"


async def promoted(runtime: Runtime, clock: Clock, *versions: str) -> None:
    """Versions promoted one after the other, each well liked while it served."""
    store = runtime.store
    before: str | None = None
    for version in versions:
        votes(store, before, 60, 20, at=clock.now)
        clock.now += 100
        await settle_one(runtime, version)
        clock.now += 100
        before = version


def test_a_version_that_people_like_less_is_rolled_back_with_the_evidence(
    runtime: Runtime, store: Store, clock: Clock
) -> None:
    loop = Loop(runtime)

    async def work() -> None:
        await promoted(runtime, clock, ONE, TWO)
        await loop.live.step()
        assert store.state.get("watch")["version"] == TWO
        votes(store, TWO, 20, 60, at=clock.now)
        await loop.tick()

    run(work, runtime)
    assert serving(store) == ONE
    assert store.adapters.get(TWO).status is AdapterStatus.ROLLED_BACK
    last = store.iterations.last()
    assert last is not None and last.stage is Stage.ROLLED_BACK and "thumbs" in (last.reason or "")
    entry = store.audit.list()[0]
    assert (entry.actor, entry.action, entry.subject, entry.details["from"]) == (
        "watch",
        "rollback",
        ONE,
        TWO,
    )
    thumbs = entry.details["evidence"]["metrics"]["thumbs"]
    assert thumbs["harm_peak"] >= thumbs["limit"] == 25.0
    assert store.adapters.activations()[0].actor == "watch"
    situation = look(runtime, running=False)
    assert situation.cooldown_until == clock.now + 3600
    waiting = due(situation, runtime.config.daemon.schedule).waiting_for
    assert any("daemon.watch.cooldown_minutes" in reason for reason in waiting)
    later = replace(situation, now=clock.now + 3600)
    assert not any("cooldown" in reason for reason in due(later, runtime.config.daemon.schedule).waiting_for)


def test_what_came_back_by_itself_is_not_watched(runtime: Runtime, store: Store, clock: Clock) -> None:
    """Or two versions that people have come to dislike would take turns for ever."""

    async def work() -> None:
        await promoted(runtime, clock, ONE, TWO)
        votes(store, TWO, 20, 60, at=clock.now)
        await Loop(runtime).live.step()
        clock.now += 100
        votes(store, ONE, 0, 80, at=clock.now)
        await Loop(runtime).live.step()

    run(work, runtime)
    assert serving(store) == ONE and watched(store) is None
    assert store.state.get("watch") is None


def test_a_version_that_is_liked_as_before_stays(runtime: Runtime, store: Store, clock: Clock) -> None:
    async def work() -> None:
        await promoted(runtime, clock, ONE, TWO)
        votes(store, TWO, 150, 50, at=clock.now)
        await Loop(runtime).live.step()

    run(work, runtime)
    assert serving(store) == TWO
    assert store.state.get("watch")["metrics"]["thumbs"]["treated"]["count"] == 200


def test_a_version_whose_every_answer_fails_is_rolled_back_without_a_vote(
    runtime: Runtime, store: Store, clock: Clock
) -> None:
    async def work() -> None:
        await promoted(runtime, clock, ONE)
        for number in range(20):
            answer(store, f"p{number}", ONE, at=clock.now, status=CompletionStatus.FAILED)
        await Loop(runtime).live.step()

    run(work, runtime)
    assert serving(store) == "base"
    assert store.audit.list()[0].reason.startswith("errors")


def test_a_restart_changes_nothing_of_what_is_known(
    runtime: Runtime, store: Store, clock: Clock, tmp_path: Path
) -> None:
    run(lambda: promoted(runtime, clock, ONE, TWO), runtime)
    votes(store, TWO, 4, 5, at=clock.now)
    run(Loop(runtime).live.step, runtime)
    told = store.state.get("watch")
    store.state.set("watch", None)
    again = made(store, clock, tmp_path)
    run(Loop(again).live.step, again)
    assert store.state.get("watch") == told
    votes(store, TWO, 5, 60, at=clock.now)

    async def go_on() -> None:
        await Loop(again).live.step()

    run(go_on, again)
    assert serving(store) == ONE


def test_history_is_what_was_said_before_the_promotion(runtime: Runtime, store: Store, clock: Clock) -> None:
    run(lambda: promoted(runtime, clock, ONE), runtime)
    one = watched(store)
    assert one is not None
    before = history(store, one, WatchConfig())
    assert (len(before.votes), sum(vote.up for vote in before.votes)) == (80, 60)
    # Late votes on the base's answers, and another look.
    votes(store, None, 0, 30, at=clock.now)
    assert history(store, one, WatchConfig()) == before
    assert len(history(store, one, WatchConfig(votes=10)).votes) == 10
    assert sorted(vote.at for vote in before.votes) != [vote.at for vote in before.votes]


@pytest.mark.parametrize("move", ["rollback", "start"])
def test_only_promotions_are_watched(runtime: Runtime, store: Store, clock: Clock, move: str) -> None:
    async def work() -> None:
        assert watched(store) is None
        await promoted(runtime, clock, ONE, TWO)
        assert watched(store) == Watched(2, TWO, ONE, store.adapters.activations()[0].at)
        if move == "rollback":
            await roll_back(runtime, None, ORDER)
        else:
            store.adapters.activate(ONE, actor="start", reason="stale", retire_as=AdapterStatus.ROLLED_BACK)
        assert serving(store) == ONE and watched(store) is None
        # What a person promotes again is watched again.
        await promote(runtime, TWO, ORDER)
        assert (found := watched(store)) is not None and found.version == TWO

    run(work, runtime)


def test_a_rollback_from_the_base_to_a_version_is_not_watched(
    runtime: Runtime, store: Store, clock: Clock
) -> None:
    """The base has no status that could tell: the move itself says that it went back."""

    async def work() -> None:
        await promoted(runtime, clock, ONE, TWO)
        await roll_back(runtime, "base", ORDER)
        await roll_back(runtime, ONE, ORDER)
        votes(store, ONE, 0, 80, at=clock.now + 1)
        await Loop(runtime).live.step()

    run(work, runtime)
    assert serving(store) == ONE and watched(store) is None
    assert [move.backwards for move in store.adapters.activations()] == [True, True, False, False]


def test_the_watch_ends_and_can_be_switched_off() -> None:
    one, config = Watched(1, ONE, None, 1000.0), WatchConfig(hours=1)
    assert not over(one, 4599.9, config) and over(one, 4600.0, config)
    assert over(one, 1000.0, WatchConfig(enabled=False))


def test_nobody_to_compare_with_is_told_and_nothing_happens(
    runtime: Runtime, store: Store, clock: Clock
) -> None:
    async def work() -> None:
        await settle_one(runtime, ONE)
        votes(store, ONE, 0, 90, at=clock.now)
        await Loop(runtime).live.step()

    run(work, runtime)
    assert serving(store) == ONE
    assert store.state.get("watch")["reasons"] == ["no votes on base to compare with"]


def test_the_base_is_served_where_the_version_before_cannot_be_proved(
    runtime: Runtime, store: Store, clock: Clock, tmp_path: Path
) -> None:
    run(lambda: promoted(runtime, clock, ONE, TWO), runtime)
    votes(store, TWO, 0, 80, at=clock.now)
    stale = made(store, clock, tmp_path, Stale(FakeLimits(verify=False)))
    run(Loop(stale).live.step, stale)
    assert serving(store) == "base"
    assert store.adapters.get(TWO).status is AdapterStatus.ROLLED_BACK


def test_the_base_is_served_where_the_engine_has_no_room_for_the_version_before(
    runtime: Runtime, store: Store, clock: Clock, tmp_path: Path
) -> None:
    class Full(FakeEngine):
        async def load(self, adapter: AdapterRef) -> None:
            raise EngineUnavailable("no room")

    run(lambda: promoted(runtime, clock, ONE, TWO), runtime)
    votes(store, TWO, 0, 80, at=clock.now)
    full = made(store, clock, tmp_path, Full(FakeLimits(verify=False)))
    run(Loop(full).live.step, full)
    assert serving(store) == "base"
    assert store.adapters.get(TWO).status is AdapterStatus.ROLLED_BACK


def test_the_way_back_is_the_version_before_if_it_may_be_served(
    runtime: Runtime, store: Store, clock: Clock
) -> None:
    run(lambda: promoted(runtime, clock, ONE, TWO), runtime)
    one = watched(store)
    assert one is not None and way_back(store, one) == ONE
    store.adapters.mark(ONE, AdapterStatus.RETIRED)
    assert way_back(store, one) == "base"
    assert way_back(store, replace(one, previous=None)) == "base"


def test_one_person_does_not_roll_back_alone(runtime: Runtime, store: Store, clock: Clock) -> None:
    run(lambda: promoted(runtime, clock, ONE), runtime)
    one = watched(store)
    assert one is not None
    votes(store, ONE, 60, 20, at=clock.now)
    votes(store, ONE, 0, 200, at=clock.now + 1, people=1)
    (thumbs, *_) = findings(store, one, history(store, one, WatchConfig()), WatchConfig())
    # 80 of forty people, and of the loudest no more than twenty.
    assert thumbs.treated.count == 98 and not thumbs.harmful


@pytest.mark.parametrize(("people", "back"), [(2, False), (3, True)])
def test_harm_takes_three_people(
    runtime: Runtime, store: Store, clock: Clock, people: int, back: bool
) -> None:
    async def work() -> None:
        await promoted(runtime, clock, ONE, TWO)
        votes(store, TWO, 0, 90, at=clock.now, people=people)
        await Loop(runtime).live.step()

    run(work, runtime)
    assert serving(store) == (ONE if back else TWO)


def test_a_script_that_asks_all_the_time_does_not_blind_the_watch(
    runtime: Runtime, store: Store, clock: Clock
) -> None:
    """Its answers are fine, everybody else's fail, and theirs come after thousands of its own."""

    def commit(tx: Store) -> None:
        for _ in range(1500):
            answer(tx, "script", ONE, at=clock.now + 1)
            vote(tx, "script", ONE, up=True, at=clock.now + 1)

    async def work() -> None:
        votes(store, None, 300, 100, at=clock.now)
        await promoted(runtime, clock, ONE)
        store.atomic(commit)
        await Loop(runtime).live.step()
        assert serving(store) == ONE
        for number in range(30):
            answer(store, f"p{number}", ONE, at=clock.now + 2, status=CompletionStatus.FAILED)
        await Loop(runtime).live.step()

    run(work, runtime)
    assert serving(store) == "base"
    assert store.audit.list()[0].reason.startswith("errors")


def test_a_person_may_train_by_hand_while_honed_cools_down(
    runtime: Runtime, store: Store, clock: Clock
) -> None:
    loop = Loop(runtime)

    async def work() -> None:
        await promoted(runtime, clock, ONE, TWO)
        votes(store, TWO, 0, 80, at=clock.now)
        await loop.live.step()
        store.intents.add(Intent("i1", 1.0, IntentKind.TRAIN, "ann", "now", {}, IntentStatus.PENDING))
        await loop.tick()
        assert loop.task is not None
        await loop.stop()

    run(work, runtime)
    assert store.intents.get("i1").status is IntentStatus.RUNNING


def test_shuffled_history_is_the_same_for_the_same_promotion() -> None:
    arm = Arm(tuple(Vote("p", float(number), True) for number in range(50)))
    assert arm.shuffled("1/a") == arm.shuffled("1/a") != arm.shuffled("2/a")
