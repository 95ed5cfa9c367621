"""Operator intents: what someone wants done. Written by every door, acted on by the loop alone."""

import json
from collections.abc import Callable, Sequence
from typing import Any

from sqlite_utils import Database

from store.errors import NotFound
from store.failpoints import around
from store.records import Intent, IntentKind, IntentStatus
from store.session import Row, Session

COLUMNS = "id, created_at, kind, principal, reason, arguments, status, outcome, updated_at"


class Intents:
    def __init__(self, session: Session, clock: Callable[[], float]) -> None:
        self._session, self._clock = session, clock

    def add(self, intent: Intent) -> None:
        values = [
            intent.id,
            intent.created_at,
            intent.kind.value,
            intent.principal,
            intent.reason,
            json.dumps(intent.arguments),
            intent.status.value,
            json.dumps(intent.outcome),
            intent.updated_at,
        ]
        sql = f"insert into intents ({COLUMNS}) values (?, ?, ?, ?, ?, ?, ?, ?, ?)"
        self._change(intent.status, sql, values)

    def get(self, intent_id: str) -> Intent:
        """
        Raises:
            NotFound: there is none of that id.
        """
        rows = self._session.rows(f"select {COLUMNS} from intents where id = ?", [intent_id])
        if not rows:
            raise NotFound(f"no intent {intent_id!r}", param="id")
        return intent_of(rows[0])

    def pending(self) -> list[Intent]:
        """Those not dealt with yet, running ones among them, oldest first."""
        rows = self._session.rows(
            f"select {COLUMNS} from intents where status in ('pending', 'running') order by created_at, rowid"
        )
        return [intent_of(row) for row in rows]

    def recent(self, limit: int = 50) -> list[Intent]:
        """Newest first."""
        sql = f"select {COLUMNS} from intents order by created_at desc, rowid desc limit ?"
        return [intent_of(row) for row in self._session.rows(sql, [limit])]

    def take_up(self, intent_id: str, arguments: dict[str, Any]) -> None:
        """Write down that it is being carried out, and with what."""
        sql = "update intents set status = ?, arguments = ?, updated_at = ? where id = ?"
        values = [IntentStatus.RUNNING.value, json.dumps(arguments), self._clock(), intent_id]
        self._change(IntentStatus.RUNNING, sql, values)

    def update(self, intent_id: str, status: IntentStatus, outcome: dict[str, Any]) -> None:
        """Write down what became of it."""
        sql = "update intents set status = ?, outcome = ?, updated_at = ? where id = ?"
        values = [status.value, json.dumps(outcome), self._clock(), intent_id]
        self._change(status, sql, values)

    def _change(self, to: IntentStatus, sql: str, values: Sequence[Any]) -> None:
        def work(db: Database) -> None:
            with around("status", f"intent, {to}"):
                db.execute(sql, values)

        self._session.write(work)


def intent_of(row: Row) -> Intent:
    fields = dict(row)
    fields.update(
        kind=IntentKind(row["kind"]),
        status=IntentStatus(row["status"]),
        arguments=json.loads(row["arguments"]),
        outcome=json.loads(row["outcome"]),
    )
    return Intent(**fields)
