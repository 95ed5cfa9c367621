"""The store: every fact honed remembers, behind named operations. SQL stays in this room."""

import contextlib
import fcntl
import itertools
import logging
import os
import shutil
import sqlite3
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

from sqlite_utils import Database

from store.adapters import Adapters
from store.audit import Audit
from store.canaries import Canaries
from store.completions import Completions
from store.connections import Readers, connect_reader, connect_writer
from store.errors import AlreadyRunning, HonedError, NotFound, StoreUnavailable
from store.failpoints import around
from store.faults import fault
from store.feedback import FeedbackLog
from store.files import fsync_file, put_in_place
from store.forgetting import Forgetting
from store.history import History
from store.intents import Intents
from store.iterations import Iterations
from store.judgements import Judgements
from store.labels import Labels
from store.metrics import Metrics
from store.migrations import MIGRATIONS, pending
from store.outcomes import Outcomes
from store.quarantine import Quarantine
from store.session import Inside, Live, ReadOnly, Session, Writer, compact, fold
from store.state import State

log = logging.getLogger(__name__)

T = TypeVar("T")
Clock = Callable[[], float]

#: The SQLite in this process, and from which on there is all that the store uses: STRICT tables, the ->> operator.
SQLITE = sqlite3.sqlite_version_info
SQLITE_NEEDED = (3, 38, 0)


class Store:
    """Repositories over one session. Thread-safe; a write returns when it is on disk."""

    def __init__(self, session: Session, *, clock: Clock, on_close: Callable[[], None]) -> None:
        self._session, self._clock, self._on_close = session, clock, on_close
        self.completions = Completions(session)
        self.feedback = FeedbackLog(session)
        self.judgements = Judgements(session)
        self.labels = Labels(session)
        self.quarantine = Quarantine(session, clock)
        self.adapters = Adapters(session, clock)
        self.iterations = Iterations(session, clock)
        self.metrics = Metrics(session)
        self.intents = Intents(session, clock)
        self.audit = Audit(session, clock)
        self.canaries = Canaries(session, clock)
        self.outcomes = Outcomes(session)
        self.history = History(session)
        self.state = State(session)
        self.forgetting = Forgetting(session, clock)

    @classmethod
    def open(cls, path: Path, *, clock: Clock = time.time) -> "Store":
        """Open, and if need be create or migrate, as the one writer.

        Raises:
            SchemaTooNew: a newer honed wrote it.
            HonedError: it is damaged or none, or the disk is full, failing or read-only.
        """
        try:
            db = connect_writer(path)
        except sqlite3.DatabaseError as error:
            raise unopened(path, error) from error
        try:
            prepare(db, path)
        except sqlite3.DatabaseError as error:
            db.conn.close()
            raise unopened(path, error) from error
        except BaseException:
            db.conn.close()
            raise
        log.info("SQLite %s, database %s", sqlite3.sqlite_version, path)
        writer, readers = Writer(db), Readers(path)

        def close() -> None:
            readers.close()
            writer.close()

        return cls(Live(writer, readers), clock=clock, on_close=close)

    @classmethod
    def read_only(cls, path: Path, *, clock: Clock = time.time) -> "Store":
        """Open for reading, beside a running service or without one.

        Raises:
            NotFound: there is no database.
            SchemaTooNew: a newer honed wrote it.
        """
        if not path.is_file():
            raise NotFound(f"no database at {path}")
        try:
            probe = connect_reader(path)
        except sqlite3.DatabaseError as error:
            raise unopened(path, error) from error
        try:
            probe.execute("select count(*) from sqlite_master")
        except sqlite3.DatabaseError as error:
            probe.close()
            raise unopened(path, error) from error
        try:
            if pending(Database(probe, execute_plugins=False)):
                raise HonedError(f"{path} is of an older version; starting the service once upgrades it")
        finally:
            probe.close()
        readers = Readers(path)
        return cls(ReadOnly(readers), clock=clock, on_close=readers.close)

    @classmethod
    def memory(cls, *, clock: Clock = time.time) -> "Store":
        """A store that leaves nothing behind: the same code on a temporary folder."""
        folder = Path(tempfile.mkdtemp(prefix="honed-store-"))
        store = cls.open(folder / "honed.db", clock=clock)
        close = store._on_close

        def close_and_remove() -> None:
            close()
            shutil.rmtree(folder)

        store._on_close = close_and_remove
        return store

    def close(self) -> None:
        """Write out what is queued and let go of the files."""
        self._on_close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def writable(self) -> bool:
        """Whether the writer is alive."""
        return isinstance(self._session, Live) and self._session.writer.alive

    def problem(self) -> str | None:
        """What keeps facts from being stored, and what to do about it; None while nothing does. After a failure it is
        tried again here, so that somebody who asks now and then is enough for going on once the cause is gone.
        """
        if not self.writable or not isinstance(self._session, Live):
            return "the database's writer has stopped: restart honed"
        writer = self._session.writer
        if writer.trouble is not None:
            with contextlib.suppress(StoreUnavailable):
                writer.submit(touch, frozenset())
        return writer.trouble

    def atomic(self, work: Callable[["Store"], T]) -> T:
        """Run several operations as one: all are on disk when this returns, or none is.

        `work` gets a store bound to the transaction and runs on the writer thread; keep it short.
        """
        return self._session.write(self._bound(work))

    async def atomic_async(self, work: Callable[["Store"], T], *, marks: frozenset[str] = frozenset()) -> T:
        """`atomic` for a coroutine: no thread waits for the disk meanwhile. `marks`: as in `Session.write`."""
        return await self._session.write_async(self._bound(work), marks=marks)

    def _bound(self, work: Callable[["Store"], T]) -> Callable[[Database], T]:
        """Work on a store as work on the connection, under its own name."""

        def bound(db: Database) -> T:
            return work(self._inside(db))

        bound.__qualname__ = getattr(work, "__qualname__", "work")
        return bound

    def _inside(self, db: Database) -> "Store":
        return Store(Inside(db), clock=self._clock, on_close=lambda: None)

    def compact(self) -> None:
        """Leave nothing of what was deleted in the database's files. Writes wait meanwhile.

        Raises:
            HonedError: the store is not open for writing, or another process reads and reads.
        """
        if not isinstance(self._session, Live):
            raise HonedError("only a store that is open for writing can be compacted")
        self._session.writer.submit(compact, frozenset(), alone=True)


def touch(db: Database) -> None:
    """Write something nobody reads. It must be something new: what is there already SQLite does not write again."""
    db.execute(
        "insert into service_state (key, value) values ('touched', '1') "
        "on conflict (key) do update set value = cast(value as integer) + 1"
    )


def unopened(path: Path, error: sqlite3.DatabaseError) -> HonedError:
    """Why a database cannot be used, and what to do about it."""
    found = fault(error)
    what = f"{found[0]} ({error}): {found[1]}" if found else str(error)
    return HonedError(f"{path} cannot be opened as a database, {what}")


def prepare(db: Database, path: Path) -> None:
    """Put a database in order before anything new is written to it.

    The log first: what a process wrote to it whose sync failed is read back from memory, and may not be on the disk.
    New entries behind it would be lost with it; what is folded into the database is written and synced again.

    Raises:
        SchemaTooNew: a newer honed wrote it; nothing was touched.
    """
    pending(db)
    if path.stat().st_size and fold(db, "open"):
        log.warning("another process reads %s, so its log could not be emptied at this start", path)
    migrate(db, path)


def migrate(db: Database, path: Path) -> None:
    """Bring the schema up to date; an existing database is copied aside first."""
    steps = pending(db)
    if not steps:
        return
    if MIGRATIONS.applied(db):
        snapshot(db, path.with_name(f"{path.name}.before-{steps[0]}"))
    for step, next_ in itertools.zip_longest(steps, steps[1:]):
        with around("commit", f"migrate, {step}"):
            MIGRATIONS.apply(db, stop_before=next_)


def snapshot(db: Database, path: Path) -> None:
    """Copy the database with SQLite's backup API, durably; complete or not at all."""
    temporary = path.with_name(f".{path.name}.tmp")
    for leftover in (temporary, temporary.with_name(f"{temporary.name}-journal")):
        leftover.unlink(missing_ok=True)
    target = sqlite3.connect(temporary)
    try:
        db.conn.backup(target)
    finally:
        target.close()
    fsync_file(temporary)
    put_in_place(temporary, path)


class StateLock:
    """One service per state directory, for as long as the process lives.

    Raises (on entry):
        AlreadyRunning: another process holds it.
        HonedError: it cannot be written, as on a read-only file system.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._fd: int | None = None

    def __enter__(self) -> Self:
        try:
            fd = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            raise HonedError(f"{self.path} cannot be written: {error.strerror}") from error
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            holder = os.read(fd, 32).decode().strip() or "unknown"
            os.close(fd)
            raise AlreadyRunning(
                f"another honed service (pid {holder}) uses {self.path.parent}; stop it, or set store.directory"
            ) from error
        os.ftruncate(fd, 0)
        os.write(fd, f"{os.getpid()}\n".encode())
        self._fd = fd
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None
