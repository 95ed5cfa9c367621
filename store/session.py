"""How the store reaches SQLite: one writer thread that commits in groups, and read-only readers.

One connection writes and checkpoints, ever: SQLite 3.7.0 to 3.51.2 can corrupt a WAL when two connections do.
Writes queue up; whatever waits is run in one `BEGIN IMMEDIATE` transaction, each piece inside its own savepoint
(so a failing one takes nobody with it), and committed with one fsync. Callers hear back after the commit: threads
that wait, and coroutines, of which a whole group wakes its event loop once.
"""

import asyncio
import contextlib
import itertools
import logging
import queue
import sqlite3
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any, Protocol, TypeVar

from sqlite_utils import Database

from store.connections import Parameters, Readers
from store.connections import Row as Row
from store.errors import HonedError, StoreUnavailable
from store.failpoints import AND, around, failpoint
from store.faults import fault, unavailable

log = logging.getLogger(__name__)

T = TypeVar("T")
Work = Callable[[Database], Any]

#: Most pieces of work one commit carries: bounds how long the first of them waits.
GROUP = 512


class Session(Protocol):
    """What a repository is given: a way to read and a way to write."""

    def rows(self, sql: str, parameters: Parameters = ()) -> list[Row]: ...

    def write(self, work: Callable[[Database], T], *, marks: frozenset[str] = frozenset()) -> T:
        """Run `work` in a transaction and return its value after the commit.

        `marks` names failpoint families ("feedback") that guard the commit carrying this work.
        """
        ...

    async def write_async(self, work: Callable[[Database], T], *, marks: frozenset[str] = frozenset()) -> T:
        """`write` for a coroutine: no thread waits meanwhile."""
        ...


class Job:
    """One piece of work waiting for its commit. `done`: what a thread waits for, or a coroutine.

    `alone`: outside any transaction, as VACUUM wants it.
    """

    def __init__(
        self,
        work: Work,
        marks: frozenset[str],
        done: "Future[Any] | asyncio.Future[Any]",
        *,
        alone: bool = False,
    ) -> None:
        self.work, self.marks, self.done, self.alone = work, marks, done, alone
        self.loop = done.get_loop() if isinstance(done, asyncio.Future) else None
        self.value: Any = None
        self.error: BaseException | None = None

    def tell(self) -> None:
        """Hand out the value or the error. A coroutine's job is told of on its own loop."""
        if self.done.done():
            return  # cancelled: whoever asked does not wait any more
        if self.error is not None:
            self.done.set_exception(unavailable(self.error))
        else:
            self.done.set_result(self.value)


def tell(jobs: Sequence[Job]) -> None:
    """Hand out what became of jobs: to threads at once, to each event loop with one wake-up."""
    by_loop: dict[asyncio.AbstractEventLoop | None, list[Job]] = {}
    for job in jobs:
        by_loop.setdefault(job.loop, []).append(job)
    for loop, its in by_loop.items():
        if loop is None:
            _tell_each(its)
        else:
            # A closed loop takes no calls, and nobody waits on one.
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(_tell_each, its)


def _tell_each(jobs: Sequence[Job]) -> None:
    for job in jobs:
        job.tell()


def written(jobs: Sequence[Job]) -> str:
    """What a commit carries, as failpoints call it: the operations, each once."""
    return AND.join(sorted({operation(job.work) for job in jobs}))


def operation(work: Work) -> str:
    """The operation that a piece of work was defined in."""
    return str(getattr(work, "__qualname__", "work")).split(".<locals>")[0]


class Writer:
    """The writer thread."""

    def __init__(self, db: Database) -> None:
        self.db = db
        self._queue: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._gate = threading.Lock()
        self._open = True
        #: What the last commit failed of, when the disk was at fault, and what to do about it.
        self.trouble: str | None = None
        #: Of the batch under way what no part of it has begun with.
        self._taken: list[Job] = []
        self._thread = threading.Thread(target=self._run, name="store-writer", daemon=True)
        self._thread.start()

    @property
    def alive(self) -> bool:
        return self._thread.is_alive()

    def submit(self, work: Callable[[Database], T], marks: frozenset[str], *, alone: bool = False) -> T:
        """Queue work and wait until it is on disk. `alone`: outside any transaction, as VACUUM wants it.

        Raises:
            StoreUnavailable: the store is closed, or the disk full or failing. Nothing was written; what was being
                synced just then may be found written by the next start.
        """
        if threading.current_thread() is self._thread:
            raise HonedError("a write inside a transaction must go through that transaction's own store")
        done: Future[T] = Future()
        self._enqueue(Job(work, marks, done, alone=alone))
        return done.result()

    async def submit_async(self, work: Callable[[Database], T], marks: frozenset[str]) -> T:
        """Queue work and wait until it is on disk, as a coroutine. Cancelled, it may be written all the same.

        Raises:
            StoreUnavailable: the store is closed, or the disk full or failing. Nothing was written; what was being
                synced just then may be found written by the next start.
        """
        done: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._enqueue(Job(work, marks, done))
        return await done

    def _enqueue(self, job: Job) -> None:
        # Under the lock: nothing may queue up behind the thread's last look.
        with self._gate:
            if not self._open:
                raise StoreUnavailable("the store is closed")
            self._queue.put(job)

    def close(self) -> None:
        """Commit what is queued, fold the WAL back into the database, close."""
        with self._gate:
            self._open = False
            self._queue.put(None)
        self._thread.join()
        # A reader may still hold the log, or the disk fail: the log stays valid, and the next start folds it.
        with contextlib.suppress(sqlite3.Error):
            fold(self.db, "close")
        self.db.conn.close()

    def _run(self) -> None:
        try:
            self._work()
        finally:
            with self._gate:
                self._open = False
            self._refuse_the_rest()

    def _work(self) -> None:
        open_ = True
        while open_:
            first = self._queue.get()
            group = [first] if first is not None else []
            open_ = first is not None
            while open_ and len(group) < GROUP:
                try:
                    job = self._queue.get_nowait()
                except queue.Empty:
                    break
                if job is None:
                    open_ = False
                    break
                group.append(job)
            self._taken = group
            for alone, jobs in itertools.groupby(group, key=lambda job: job.alone):
                part = list(jobs)
                self._taken = self._taken[len(part) :]
                (self._run_alone if alone else self._commit)(part)

    def _refuse_the_rest(self) -> None:
        """Whoever queued after the close, or waits behind what ended the thread, must hear about it."""
        for left in self._taken:
            left.error = StoreUnavailable("the store is closed")
        tell(self._taken)
        with contextlib.suppress(queue.Empty):
            while True:
                job = self._queue.get_nowait()
                if job is not None:
                    job.error = StoreUnavailable("the store is closed")
                    tell([job])

    def _commit(self, group: list[Job]) -> None:
        marks = frozenset().union(*(job.marks for job in group))
        try:
            self.db.conn.execute("begin immediate")
            for job in group:
                self._run_one(job)
            for mark in sorted(marks):
                failpoint(f"{mark}.before_commit")
            with around("commit", lambda: written(group)):
                self.db.conn.execute("commit")
        except BaseException as error:  # the disk is full or failing: nobody in the group was written
            self._note(error, len(group))
            for job in group:
                job.error = error
            tell(group)
            # Going on is safe also after a failed sync: the next commit writes the same part of the log again.
            if self.db.conn.in_transaction:
                self.db.conn.execute("rollback")
            return
        if self.trouble is not None:
            log.warning("the database can be written again")
            self.trouble = None
        for mark in sorted(marks):
            failpoint(f"{mark}.after_commit")
        tell(group)

    def _note(self, error: BaseException, count: int) -> None:
        """Log a failure: all of it where honed is to blame, a line where the disk is, and that once."""
        found = fault(error)
        if found is None:
            log.error("a group of %d writes failed", count, exc_info=error)
            return
        trouble = f"the database cannot be written, {found[0]} ({error}): {found[1]}"
        if trouble != self.trouble:
            log.error("%s", trouble)
        self.trouble = trouble

    def _run_alone(self, jobs: list[Job]) -> None:
        for job in jobs:
            try:
                job.value = job.work(self.db)
            except Exception as error:
                job.error = error
            tell([job])

    def _run_one(self, job: Job) -> None:
        self.db.conn.execute("savepoint job")
        try:
            job.value = job.work(self.db)
        except Exception as error:
            job.error = error
            if not self.db.conn.in_transaction:
                raise  # the error destroyed the whole transaction, not just this savepoint
            self.db.conn.execute("rollback to job")
        self.db.conn.execute("release job")


def fold(db: Database, why: str) -> bool:
    """Fold the log back into the database and empty it. Returns whether a reader kept it from being emptied."""
    with around("commit", f"checkpoint, {why}"):
        return bool(db.conn.execute("pragma wal_checkpoint(truncate)").fetchone()[0])


def compact(db: Database) -> None:
    """Rewrite the database without its free pages and fold the log into it: what was deleted is in neither file.

    Raises:
        HonedError: somebody has been reading from the log for longer than `BUSY_TIMEOUT_MS`.
    """
    with around("commit", "vacuum"):
        db.execute("vacuum")
    if fold(db, "compact"):
        raise HonedError(
            "another process reads the database, so its log cannot be emptied; it is tried again"
        )


class Live:
    """The service's session: readers beside the writer."""

    def __init__(self, writer: Writer, readers: Readers) -> None:
        self.writer, self.readers = writer, readers

    def rows(self, sql: str, parameters: Parameters = ()) -> list[Row]:
        return self.readers.rows(sql, parameters)

    def write(self, work: Callable[[Database], T], *, marks: frozenset[str] = frozenset()) -> T:
        return self.writer.submit(work, marks)

    async def write_async(self, work: Callable[[Database], T], *, marks: frozenset[str] = frozenset()) -> T:
        return await self.writer.submit_async(work, marks)


class Inside:
    """A session inside one transaction on the writer thread: reads see its own writes."""

    def __init__(self, db: Database) -> None:
        self.db = db

    def rows(self, sql: str, parameters: Parameters = ()) -> list[Row]:
        return list(self.db.execute(sql, parameters).fetchall())

    def write(self, work: Callable[[Database], T], *, marks: frozenset[str] = frozenset()) -> T:
        del marks  # the outer commit is the one that is guarded
        return work(self.db)

    async def write_async(self, work: Callable[[Database], T], *, marks: frozenset[str] = frozenset()) -> T:
        return self.write(work, marks=marks)


class ReadOnly:
    """A session that refuses to write."""

    def __init__(self, readers: Readers) -> None:
        self.readers = readers

    def rows(self, sql: str, parameters: Parameters = ()) -> list[Row]:
        return self.readers.rows(sql, parameters)

    def write(self, work: Callable[[Database], T], *, marks: frozenset[str] = frozenset()) -> T:
        del work, marks  # the Session protocol's
        raise HonedError("this store was opened for reading only")

    async def write_async(self, work: Callable[[Database], T], *, marks: frozenset[str] = frozenset()) -> T:
        return self.write(work, marks=marks)
