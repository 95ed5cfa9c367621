"""The audit log: who did what, and why. Append-only; triggers refuse anything else."""

import json
from collections.abc import Callable, Sequence
from typing import Any

from store.records import AuditEntry
from store.session import Row, Session

COLUMNS = "id, at, actor, action, subject, reason, details"


class Audit:
    def __init__(self, session: Session, clock: Callable[[], float]) -> None:
        self._session, self._clock = session, clock

    def add(
        self, *, actor: str, action: str, subject: str, reason: str, details: dict[str, Any] | None = None
    ) -> None:
        values = [self._clock(), actor, action, subject, reason, json.dumps(details or {})]
        sql = "insert into audit (at, actor, action, subject, reason, details) values (?, ?, ?, ?, ?, ?)"
        self._session.write(lambda db: db.execute(sql, values) and None)

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
