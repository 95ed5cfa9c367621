"""Comparisons with base and a golden adapter: when they are due, and where the opponent's answers come from."""

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon import judging
from daemon.contest import contest
from daemon.gate import Outcome
from daemon.recheck import (
    CONTEST_BASE,
    CONTEST_GOLDEN,
    Opponent,
    check_golden,
    due,
    opponents,
    promotions,
)
from daemon.runtime import Runtime
from policies.fake_engine import FakeEngine, FakeLimits
from store.db import Store
from store.errors import ConfigError
from store.records import AdapterStatus, Iteration, Source, Stage
from tests.daemon.conftest import Stale, candidate_of, run, runtime_with, settle_one
from tests.daemon.contested import contested_report
from tests.daemon.taste import Made, good
from tests.daemon.test_contest import licence

BASE, GOLDEN = Opponent(CONTEST_BASE, None), Opponent(CONTEST_GOLDEN, "it0001-00000001")


def version(number: int) -> str:
    return f"it{number:04d}-{number:08d}"


@pytest.mark.parametrize(
    ("checked", "every", "first", "expected"),
    [
        ([], 5, 5, False),
        ([False] * 3, 5, 5, False),
        ([False] * 4, 5, 5, True),
        ([False] * 9, 5, 5, True),
        ([True], 5, 5, False),
        ([False] * 3 + [True], 5, 5, False),
        ([False] * 4 + [True], 5, 5, True),
        ([False, True, False, False, False, True], 5, 5, False),
        ([], 5, 1, True),
        ([True], 1, 1, True),
        ([], 1, 1, True),
        ([False] * 99, 0, 1, False),
    ],
)
def test_when_a_comparison_is_due(checked: list[bool], every: int, first: int, expected: bool) -> None:
    assert due(checked, every, first=first) is expected


@given(st.integers(1, 9), st.lists(st.booleans(), max_size=40))
def test_if_every_due_comparison_is_made_there_is_one_in_every_few_promotions(
    every: int, promoted: list[bool]
) -> None:
    """Candidates come one after the other, each compared when due, and promoted or not."""
    checked: list[bool] = []
    for came_through in promoted:
        compared = due(checked, every, first=every)
        if came_through:
            checked.insert(0, compared)
    oldest_first = checked[::-1]
    assert [at + 1 for at, was in enumerate(oldest_first) if was] == list(
        range(every, len(checked) + 1, every)
    )


def ended(store: Store, stage: Stage, *against: Opponent, served: bool | None = None) -> str:
    """An iteration that ended, its candidate compared with these. `served`: by everybody; by default if active."""
    begun = store.iterations.begin(trigger="test", incumbent=None, config={})
    name = version(begun.id)
    rows = [{"contest": one.name, "against": one.label, "candidate": name} for one in against]
    store.iterations.save_report(begun.id, {"contest": rows})
    store.iterations.move(begun.id, stage, changes={"candidate": name})
    store.adapters.add(candidate_of(begun, name))
    if served if served is not None else stage is Stage.ACTIVE:
        store.adapters.activate(name, actor="gate", reason="fine")
    return name


def test_base_is_due_at_the_fifth_promotion_and_whoever_was_rejected_does_not_count(store: Store) -> None:
    for _ in range(4):
        assert opponents(store, every=5, golden=None) == []
        ended(store, Stage.ACTIVE)
        ended(store, Stage.FAILED)
    assert opponents(store, every=5, golden=None) == [BASE]
    ended(store, Stage.REJECTED, BASE)
    assert opponents(store, every=5, golden=None) == [BASE], "the next candidate is due in its place"
    ended(store, Stage.ROLLED_BACK, BASE, served=True)
    assert opponents(store, every=5, golden=None) == []
    assert opponents(store, every=1, golden=None) == [BASE]
    assert opponents(store, every=0, golden=None) == []


def test_a_canary_that_was_rolled_back_leaves_the_comparison_due_to_the_next(store: Store) -> None:
    """It never served everybody: of five promotions one is to be compared, and this is none of them."""
    for _ in range(4):
        ended(store, Stage.ACTIVE)
    ended(store, Stage.ROLLED_BACK, BASE, served=False)
    assert opponents(store, every=5, golden=None) == [BASE]
    ended(store, Stage.ACTIVE, BASE)
    assert opponents(store, every=5, golden=None) == []


def test_a_version_is_promoted_once_however_often_the_pointer_comes_back_to_it(store: Store) -> None:
    names = [ended(store, Stage.ACTIVE) for _ in range(3)]
    for name in (names[0], None, names[2]):
        store.adapters.activate(name, actor="ann", reason="to and fro")
    assert promotions(store) == names[::-1]
    assert opponents(store, every=5, golden=None) == []
    # One that was held for a person counts from when it was promoted.
    waiting = ended(store, Stage.HELD, BASE)
    ended(store, Stage.ACTIVE)
    assert opponents(store, every=5, golden=None) == [BASE]
    store.adapters.activate(waiting, actor="ann", reason="looks well")
    assert promotions(store)[0] == waiting and opponents(store, every=5, golden=None) == []


def test_being_held_against_an_incumbent_that_is_base_is_no_recheck(store: Store) -> None:
    ended(store, Stage.ACTIVE, Opponent("contest", None))
    assert opponents(store, every=2, golden=None) == [BASE]


def test_a_golden_adapter_is_compared_at_once_and_then_in_its_turn(runtime: Runtime) -> None:
    store = runtime.store
    run(lambda: settle_one(runtime, version(1)), runtime)
    assert opponents(store, every=5, golden=version(1)) == [GOLDEN]
    ended(store, Stage.ACTIVE, GOLDEN)
    for _ in range(3):
        assert GOLDEN not in opponents(store, every=5, golden=version(1))
        ended(store, Stage.ACTIVE)
    ended(store, Stage.ACTIVE)
    assert GOLDEN in opponents(store, every=5, golden=version(1))


def test_another_golden_adapter_starts_anew_and_a_retired_one_is_left_alone(runtime: Runtime) -> None:
    async def work() -> None:
        await settle_one(runtime, version(1))
        await settle_one(runtime, version(2))

    run(work, runtime)
    ended(runtime.store, Stage.ACTIVE, GOLDEN)
    other = Opponent(CONTEST_GOLDEN, version(2))
    assert opponents(runtime.store, every=9, golden=version(2)) == [other]
    runtime.store.adapters.mark(version(2), AdapterStatus.RETIRED)
    assert opponents(runtime.store, every=9, golden=version(2)) == []


def test_a_golden_adapter_must_have_been_served(runtime: Runtime, caplog: pytest.LogCaptureFixture) -> None:
    async def work() -> None:
        await settle_one(runtime, version(1))
        await settle_one(runtime, version(2), Outcome.HOLD)
        await settle_one(runtime, version(3), Outcome.REJECT)
        await settle_one(runtime, version(4))

    run(work, runtime)
    store = runtime.store
    for fine in (None, version(1), version(4)):
        check_golden(store, fine)
    for name, word in (
        (version(2), "held"),
        (version(3), "rejected"),
        ("it0009", "no adapter"),
        ("base", "no"),
    ):
        with pytest.raises(ConfigError, match=f"daemon.gate.golden = '{name}': .*{word}") as raised:
            check_golden(store, name)
        assert raised.value.param == "daemon.gate.golden"
    store.adapters.activate(None, actor="t", reason="t", retire_as=AdapterStatus.RETIRED)
    check_golden(store, version(4))
    assert "is retired" in caplog.text


def gated(store: Store, directory: Path, engine: FakeEngine | None = None, **gate: Any) -> Runtime:
    engine = engine or FakeEngine(FakeLimits(verify=False))
    return runtime_with(store, engine, directory, daemon={"gate": gate, "keep_loaded": 1})


def held(runtime: Runtime, patch: pytest.MonkeyPatch, made: Made, *served: str) -> tuple[Iteration, Any, Any]:
    """A contest after these versions were served in turn: the iteration, its numbers, what is resident then."""
    patch.setattr(judging, "build", lambda *_: (made,))

    async def work() -> tuple[Iteration, Any, Any]:
        for name in served:
            await settle_one(runtime, name)
        begun = evaluating(runtime, served[-1] if served else None)
        found = await contest(runtime, begun, contested_report(version=version(begun.id)))
        return begun, found, await runtime.engine.resident()

    return run(work, runtime)


def evaluating(runtime: Runtime, incumbent: str | None) -> Iteration:
    begun = runtime.store.iterations.begin(trigger="test", incumbent=incumbent, config={})
    runtime.store.judgements.set_licences(begun.id, [replace(licence("made", 0.9), iteration=begun.id)])
    return runtime.store.iterations.move(begun.id, Stage.EVALUATING, changes={"candidate": version(begun.id)})


def test_base_answers_in_the_engine_and_is_held_against_the_candidate(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, found, _ = held(gated(store, tmp_path, recheck_every=1), monkeypatch, Made(good), version(1))
    assert found["contest_base/prompts"] == 24 and 0 <= found["contest_base/win_rate"] <= 1
    assert found["contest_base/win_rate"] != found["contest/win_rate"]
    drawn = list(store.completions.samples(begun.id).values())
    assert len(drawn) == 24 and {one.metadata["purpose"] for one in drawn} == {"contest"}
    assert {(one.source, one.adapter, one.sampling.max_tokens) for one in drawn} == {
        (Source.SAMPLE, None, 64)
    }
    rows = (store.iterations.report(begun.id) or {})["contest"]
    assert [(row["contest"], row["against"]) for row in rows] == [("contest", version(1))] * 24 + [
        ("contest_base", "base")
    ] * 24
    # What was said of a recorded answer is found from the answer.
    assert store.judgements.of(drawn[0].id)[0].scorer == "made"


def test_where_base_is_the_incumbent_its_answers_are_there_already(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = Made(good)
    begun, found, _ = held(gated(store, tmp_path, recheck_every=1), monkeypatch, made)
    assert found["contest_base/win_rate"] == found["contest/win_rate"] and made.asked == 48
    assert store.completions.samples(begun.id) == {}


def test_a_golden_adapter_is_loaded_attested_and_let_go(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runtime = gated(store, tmp_path, golden=version(1))
    begun, found, resident = held(runtime, monkeypatch, Made(good), version(1), version(2))
    assert found["contest_golden/prompts"] == 24
    assert {one.adapter for one in store.completions.samples(begun.id).values()} == {version(1)}
    assert resident == (version(2),) and version(1) not in runtime.attested


def test_one_that_the_engine_does_not_reproduce_costs_its_own_numbers_only(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runtime = gated(store, tmp_path, golden=version(1))

    async def work() -> None:
        await settle_one(runtime, version(1))
        await settle_one(runtime, version(2))

    run(work, runtime)
    stale = replace(runtime, engine=Stale(FakeLimits(verify=False)), attested=set())
    monkeypatch.setattr(judging, "build", lambda *_: (Made(good),))
    begun = evaluating(stale, version(2))
    found = run(lambda: contest(stale, begun, contested_report()), stale)
    assert "contest/win_rate" in found and not any(name.startswith("contest_golden") for name in found)
    (entry, *_) = store.audit.list()
    assert entry.action == "contest failed" and version(1) in entry.reason


def test_a_prompt_the_engine_does_not_take_is_left_out(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The fake engine's prompts of this test have 7 tokens: there is no room for 64 more.
    engine = FakeEngine(FakeLimits(verify=False, max_context=70))
    _, found, _ = held(gated(store, tmp_path, engine, recheck_every=1), monkeypatch, Made(good), version(1))
    assert "contest/win_rate" in found and not any(name.startswith("contest_base") for name in found)


def test_answers_an_earlier_attempt_drew_are_taken_up(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runtime, made = gated(store, tmp_path, recheck_every=1), Made(good)
    begun, first, _ = held(runtime, monkeypatch, made, version(1))
    asked, drawn = made.asked, store.completions.samples(begun.id)
    again = run(lambda: contest(runtime, begun, contested_report(version=version(begun.id))), runtime)
    assert again == first and made.asked == asked
    assert store.completions.samples(begun.id) == drawn
    assert len((store.iterations.report(begun.id) or {})["contest"]) == 48


def test_chat_goes_on_meanwhile(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A heartbeat beside it keeps beating: the contest shares its loop with chat."""
    runtime = gated(store, tmp_path, recheck_every=1)
    monkeypatch.setattr(judging, "build", lambda *_: (Made(good),))

    async def work() -> float:
        begun = evaluating(runtime, None)
        task = asyncio.create_task(contest(runtime, begun, contested_report(200)))
        loop, longest = asyncio.get_running_loop(), 0.0
        while not task.done():
            before = loop.time()
            await asyncio.sleep(0.001)
            longest = max(longest, loop.time() - before)
        assert (await task)["contest_base/prompts"] == 200
        return longest

    assert run(work, runtime) < 0.5
