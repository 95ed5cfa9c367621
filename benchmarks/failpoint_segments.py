"""What happens in the failpoint sweep: the states it begins from, and the segments in which processes die.

A segment begins from a copy of a prepared state and is written so that it can be begun again after a death
(`failpoint_world`). Together they take a service through what it does in its life.
"""

import hashlib
import json
import shutil
import sqlite3
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sqlite_utils import Database

from benchmarks.failpoint_checks import check
from benchmarks.failpoint_world import Died, World
from daemon.backup import verify
from policies.spec import ADAPTER, MANIFEST, verify_manifest
from store.errors import HonedError
from store.migrations import MIGRATIONS
from tests.integration import warm
from tests.integration.liking import LENIENT, check_judged, to_the_liking_of

ANN = "key:" + hashlib.sha256(b"ann").hexdigest()[:12]
HALF = {"HONED_DAEMON__CANARY__STEPS": "[0.5]"}
REBUILT = {"HONED_POLICIES__TRAIN__REBUILD_AT": "1e-9"}


@dataclass(frozen=True)
class Segment:
    """`start`: the prepared state, by name. `begins`, `ends`: the marks or points between which deaths are looked
    for; without, from the beginning.
    """

    name: str
    start: str
    act: Callable[[World], None]
    settings: Mapping[str, str] = field(default_factory=dict)
    begins: str | None = "ready"
    ends: str = "end"


# Prepared states: name -> what it goes on from, what happens, and with which point armed.


def nothing(world: World) -> None:
    """No state directory at all."""
    assert not world.state.exists()


def voted(world: World) -> None:
    world.serve()
    world.chat("fb-ann", 6, person="ann")
    world.chat("fb-bob", 10)


def begun(world: World) -> None:
    world.serve()
    world.order("first", "train")


def promoted(world: World) -> None:
    world.serve()
    world.train("first")
    world.chat("fb-bob-later", 12)


def labelled(world: World) -> None:
    """Labels to the model's liking, so that a judge earns its licence."""
    pairs = world.folder / "pairs.jsonl"

    def label() -> int:
        rows = to_the_liking_of(world.model)
        return int(not pairs.write_text("".join(json.dumps(row) + "\n" for row in rows)))

    assert warm.fork(label, world.environment(), world.folder / "command.log").wait(60) == 0, world.tail()
    world.serve()
    assert world.command("judge", "label", str(pairs), "--url", world.url) == 0, world.tail()


def tried(world: World) -> None:
    world.serve()
    world.train("second")


def rolled_back(world: World) -> None:
    world.serve()
    world.order("back", "rollback")


def backed_up(world: World) -> None:
    assert world.command("backup", str(world.folder / "backup")) == 0, world.tail()


def of_an_old_version(world: World) -> None:
    """A database as version 0.0 of the schema had it, with an answer and a vote."""
    world.state.mkdir()
    db = Database(sqlite3.connect(world.state / "honed.db", isolation_level=None))
    db.execute("pragma journal_mode=wal")
    MIGRATIONS.apply(db, stop_before="m004_judging")
    db.execute(
        "insert into completions values ('old', 1.0, 'local', 'chat', '[]', '{}', null, 'hf', 'done', 1, 1, 1, null, "
        "null, '{}')"
    )
    db.execute("insert into completion_choices values ('old', 0, 'hello', 'stop', 1)")
    db.execute(
        "insert into feedback values (1, 'fb-old', 1.0, 'old', 0, 'local', 'thumb', 'true', null, null, '{}', null)"
    )
    db.conn.close()
    world.notes.answers["old"], world.notes.votes["fb-old"] = "old", "local"


@dataclass(frozen=True)
class Prepared:
    start: str | None
    act: Callable[[World], None]
    settings: Mapping[str, str] = field(default_factory=dict)
    dies_at: str | None = None


PREPARED: dict[str, Prepared] = {
    "nothing": Prepared(None, nothing),
    "old": Prepared(None, of_an_old_version),
    "voted": Prepared(None, voted),
    "sealed": Prepared("voted", begun, dies_at="main:iteration.training"),
    "trained": Prepared("sealed", begun, dies_at="main:iteration.evaluating"),
    "promoted": Prepared("voted", promoted),
    "labelled": Prepared("voted", labelled, settings=LENIENT),
    "judged": Prepared("labelled", begun, settings=LENIENT, dies_at="main:iteration.evaluating"),
    "tried": Prepared("promoted", tried, settings=HALF),
    "rolled back": Prepared("promoted", rolled_back),
    "backed up": Prepared("promoted", backed_up),
}


# Segments.


def first_start(world: World) -> None:
    world.serve()
    world.chat("fb-first", 1)
    finish(world)


def vote(world: World) -> None:
    world.serve()
    answer = world.ask("asked")
    world.say("fb-up", answer)
    world.say("fb-down", answer, value=False)  # supersedes it
    world.say("fb-comment", answer, kind="comment", value="too long")
    world.say("fb-back", answer, value=None)
    finish(world)


def give_orders(world: World) -> None:
    world.serve()
    world.order("good one", "label", completion_id=world.notes.answers["fb-bob-1"], good=True)
    world.order("a pair", "label", prompt="hello", better="hi", worse="no")
    world.order("hold on", "pause")
    world.order("go on", "resume")
    finish(world)


def iterate(world: World) -> None:
    world.serve()
    assert world.train("first")["outcome"]["stage"] == "active", world.tail()
    finish(world)


def train_alone(world: World) -> None:
    """The trainer dies; then its service comes back and takes the iteration up."""
    run = world.state / "iterations" / "0001"
    try:
        assert world.train_by_hand("0001") == 0, world.tail()
    finally:
        if (run / MANIFEST).is_file():
            assert verify_manifest(run) and verify_manifest(run / ADAPTER)
    resume(world)


def resume(world: World) -> None:
    world.serve()
    assert world.train("first")["outcome"]["stage"] == "active", world.tail()
    finish(world)


def judge(world: World) -> None:
    """An iteration with a licensed judge: drawn, scored and paired once, however often it is interrupted."""
    world.serve()
    world.train("first")
    check_judged(world.client(), world.client().get("/v1/iterations/1"))
    finish(world)


def try_on_some(world: World) -> None:
    world.serve()
    assert world.train("second")["outcome"]["stage"] == "canary", world.tail()
    finish(world)


def train_two(world: World) -> None:
    """A second candidate is trained from base, and the better of both is kept."""
    world.serve()
    world.train("two candidates")
    assert (world.state / "iterations" / "0002-rebuild" / MANIFEST).is_file()
    finish(world)


def end_canary(world: World) -> None:
    world.serve()
    world.order("not this one", "rollback", quarantine=True)
    finish(world)


def promote_canary(world: World) -> None:
    world.serve()
    version = world.rows("select version from canaries")[0]["version"]
    world.order("this one", "promote", version=version)
    assert world.rows("select version from active") == [{"version": version}]
    finish(world)


def roll_back(world: World) -> None:
    world.serve()
    world.order("back", "rollback", quarantine=True)
    assert world.rows("select version from active") == [{"version": None}]
    world.order("harmless", "release", all=True)
    finish(world)


def promote_again(world: World) -> None:
    world.serve()
    version = world.rows("select version from adapters")[0]["version"]
    world.order("after all", "promote", version=version)
    finish(world)


def forget(world: World) -> None:
    world.serve()
    row = world.order("she asked for it", "forget", user=ANN)
    forgotten(world, row["outcome"])
    finish(world)


def forget_offline(world: World) -> None:
    reason = "she asked for it"
    if not world.rows("select id from intents where reason = ? and status = 'done'", reason):
        status = world.command("forget", ANN, "--reason", reason)
        if status != 0:
            # The first try had her scrubbed, and nothing is held of that name any more.
            assert "nothing is held of" in world.tail(), world.tail()
    world.notes.orders[reason] = world.rows("select id from intents where reason = ?", reason)[0]["id"]
    world.serve()
    forgotten(world, world.follow(reason)["outcome"])
    finish(world)


def forgotten(world: World, receipt: Mapping[str, Any]) -> None:
    """What learned from her is retired, and no file names her."""
    world.notes.forgotten.append("ann")
    assert receipt["retired"] and receipt["serving"] == "base", receipt
    found = [
        str(path) for path in world.state.rglob("*") if path.is_file() and ANN.encode() in path.read_bytes()
    ]
    assert found == [], found


def stop_in_training(world: World) -> None:
    """SIGTERM while an iteration trains; the next start goes on with it."""
    world.serve()
    if not world.rows("select id from intents where reason = 'first'"):
        world.notes.orders["first"] = world.call(lambda: world.client().intend("train", reason="first"))
        world.until(lambda: world.rows("select id from iteration_stages where stage = 'training'"))
        world.stop()
    iterate(world)


def back_up(world: World) -> None:
    world.serve(armed=False)
    target = world.folder / "kept"
    try:
        if not target.exists():
            assert world.command("backup", str(target)) == 0, world.tail()
    finally:
        if target.exists():
            assert verify(target)["active"] == world.rows("select version from active")[0]["version"]
    finish(world)


def restore(world: World) -> None:
    """Into another folder, which is then served."""
    other = world.folder / "restored"
    if not (other / "honed.db").exists():
        assert (
            world.command("restore", str(world.folder / "backup"), HONED_STORE__DIRECTORY=str(other)) == 0
        ), world.tail()
    check(world, state=other)
    world.state = other
    world.serve(armed=False)
    finish(world)


def export(world: World) -> None:
    assert world.command("export", str(world.folder / "exports")) == 0, world.tail()
    assert len(list((world.folder / "exports").glob("*.jsonl"))) == 2
    for path in (world.folder / "exports").glob("*.jsonl"):
        assert path.read_text().endswith("\n") or path.read_text() == ""
    world.serve(armed=False)
    finish(world)


def make_key(world: World) -> None:
    """Keys that are in the file work, whichever of them was being added."""
    file = {"HONED_API__KEYS_FILE": str(world.folder / "keys.toml")}
    for name in ("ann", "bob"):
        status = world.command("key", name, **file)
        assert status == 0 or "taken" in world.tail() or "already" in world.tail(), world.tail()
    world.serve(armed=False)
    finish(world)


def upgrade(world: World) -> None:
    world.serve()
    world.chat("fb-new", 1)
    finish(world)


def expire(world: World) -> None:
    world.serve()
    world.until(lambda: world.rows("select value from service_state where key = 'retention'"))
    # What is scrubbed keeps its place and loses the name that it was given.
    world.notes.forgotten.extend(sorted(set(world.notes.votes.values())))
    finish(world)


def finish(world: World) -> None:
    world.mark("end")


SEGMENTS = (
    Segment("first start", "nothing", first_start, begins=None),
    Segment("upgrade", "old", upgrade, begins=None),
    Segment("votes", "voted", vote),
    Segment("orders", "voted", give_orders),
    Segment("iteration", "voted", iterate, ends="iteration.evaluating"),
    Segment("trainer", "sealed", train_alone, begins=None, ends="command"),
    Segment("restart and settle", "trained", resume, begins=None),
    Segment("judging", "labelled", judge, LENIENT, ends="iteration.training"),
    Segment("contest", "judged", judge, LENIENT, begins="iteration.evaluating"),
    Segment("iteration to canary", "promoted", try_on_some, HALF),
    Segment("two candidates", "promoted", train_two, REBUILT, begins="rebuild.begun"),
    Segment("canary back", "tried", end_canary, HALF),
    Segment("canary on", "tried", promote_canary, HALF),
    Segment("rollback", "promoted", roll_back),
    Segment("promote", "rolled back", promote_again),
    Segment("forget", "promoted", forget),
    Segment("forget, no service", "promoted", forget_offline, begins=None, ends="command"),
    Segment("retention", "promoted", expire, {"HONED_STORE__PRIVACY__KEEP_DAYS": "1e-7"}, begins=None),
    Segment("stop", "voted", stop_in_training, begins="stop", ends="ready"),
    Segment("backup", "promoted", back_up, begins=None, ends="command"),
    Segment("restore", "backed up", restore, begins=None, ends="command"),
    Segment("export", "voted", export, begins=None, ends="command"),
    Segment("key", "voted", make_key, begins=None),
)


def prepare(name: str, folder: Path, model: Path, nest: Path) -> None:
    """Make a prepared state in `folder / name`, and those that it goes on from."""
    target, how = folder / name, PREPARED[name]
    if target.exists():
        return
    part = folder / f"{name}, part"
    if how.start is None:
        part.mkdir(parents=True)
    else:
        prepare(how.start, folder, model, nest)
        shutil.copytree(folder / how.start, part)
    world = World(part, model, nest, how.settings)
    world.arm(how.dies_at)
    try:
        how.act(world)
        assert how.dies_at is None, f"{name}: {how.dies_at} was not passed"
    except Died:
        assert how.dies_at is not None
    except (AssertionError, HonedError):
        world.kill()
        raise
    if world.process is not None:
        world.stop()
    world.keep()
    part.rename(target)
