"""What is old goes, unless something that may be served rests on it."""

from pathlib import Path

import pytest

from daemon.config import Config
from daemon.gate import Outcome
from daemon.loop import Loop
from daemon.retention import DAY, due, expire, prune
from daemon.runtime import Runtime
from policies.fake_engine import FakeEngine, FakeLimits
from store.db import Store
from store.records import AdapterStatus, Choice, Example, Message, Split
from tests.clock import Clock
from tests.daemon.conftest import run, runtime_with, settle_one
from tests.store.conftest import completion, event

ONE = "it0001-00000001"
NOW = 100 * DAY


def said(store: Store, name: str, day: float, words: str = "") -> None:
    asked = (Message("user", words or f"what about {name} and the sea?"),)
    answers = (Choice(0, f"the sea near {name} is deep", "stop"),)
    store.completions.begin(completion(name, created_at=day * DAY, messages=asked, choices=answers))
    store.feedback.add(event(f"fb-{name}", name, True, comment=f"on {name}"))


def kept(store: Store) -> set[str]:
    return {one.id for one in store.completions.recent() if one.messages and one.choices[0].text}


@pytest.fixture
def spoken(runtime: Runtime) -> Runtime:
    """An old answer that a served adapter learned from, one that it is attested by, one of no use; and a new one."""
    store = runtime.store
    for name, day in (("learned", 1), ("useless", 1), ("new", 99)):
        said(store, name, day)
    said(store, "attested", 1, "How are you?")

    async def serve() -> None:
        await settle_one(runtime, ONE)

    run(serve, runtime)
    store.iterations.add_examples([Example(1, "fb-learned", "learned", Split.TRAIN, "kto", True, 1.0)])
    return runtime


def test_old_words_go_unless_what_is_served_rests_on_them(spoken: Runtime) -> None:
    store = spoken.store
    assert expire(store, spoken.directory, NOW, 30) == 1
    assert kept(store) == {"learned", "attested", "new"}
    (vote,) = store.feedback.events("useless")
    assert (vote.value, vote.comment, vote.principal) == (True, None, "ann")
    report = store.iterations.report(1)
    assert report is not None and report["attestation"]
    assert store.audit.list()[0].action == "expire"
    assert expire(store, spoken.directory, NOW, 30) == 0


def test_what_a_retired_adapter_learned_from_goes_too(spoken: Runtime, tmp_path: Path) -> None:
    run_directory = spoken.run_directory(1)
    run_directory.mkdir(parents=True)
    (run_directory / "probes.jsonl").write_text('{"id": "useless", "prompt": []}\n')
    store = spoken.store
    store.adapters.activate(None, actor="t", reason="t", retire_as=AdapterStatus.RETIRED)
    assert expire(store, spoken.directory, NOW, 30) == 3
    assert kept(store) == {"new"}
    assert list(run_directory.iterdir()) == []


def test_earlier_turns_of_what_an_adapter_is_attested_by_do_not_take_its_proof_with_them(
    spoken: Runtime,
) -> None:
    store = spoken.store
    report = store.iterations.report(1)
    assert report is not None
    # The old answer's question, and what was said to it, are the first turns of an attested conversation.
    row = report["attestation"][0]
    turns = [
        ("user", "what about turns and the sea?"),
        ("assistant", "the sea near turns is deep"),
        ("user", "Why?"),
    ]
    later = {**row, "prompt": [{"role": role, "content": text} for role, text in turns]}
    store.iterations.save_report(1, {"attestation": [later]})
    said(store, "turns", 1)
    store.completions.begin(
        completion("later", created_at=DAY, messages=tuple(Message(role, text) for role, text in turns))
    )
    expire(store, spoken.directory, NOW, 30)
    assert "later" in kept(store) and "turns" not in kept(store)
    report = store.iterations.report(1)
    assert report is not None and report["attestation"] == [later]


def test_once_a_day_by_the_loop(store: Store, tmp_path: Path) -> None:
    config = {"directory": tmp_path, "privacy": {"keep_days": 30}}
    runtime = runtime_with(store, FakeEngine(FakeLimits(verify=False)), tmp_path)
    runtime = Runtime(
        runtime.config.model_copy(update={"store": type(runtime.config.store).model_validate(config)}),
        store,
        runtime.engine,
        tmp_path,
        "b" * 16,
    )
    said(store, "old", 1)
    assert due(store, NOW, 30) and not due(store, NOW, 0)

    async def work() -> None:
        await Loop(runtime).tick()

    run(work, runtime)
    assert kept(store) == set()
    assert not due(store, runtime.clock(), 30)
    assert due(store, runtime.clock() + DAY + 1, 30)


def test_a_clock_that_jumps_while_honed_runs_makes_nothing_old(
    store: Store, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    clock = Clock(NOW)
    config = Config.model_validate({"store": {"directory": tmp_path, "privacy": {"keep_days": 30}}})
    runtime = Runtime(config, store, FakeEngine(FakeLimits(verify=False)), tmp_path, "b" * 16, clock)
    said(store, "young", 99)

    async def work() -> None:
        loop = Loop(runtime)
        clock.now += 365 * DAY
        await loop.expire()
        assert kept(store) == {"young"}
        assert "the clock jumped by 8760.0 hours" in caplog.text
        loop._expire_again = 0.0
        clock.now = NOW + 60
        await loop.expire()

    run(work, runtime)
    assert kept(store) == {"young"}
    assert store.state.get("retention") == NOW + 60


def test_what_a_clock_ahead_wrote_down_puts_nothing_off(store: Store) -> None:
    store.state.set("retention", NOW + 365 * DAY)
    assert due(store, NOW, 30)


@pytest.fixture
def runs(runtime: Runtime) -> Runtime:
    """Folders of an iteration that is served, one that was refused, one that goes on, and one that nobody knows."""
    store = runtime.store

    async def work() -> None:
        await settle_one(runtime, ONE)
        await settle_one(runtime, "it0002-00000002", Outcome.REJECT)

    run(work, runtime)
    store.iterations.begin(trigger="test", incumbent=ONE, config={})
    for name in ("0001", "0002", "0002-rebuild", "0003", "0099"):
        folder = runtime.directory / "iterations" / name
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "examples.jsonl").write_text("{}\n")
    return runtime


def folders(runtime: Runtime) -> list[str]:
    return sorted(path.name for path in (runtime.directory / "iterations").iterdir())


def test_folders_of_iterations_that_came_to_nothing_go(runs: Runtime) -> None:
    now = runs.clock()
    everything = ["0001", "0002", "0002-rebuild", "0003", "0099"]
    assert prune(runs.store, runs.directory, now + 29 * DAY, 30) == 0
    assert prune(runs.store, runs.directory, now + 365 * DAY, 0) == 0
    assert folders(runs) == everything
    assert prune(runs.store, runs.directory, now + 31 * DAY, 30) == 2
    assert folders(runs) == ["0001", "0003", "0099"]
    entry = runs.store.audit.list()[0]
    assert (entry.action, entry.details) == ("prune", {"folders": ["0002", "0002-rebuild"]})
    assert prune(runs.store, runs.directory, now + 31 * DAY, 30) == 0


def test_an_adapter_that_may_come_back_keeps_its_folder(runs: Runtime) -> None:
    later = runs.clock() + 365 * DAY
    runs.store.adapters.activate(None, actor="t", reason="t")
    prune(runs.store, runs.directory, later, 30)
    assert "0001" in folders(runs)
    runs.store.adapters.activate(ONE, actor="t", reason="t")
    runs.store.adapters.activate(None, actor="t", reason="t", retire_as=AdapterStatus.RETIRED)
    prune(runs.store, runs.directory, later, 30)
    assert "0001" not in folders(runs)
