"""The audit log: who did what, and why. Append-only: triggers refuse anything else, and a hash chain shows it."""

import json
from collections.abc import Callable, Sequence
from typing import Any

from store import chain
from store.chain import GENESIS, Chain
from store.records import AuditEntry
from store.session import Row, Session

COLUMNS = "id, at, actor, action, subject, reason, details"


class Audit:
    def __init__(self, session: Session, clock: Callable[[], float]) -> None:
        self._session, self._clock = session, clock

    def add(
        self, *, actor: str, action: str, subject: str, reason: str, details: dict[str, Any] | None = None
    ) -> None:
        at, says = self._clock(), [actor, subject, reason, json.dumps(details or {})]
        self._session.write(lambda db: chain.append(db, at, action, says))

    def verify(self) -> Chain:
        """Hold every entry against the chain."""
        return chain.verify(self._session.rows)

    def head(self) -> tuple[int, str]:
        """How many entries there are, and the digest of the last, which stands for all of them."""
        rows = self._session.rows("select id, digest from audit order by id desc limit 1")
        return (rows[0]["id"], rows[0]["digest"]) if rows else (0, GENESIS)

    def has(self, digest: str) -> int | None:
        """The number of the entry with this digest; None where no entry has it. Only where `verify` finds nothing
        wrong does it stand for all entries up to there.
        """
        rows = self._session.rows("select id from audit where digest = ?", [digest])
        return rows[0]["id"] if rows else None

    def list(
        self, limit: int = 100, *, before: int | None = None, actions: Sequence[str] | None = None
    ) -> list[AuditEntry]:
        """Newest first; before an entry's id, and of some actions only, where that is asked."""
        rows = self._session.rows(
            f"select {COLUMNS} from audit where (:before is null or id < :before) "
            "and (:actions is null or action in (select value from json_each(:actions))) "
            "order by id desc limit :limit",
            {"limit": limit, "before": before, "actions": None if actions is None else json.dumps(actions)},
        )
        return [entry_of(row) for row in rows]

    def last(self, action: str, actors: Sequence[str]) -> AuditEntry | None:
        """The newest entry of an action by one of these."""
        rows = self._session.rows(
            f"select {COLUMNS} from audit where action = ? and actor in (select value from json_each(?)) "
            "order by id desc limit 1",
            [action, json.dumps(list(actors))],
        )
        return entry_of(rows[0]) if rows else None

    def since(self, entry_id: int, limit: int = 100) -> Sequence[AuditEntry]:
        """Entries after the one of that id, oldest first."""
        sql = f"select {COLUMNS} from audit where id > ? order by id limit ?"
        return [entry_of(row) for row in self._session.rows(sql, [entry_id, limit])]


def entry_of(row: Row) -> AuditEntry:
    return AuditEntry(**{**dict(row), "details": json.loads(row["details"])})
