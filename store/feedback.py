"""The feedback log: events are appended, never edited; the latest of each kind counts.

A repeated id or idempotency key with the same body answers with the first event, so a client may retry for ever;
with another body it is a conflict. Both are decided inside the transaction that writes.
"""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import replace

from sqlite_utils import Database

from store.completions import Completions
from store.errors import Conflict, NotFound
from store.records import SPENT_STAGES, Evidence, Feedback, FeedbackKind, Source, Stage
from store.session import Row, Session

COLUMNS = "id, created_at, completion_id, choice_index, principal, kind, value, reason, comment, metadata, supersedes"
#: One statement finds what the event supersedes, stores it and says which that was.
INSERT = f"""
    insert into feedback ({COLUMNS}) values (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, (
        select id from feedback where completion_id = ?3 and choice_index = ?4 and principal = ?5 and kind = ?6
        order by seq desc limit 1
    )) returning supersedes
"""
as_json = json.JSONEncoder(ensure_ascii=False).encode
#: Where answers come from that people's opinions of train.
SPOKEN_OF = (Source.CHAT, Source.IMPORT)
SPOKEN = """
    from latest_feedback f join completions c on c.id = f.completion_id
    where f.value != 'null' and c.status in ('done', 'cancelled') and c.stored = 1
      and c.source in (select value from json_each(:sources))
      and (:before is null or f.created_at < :before)
"""
LIVE = f"""
    {SPOKEN}
      and not exists (select 1 from quarantined q where q.feedback_id = f.id)
"""
# What was let out of quarantine is new again: the adapters that learned from it are not served any more.
UNSPENT = f"""
      and not exists (
        select 1 from learned_examples e join iterations i on i.id = e.iteration
        where e.feedback_id = f.id and i.stage in ({", ".join(f"'{stage.value}'" for stage in sorted(SPENT_STAGES))})
          and i.id > coalesce((
            select max(r.last_iteration) from quarantine q join quarantine_releases r on r.quarantine = q.id
            where q.feedback_id = f.id), 0))
"""


def body_digest(feedback: Feedback) -> str:
    """What makes two events the same: everything a client said, nothing the server added."""
    said = [
        feedback.completion_id,
        feedback.choice_index,
        feedback.principal,
        feedback.kind.value,
        feedback.value,
        feedback.reason,
        feedback.comment,
        feedback.metadata,
    ]
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()


class FeedbackLog:
    def __init__(self, session: Session) -> None:
        self._session = session

    def add(self, feedback: Feedback, *, idempotency_key: str | None = None) -> Feedback:
        """Append an event and return it as stored (or the first one, when this repeats it).

        Raises:
            NotFound: no such completion, or it has no such choice.
            Conflict: the id or key was used with another body.
        """
        return self._session.write(
            lambda db: add(db, feedback, idempotency_key), marks=frozenset({"feedback"})
        )

    def get(self, feedback_id: str) -> Feedback:
        """
        Raises:
            NotFound: there is none of that id.
        """
        rows = self._session.rows(f"select {COLUMNS} from feedback where id = ?", [feedback_id])
        if not rows:
            raise NotFound(f"no feedback {feedback_id!r}", param="id")
        return feedback_of(rows[0])

    def known(self, ids: Iterable[str]) -> set[str]:
        """Those of the ids that are in the log."""
        wanted = json.dumps(sorted(set(ids)))
        rows = self._session.rows(
            "select id from feedback where id in (select value from json_each(?))", [wanted]
        )
        return {row["id"] for row in rows}

    def events(self, completion_id: str) -> list[Feedback]:
        """Everything said about an answer, oldest first."""
        return self._select("feedback where completion_id = :id order by seq", id=completion_id)

    def latest(self, completion_id: str) -> list[Feedback]:
        """What counts about an answer: the latest event per choice, person and kind (taken-back ones too)."""
        # Not by the view, which SQLite would make of the whole log first.
        newest = (
            "select max(seq) from feedback where completion_id = :id group by choice_index, principal, kind"
        )
        return self._select(f"feedback where seq in ({newest}) order by seq", id=completion_id)

    def recent(
        self, limit: int = 50, *, before: str | None = None, kind: FeedbackKind | None = None
    ) -> list[Feedback]:
        """Newest first; before an event (by id), and of one kind only, where that is asked."""
        return self._select(
            "feedback where (:before is null or seq < (select seq from feedback where id = :before)) "
            "and (:kind is null or kind = :kind) order by seq desc limit :limit",
            limit=limit,
            before=before,
            kind=None if kind is None else kind.value,
        )

    def some(self, ids: Iterable[str]) -> dict[str, Feedback]:
        """Those of the events that exist, by id."""
        wanted = json.dumps(sorted(set(ids)))
        found = self._select(
            "feedback where id in (select value from json_each(:ids)) order by seq", ids=wanted
        )
        return {event.id: event for event in found}

    def live(self, *, before: float | None = None, most: int | None = None) -> list[Evidence]:
        """Everything that counts now, with its answer, oldest first; what is in quarantine does not.

        Args:
            before: only what was said before that time.
            most: only the newest so many.
        """
        return self._evidence(LIVE, before, most)

    def spoken(self, *, before: float | None = None, most: int | None = None) -> list[Evidence]:
        """What counts now and what is in quarantine, oldest first; `most`: the newest so many."""
        return self._evidence(SPOKEN, before, most)

    def unused(self, *, before: float | None = None) -> list[Evidence]:
        """What counts and trained no adapter that was kept. Testing on an event does not use it up."""
        return self._evidence(LIVE + UNSPENT, before)

    def unused_answers(self, *, before: float | None = None) -> set[tuple[str, int]]:
        """The answers (completion, choice) that anything `unused` is about."""
        rows = self._session.rows(
            f"select distinct f.completion_id, f.choice_index {LIVE + UNSPENT}", among(before)
        )
        return {(row[0], row[1]) for row in rows}

    def learned(self) -> set[str]:
        """Ids of the events that trained an adapter which came to be served and was not rolled back."""
        standing = ", ".join(f"'{stage.value}'" for stage in sorted(SPENT_STAGES - {Stage.ROLLED_BACK}))
        rows = self._session.rows(
            "select distinct e.feedback_id from learned_examples e join iterations i on i.id = e.iteration "
            f"where i.stage in ({standing})"
        )
        return {row[0] for row in rows}

    def count(self, *, since: float | None = None) -> int:
        """Events, or events after a time."""
        sql = "select count(*) from feedback where :since is null or created_at > :since"
        return int(self._session.rows(sql, {"since": since})[0][0])

    def _select(self, tail: str, **parameters: str | int | None) -> list[Feedback]:
        rows = self._session.rows(f"select {COLUMNS} from {tail}", parameters)
        return [feedback_of(row) for row in rows]

    def _evidence(self, condition: str, before: float | None, most: int | None = None) -> list[Evidence]:
        names = ", ".join(f"f.{name.strip()}" for name in COLUMNS.split(","))
        newest = "" if most is None else f" desc limit {most:d}"
        rows = self._session.rows(f"select {names} {condition} order by f.seq{newest}", among(before))
        events = [feedback_of(row) for row in (rows if most is None else reversed(rows))]
        answers = Completions(self._session).get_all(event.completion_id for event in events)
        return [Evidence(event, answers[event.completion_id]) for event in events]


def among(before: float | None) -> dict[str, float | str | None]:
    """The parameters of `SPOKEN`."""
    return {"before": before, "sources": json.dumps([source.value for source in SPOKEN_OF])}


def add(db: Database, feedback: Feedback, idempotency_key: str | None) -> Feedback:
    """The body of `FeedbackLog.add`, inside its transaction."""
    first = first_of(db, feedback, idempotency_key)
    if first is not None:
        if body_digest(first) != body_digest(feedback):
            raise Conflict("this id or Idempotency-Key came before with another body")
        return first
    check_target(db, feedback)
    [(supersedes,)] = db.execute(
        INSERT,
        [
            feedback.id,
            feedback.created_at,
            feedback.completion_id,
            feedback.choice_index,
            feedback.principal,
            feedback.kind.value,
            as_json(feedback.value),
            feedback.reason,
            feedback.comment,
            as_json(feedback.metadata),
        ],
    ).fetchall()
    if idempotency_key is not None:
        db.execute(
            "insert into idempotency_keys (principal, key, body_digest, feedback_id) values (?, ?, ?, ?)",
            [feedback.principal, idempotency_key, body_digest(feedback), feedback.id],
        )
    return replace(feedback, supersedes=supersedes)


def first_of(db: Database, feedback: Feedback, idempotency_key: str | None) -> Feedback | None:
    """The event this one repeats, by key or by id."""
    row = db.execute(
        f"select {COLUMNS} from feedback where id = ? or id = "
        "(select feedback_id from idempotency_keys where principal = ? and key = ?)",
        [feedback.id, feedback.principal, idempotency_key],
    ).fetchone()
    return feedback_of(row) if row is not None else None


def check_target(db: Database, feedback: Feedback) -> None:
    """
    Raises:
        NotFound: no such completion, or it ended without such a choice.
    """
    known, has_choice = db.execute(
        "select exists (select 1 from completions where id = :id), exists "
        '(select 1 from completion_choices where completion_id = :id and "index" = :choice)',
        {"id": feedback.completion_id, "choice": feedback.choice_index},
    ).fetchone()
    if not known:
        raise NotFound(f"no completion {feedback.completion_id!r}", param="completion_id")
    if not has_choice:
        raise NotFound(
            f"completion {feedback.completion_id!r} has no choice {feedback.choice_index}",
            param="choice_index",
        )


def feedback_of(row: Row) -> Feedback:
    return Feedback(
        id=row["id"],
        created_at=row["created_at"],
        completion_id=row["completion_id"],
        choice_index=row["choice_index"],
        principal=row["principal"],
        kind=FeedbackKind(row["kind"]),
        value=json.loads(row["value"]),
        reason=row["reason"],
        comment=row["comment"],
        metadata=json.loads(row["metadata"]),
        supersedes=row["supersedes"],
    )
