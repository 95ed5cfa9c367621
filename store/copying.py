"""A copy of the database in one file, taken while others write, and what it holds."""

import contextlib
import sqlite3
from dataclasses import dataclass
from pathlib import Path

from store.chain import Chain, verify
from store.connections import connect_reader
from store.errors import HonedError
from store.files import fsync_directory, fsync_file


@dataclass(frozen=True, slots=True)
class Holdings:
    """What a database holds: rows by table, the version that is served (None: base), and the files it names."""

    rows: dict[str, int]
    active: str | None
    active_path: str | None
    adapters: dict[str, str]
    """Path of every adapter, below the state directory -> digest of its manifest."""
    audit: Chain | None
    """The audit log held against its chain; None in a database from before there was one."""


COUNTED = ("completions", "feedback", "iterations", "adapters")


def copy_database(source: Path, target: Path) -> None:
    """Copy with SQLite's backup API: one moment of the source, whole, checked and on disk; no log files beside it.

    Raises:
        HonedError: the source cannot be read, or the copy is not sound.
    """
    try:
        with (
            contextlib.closing(connect_reader(source)) as old,
            contextlib.closing(sqlite3.connect(target)) as new,
        ):
            old.backup(new)  # all pages in one read transaction: writers go on beside it
            new.execute("pragma journal_mode=delete")
            check(new, target)
    except sqlite3.DatabaseError as error:
        raise HonedError(f"{source} cannot be copied: {error}") from error
    fsync_file(target)
    fsync_directory(target.parent)


def holdings(path: Path) -> Holdings:
    """Look into a database without writing, every page of it.

    Raises:
        HonedError: it is damaged, or none of honed's.
    """
    try:
        with contextlib.closing(connect_reader(path)) as db:
            check(db, path)
            # Names of tables are this module's own.
            rows = {name: db.execute(f"select count(*) from {name}").fetchone()[0] for name in COUNTED}
            active = db.execute(
                "select p.version, a.path from active p left join adapters a on a.version = p.version"
            ).fetchone()
            adapters = dict(db.execute("select path, digest from adapters").fetchall())
            columns = {row["name"] for row in db.execute("pragma table_info(audit)")}
            audit = None
            if "digest" in columns:
                audit = verify(lambda sql, values: db.execute(sql, values).fetchall())
    # In damaged pages text may be no text, and a value of another type than its column has.
    except (sqlite3.Error, ValueError, TypeError) as error:
        raise HonedError(f"{path} is not a sound database of honed's: {error}") from error
    version, path_of_it = active or (None, None)
    return Holdings(rows, version, path_of_it, adapters, audit)


def check(db: sqlite3.Connection, path: Path) -> None:
    """
    Raises:
        HonedError: SQLite's integrity check finds something.
    """
    found = db.execute("pragma integrity_check(1)").fetchone()[0]
    if found != "ok":
        raise HonedError(f"{path} is damaged: {found}")
