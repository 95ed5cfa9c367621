"""What must hold after any death and restart, read from the disk without honed and asked of the service."""

from collections import Counter
from pathlib import Path
from typing import Any

from benchmarks.failpoint_world import World
from policies.spec import ADAPTER, MANIFEST, read_snapshot, verify_manifest
from store.chain import verify

#: What an order of a kind writes into the audit log when it is carried out.
AUDITED = frozenset({"rollback", "promote", "pause", "resume", "label", "release", "forget"})
FINISHED = frozenset({"rejected", "held", "active", "rolled_back", "failed", "aborted"})
#: Stages of which a candidate is on record.
JUDGED = frozenset({"rejected", "held", "canary", "active", "rolled_back"})


def check(world: World, *, state: Path | None = None) -> None:
    """Hold a state directory against everything that was acknowledged.

    Raises:
        AssertionError, HonedError: what does not hold, or does not verify.
    """
    where = state or world.state

    def rows(sql: str, *values: Any) -> list[dict[str, Any]]:
        return world.rows(sql, *values, state=where)

    assert rows("pragma integrity_check")[0]["integrity_check"] == "ok"
    assert rows("pragma foreign_key_check") == []
    check_votes(world, rows)
    check_iterations(where, rows)
    check_pointer(rows)
    check_orders(world, rows)
    chain = verify(rows)
    assert chain.broken is None, chain


def check_votes(world: World, rows: Any) -> None:
    """Every acknowledged event once, and none of those twice that were sent twice."""
    notes = world.notes
    stored = Counter(row["id"] for row in rows("select id from feedback"))
    kept = {event for event, person in notes.votes.items() if person not in notes.forgotten}
    assert not (lost := kept - set(stored)), f"lost: {lost}"
    assert sum(stored.values()) == len(notes.votes), (len(notes.votes), stored)
    answers = {row["id"]: row["status"] for row in rows("select id, status from completions")}
    assert not (lost := set(notes.answers.values()) - set(answers)), f"answers lost: {lost}"
    assert all(answers[one] == "done" for one in notes.answers.values())


def check_iterations(where: Path, rows: Any) -> None:
    """Stages agree with their history; only a run that is sealed and verifies has a candidate on record."""
    candidates = {row["version"]: row for row in rows("select * from adapters")}
    for one in rows("select * from iterations"):
        moves = rows("select stage from iteration_stages where iteration = ? order by id", one["id"])
        assert moves[0]["stage"] == "queued" and moves[-1]["stage"] == one["stage"], (one["id"], moves)
        assert (one["finished_at"] is not None) == (one["stage"] in FINISHED), one
        begun = rows(
            "select count(*) as n from audit where action = 'train' and subject = ?", f"iteration {one['id']}"
        )
        assert begun[0]["n"] == 1, begun
        own = [row for row in candidates.values() if row["iteration"] == one["id"]]
        judged = one["stage"] in JUDGED
        assert (one["candidate"] in {row["version"] for row in own}) == judged, (one, own)
        assert judged or not own, (one, own)
        for adapter in (row for row in own if row["status"] != "retired"):
            run = (where / adapter["path"]).parent
            assert verify_manifest(run), run
            assert verify_manifest(where / adapter["path"]) == adapter["digest"]
            assert "tmp" not in adapter["path"] and run.name.split("-")[0] == f"{one['id']:04d}"
    for run in (where / "iterations").glob("*/"):
        if (run / "snapshot.json").is_file():
            read_snapshot(run)
        if (run / MANIFEST).is_file():
            assert verify_manifest(run) and verify_manifest(run / ADAPTER)


def check_pointer(rows: Any) -> None:
    """One version is active, the one pointed to; every move began where the last one ended, and was made once."""
    pointer = rows("select version from active")[0]["version"]
    active = [row["version"] for row in rows("select version from adapters where status = 'active'")]
    assert active == ([pointer] if pointer else []), (active, pointer)
    at = None
    for move in rows("select version, previous, reason from activations order by id"):
        assert move["previous"] == at, move
        assert move["version"] != at, f"moved twice: {move}"
        at = move["version"]
    assert at == pointer, (at, pointer)
    if pointer:
        row = rows(
            "select i.stage from adapters a join iterations i on i.id = a.iteration where a.version = ?",
            pointer,
        )
        assert row == [{"stage": "active"}], row
    for one in rows("select c.*, a.status from canaries c join adapters a on a.version = c.version"):
        open_ = one["ended_at"] is None
        assert open_ == (one["status"] == "canary"), one
        assert open_ == (one["outcome"] is None), one


def check_orders(world: World, rows: Any) -> None:
    """Every acknowledged order is there once, has ended, and was carried out once."""
    for reason, name in world.notes.orders.items():
        found = rows("select * from intents where reason = ?", reason)
        assert [row["id"] for row in found] == [name], (reason, found)
        kind, status = found[0]["kind"], found[0]["status"]
        assert status == "done", found
        if kind == "train":
            begun = rows('select id from iterations where "trigger" = ?', f"manual: {reason}")
            assert len(begun) == 1, (reason, begun)
        elif kind in AUDITED:
            told = rows("select id from audit where action in (?, 'hold') and reason = ?", kind, reason)
            assert len(told) == 1, (kind, reason, told)
    assert rows("select * from intents where status in ('pending', 'running')") == []


def check_served(world: World) -> None:
    """What answers is what the pointer says, and it answers everybody."""
    pointer = world.rows("select version from active")[0]["version"]
    open_ = world.rows("select version from canaries where ended_at is null")
    allowed = {pointer or "base", *(row["version"] for row in open_)}
    body = {"model": "honed", "messages": [{"role": "user", "content": "who are you?"}], "max_tokens": 4}
    for person in ("ann", "bob", "cid"):
        assert world.client(person).post("/v1/chat/completions", body)["model"] in allowed
    listed = {row["id"] for row in world.client().get("/v1/models")["data"]}
    assert pointer is None or pointer in listed, (pointer, listed)
