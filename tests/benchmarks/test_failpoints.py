"""The failpoint sweep: how records become deaths, that its checks find what they are for, and a sample of it run."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks.failpoint_checks import check
from benchmarks.failpoint_segments import PREPARED, SEGMENTS, Segment
from benchmarks.failpoint_world import World
from benchmarks.failpoints import BEGIN, END, Case, cases_of, summary, table, told_in
from store.db import Store
from store.errors import HonedError
from store.records import Adapter, AdapterStatus, Intent, IntentKind, IntentStatus, Stage
from tests.integration.service import ROOT
from tests.store.conftest import completion, event


def line(point: str, about: str, *, process: str = "main", pid: int = 1) -> dict[str, Any]:
    return {"process": process, "pid": pid, "point": point, "about": about}


def test_deaths_are_what_lies_between_the_marks_counted_from_the_start_of_the_process() -> None:
    segment = Segment("some", "voted", lambda world: None)
    lines = [
        line("commit.before", "State.set"),
        {"mark": "ready"},
        line("commit.before", "State.set + add"),
        line("rename.after", "0001/report.json", process="trainer"),
        line("status.after", "iteration, training"),
        line("commit.before", "State.set"),
        {"mark": "end"},
        line("commit.before", "add"),
    ]
    assert sorted(cases_of(segment, lines)) == [
        Case("some", "some", "commit.before", "State.set", 2),
        Case("some", "some, training", "commit.before", "State.set", 3),
        Case("some", "some, training", "status.after", "iteration, training", 1),
    ]
    assert Case("some", "some", "commit.before", "State.set", 2).armed == "main:commit.before(State.set)#2"
    assert Case("some", "some", "iteration.gated", "", 1).armed == "main:iteration.gated#1"


def test_a_segment_may_end_at_a_point_and_begin_at_once() -> None:
    segment = Segment("some", "voted", lambda world: None, begins=None, ends="iteration.gated")
    lines = [line("iteration.gated", ""), line("commit.before", "add")]
    assert cases_of(segment, lines) == {Case("some", "some", "iteration.gated", "", 1)}


def test_every_segment_begins_from_a_state_that_is_prepared() -> None:
    assert {each.start for each in SEGMENTS} <= set(PREPARED)
    assert len({each.name for each in SEGMENTS}) == len(SEGMENTS)


def test_the_table_counts_by_stage_and_kind_of_point() -> None:
    rows = [
        {"segment": "votes", "row": "votes", "point": point, "result": "held", "leftovers": 0, "seconds": 2.5}
        for point in ("commit.before", "commit.after", "feedback.before_commit")
    ]
    assert "| votes |  |  | 2 |  | 1 | 3 |" in table(rows)
    assert table(rows).splitlines()[-1] == "| all | 0 | 0 | 2 | 0 | 1 | 3 |"
    told = summary(rows, 1.2)
    assert told["results"] == {"held": 3} and told["not_held"] == []
    page = told_in(f"a\n{BEGIN}\nold\n{END}\nz\n", told, rows)
    assert page.startswith(f"a\n{BEGIN}\n3 deaths at commit ") and page.endswith(f"{END}\nz\n")
    assert "old" not in page


@pytest.fixture
def world(tmp_path: Path) -> World:
    """A state directory with an answer and a vote that were acknowledged, and an iteration that was aborted."""
    world = World(tmp_path, tmp_path / "model", tmp_path / "nest")
    world.state.mkdir()
    with Store.open(world.state / "honed.db") as store:
        store.completions.begin(completion("c1"))
        store.feedback.add(event("f1", "c1"))
        begin(store, Stage.ABORTED)
    world.notes.answers["c1"], world.notes.votes["f1"] = "c1", "ann"
    check(world)
    return world


def begin(store: Store, stage: Stage) -> int:
    number = store.iterations.begin(trigger="test", incumbent=None, config={}).id
    store.audit.add(actor="test", action="train", subject=f"iteration {number}", reason="test")
    store.iterations.move(number, stage)
    return number


def lose_a_vote(world: World, store: Store) -> None:
    world.notes.votes["f2"] = "ann"


def count_a_vote_twice(world: World, store: Store) -> None:
    store.feedback.add(event("f2", "c1"))


def leave_an_order(world: World, store: Store) -> None:
    store.intents.add(Intent("i1", 1.0, IntentKind.PAUSE, "ann", "why", {}, IntentStatus.PENDING))


def carry_out_twice(world: World, store: Store) -> None:
    store.intents.add(Intent("i1", 1.0, IntentKind.PAUSE, "ann", "why", {}, IntentStatus.DONE))
    for _ in range(2):
        store.audit.add(actor="ann", action="pause", subject="schedule", reason="why")
    world.notes.orders["why"] = "i1"


def count_half_an_iteration(world: World, store: Store) -> None:
    number = begin(store, Stage.ACTIVE)
    path = Path(f"iterations/{number:04d}/adapter")
    (world.state / path).mkdir(parents=True)
    store.adapters.add(Adapter("a1", None, number, path, "0" * 64, AdapterStatus.CANDIDATE, 1.0, 1.0))
    store.adapters.activate("a1", actor="gate", reason="test")


def serve_what_was_not_judged(world: World, store: Store) -> None:
    store.adapters.add(
        Adapter("a1", None, begin(store, Stage.TRAINING), Path("a"), "0", AdapterStatus.ACTIVE, 1.0, 1.0)
    )


@pytest.mark.parametrize(
    "harm",
    [
        lose_a_vote,
        count_a_vote_twice,
        leave_an_order,
        carry_out_twice,
        count_half_an_iteration,
        serve_what_was_not_judged,
    ],
)
def test_what_must_not_be_is_found(harm: Any, world: World) -> None:
    with Store.open(world.state / "honed.db") as store:
        harm(world, store)
    with pytest.raises((AssertionError, HonedError)):
        check(world)


def test_what_was_left_half_written_becomes_rubbish(tmp_path: Path) -> None:
    world = World(tmp_path, tmp_path / "model", tmp_path / "nest")
    kept, half = tmp_path / "state" / "0001" / "a.json", tmp_path / "state" / "0001" / ".a.json.17.tmp"
    folder = tmp_path / ".backup.part" / "deep"
    for path in (kept.parent, folder):
        path.mkdir(parents=True)
    for path in (kept, half, folder / "honed.db"):
        path.write_text("content")
    assert world.spoil_leftovers() == 2
    assert kept.read_text() == "content" != half.read_text()


@pytest.mark.slow
def test_a_sample_of_the_sweep_holds(tmp_path: Path) -> None:
    """The whole of it is `make failpoints`; docs/reliability.md has its result."""
    words = ["-m", "benchmarks.failpoints", "--segments", "first start,restart and settle", "--sample", "8"]
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, *words], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    told = json.loads(done.stdout[done.stdout.index("{") :])
    assert told["results"] == {"held": 8}, told["not_held"]
