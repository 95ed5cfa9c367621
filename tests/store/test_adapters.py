"""The pointer to the active adapter, and its history."""

from pathlib import Path

import pytest

from store.db import Store
from store.errors import NotFound
from store.records import Adapter, AdapterStatus
from tests.clock import Clock


def adapter(version: str, *, parent: str | None = None) -> Adapter:
    path = Path("iterations/0001/adapter")
    return Adapter(version, parent, None, path, "d" * 64, AdapterStatus.CANDIDATE, 0.75, 1.0)


def test_an_adapter_is_read_back_as_written(store: Store) -> None:
    store.adapters.add(adapter("it0001-00000001"))
    assert store.adapters.get("it0001-00000001") == adapter("it0001-00000001")
    assert [a.version for a in store.adapters.list()] == ["it0001-00000001"]
    with pytest.raises(NotFound):
        store.adapters.get("it0009-00000000")


def test_the_pointer_moves_with_the_statuses_and_leaves_a_trace(store: Store, clock: Clock) -> None:
    for version in ("it0001-00000001", "it0002-00000002"):
        store.adapters.add(adapter(version))
    assert store.adapters.active() is None
    store.adapters.activate("it0001-00000001", actor="gate", reason="good")
    clock.now = 2000.0
    store.adapters.activate("it0002-00000002", actor="gate", reason="better")
    store.adapters.activate(
        "it0001-00000001", actor="ann", reason="worse", retire_as=AdapterStatus.ROLLED_BACK
    )
    active = store.adapters.active()
    assert active is not None
    assert (active.version, active.status) == ("it0001-00000001", AdapterStatus.ACTIVE)
    assert store.adapters.get("it0002-00000002").status is AdapterStatus.ROLLED_BACK
    moves = [(a.at, a.previous, a.version, a.reason) for a in store.adapters.activations()]
    assert moves == [
        (2000.0, "it0002-00000002", "it0001-00000001", "worse"),
        (2000.0, "it0001-00000001", "it0002-00000002", "better"),
        (1000.0, None, "it0001-00000001", "good"),
    ]
    moves = store.adapters.activations()
    assert [(move.left_as, move.backwards) for move in moves] == [
        (AdapterStatus.ROLLED_BACK, True),
        (AdapterStatus.SUPERSEDED, False),
        (AdapterStatus.SUPERSEDED, False),
    ]
    store.adapters.activate(None, actor="ann", reason="base, please")
    assert store.adapters.active() is None
