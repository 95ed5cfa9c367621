"""Quarantine: feedback that a bad adapter learned from, or that must not train, held back until it is let go.

The feedback itself stays as it was given; being held back and being let go are facts beside it. Held events neither
train nor serve as a yardstick for judges (`store.feedback.live` leaves them out).
"""

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from sqlite_utils import Database

from store.failpoints import around
from store.session import Inside, Row, Session

COLUMNS = "id, feedback_id, iteration, at, actor, reason"


@dataclass(frozen=True, slots=True)
class Quarantined:
    """One event held back. `iteration` is the first of those left behind that learned from it; `released_*` are
    None while it is held.
    """

    id: int
    feedback_id: str
    iteration: int
    at: float
    actor: str
    reason: str
    released_at: float | None = None
    released_by: str | None = None
    released_because: str | None = None


class Quarantine:
    def __init__(self, session: Session, clock: Callable[[], float]) -> None:
        self._session, self._clock = session, clock

    def hold(self, iterations: Iterable[int], *, kept: Iterable[int], actor: str, reason: str) -> int:
        """Hold back what trained these iterations and none of the `kept` ones. Returns how many events that are.

        What is held already stays held as it is.
        """
        parameters = {
            "left": json.dumps(sorted(set(iterations))),
            "kept": json.dumps(sorted(set(kept))),
            "at": self._clock(),
            "actor": actor,
            "reason": reason,
        }
        sql = """
            insert into quarantine (feedback_id, iteration, at, actor, reason)
            select e.feedback_id, min(e.iteration), :at, :actor, :reason from learned_examples e
            where e.iteration in (select value from json_each(:left))
              and not exists (select 1 from quarantined q where q.feedback_id = e.feedback_id)
              and not exists (
                select 1 from learned_examples k where k.feedback_id = e.feedback_id
                  and k.iteration in (select value from json_each(:kept)))
            group by e.feedback_id order by e.feedback_id"""
        return self._session.write(lambda db: changed(db, "held", sql, parameters))

    def hold_events(self, reasons: Mapping[str, str], *, iteration: int, actor: str) -> int:
        """Hold back single events, each for its reason, before they train. Returns how many are held that were not.

        Args:
            reasons: why, by event.
            iteration: the one that would have learned from them.
            actor: who says so.
        """
        sql = """
            insert into quarantine (feedback_id, iteration, at, actor, reason)
            select key, :iteration, :at, :actor, value from json_each(:reasons)
            where not exists (select 1 from quarantined q where q.feedback_id = key)"""
        parameters = {
            "reasons": json.dumps(dict(sorted(reasons.items()))),
            "iteration": iteration,
            "at": self._clock(),
            "actor": actor,
        }
        return self._session.write(lambda db: changed(db, "held", sql, parameters))

    def release(self, *, iteration: int | None = None, actor: str, reason: str) -> int:
        """Let go what is held (of one iteration, or all): it counts, and trains, again. Returns how many events."""
        sql = """
            insert into quarantine_releases (quarantine, at, actor, reason, last_iteration)
            select id, :at, :actor, :reason, (select coalesce(max(id), 0) from iterations) from quarantined
            where :iteration is null or iteration = :iteration"""

        def work(db: Database) -> int:
            parameters = {"at": self._clock(), "actor": actor, "reason": reason, "iteration": iteration}
            return changed(db, "released", sql, parameters)

        return self._session.write(work)

    def renew(self, iterations: Iterable[int], *, kept: Iterable[int], actor: str, reason: str) -> int:
        """Make new again what trained these iterations and none of the `kept` ones: held back and let go at once.

        What was held already stays held. Returns how many events that are.
        """
        sql = """
            insert into quarantine_releases (quarantine, at, actor, reason, last_iteration)
            select id, :at, :actor, :reason, (select coalesce(max(id), 0) from iterations) from quarantined
            where id > :last"""

        def work(db: Database) -> int:
            last = db.execute("select coalesce(max(id), 0) from quarantine").fetchone()[0]
            Quarantine(Inside(db), self._clock).hold(iterations, kept=kept, actor=actor, reason=reason)
            parameters = {"at": self._clock(), "actor": actor, "reason": reason, "last": last}
            return changed(db, "released", sql, parameters)

        return self._session.write(work)

    def held(self) -> list[Quarantined]:
        """What is held back now, oldest first."""
        return self._select("r.quarantine is null")

    def history(self) -> list[Quarantined]:
        """Everything that ever was, oldest first."""
        return self._select("true")

    def of(self, completion_id: str) -> list[Quarantined]:
        """What of an answer's feedback is, or was, held back."""
        condition = "q.feedback_id in (select id from feedback where completion_id = :completion)"
        return self._select(condition, completion=completion_id)

    def among(self, feedback_ids: Iterable[str]) -> set[str]:
        """Those of the events that are held back now."""
        sql = "select feedback_id from quarantined where feedback_id in (select value from json_each(?))"
        return {row[0] for row in self._session.rows(sql, [json.dumps(sorted(set(feedback_ids)))])}

    def count(self) -> int:
        """How many events are held back now."""
        return int(self._session.rows("select count(*) from quarantined")[0][0])

    def _select(self, condition: str, **parameters: str) -> list[Quarantined]:
        names = ", ".join(f"q.{name}" for name in COLUMNS.split(", "))
        rows = self._session.rows(
            f"select {names}, r.at as released_at, r.actor as released_by, r.reason as released_because "
            "from quarantine q left join quarantine_releases r on r.quarantine = q.id "
            f"where {condition} order by q.id",
            parameters,
        )
        return [quarantined_of(row) for row in rows]


def quarantined_of(row: Row) -> Quarantined:
    return Quarantined(**dict(row))


def changed(db: Database, to: str, sql: str, parameters: dict[str, Any]) -> int:
    """Hold back or let go. Returns how many events."""
    with around("status", f"feedback, {to}"):
        return int(db.execute(sql, parameters).rowcount)
