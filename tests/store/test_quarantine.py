"""Quarantine: held back, let go, and both written down for good."""

import sqlite3

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from store.db import Store
from store.records import Example, Split, Stage
from tests.store.conftest import completion, event


def trained(
    store: Store, *feedback: str, stage: Stage = Stage.ROLLED_BACK, split: Split = Split.TRAIN
) -> int:
    """An iteration that learned from these events."""
    begun = store.iterations.begin(trigger="test", incumbent=None, config={})
    rows = [
        Example(begun.id, name, store.feedback.get(name).completion_id, split, "kto", True, 1.0)
        for name in feedback
    ]
    store.iterations.add_examples(rows)
    store.iterations.move(begun.id, stage)
    return begun.id


@pytest.fixture
def voted(store: Store) -> Store:
    """Votes f1 to f4, each on an answer of its own."""
    for number in range(1, 5):
        store.completions.begin(completion(f"c{number}"))
        store.feedback.add(event(f"f{number}", f"c{number}"))
    return store


def hold(store: Store, *iterations: int, kept: tuple[int, ...] = ()) -> int:
    return store.quarantine.hold(iterations, kept=kept, actor="ann", reason="worse")


def live(store: Store) -> list[str]:
    return [item.feedback.id for item in store.feedback.live()]


def unused(store: Store) -> list[str]:
    return [item.feedback.id for item in store.feedback.unused()]


def test_what_trained_the_iterations_left_is_held_and_nothing_else(voted: Store) -> None:
    one, two = trained(voted, "f1"), trained(voted, "f2")
    trained(voted, "f3", stage=Stage.ACTIVE)
    assert hold(voted, one, two) == 2
    assert live(voted) == ["f3", "f4"] and unused(voted) == ["f4"]
    assert [(row.feedback_id, row.iteration, row.actor, row.reason) for row in voted.quarantine.held()] == [
        ("f1", one, "ann", "worse"),
        ("f2", two, "ann", "worse"),
    ]
    assert voted.quarantine.count() == 2
    assert voted.feedback.get("f1").value is True, "the fact stays"


def test_what_only_tested_an_iteration_is_not_held(voted: Store) -> None:
    assert hold(voted, trained(voted, "f1", split=Split.NEVER_TRAIN)) == 0


def test_what_trained_an_adapter_that_is_kept_too_is_not_held(voted: Store) -> None:
    kept, left = trained(voted, "f1", stage=Stage.ACTIVE), trained(voted, "f1", "f2")
    assert hold(voted, left, kept=(kept,)) == 1
    assert live(voted) == ["f1", "f3", "f4"]


def test_an_event_that_trained_two_of_them_is_held_once_for_the_first(voted: Store) -> None:
    one, two = trained(voted, "f1"), trained(voted, "f1")
    assert hold(voted, two, one) == 1
    assert [row.iteration for row in voted.quarantine.held()] == [one]
    assert hold(voted, one, two) == 0, "held already"


def test_what_is_released_counts_and_is_new_again_until_it_trains_an_adapter_that_is_kept(
    voted: Store,
) -> None:
    one, two = trained(voted, "f1"), trained(voted, "f2")
    hold(voted, one, two)
    assert voted.quarantine.release(iteration=two, actor="bob", reason="they were right") == 1
    assert live(voted) == ["f2", "f3", "f4"] and unused(voted) == ["f2", "f3", "f4"]
    (released,) = [row for row in voted.quarantine.history() if row.released_at is not None]
    assert (released.feedback_id, released.released_by, released.released_because) == (
        "f2",
        "bob",
        "they were right",
    )
    trained(voted, "f2", stage=Stage.ACTIVE)
    assert unused(voted) == ["f3", "f4"]
    assert voted.quarantine.release(actor="bob", reason="all") == 1
    assert voted.quarantine.held() == [] and len(voted.quarantine.history()) == 2


def test_what_was_released_can_be_held_again(voted: Store) -> None:
    one = trained(voted, "f1")
    hold(voted, one)
    voted.quarantine.release(actor="bob", reason="fine")
    again = trained(voted, "f1")
    assert hold(voted, again) == 1
    assert live(voted) == ["f2", "f3", "f4"]
    assert [(row.iteration, row.released_by) for row in voted.quarantine.of("c1")] == [
        (one, "bob"),
        (again, None),
    ]


def test_a_new_vote_on_the_same_answer_is_not_held(voted: Store) -> None:
    hold(voted, trained(voted, "f1"))
    voted.feedback.add(event("f9", "c1", value=False))
    assert unused(voted) == ["f2", "f3", "f4", "f9"]


def test_a_held_vote_still_supersedes_the_one_before_it(voted: Store) -> None:
    voted.feedback.add(event("f9", "c1", value=False))
    hold(voted, trained(voted, "f9"))
    assert "f1" not in live(voted)


def test_which_of_some_events_are_held(voted: Store) -> None:
    hold(voted, trained(voted, "f1", "f2"))
    assert voted.quarantine.among(["f2", "f3", "nothing"]) == {"f2"}


@pytest.mark.parametrize("table", ["quarantine", "quarantine_releases"])
@pytest.mark.parametrize("statement", ["update {} set reason = 'x'", "delete from {}"])
def test_neither_hold_nor_release_can_be_edited(voted: Store, table: str, statement: str) -> None:
    hold(voted, trained(voted, "f1"))
    voted.quarantine.release(actor="bob", reason="fine")
    with pytest.raises(sqlite3.IntegrityError, match="append-only"):
        voted.atomic(lambda tx: tx.quarantine._session.write(lambda db: db.execute(statement.format(table))))


MOVES = st.lists(st.tuples(st.sampled_from(["train", "hold", "release"]), st.integers(1, 4)), max_size=25)


@settings(max_examples=40, deadline=None)
@given(MOVES)
def test_what_is_held_and_what_is_new_is_what_a_simple_model_says(moves: list[tuple[str, int]]) -> None:
    held: dict[str, int] = {}
    spent: set[str] = set()
    learned: list[tuple[int, str]] = []
    with Store.memory() as store:
        for number in range(1, 5):
            store.completions.begin(completion(f"c{number}"))
            store.feedback.add(event(f"f{number}", f"c{number}"))
        for move, number in moves:
            name = f"f{number}"
            if move == "train" and name not in held:
                learned.append((trained(store, name), name))
                spent.add(name)
            elif move == "hold" and learned:
                iteration, name = learned[number % len(learned)]
                hold(store, iteration)
                held.setdefault(name, iteration)
            elif move == "release" and learned:
                iteration = learned[number % len(learned)][0]
                store.quarantine.release(iteration=iteration, actor="bob", reason="fine")
                for name in [name for name, by in held.items() if by == iteration]:
                    del held[name]
                    spent.discard(name)
        names = [f"f{number}" for number in range(1, 5)]
        assert {row.feedback_id: row.iteration for row in store.quarantine.held()} == held
        assert live(store) == [name for name in names if name not in held]
        assert unused(store) == [name for name in names if name not in held and name not in spent]
