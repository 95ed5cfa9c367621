"""Iterations: where each stands, every move it made, what trained it, what was measured, how it was judged."""

import json
from collections.abc import Callable, Sequence
from typing import Any

from sqlite_utils import Database

from store.errors import Invalid, NotFound
from store.failpoints import around
from store.records import (
    FINISHED_STAGES,
    SETTLED_STAGES,
    AnchorUse,
    Example,
    GateResult,
    Iteration,
    Split,
    Stage,
    StageEntry,
    Verdict,
)
from store.session import Row, Session

COLUMNS = (
    'id, stage, "trigger", incumbent, candidate, created_at, updated_at, finished_at, attempt, snapshot_digest, '
    "reason, config, counts"
)
CHANGEABLE = ("incumbent", "candidate", "attempt", "snapshot_digest", "reason", "counts")
SETTLED = ", ".join(f"'{stage.value}'" for stage in sorted(SETTLED_STAGES))


class Iterations:
    def __init__(self, session: Session, clock: Callable[[], float]) -> None:
        self._session, self._clock = session, clock

    def begin(self, *, trigger: str, incumbent: str | None, config: dict[str, Any]) -> Iteration:
        """A new iteration, queued."""

        def work(db: Database) -> Iteration:
            now = self._clock()
            with around("status", f"iteration, {Stage.QUEUED}"):
                cursor = db.execute(
                    'insert into iterations (stage, "trigger", incumbent, created_at, updated_at, attempt, config, '
                    "counts, progress) values (?, ?, ?, ?, ?, 1, ?, '{}', '{}')",
                    [Stage.QUEUED.value, trigger, incumbent, now, now, json.dumps(config)],
                )
            number = int(cursor.lastrowid or 0)
            append_stage(db, number, Stage.QUEUED, now, trigger)
            return read(db, number)

        return self._session.write(work)

    def move(
        self, iteration: int, stage: Stage, *, note: str | None = None, changes: dict[str, Any] | None = None
    ) -> Iteration:
        """Move to a stage (also the one it is in) and change what is named, in one go.

        Raises:
            Invalid: a change of something that never changes.
            NotFound: there is no such iteration.
        """
        changes = dict(changes or {})
        unknown = sorted(set(changes) - set(CHANGEABLE))
        if unknown:
            raise Invalid(f"{', '.join(unknown)} of an iteration cannot be changed", param=unknown[0])
        if "counts" in changes:
            changes["counts"] = json.dumps(changes["counts"])

        def work(db: Database) -> Iteration:
            now = self._clock()
            finished = now if stage in FINISHED_STAGES else None
            assignments = "".join(f", {name} = :{name}" for name in changes)
            with around("status", f"iteration, {stage}"):
                db.execute(
                    "update iterations set stage = :stage, updated_at = :now, "
                    f"finished_at = coalesce(finished_at, :finished){assignments} where id = :id",
                    {**changes, "stage": stage.value, "now": now, "finished": finished, "id": iteration},
                )
            moved = read(db, iteration)
            append_stage(db, iteration, stage, now, note)
            return moved

        return self._session.write(work)

    def get(self, iteration: int) -> Iteration:
        """
        Raises:
            NotFound: there is no such iteration.
        """
        rows = self._session.rows(f"select {COLUMNS} from iterations where id = ?", [iteration])
        return one(rows, iteration)

    def list(self, *, limit: int = 50, before: int | None = None) -> list[Iteration]:
        """Newest first."""
        sql = (
            f"select {COLUMNS} from iterations where :before is null or id < :before "
            "order by id desc limit :limit"
        )
        rows = self._session.rows(sql, {"before": before, "limit": limit})
        return [iteration_of(row) for row in rows]

    def ended(self, before: float) -> frozenset[int]:
        """Numbers of those that ended before a time."""
        sql = "select id from iterations where finished_at < :before"
        return frozenset(row[0] for row in self._session.rows(sql, {"before": before}))

    def running(self) -> Iteration | None:
        """The one the loop works on; one in canary waits for people only."""
        sql = f"select {COLUMNS} from iterations where stage not in ({SETTLED}) order by id desc limit 1"
        rows = self._session.rows(sql)
        return iteration_of(rows[0]) if rows else None

    def last(self) -> Iteration | None:
        """The newest, finished or not."""
        newest = self.list(limit=1)
        return newest[0] if newest else None

    def stages(self, iteration: int) -> Sequence[StageEntry]:
        """Every move, oldest first."""
        rows = self._session.rows(
            "select iteration, stage, at, note from iteration_stages where iteration = ? order by id",
            [iteration],
        )
        return [StageEntry(row["iteration"], Stage(row["stage"]), row["at"], row["note"]) for row in rows]

    def set_progress(self, iteration: int, progress: dict[str, Any]) -> None:
        """Overwrite how far the running stage is; a view for people, not a fact.

        What has a `phase` is given `began`, where and when that phase was first seen: `{"at", "done"}`.
        """
        sql = "update iterations set progress = ? where id = ?"

        def work(db: Database) -> None:
            row = db.execute("select progress from iterations where id = ?", [iteration]).fetchone()
            known = with_beginning(progress, json.loads(row[0]) if row else {})
            db.execute(sql, [json.dumps(known), iteration])

        self._session.write(work)

    def progress(self, iteration: int) -> dict[str, Any]:
        rows = self._session.rows("select progress from iterations where id = ?", [iteration])
        return dict(json.loads(rows[0][0])) if rows else {}

    def add_examples(self, examples: Sequence[Example]) -> None:
        """Write down which event trained, or tested, an iteration."""
        values = [
            (
                example.iteration,
                example.feedback_id,
                example.completion_id,
                example.split.value,
                example.form,
                None if example.label is None else int(example.label),
                example.weight,
                example.version,
                int(example.replayed),
            )
            for example in examples
        ]

        def work(db: Database) -> None:
            db.conn.executemany(
                "insert or replace into iteration_examples (iteration, feedback_id, completion_id, split, form, "
                "label, weight, version, replayed) values (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                values,
            )

        self._session.write(work)

    def add_anchors(self, anchors: Sequence[AnchorUse]) -> None:
        """Write down which of base's answers an iteration kept likely."""
        values = [(anchor.iteration, anchor.completion_id, anchor.version) for anchor in anchors]
        sql = "insert into iteration_anchors (iteration, completion_id, version) values (?, ?, ?)"
        self._session.write(lambda db: db.conn.executemany(sql, values) and None)

    def anchors(self, iteration: int) -> Sequence[AnchorUse]:
        sql = "select iteration, completion_id, version from iteration_anchors where iteration = ? order by rowid"
        return [AnchorUse(**dict(row)) for row in self._session.rows(sql, [iteration])]

    def examples(self, iteration: int) -> Sequence[Example]:
        rows = self._session.rows(
            "select iteration, feedback_id, completion_id, split, form, label, weight, version, replayed "
            "from iteration_examples where iteration = ? order by rowid",
            [iteration],
        )
        return [example_of(row) for row in rows]

    def trained_by(self, completion_id: str) -> Sequence[Iteration]:
        """Iterations whose candidate was trained on this answer: by people's feedback, in a judged pair, or as an
        anchor. Oldest first.
        """
        sql = (
            f"select {COLUMNS} from iterations where id in "
            "(select iteration from learned_examples where completion_id = :id union "
            "select iteration from learned_anchors where completion_id = :id union "
            "select iteration from judged_pairs where dropped is null and :id in (chosen_id, rejected_id)) "
            "order by id"
        )
        return [iteration_of(row) for row in self._session.rows(sql, {"id": completion_id})]

    def add_gates(self, results: Sequence[GateResult]) -> None:
        values = [
            (r.iteration, r.metric, finite(r.value), r.soft, r.hard, r.verdict.value, r.reason)
            for r in results
        ]

        def work(db: Database) -> None:
            db.conn.executemany(
                "insert into gate_results (iteration, metric, value, soft, hard, verdict, reason) "
                "values (?, ?, ?, ?, ?, ?, ?)",
                values,
            )

        self._session.write(work)

    def gates(self, iteration: int) -> Sequence[GateResult]:
        rows = self._session.rows(
            "select iteration, metric, value, soft, hard, verdict, reason from gate_results "
            "where iteration = ? order by id",
            [iteration],
        )
        return [GateResult(**{**dict(row), "verdict": Verdict(row["verdict"])}) for row in rows]

    def save_report(self, iteration: int, report: dict[str, Any]) -> None:
        """Keep what was found about a candidate: the trainer's whole report, or a part that is found later.

        Parts of other names stay as they are.
        """

        def work(db: Database) -> None:
            known = db.execute("select report from iterations where id = ?", [iteration]).fetchone()
            kept = json.loads(known[0]) if known and known[0] else {}
            text = json.dumps({**kept, **report}, ensure_ascii=False)
            db.execute("update iterations set report = ? where id = ?", [text, iteration])

        self._session.write(work)

    def report(self, iteration: int) -> dict[str, Any] | None:
        rows = self._session.rows("select report from iterations where id = ?", [iteration])
        return dict(json.loads(rows[0][0])) if rows and rows[0][0] else None


def finite(value: float | None) -> float | None:
    """SQLite has no NaN: it would silently become null. The verdict's reason says which it was."""
    return None if value is None or value != value else value


def with_beginning(progress: dict[str, Any], before: dict[str, Any]) -> dict[str, Any]:
    """Progress with the beginning of its phase; one that starts over, or another one, begins anew."""
    if "phase" not in progress or "at" not in progress:
        return progress
    goes_on = (
        "began" in before and before.get("phase") == progress["phase"] and before["done"] <= progress["done"]
    )
    began = before["began"] if goes_on else {"at": progress["at"], "done": progress["done"]}
    return {**progress, "began": began}


def append_stage(db: Database, iteration: int, stage: Stage, at: float, note: str | None) -> None:
    sql = "insert into iteration_stages (iteration, stage, at, note) values (?, ?, ?, ?)"
    db.execute(sql, [iteration, stage.value, at, note])


def read(db: Database, iteration: int) -> Iteration:
    rows = db.execute(f"select {COLUMNS} from iterations where id = ?", [iteration]).fetchall()
    return one(rows, iteration)


def one(rows: Sequence[Row], iteration: int) -> Iteration:
    if not rows:
        raise NotFound(f"no iteration {iteration}", param="id")
    return iteration_of(rows[0])


def iteration_of(row: Row) -> Iteration:
    fields = dict(row)
    fields.update(
        stage=Stage(row["stage"]), config=json.loads(row["config"]), counts=json.loads(row["counts"])
    )
    return Iteration(**fields)


def example_of(row: Row) -> Example:
    fields = dict(row)
    fields["split"] = Split(row["split"])
    fields["label"] = None if row["label"] is None else bool(row["label"])
    fields["replayed"] = bool(row["replayed"])
    return Example(**fields)
