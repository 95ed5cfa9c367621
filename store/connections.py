"""Connections to SQLite: the one that writes, and those that cannot, whatever they are asked to do."""

import contextlib
import queue
import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sqlite_utils import Database

from store.faults import unavailable

Row = sqlite3.Row
Parameters = Sequence[Any] | dict[str, Any]

#: How long a reader waits for a lock, milliseconds. Only a migration ever makes one wait.
BUSY_TIMEOUT_MS = 5000
#: Idle reader connections kept open.
KEPT = 8


def connect_writer(path: Path) -> Database:
    """The one connection that writes. Autocommit mode: transactions are opened by hand."""
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    connection.row_factory = sqlite3.Row
    # secure_delete: what is deleted or overwritten is zeroed, not left in free pages.
    pragmas = (
        "journal_mode=wal",
        "synchronous=full",
        "foreign_keys=on",
        "trusted_schema=off",
        "secure_delete=on",
    )
    for pragma in pragmas:
        connection.execute(f"pragma {pragma}")
    connection.execute(f"pragma busy_timeout={BUSY_TIMEOUT_MS}")
    return Database(connection, execute_plugins=False)


def connect_reader(path: Path) -> sqlite3.Connection:
    """A connection that cannot write, whatever it is asked to do."""
    uri = f"{path.resolve().as_uri()}?mode=ro"
    connection = sqlite3.connect(uri, uri=True, isolation_level=None, check_same_thread=False)
    connection.row_factory = sqlite3.Row
    for pragma in ("query_only=on", "trusted_schema=off", f"busy_timeout={BUSY_TIMEOUT_MS}"):
        connection.execute(f"pragma {pragma}")
    return connection


class Readers:
    """Read-only connections, lent for one query each. Idle ones are kept, up to `KEPT`."""

    def __init__(self, path: Path) -> None:
        self._path = path
        # The last one back goes out first: its page cache is the warmest.
        self._idle: queue.LifoQueue[sqlite3.Connection] = queue.LifoQueue(KEPT)

    def rows(self, sql: str, parameters: Parameters = ()) -> list[Row]:
        """
        Raises:
            StoreUnavailable: the disk fails.
        """
        try:
            return self._rows(sql, parameters)
        except sqlite3.Error as error:
            told = unavailable(error)
            if told is error:
                raise
            raise told from error

    def _rows(self, sql: str, parameters: Parameters) -> list[Row]:
        try:
            connection = self._idle.get_nowait()
        except queue.Empty:
            connection = connect_reader(self._path)
        try:
            return connection.execute(sql, parameters).fetchall()
        finally:
            try:
                self._idle.put_nowait(connection)
            except queue.Full:
                connection.close()

    def close(self) -> None:
        with contextlib.suppress(queue.Empty):
            while True:
                self._idle.get_nowait().close()
