"""The audit log's hash chain: what was written stays as it was, or it can be seen that it did not.

Each entry keeps a *seal*, SHA-256 over a salt of its own and what it says (actor, subject, reason, details), and a
*digest*, SHA-256 over the digest of the entry before it, its number, time and action, and its seal. Whoever changes,
removes, swaps or inserts an entry breaks the digests from there on; whoever takes entries off the end, or writes all
of them anew, is found only by a digest that was noted elsewhere.

Words of people who are forgotten go from the log too: text and salt are overwritten and nobody can try words on the
seal, which stays, so that the chain holds as before. What stands there instead has a new salt and seal, and an entry
of its own in the chain tells the seals of all that was changed so: nothing is rewritten without one.
"""

import hashlib
import json
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

from sqlite_utils import Database

from store.session import Row

#: What the first entry's predecessor is taken for.
GENESIS = "0" * 64
#: What an entry says: all of it may be about somebody.
SAYS = ("actor", "subject", "reason", "details")
#: Action of the entry that tells which others lost words.
REDACT = "redact"
#: Entries looked at in one query.
PAGE = 1000

Rows = Callable[[str, dict[str, Any]], Sequence[Row]]


@dataclass(frozen=True, slots=True)
class Chain:
    """What a look through the whole log found. `head`: the last entry's digest; `broken`: number of the first entry
    that is not what was written, and `why`; None where the log holds.
    """

    entries: int
    head: str
    broken: int | None = None
    why: str = ""


def hashed(*parts: Any) -> str:
    """Hex SHA-256 of a list as JSON, which tells its parts apart whatever is in them."""
    return hashlib.sha256(json.dumps(parts, separators=(",", ":")).encode()).hexdigest()


def seal_of(salt: str, says: Sequence[str]) -> str:
    return hashed(salt, *says)


def digest_of(before: str, row: Mapping[str, Any]) -> str:
    """The digest of an entry (`id`, `at`, `action`, `seal`, `resealed`) after the one whose digest is `before`."""
    return hashed(before, *(row[name] for name in ("id", "at", "action", "seal", "resealed")))


def append(
    db: Database, at: float, action: str, says: Sequence[str], *, resealed: Mapping[int, str] | None = None
) -> None:
    """Write an entry at the end of the log.

    Args:
        db: the database, in a transaction.
        at: Unix seconds.
        action: what was done.
        says: actor, subject, reason, details as JSON.
        resealed: new seals of entries that were changed, by their numbers.
    """
    last = db.execute("select id, digest from audit order by id desc limit 1").fetchone()
    number, before = (last[0] + 1, last[1]) if last else (1, GENESIS)
    salt = secrets.token_hex(16)
    told = None if resealed is None else json.dumps({str(key): seal for key, seal in resealed.items()})
    row = {"id": number, "at": float(at), "action": action, "seal": seal_of(salt, says), "resealed": told}
    values = {**row, **dict(zip(SAYS, says, strict=True)), "salt": salt, "digest": digest_of(before, row)}
    names = list(values)
    db.execute(
        f"insert into audit ({', '.join(names)}) values ({', '.join(f':{name}' for name in names)})", values
    )


def chain_up(db: Database, at: float) -> None:
    """Give every entry of a log without a chain its place in one, and say so at the end of it."""
    before, count = GENESIS, 0
    sql = f"select id, at, action, {', '.join(SAYS)} from audit order by id"
    for number, written, action, *says in db.execute(sql).fetchall():
        salt = secrets.token_hex(16)
        seal = seal_of(salt, says)
        row = {"id": number, "at": written, "action": action, "seal": seal, "resealed": None}
        before = digest_of(before, row)
        db.execute(
            "update audit set salt = ?, seal = ?, digest = ? where id = ?", [salt, seal, before, number]
        )
        count += 1
    if count:
        reason = (
            "what is before this was chained when honed was upgraded; nothing attests what it said until then"
        )
        append(db, at, "chain", ["honed", "audit", reason, json.dumps({"entries": count})])


def looked_at(rows: Rows) -> Iterator[dict[str, Any]]:
    """Every entry from the first on, each with the seal that its words must have today (`current`)."""
    resealed: dict[str, Any] = {}
    for row in rows("select resealed from audit where resealed is not null order by id", {}):
        with suppress(ValueError, TypeError):  # what is none of honed's is found out when its own turn comes
            resealed.update(json.loads(row["resealed"]))
    start = -(2**63)  # somebody may have put entries before the first
    sql = (
        f"select id, at, action, {', '.join(SAYS)}, salt, seal, resealed, digest from audit "
        "where id >= :start order by id limit :limit"
    )
    while page := rows(sql, {"start": start, "limit": PAGE}):
        yield from ({**dict(row), "current": resealed.get(str(row["id"]), row["seal"])} for row in page)
        start = page[-1]["id"] + 1


def verify(rows: Rows) -> Chain:
    """Look through the whole log; twice where something is wrong, for an entry may lose words between two queries."""
    found = look(rows)
    return found if found.broken is None else look(rows)


def look(rows: Rows) -> Chain:
    count, head = 0, GENESIS
    broken: tuple[int, str] | None = None
    for row in looked_at(rows):
        broken = broken or fault_of(row, head)
        count, head = count + 1, row["digest"]
    return Chain(count, head, *(broken or (None, "")))


def fault_of(row: Mapping[str, Any], before: str) -> tuple[int, str] | None:
    """Number of an entry and what is wrong with it; None where it is what was written after `before`."""
    if row["digest"] != digest_of(before, row):
        return row["id"], "it is not the entry that was written after the one before it"
    if row["current"] != seal_of(row["salt"], [row[name] for name in SAYS]):
        return row["id"], "it does not say what it said when it was written"
    return None


@contextmanager
def redacting(db: Database, at: float, *, actor: str, reason: str) -> Iterator[None]:
    """Whatever entries are changed meanwhile get new salts and seals, told in an entry of its own.

    One that did not say before what it should is left broken: forgetting somebody heals nothing. The log must be open
    to changes (`scrubbing.unlocked`), in a transaction.
    """
    known = {row["id"]: row for row in looked_at(lambda sql, values: db.execute(sql, values).fetchall())}
    yield
    resealed: dict[int, str] = {}
    for row in db.execute(f"select id, {', '.join(SAYS)} from audit").fetchall():
        old, says = known[row["id"]], [row[name] for name in SAYS]
        before = [old[name] for name in SAYS]
        if says != before and old["current"] == seal_of(old["salt"], before):
            salt = secrets.token_hex(16)
            resealed[row["id"]] = seal_of(salt, says)
            db.execute("update audit set salt = ? where id = ?", [salt, row["id"]])
    if resealed:
        subject, details = numbered(len(resealed)), json.dumps({"entries": sorted(resealed)})
        append(db, at, REDACT, [actor, subject, reason, details], resealed=resealed)


def numbered(count: int) -> str:
    return f"{count} {'entry' if count == 1 else 'entries'}"
