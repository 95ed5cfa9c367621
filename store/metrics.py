"""Measurements of iterations, by name (`group/name`)."""

from sqlite_utils import Database

from store.session import Session


class Metrics:
    def __init__(self, session: Session) -> None:
        self._session = session

    def add(self, iteration: int, values: dict[str, float]) -> None:
        """Record measurements; one of the same name is replaced. NaN is kept as null."""
        rows = [(iteration, name, None if value != value else value) for name, value in values.items()]

        def work(db: Database) -> None:
            db.conn.executemany(
                "insert or replace into metrics (iteration, name, value) values (?, ?, ?)", rows
            )

        self._session.write(work)

    def get(self, iteration: int) -> dict[str, float]:
        """Measurements that are numbers."""
        sql = "select name, value from metrics where iteration = ? and value is not null order by name"
        return {row["name"]: row["value"] for row in self._session.rows(sql, [iteration])}
