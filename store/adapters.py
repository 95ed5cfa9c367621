"""Adapters and the pointer to the active one. The pointer is one row; its history is appended."""

from collections.abc import Callable, Sequence
from pathlib import Path

from sqlite_utils import Database

from store.errors import NotFound
from store.failpoints import around
from store.records import Activation, Adapter, AdapterStatus
from store.session import Row, Session

COLUMNS = "version, parent, iteration, path, digest, status, scale, created_at"


class Adapters:
    def __init__(self, session: Session, clock: Callable[[], float]) -> None:
        self._session, self._clock = session, clock

    def add(self, adapter: Adapter) -> None:
        """Record a new version."""
        values = [
            adapter.version,
            adapter.parent,
            adapter.iteration,
            str(adapter.path),
            adapter.digest,
            adapter.status.value,
            adapter.scale,
            adapter.created_at,
        ]
        sql = f"insert into adapters ({COLUMNS}) values (?, ?, ?, ?, ?, ?, ?, ?)"

        def work(db: Database) -> None:
            with around("status", f"adapter, {adapter.status}"):
                db.execute(sql, values)

        self._session.write(work)

    def find(self, version: str) -> Adapter | None:
        rows = self._session.rows(f"select {COLUMNS} from adapters where version = ?", [version])
        return adapter_of(rows[0]) if rows else None

    def get(self, version: str) -> Adapter:
        """
        Raises:
            NotFound: there is none of that name.
        """
        found = self.find(version)
        if found is None:
            raise NotFound(f"no adapter {version!r}", param="version")
        return found

    def list(self) -> list[Adapter]:
        """Newest first."""
        sql = f"select {COLUMNS} from adapters order by created_at desc, version desc"
        return [adapter_of(row) for row in self._session.rows(sql)]

    def known(self) -> dict[str, Adapter]:
        """All, by version."""
        return {one.version: one for one in self.list()}

    def active(self) -> Adapter | None:
        """The one being served; None is the base model."""
        names = ", ".join(f"a.{name.strip()}" for name in COLUMNS.split(","))
        rows = self._session.rows(f"select {names} from active p join adapters a on a.version = p.version")
        return adapter_of(rows[0]) if rows else None

    def activate(
        self,
        version: str | None,
        *,
        actor: str,
        reason: str,
        retire_as: AdapterStatus = AdapterStatus.SUPERSEDED,
    ) -> None:
        """Move the pointer (None: to base), the statuses of both adapters, and write the move down.

        `retire_as` is what becomes of the version that is left; anything but superseded says that the move went back.
        """

        def work(db: Database) -> None:
            previous = db.execute("select version from active").fetchone()[0]
            with around("status", f"adapter, {retire_as}"):
                db.execute("update adapters set status = ? where version = ?", [retire_as.value, previous])
            with around("status", f"adapter, {AdapterStatus.ACTIVE}"):
                db.execute(
                    "update adapters set status = ? where version = ?", [AdapterStatus.ACTIVE.value, version]
                )
            with around("status", "pointer"):
                db.execute("update active set version = ?", [version])
            db.execute(
                "insert into activations (at, version, previous, actor, reason, left_as) values (?, ?, ?, ?, ?, ?)",
                [self._clock(), version, previous, actor, reason, retire_as.value],
            )

        self._session.write(work)

    def mark(self, version: str, status: AdapterStatus) -> None:
        """Change a status without moving the pointer."""
        sql = "update adapters set status = ? where version = ?"

        def work(db: Database) -> None:
            with around("status", f"adapter, {status}"):
                db.execute(sql, [status.value, version])

        self._session.write(work)

    def activations(self, limit: int = 100) -> Sequence[Activation]:
        """Moves of the pointer, newest first."""
        sql = "select id, at, version, previous, actor, reason, left_as from activations order by id desc limit ?"
        rows = [dict(row) for row in self._session.rows(sql, [limit])]
        return [Activation(**{**row, "left_as": AdapterStatus(row["left_as"])}) for row in rows]


def adapter_of(row: Row) -> Adapter:
    return Adapter(
        version=row["version"],
        parent=row["parent"],
        iteration=row["iteration"],
        path=Path(row["path"]),
        digest=row["digest"],
        status=AdapterStatus(row["status"]),
        scale=row["scale"],
        created_at=row["created_at"],
    )
