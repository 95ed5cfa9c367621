"""Judgements: a scorer's opinions of answers, kept with what produced them."""

import json
from collections.abc import Sequence

from sqlite_utils import Database

from store.records import Judgement
from store.session import Session

COLUMNS = "completion_id, choice_index, scorer, score, at, iteration, details"


class Judgements:
    def __init__(self, session: Session) -> None:
        self._session = session

    def add(self, judgements: Sequence[Judgement]) -> None:
        rows = [
            (j.completion_id, j.choice_index, j.scorer, j.score, j.at, j.iteration, json.dumps(j.details))
            for j in judgements
        ]

        def work(db: Database) -> None:
            db.conn.executemany(f"insert into judgements ({COLUMNS}) values (?, ?, ?, ?, ?, ?, ?)", rows)

        self._session.write(work)

    def of(self, completion_id: str) -> list[Judgement]:
        """Everything scorers said of an answer, oldest first."""
        sql = f"select {COLUMNS} from judgements where completion_id = ? order by id"
        return [
            Judgement(**{**dict(row), "details": json.loads(row["details"])})
            for row in self._session.rows(sql, [completion_id])
        ]
