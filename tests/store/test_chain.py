"""The audit log's hash chain: whatever is changed in it is found, and forgetting leaves it whole."""

import contextlib
import json
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlite_utils import Database

from store import chain
from store.chain import GENESIS, REDACT, SAYS
from store.db import Store
from store.migrations import MIGRATIONS
from store.records import Message
from store.scrubbing import Person, unlocked
from tests.store.conftest import completion, event

Change = Callable[[sqlite3.Connection], object]
COLUMNS = {
    "at": 9.5,
    "action": "promote",
    "actor": "eve",
    "subject": "b",
    "reason": "",
    "details": '{"kl": 0}',
}
COLUMNS |= {"salt": "00", "seal": "0" * 64, "resealed": '{"9": "x"}', "digest": "0" * 64}

NAMES = "id, at, action, actor, subject, reason, details"


def fill(store: Store, count: int) -> None:
    for number in range(count):
        store.audit.add(actor="ann", action="note", subject=f"s{number}", reason="why", details={"n": number})


@pytest.fixture(scope="module")
def five() -> bytes:
    """A database whose log has five entries."""
    with Store.memory() as store:
        fill(store, 5)
        return content_of(store)


def opened(content: bytes) -> sqlite3.Connection:
    """A database in somebody's hands: no trigger stands in the way."""
    connection = sqlite3.connect(":memory:")
    connection.row_factory = sqlite3.Row
    connection.deserialize(content)
    for (name,) in connection.execute("select name from sqlite_master where type = 'trigger'").fetchall():
        connection.execute(f'drop trigger "{name}"')
    return connection


def looked(connection: sqlite3.Connection) -> chain.Chain:
    return chain.verify(lambda sql, values: connection.execute(sql, values).fetchall())


def tampered(content: bytes, change: Change) -> chain.Chain:
    with contextlib.closing(opened(content)) as connection:
        change(connection)
        return looked(connection)


def content_of(store: Store) -> bytes:
    content = bytearray(store._session.writer.db.conn.serialize())
    content[18:20] = b"\1\1"  # not in WAL mode, which a database in memory cannot have
    return bytes(content)


def test_a_log_that_nobody_touched_holds(store: Store) -> None:
    assert store.audit.verify() == chain.Chain(0, GENESIS)
    assert store.audit.head() == (0, GENESIS)
    fill(store, 3)
    found = store.audit.verify()
    assert (found.entries, found.broken) == (3, None)
    assert store.audit.head() == (3, found.head) and store.audit.has(found.head) == 3
    fill(store, 1)
    assert store.audit.verify().head != found.head
    assert store.audit.has(found.head) == 3 and store.audit.has("0" * 64) is None


def test_pages_are_joined(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(store, 7)
    whole = store.audit.verify()
    monkeypatch.setattr(chain, "PAGE", 2)
    assert store.audit.verify() == whole


@pytest.mark.parametrize("number", [1, 3, 5])
@pytest.mark.parametrize("column", list(COLUMNS))
def test_a_changed_entry_is_found(five: bytes, number: int, column: str) -> None:
    sql = f"update audit set {column} = ? where id = ?"
    found = tampered(five, lambda db: db.execute(sql, [COLUMNS[column], number]))
    assert found.broken == number and found.why


def numbers(db: sqlite3.Connection, one: int, other: int) -> None:
    for old, new in ((one, -1), (other, one), (-1, other)):
        db.execute("update audit set id = ? where id = ?", [new, old])


def copy(db: sqlite3.Connection, source: int, to: int) -> None:
    names = f"at, action, {', '.join(SAYS)}, salt, seal, resealed, digest"
    db.execute(f"insert into audit (id, {names}) select ?, {names} from audit where id = ?", [to, source])


def says(db: sqlite3.Connection, one: int, other: int) -> None:
    """Words, salts and seals change places; numbers and digests stay."""
    names = [*SAYS, "salt", "seal"]
    sql = f"select {', '.join(names)} from audit where id = ?"
    rows = {to: db.execute(sql, [at]).fetchone() for at, to in ((one, other), (other, one))}
    for to, row in rows.items():
        db.execute(f"update audit set {', '.join(f'{name} = ?' for name in names)} where id = ?", [*row, to])


@pytest.mark.parametrize(
    ("change", "at"),
    [
        (lambda db: db.execute("delete from audit where id = 1"), 2),
        (lambda db: db.execute("delete from audit where id = 3"), 4),
        (lambda db: db.execute("delete from audit where id < 5"), 5),
        (lambda db: numbers(db, 2, 3), 2),
        (lambda db: numbers(db, 4, 5), 4),
        (lambda db: says(db, 1, 5), 1),
        (lambda db: copy(db, 2, 0), 0),
        (lambda db: copy(db, 2, 6), 6),
        (lambda db: copy(db, 5, 6), 6),
        (lambda db: db.execute("update audit set id = id + 1 where id = 5"), 6),
    ],
)
def test_what_was_removed_swapped_or_inserted_is_found(five: bytes, change: Change, at: int) -> None:
    assert tampered(five, change).broken == at


@settings(max_examples=50, deadline=None)
@given(st.data())
def test_any_byte_of_any_entry_counts(five: bytes, data: st.DataObject) -> None:
    text = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=12)
    entries = data.draw(st.lists(st.tuples(*[text] * 5), min_size=1, max_size=6))
    with contextlib.closing(opened(five)) as connection:
        for action, *says in entries:
            chain.append(Database(connection), 1.0, action, says)
        assert looked(connection).broken is None
        number = data.draw(st.integers(6, 5 + len(entries)))
        column = data.draw(st.sampled_from(["action", *SAYS]))
        (before,) = connection.execute(f"select {column} from audit where id = ?", [number]).fetchone()
        after = data.draw(text.filter(lambda other: other != before))
        connection.execute(f"update audit set {column} = ? where id = ?", [after, number])
        assert looked(connection).broken == number


def test_a_log_cut_short_or_written_anew_is_found_by_a_digest_noted_before(five: bytes) -> None:
    def cut(db: sqlite3.Connection) -> None:
        db.execute("delete from audit where id = 5")

    def anew(db: sqlite3.Connection) -> None:
        db.execute("update audit set reason = 'another' where id = 2")
        chain.chain_up(Database(db), 1.0)

    with contextlib.closing(opened(five)) as untouched:
        noted = looked(untouched).head
    for change in (cut, anew):
        with contextlib.closing(opened(five)) as connection:
            change(connection)
            assert looked(connection).broken is None
            assert not connection.execute("select id from audit where digest = ?", [noted]).fetchall()


@pytest.mark.parametrize(
    "change",
    [
        "update audit set reason = 'x'",
        "delete from audit",
        f"insert or replace into audit ({NAMES}) values (1, 0, '', '', '', '', '{{}}')",
        f"insert into audit ({NAMES}) values (9, 0, '', '', '', '', '{{}}')",
        f"insert into audit ({NAMES}) values (-1, 0, '', '', '', '', '{{}}')",
        "update or replace audit set id = 2 where id = 1",
    ],
)
def test_the_database_itself_refuses_to_rewrite_the_log(store: Store, change: str) -> None:
    fill(store, 3)
    before = store.audit.verify()
    with pytest.raises(sqlite3.IntegrityError, match="append-only"):
        store._session.write(lambda db: db.execute(change))
    assert store.audit.verify() == before


ANN = Person("key:ann", "forgotten:1")


def spoken(store: Store, said: str) -> None:
    """Ann said something, and the log quotes it and names her."""
    store.completions.begin(completion("a1", principal=ANN.name, messages=(Message("user", said),)))
    store.feedback.add(event("e1", "a1", True, principal=ANN.name))
    store.audit.add(actor=ANN.name, action="train", subject="x", reason="asked")
    store.audit.add(
        actor="bob", action="note", subject="x", reason=f"see {said}", details={"person": ANN.name}
    )
    store.audit.add(actor="bob", action="note", subject="y", reason="nothing of hers")


def forget(store: Store, person: Person) -> None:
    held = store.forgetting.of(person)
    store.atomic(lambda tx: tx.forgetting.scrub(held, (), person=person))
    store.compact()


def test_forgetting_leaves_the_chain_whole_and_no_byte_of_what_is_gone(tmp_path: Path) -> None:
    said = "Zq71Wx sleeps in the reeds behind the old mill"
    path = tmp_path / "honed.db"
    with Store.open(path) as store:
        spoken(store, said)
        _, noted = store.audit.head()
        old = store._session.rows("select salt, seal, digest from audit order by id")
        forget(store, ANN)
        assert store.audit.verify().broken is None and store.audit.has(noted) == 3
        entries = store.audit.list()
        assert [(one.action, one.subject) for one in entries[:1]] == [(REDACT, "2 entries")]
        assert entries[0].details == {"entries": [1, 2]}
        new = store._session.rows("select salt, seal, digest from audit where id <= 3 order by id")
        # What was signed stays; the salts of what is gone are gone with it.
        assert [tuple(row)[1:] for row in new] == [tuple(row)[1:] for row in old]
        assert [one["salt"] == other["salt"] for one, other in zip(old, new, strict=True)] == [
            False,
            False,
            True,
        ]
    content = b"".join(file.read_bytes() for file in tmp_path.iterdir())
    for gone in ("Zq71Wx", ANN.name, old[0]["salt"], old[1]["salt"]):
        assert gone.encode() not in content
    assert old[2]["salt"].encode() in content


def test_people_are_forgotten_one_after_the_other(store: Store) -> None:
    spoken(store, "where do the herons sleep at night")
    forget(store, ANN)
    bob = Person("bob", "forgotten:2")
    store.completions.begin(completion("b1", principal="bob", messages=(Message("user", "nothing of hers"),)))
    forget(store, bob)
    found = store.audit.verify()
    assert (found.broken, found.entries) == (None, 5), found
    assert [one.details for one in store.audit.list() if one.action == REDACT] == [
        {"entries": [2, 3]},
        {"entries": [1, 2]},
    ]


def test_forgetting_nothing_in_the_log_writes_nothing_into_it(store: Store) -> None:
    fill(store, 2)
    store.completions.begin(completion("a1", principal=ANN.name))
    before = store.audit.verify()
    forget(store, ANN)
    assert store.audit.verify() == before


def test_forgetting_heals_no_entry_that_was_changed(store: Store) -> None:
    spoken(store, "where do the herons sleep at night")

    def change(db: Database) -> None:
        with unlocked(db):
            db.execute("update audit set reason = reason || '!' where id = 2")

    store._session.write(change)
    forget(store, ANN)
    assert store.audit.verify().broken == 2
    assert store.audit.list()[0].details == {"entries": [1]}


def test_a_log_from_before_there_was_a_chain_is_chained_and_says_so(tmp_path: Path) -> None:
    path = tmp_path / "honed.db"
    old = Database(str(path))
    MIGRATIONS.apply(old, stop_before="m010_audit_chain")
    for number in range(3):
        old.conn.execute(
            "insert into audit (at, actor, action, subject, reason, details) values (?, 'ann', 'x', 'y', 'z', '{}')",
            [float(number)],
        )
    old.conn.commit()
    old.close()
    with Store.open(path) as store:
        assert (store.audit.verify().entries, store.audit.verify().broken) == (4, None)
        last, *_ = store.audit.list()
        assert (last.actor, last.action, last.details) == ("honed", "chain", {"entries": 3})
        fill(store, 1)
        assert store.audit.verify().broken is None
        sql = "update audit set at = 7.0 where id = 2"
        assert tampered(content_of(store), lambda db: db.execute(sql)).broken == 2


@pytest.mark.parametrize("text", ["{", "7", json.dumps({"1": 7}), json.dumps([["1"]])])
def test_what_is_no_json_where_seals_should_be_is_a_finding_and_no_crash(five: bytes, text: str) -> None:
    sql = "update audit set resealed = ? where id = 2"
    assert tampered(five, lambda db: db.execute(sql, [text])).broken is not None
