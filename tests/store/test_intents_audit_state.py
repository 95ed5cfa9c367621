"""Intents, audit log, judgements and standing state."""

import sqlite3

import pytest

from store.db import Store
from store.errors import NotFound
from store.judging import Judgement
from store.records import Intent, IntentKind, IntentStatus
from tests.clock import Clock
from tests.store.conftest import completion


def test_an_intent_is_pending_until_it_is_dealt_with(store: Store, clock: Clock) -> None:
    intents = [
        Intent(f"i{n}", float(n), IntentKind.TRAIN, "ann", "because", {"n": n}, IntentStatus.PENDING)
        for n in (1, 2)
    ]
    for intent in intents:
        store.intents.add(intent)
    assert store.intents.pending() == intents
    store.intents.update("i1", IntentStatus.RUNNING, {"iteration": 1})
    assert [i.id for i in store.intents.pending()] == ["i1", "i2"]
    store.intents.update("i1", IntentStatus.DONE, {"iteration": 1})
    assert [i.id for i in store.intents.pending()] == ["i2"]
    done = store.intents.get("i1")
    assert (done.status, done.outcome, done.updated_at) == (IntentStatus.DONE, {"iteration": 1}, clock.now)
    assert [i.id for i in store.intents.recent()] == ["i2", "i1"]
    with pytest.raises(NotFound):
        store.intents.get("i9")


@pytest.mark.parametrize("change", ["update audit set reason = 'x'", "delete from audit"])
def test_the_audit_log_only_grows(store: Store, change: str) -> None:
    store.audit.add(actor="gate", action="promote", subject="it0001-x", reason="good", details={"kl": 0.1})
    with pytest.raises(sqlite3.IntegrityError, match="append-only"):
        store.atomic(lambda tx: tx.audit._session.write(lambda db: db.execute(change)))
    (entry,) = store.audit.list()
    assert (entry.actor, entry.reason, entry.details) == ("gate", "good", {"kl": 0.1})
    assert store.audit.since(entry.id) == []
    assert store.audit.since(0) == [entry]


def test_judgements_are_kept_with_what_produced_them(store: Store) -> None:
    store.completions.begin(completion("c1"))
    judgement = Judgement("d1", "relevance", "v1", -3.5, 2.0, "c1", 0, None, {"rubric": "v1"})
    store.judgements.add([judgement])
    assert store.judgements.of("c1") == [judgement]
    assert store.judgements.of("c2") == []


def test_state_is_any_json_by_key(store: Store) -> None:
    assert store.state.get("paused", False) is False
    store.state.set("paused", True)
    store.state.set("paused", False)
    assert store.state.get("paused") is False
