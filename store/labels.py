"""Operators' labels: what judges are measured against. Appended, never edited, never trained on."""

from dataclasses import asdict, fields

from sqlite_utils import Database

from store.judging import Label
from store.session import Session

NAMES = tuple(field.name for field in fields(Label))
COLUMNS = ", ".join(NAMES)


class Labels:
    def __init__(self, session: Session) -> None:
        self._session = session

    def add(self, label: Label) -> None:
        """Write a label down. One of that id already there stays as it is."""
        row = {
            **asdict(label),
            "good": None if label.good is None else int(label.good),
            "same": int(label.same),
        }
        sql = f"insert or ignore into labels ({COLUMNS}) values ({', '.join(f':{name}' for name in NAMES)})"

        def work(db: Database) -> None:
            db.execute(sql, row)

        self._session.write(work)

    def recent(self, limit: int) -> list[Label]:
        """Newest first."""
        sql = f"select {COLUMNS} from labels order by created_at desc, rowid desc limit ?"
        return [
            Label(
                **{
                    **dict(row),
                    "good": None if row["good"] is None else bool(row["good"]),
                    "same": bool(row["same"]),
                }
            )
            for row in self._session.rows(sql, [limit])
        ]

    def count(self) -> int:
        return int(self._session.rows("select count(*) from labels")[0][0])
