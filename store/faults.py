"""What SQLite says when the disk, and not the request, is at fault, in words that tell what to do."""

import sqlite3

from store.errors import StoreUnavailable

#: SQLite's primary result codes -> what is wrong, and what to do about it.
REMEDIES = {
    sqlite3.SQLITE_FULL: ("the disk is full", "free some space; honed goes on by itself"),
    sqlite3.SQLITE_IOERR: (
        "the disk fails",
        "look at the kernel's log; honed goes on by itself where the disk does",
    ),
    sqlite3.SQLITE_READONLY: ("the file system is read-only", "mount it for writing, then restart honed"),
    sqlite3.SQLITE_PERM: ("the files may not be written", "mend their owner and mode, then restart honed"),
    sqlite3.SQLITE_CANTOPEN: (
        "its files cannot be opened",
        "look whether they are there and whose they are, then restart honed",
    ),
    sqlite3.SQLITE_BUSY: (
        "another process holds it",
        "end whatever else writes to it, such as a shell of SQLite's",
    ),
    # Also what SQLite makes of a read that fails.
    sqlite3.SQLITE_CORRUPT: (
        "it is damaged or the disk fails",
        "look at the kernel's log; where it stays so, keep the file and restore a backup (docs/reliability.md)",
    ),
    sqlite3.SQLITE_NOTADB: ("it is no database", "keep the file and restore a backup (docs/reliability.md)"),
}


def fault(error: BaseException) -> tuple[str, str] | None:
    """What is wrong with the disk and what to do; None where the error is of another kind."""
    code = getattr(error, "sqlite_errorcode", None)
    # The low byte is the primary code; the rest says in which call.
    return REMEDIES.get(code & 0xFF) if isinstance(error, sqlite3.Error) and code is not None else None


def unavailable(error: BaseException) -> BaseException:
    """The error as those who asked hear of it: a fault of the disk as one that passes, all others as they are."""
    found = fault(error)
    if found is None:
        return error
    told = StoreUnavailable(f"the database cannot be used, {found[0]} ({error}); send it again later")
    told.__cause__ = error
    return told
