"""The writer, transactions, migrations, the lock, and death at any moment."""

import asyncio
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

import pytest
from sqlite_utils import Database

from store.db import StateLock, Store
from store.errors import AlreadyRunning, HonedError, NotFound, SchemaTooNew
from store.migrations import MIGRATIONS
from tests.store.conftest import completion, event

T = TypeVar("T")
ROOT = Path(__file__).parents[2]


def test_settings_that_durability_rests_on_are_in_force(tmp_path: Path) -> None:
    with Store.open(tmp_path / "honed.db") as store:
        session = store.atomic(lambda tx: tx._session)
        assert session.rows("pragma journal_mode")[0][0] == "wal"
        assert session.rows("pragma synchronous")[0][0] == 2
        assert session.rows("pragma foreign_keys")[0][0] == 1


def test_every_table_is_strict(tmp_path: Path) -> None:
    with Store.open(tmp_path / "honed.db"):
        pass
    db = Database(str(tmp_path / "honed.db"))
    tables = [table for table in db.tables if not table.name.startswith(("_", "sqlite_"))]
    assert len(tables) >= 14
    assert [table.name for table in tables if not table.strict] == []
    db.close()


def test_a_transaction_is_all_or_nothing_and_sees_itself(store: Store) -> None:
    def work(tx: Store) -> None:
        tx.state.set("a", 1)
        assert tx.state.get("a") == 1
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        store.atomic(work)
    assert store.state.get("a") is None


def test_a_failing_write_takes_none_of_its_group_with_it(store: Store) -> None:
    store.completions.begin(completion("c1"))
    errors: list[BaseException] = []

    def vote(number: int) -> None:
        target = "nope" if number % 3 == 0 else "c1"
        try:
            store.feedback.add(event(f"f{number}", target, principal=f"p{number}"))
        except NotFound as error:
            errors.append(error)

    threads = [threading.Thread(target=vote, args=(number,)) for number in range(60)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (store.feedback.count(), len(errors)) == (40, 20)


async def cast(store: Store, number: int) -> str:
    """A vote as a coroutine; every third one is on an answer that does not exist."""
    one = event(f"f{number}", "nope" if number % 3 == 0 else "c1", principal=f"p{number}")
    return (await store.atomic_async(lambda tx: tx.feedback.add(one))).id


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_when_the_writer_dies_in_the_middle_everybody_behind_it_hears_of_it(tmp_path: Path) -> None:
    store = Store.open(tmp_path / "honed.db")

    def end(tx: Store) -> None:
        tx.adapters._session.write(lambda db: db.conn.close())

    async def work() -> list[object]:
        behind = (
            asyncio.to_thread(store.compact),
            cast(store, 1),
            asyncio.to_thread(store.compact),
            cast(store, 2),
        )
        return await asyncio.gather(store.atomic_async(end), *behind, return_exceptions=True)

    async def told() -> list[object]:
        async with asyncio.timeout(20):
            return await held_up(store, work)

    assert all(isinstance(found, (HonedError, sqlite3.Error)) for found in asyncio.run(told()))
    limit = time.monotonic() + 20  # its thread ends after it has told them
    while store.writable and time.monotonic() < limit:
        time.sleep(0.01)
    assert not store.writable


async def held_up(store: Store, work: Callable[[], Awaitable[T]]) -> T:
    """The writer busy until what coroutines ask of it has queued up."""
    busy, go_on = threading.Event(), threading.Event()

    def wait(_: Store) -> None:
        busy.set()
        assert go_on.wait(30)

    holder = asyncio.create_task(asyncio.to_thread(store.atomic, wait))
    await asyncio.to_thread(busy.wait, 30)
    asyncio.get_running_loop().call_later(0.05, go_on.set)
    value = await work()
    await holder
    return value


def test_coroutines_that_wait_together_share_a_commit_and_wake_their_loop_once(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.completions.begin(completion("c1"))
    woken = []

    async def votes() -> list[str | BaseException]:
        loop = asyncio.get_running_loop()
        wake = loop.call_soon_threadsafe

        def counted(callback: Any, *args: Any, **more: Any) -> Any:
            woken.append(args)
            return wake(callback, *args, **more)

        async def cast_all() -> list[str | BaseException]:
            tasks = [asyncio.create_task(cast(store, number)) for number in range(60)]
            await asyncio.sleep(0)
            monkeypatch.setattr(loop, "call_soon_threadsafe", counted)
            return await asyncio.gather(*tasks, return_exceptions=True)

        return await held_up(store, cast_all)

    told = asyncio.run(votes())
    assert [str(one) for one in told if isinstance(one, str)] == [f"f{n}" for n in range(60) if n % 3]
    assert [type(one) for one in told if not isinstance(one, str)] == [NotFound] * 20
    assert store.feedback.count() == 40
    assert len([args for args in woken if args and isinstance(args[0], list)]) == 1


def test_a_coroutine_that_went_away_takes_nobody_with_it(store: Store) -> None:
    store.completions.begin(completion("c1"))

    async def votes() -> str:
        async def cast_two() -> str:
            gone, stays = (asyncio.create_task(cast(store, number)) for number in (1, 2))
            await asyncio.sleep(0)
            gone.cancel()
            return await stays

        return await held_up(store, cast_two)

    assert asyncio.run(votes()) == "f2"
    assert store.feedback.known(["f1", "f2"]) == {"f1", "f2"}, "what was queued is written all the same"


def test_the_writer_outlives_the_loops_that_asked_it(store: Store) -> None:
    store.completions.begin(completion("c1"))
    busy, go_on = threading.Event(), threading.Event()

    def wait(_: Store) -> None:
        busy.set()
        assert go_on.wait(30)

    holder = threading.Thread(target=store.atomic, args=(wait,))
    holder.start()
    assert busy.wait(30)

    async def leave() -> None:
        asyncio.create_task(cast(store, 1)).add_done_callback(lambda _: None)
        await asyncio.sleep(0)

    asyncio.run(leave())
    go_on.set()
    holder.join()
    assert store.feedback.add(event("f2")).id == "f2"


def test_a_coroutine_hears_that_the_store_is_closed(tmp_path: Path) -> None:
    store = Store.open(tmp_path / "honed.db")
    store.close()
    with pytest.raises(HonedError, match="closed"):
        asyncio.run(cast(store, 1))


def test_a_write_from_inside_a_transaction_through_the_outer_store_is_an_error_not_a_deadlock(
    store: Store,
) -> None:
    with pytest.raises(HonedError, match="own store"):
        store.atomic(lambda _tx: store.state.set("a", 1))


def test_a_closed_store_says_so(tmp_path: Path) -> None:
    store = Store.open(tmp_path / "honed.db")
    store.close()
    with pytest.raises(HonedError, match="closed"):
        store.state.set("a", 1)
    assert not store.writable


def test_a_reader_sees_what_is_committed_and_cannot_write(tmp_path: Path) -> None:
    with Store.open(tmp_path / "honed.db") as store, Store.read_only(tmp_path / "honed.db") as reader:
        store.state.set("a", {"b": [1, None]})
        assert reader.state.get("a") == {"b": [1, None]}
        with pytest.raises(HonedError, match="reading only"):
            reader.state.set("a", 2)


def test_reading_what_is_not_there_is_not_found(tmp_path: Path) -> None:
    with pytest.raises(NotFound):
        Store.read_only(tmp_path / "none.db")


def test_opening_again_migrates_nothing_and_loses_nothing(tmp_path: Path) -> None:
    path = tmp_path / "honed.db"
    with Store.open(path) as store:
        store.state.set("a", 1)
    with Store.open(path) as store:
        assert store.state.get("a") == 1
    assert list(tmp_path.glob("*.before-*")) == []


@pytest.mark.parametrize("count", range(1, len(MIGRATIONS._migrations)))
def test_an_older_database_is_copied_aside_and_brought_up_to_date(tmp_path: Path, count: int) -> None:
    path = tmp_path / "honed.db"
    names = [migration.name for migration in MIGRATIONS._migrations]
    old = Database(str(path))
    MIGRATIONS.apply(old, stop_before=names[count])
    old.close()
    # What a copy that was cut short has left is no obstacle.
    (tmp_path / f".honed.db.before-{names[count]}.tmp").write_bytes(b"half a database")
    with pytest.raises(HonedError, match="older version"):
        Store.read_only(path)
    with Store.open(path) as store:
        store.state.set("a", 1)
    assert [file.name for file in tmp_path.glob("*.before-*")] == [f"honed.db.before-{names[count]}"]


def test_scores_written_before_they_had_versions_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "honed.db"
    old = Database(str(path))
    MIGRATIONS.apply(old, stop_before="m004_judging")
    old.conn.execute(
        "insert into completions (id, created_at, principal, source, messages, sampling, engine, status, stored, "
        "prompt_tokens, completion_tokens, metadata) values "
        "('c1', 1.0, 'ann', 'chat', '[]', '{}', 'fake', 'done', 1, 0, 0, '{}')"
    )
    old.conn.execute(
        "insert into judgements (completion_id, choice_index, scorer, score, at, details) "
        "values ('c1', 0, 'relevance', 0.5, 2.0, '{}')"
    )
    old.conn.commit()
    old.close()
    with Store.open(path) as store:
        (kept,) = store.judgements.of("c1")
    assert (kept.scorer, kept.score, kept.version, kept.choice_index) == ("relevance", 0.5, "", 0)


def test_earlier_moves_of_the_pointer_are_told_apart(tmp_path: Path) -> None:
    path = tmp_path / "honed.db"
    old = Database(str(path))
    MIGRATIONS.apply(old, stop_before="m008_moves_back")
    moves = [
        (1.0, "a", None, "gate", "promote"),
        (2.0, "b", "a", "ann", "promote"),
        (3.0, "a", "b", "watch", "rollback"),
        (4.0, None, "a", "ann", "rollback"),
        (5.0, "a", None, "ann", "rollback"),
        # A promotion in the second of somebody else's rollback, and of another subject.
        (5.5, "a", None, "bob", "promote"),
        (6.0, "b", "a", "start", None),
        (9.0, "a", "b", "ann", "promote"),
    ]
    for at, version, previous, actor, action in moves:
        old.conn.execute(
            "insert into activations (at, version, previous, actor, reason) values (?, ?, ?, ?, '')",
            [at, version, previous, actor],
        )
        if action is not None:
            old.conn.execute(
                "insert into audit (at, actor, action, subject, reason, details) values (?, ?, ?, ?, '', '{}')",
                [at + 0.01, actor, action, version or "base"],
            )
    old.conn.commit()
    old.close()
    with Store.open(path) as store:
        found = {move.at: move.backwards for move in store.adapters.activations()}
    assert found == {1: False, 2: False, 3: True, 4: True, 5: True, 5.5: False, 6: True, 9: False}


def test_a_database_of_a_newer_version_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "honed.db"
    with Store.open(path):
        pass
    connection = sqlite3.connect(path)
    connection.execute(
        "insert into _sqlite_migrations (migration_set, name, applied_at) values ('honed', 'm999_future', 'later')"
    )
    connection.commit()
    connection.close()
    for open_ in (Store.open, Store.read_only):
        with pytest.raises(SchemaTooNew, match="m999_future"):
            open_(path)


def test_readers_do_not_pile_up_with_threads_that_come_and_go(store: Store) -> None:
    open_files = Path(f"/proc/{os.getpid()}/fd")
    before = len(list(open_files.iterdir()))
    for _ in range(60):
        thread = threading.Thread(target=store.feedback.count)
        thread.start()
        thread.join()
    assert len(list(open_files.iterdir())) - before <= 24


def test_a_file_that_is_no_database_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "honed.db").write_bytes(b"this is not a database, not at all" * 100)
    for open_ in (Store.open, Store.read_only):
        with pytest.raises(HonedError, match="database"):
            open_(tmp_path / "honed.db")


def test_the_lock_names_who_holds_it(tmp_path: Path) -> None:
    with StateLock(tmp_path / "lock"), pytest.raises(AlreadyRunning, match=f"pid {os.getpid()}"):
        StateLock(tmp_path / "lock").__enter__()
    with StateLock(tmp_path / "lock"):
        pass


VOTER = """
import asyncio
import sys
from pathlib import Path
from store.db import Store
sys.path.insert(0, {root!r})
from tests.store.conftest import completion, event
store = Store.open(Path({path!r}))
if store.completions.find("c1") is None:
    store.completions.begin(completion("c1"))
print("ready", flush=True)
loop = asyncio.new_event_loop()
for number in range(100000):
    one = event(f"{run}-{{number}}", principal=f"p{{number}}")
    if {coroutine}:
        add = store.atomic_async(lambda tx: tx.feedback.add(one), marks=frozenset({{"feedback"}}))
        stored = loop.run_until_complete(add)
    else:
        stored = store.feedback.add(one)
    print(stored.id, flush=True)
"""


@pytest.mark.parametrize("coroutine", [False, True])
@pytest.mark.parametrize("point", [None, "feedback.before_commit", "feedback.after_commit"])
def test_what_was_acknowledged_before_a_sigkill_is_there_exactly_once(
    tmp_path: Path, point: str | None, coroutine: bool
) -> None:
    path = tmp_path / "honed.db"
    acknowledged: list[str] = []
    for run in range(3):
        code = VOTER.format(root=str(ROOT), path=str(path), run=run, coroutine=coroutine)
        environment = {**os.environ, **({"HONED_FAILPOINT": point} if point else {})}
        child = subprocess.Popen(
            [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, env=environment, cwd=ROOT
        )
        assert child.stdout is not None
        assert child.stdout.readline().strip() == "ready"
        for _ in range(25 * (run + 1)):
            line = child.stdout.readline()
            if not line:
                break
            acknowledged.append(line.strip())
        child.send_signal(signal.SIGKILL)
        acknowledged += [line.strip() for line in child.stdout if line.endswith("\n")]
        child.stdout.close()
        assert child.wait(30) == -signal.SIGKILL
    with Store.open(path) as store:
        kept = [e.id for e in store.feedback.events("c1")]
    assert len(kept) == len(set(kept))
    assert set(acknowledged) <= set(kept)
    if point is None:
        assert len(acknowledged) >= 75
    if point == "feedback.after_commit":
        assert len(kept) == 3, "each run wrote one vote and died before it could say so"
