"""Canaries: which version answers which people, and how each trial ended.

Who is answered by a canary follows from a name and a version alone, so nothing about people is kept for it and
everybody stays where they are until the share grows.
"""

import hashlib
from collections.abc import Callable, Sequence

from sqlite_utils import Database

from store.errors import Invalid
from store.failpoints import around
from store.records import Canary, CanaryOutcome
from store.session import Row, Session

COLUMNS = "id, version, incumbent, iteration, step, share, began_at, step_at, ended_at, outcome, reason"


def in_canary(principal: str, version: str, share: float) -> bool:
    """Whether a canary of that share (0 to 1) answers this person.

    A stable hash as a number in [0, 1): a growing share only ever adds people. It depends on the version, so
    that not the same people try everything.
    """
    digest = hashlib.sha256(f"{version}\n{principal}".encode()).digest()
    # 53 bits: every such integer is a float of its own, so the quotient never rounds up to 1.
    return (int.from_bytes(digest[:8]) >> 11) / 2**53 < share


class Canaries:
    def __init__(self, session: Session, clock: Callable[[], float]) -> None:
        self._session, self._clock = session, clock

    def begin(self, *, version: str, incumbent: str | None, iteration: int | None, share: float) -> Canary:
        """Open a canary at its first step.

        Raises:
            sqlite3.IntegrityError: one is open already.
        """

        def work(db: Database) -> Canary:
            now = self._clock()
            with around("status", "canary, begun"):
                cursor = db.execute(
                    "insert into canaries (version, incumbent, iteration, step, share, began_at, step_at) "
                    "values (?, ?, ?, 0, ?, ?, ?)",
                    [version, incumbent, iteration, share, now, now],
                )
            return read(db, int(cursor.lastrowid or 0))

        return self._session.write(work)

    def widen(self, canary: int, share: float) -> Canary:
        """The next step: answer a larger share."""
        sql = "update canaries set step = step + 1, share = ?, step_at = ? where id = ? and ended_at is null"
        return self._change(canary, sql, [share, self._clock(), canary], "widened")

    def end(self, canary: int, outcome: CanaryOutcome, reason: str) -> Canary:
        """Close it."""
        sql = "update canaries set ended_at = ?, outcome = ?, reason = ? where id = ? and ended_at is null"
        return self._change(canary, sql, [self._clock(), outcome.value, reason, canary], outcome.value)

    def open(self) -> Canary | None:
        """The one under way."""
        rows = self._session.rows(f"select {COLUMNS} from canaries where ended_at is null")
        return canary_of(rows[0]) if rows else None

    def list(self, limit: int = 50) -> list[Canary]:
        """Newest first."""
        rows = self._session.rows(f"select {COLUMNS} from canaries order by id desc limit ?", [limit])
        return [canary_of(row) for row in rows]

    def _change(self, canary: int, sql: str, values: Sequence[float | int | str], to: str) -> Canary:
        def work(db: Database) -> Canary:
            with around("status", f"canary, {to}"):
                if db.execute(sql, values).rowcount != 1:
                    raise Invalid(f"canary {canary} is not open", param="canary")
            return read(db, canary)

        return self._session.write(work)


def read(db: Database, canary: int) -> Canary:
    return canary_of(db.execute(f"select {COLUMNS} from canaries where id = ?", [canary]).fetchone())


def canary_of(row: Row) -> Canary:
    outcome = row["outcome"]
    return Canary(**{**dict(row), "outcome": None if outcome is None else CanaryOutcome(outcome)})
