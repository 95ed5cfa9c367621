"""Scrubbing: how words, and a name, are taken out of every table.

Rows stay, as tombstones without content, so that lineage still tells which adapter learned from what; numbers stay
too. The logs that refuse changes are opened inside the one transaction that scrubs, and closed again by its end.
"""

import json
import secrets
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

from sqlite_utils import Database

from store.chain import redacting
from store.quotes import GONE, Quotes, renamed
from store.records import Sampling
from store.session import Row

#: Event ids that honed made: they say nothing about anybody.
OWN_ID = "fb-" + "[0-9a-f]" * 32

#: Where words may stand in text that honed or an operator wrote: table, key, columns.
NOTES = (
    ("iterations", "id", ("trigger", "reason")),
    ("iteration_stages", "id", ("note",)),
    ("gate_results", "id", ("metric", "reason")),
    ("activations", "id", ("actor", "reason")),
    ("canaries", "id", ("reason",)),
    ("quarantine", "id", ("actor", "reason")),
    ("quarantine_releases", "quarantine", ("actor", "reason")),
    ("audit", "id", ("actor", "subject", "reason")),
    ("intents", "id", ("principal", "reason")),
    ("labels", "id", ("principal", "reason")),
)
#: The same in JSON.
OBJECTS = (
    ("iterations", "id", ("counts", "progress", "report")),
    ("licences", "rowid", ("reasons", "measures", "calibration")),
    ("audit", "id", ("details",)),
    ("intents", "id", ("arguments", "outcome")),
    ("service_state", "key", ("value",)),
)
#: Where a name stands for somebody: columns, and names in JSON. Elsewhere "user" is a role and "base" a version,
#: whatever an application calls its people.
WHO = frozenset({"actor", "principal", "user", "safety_identifier", "person"})
#: Under this name the metadata of an answer without words tells why it has none.
FORGOTTEN = "forgotten"
#: Where an iteration's plan is, prompts of the model's own among it; of use to a running iteration only.
PLAN = "judge_plan"


@dataclass(frozen=True, slots=True)
class Person:
    """`name`: a principal, or the `user` or `safety_identifier` a client sent. `alias`: what it becomes."""

    name: str
    alias: str


@dataclass(frozen=True, slots=True)
class Holdings:
    """What is held. `own`: answers given to the person; `drawn`: answers honed drew for their prompts; `events`: ids
    of feedback by them or on those answers. `quotes`: the words of all that.
    """

    own: frozenset[str]
    drawn: frozenset[str]
    events: frozenset[str]
    quotes: Quotes

    @property
    def answers(self) -> frozenset[str]:
        return self.own | self.drawn

    def __bool__(self) -> bool:
        return bool(self.own or self.events)


def arrays(held: Holdings) -> dict[str, str]:
    return {"events": json.dumps(sorted(held.events)), "answers": json.dumps(sorted(held.answers))}


@contextmanager
def unlocked(db: Database) -> Iterator[None]:
    """The logs open to changes; closed again at the end, and by the rollback of whatever fails."""
    triggers = db.execute("select name, sql from sqlite_master where type = 'trigger'").fetchall()
    for row in triggers:
        db.execute(f'drop trigger "{row["name"]}"')
    yield
    for row in triggers:
        db.execute(row["sql"])


def scrub(
    db: Database, held: Holdings, iterations: frozenset[int], person: Person | None, *, at: float
) -> dict[str, int]:
    """The body of `Forgetting.scrub`."""
    # Events may get new names below, in several tables one after the other.
    db.execute("pragma defer_foreign_keys = on")
    actor, why = (
        ("forget", "somebody is forgotten") if person else ("retention", "words are older than is kept")
    )
    with unlocked(db), redacting(db, at, actor=actor, reason=why):
        counts = scrub_answers(db, held, person)
        counts |= scrub_events(db, held, person)
        db.execute("delete from service_state where key = ?", [PLAN])
        clusters = cluster_names(db, held.quotes, iterations)
        rename_metrics(db, clusters, iterations)
        names = clusters | ({person.name: person.alias} if person and ":" in person.name else {})
        counts["notes"] = scrub_notes(db, held.quotes, names, person) + scrub_objects(
            db, held.quotes, names, person
        )
    return counts


def scrub_answers(db: Database, held: Holdings, person: Person | None) -> dict[str, int]:
    ids = arrays(held)
    among = "in (select value from json_each(:answers))"
    mark = json.dumps(person.alias if person else "retention")
    told = (
        f"json_patch(json_object('{FORGOTTEN}', json({mark!r})), case when source = 'sample' then json_object("
        "'iteration', metadata ->> 'iteration', 'purpose', metadata ->> 'purpose') else '{}' end)"
    )
    changed = db.execute(
        f"update completions set messages = '[]', stored = 0, sampling = :sampling, metadata = {told} "
        f"where id {among} and (stored = 1 or messages <> '[]')",
        {**ids, "sampling": json.dumps(asdict(Sampling()))},
    ).rowcount
    db.execute(f"update completion_choices set text = '' where completion_id {among}", ids)
    scored = f"select id from judgements where completion_id {among}"
    db.execute(f"delete from iteration_judgements where judgement in ({scored})", ids)
    judgements = db.execute(f"delete from judgements where completion_id {among}", ids).rowcount
    # What judges said of texts that are no recorded answers, corrections say: whose is not written down.
    db.execute("update judgements set details = '{}' where completion_id is null")
    for side in ("chosen_id", "rejected_id"):
        db.execute(f"update judged_pairs set details = '{{}}' where {side} {among}", ids)
    db.execute(
        f"update labels set reason = :gone where completion_id {among} or other_id {among}",
        {**ids, "gone": GONE},
    )
    if person is not None:
        db.execute("update completions set principal = :alias where principal = :name", asdict(person))
    return {"answers": changed, "judgements": judgements}


def scrub_events(db: Database, held: Holdings, person: Person | None) -> dict[str, int]:
    ids = arrays(held)
    among = "in (select value from json_each(:events))"
    # Their votes on other people's answers are taken back; those on their own answers train nothing any more.
    changed = db.execute(
        "update feedback set reason = null, comment = null, metadata = '{}', value = case "
        f"when kind in ('edit', 'comment') or completion_id not in (select value from json_each(:answers)) "
        f"then 'null' else value end where id {among}",
        ids,
    ).rowcount
    db.execute(f"delete from idempotency_keys where feedback_id {among}", ids)
    if person is not None:
        db.execute("delete from idempotency_keys where principal = ?", [person.name])
        db.execute("update feedback set principal = :alias where principal = :name", asdict(person))
    # An id that an idempotency key led to is a digest of name and key: somebody could try names on it.
    given = db.execute(
        f"select id from feedback where id {among} and (id not glob '{OWN_ID}' or principal = :alias)",
        {**ids, "alias": person.alias if person else None},
    ).fetchall()
    rename_events(db, {row["id"]: f"fb-{secrets.token_hex(16)}" for row in given})
    return {"events": changed}


def rename_events(db: Database, names: Mapping[str, str]) -> None:
    """A client may name its events as it likes, and say something in the name. `names`: new ones by old ones."""
    # No index leads to what an event supersedes: one pass for all of them.
    later = db.execute(
        "select seq, supersedes from feedback where supersedes in (select value from json_each(?))",
        [json.dumps(sorted(names))],
    ).fetchall()
    rows = [(names[row["supersedes"]], row["seq"]) for row in later]
    db.conn.executemany("update feedback set supersedes = ? where seq = ?", rows)
    for table, column in (
        ("feedback", "id"),
        ("iteration_examples", "feedback_id"),
        ("quarantine", "feedback_id"),
    ):
        sql = f"update {table} set {column} = ? where {column} = ?"
        db.conn.executemany(sql, [(to, name) for name, to in names.items()])


def cluster_names(db: Database, quotes: Quotes, iterations: frozenset[int]) -> dict[str, str]:
    """Clusters of prompts are called by the words in them; those with a word of the person's, and their new names."""
    names: set[str] = set()
    for number in sorted(iterations):
        for (report,) in db.execute("select report from iterations where id = ?", [number]).fetchall():
            parsed = json.loads(report) if report else {}
            rows = [*parsed.get("samples", []), *parsed.get("contest", [])]
            names |= {row.get("cluster") or "" for row in rows}
        sql = "select name from metrics where iteration = ? and name like 'kl/cluster/%'"
        names |= {row[0].removeprefix("kl/cluster/") for row in db.execute(sql, [number]).fetchall()}
    spoken = sorted(
        name for name in names - {"", "shipped", "other"} if quotes.words & set(name.casefold().split("-"))
    )
    return {name: f"forgotten-{number}" for number, name in enumerate(spoken, 1)}


def rename_metrics(db: Database, clusters: Mapping[str, str], iterations: frozenset[int]) -> None:
    sql = "update or replace metrics set name = :to where name = :name and iteration = :iteration"
    for name, to in clusters.items():
        for iteration in iterations:
            values = {"to": f"kl/cluster/{to}", "name": f"kl/cluster/{name}", "iteration": iteration}
            db.execute(sql, values)


def changed_rows(
    db: Database, table: str, key: str, columns: Sequence[str]
) -> Iterator[tuple[Row, dict[str, str]]]:
    """Every row with what of it is to be changed: the caller fills it in and it is written."""
    names = ", ".join(f'"{name}"' for name in columns)
    for row in db.execute(f"select {key} as row_key, {names} from {table}").fetchall():
        changes: dict[str, str] = {}
        yield row, changes
        for name, value in changes.items():
            db.execute(f'update {table} set "{name}" = ? where {key} = ?', [value, row["row_key"]])


def scrub_notes(db: Database, quotes: Quotes, names: dict[str, str], person: Person | None) -> int:
    count = 0
    for table, key, columns in NOTES:
        for row, changes in changed_rows(db, table, key, columns):
            for column in columns:
                text = row[column]
                if not text:
                    continue
                if person is not None and text == person.name and column in WHO | {"reason"}:
                    changes[column] = person.alias
                elif column in ("trigger", "reason", "note") and quotes.within(text):
                    changes[column] = GONE
                elif (other := renamed(text, names)) != text:
                    changes[column] = other
            count += bool(changes)
    return count


def scrub_objects(db: Database, quotes: Quotes, names: dict[str, str], person: Person | None) -> int:
    """JSON: objects in lists that are the person's go, strings that quote them too."""
    own = {person.name: person.alias} if person else {}
    count = 0
    for table, key, columns in OBJECTS:
        for row, changes in changed_rows(db, table, key, columns):
            for column in columns:
                if row[column] is None:
                    continue
                value = json.loads(row[column])
                other = rename_all(quotes.without(value), names, own)
                if other != value:
                    changes[column] = json.dumps(other, ensure_ascii=False)
            count += bool(changes)
    return count


def rename_all(value: Any, names: dict[str, str], own: Mapping[str, str], *, under: str = "") -> Any:
    """Names replaced in every string of a JSON value, keys too; `own` ones where they say who somebody is."""
    if isinstance(value, str):
        return own[value] if under in WHO and value in own else renamed(value, names)
    if isinstance(value, dict):
        return {renamed(key, names): rename_all(inner, names, own, under=key) for key, inner in value.items()}
    if isinstance(value, list):
        return [rename_all(each, names, own, under=under) for each in value]
    return value
