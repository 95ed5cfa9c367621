"""Small standing facts of the service, by key: whether it is paused, what the schedule waits for."""

import json
from typing import Any

from sqlite_utils import Database

from store.failpoints import around
from store.session import Session


class State:
    def __init__(self, session: Session) -> None:
        self._session = session

    def get(self, key: str, default: Any = None) -> Any:
        rows = self._session.rows("select value from service_state where key = ?", [key])
        return json.loads(rows[0][0]) if rows else default

    def set(self, key: str, value: Any) -> None:
        sql = "insert or replace into service_state (key, value) values (?, ?)"
        text = json.dumps(value, ensure_ascii=False)

        def work(db: Database) -> None:
            with around("status", f"state, {key}"):
                db.execute(sql, [key, text])

        self._session.write(work)
