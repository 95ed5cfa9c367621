"""The feedback log: append-only, idempotent, the latest counts."""

import sqlite3
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from store.db import Store
from store.errors import Conflict, NotFound
from store.records import (
    Choice,
    CompletionStatus,
    Example,
    FeedbackKind,
    Source,
    Split,
    Stage,
)
from tests.store.conftest import completion, event


@pytest.fixture
def answered(store: Store) -> Store:
    for name in ("c1", "c2"):
        store.completions.begin(completion(name))
    return store


def test_an_event_is_stored_as_it_was_given(answered: Store) -> None:
    given_ = event("f1", reason="wrong", comment="ä", metadata={"page": 1})
    assert answered.feedback.add(given_) == given_
    assert answered.feedback.get("f1") == given_


def test_a_second_vote_supersedes_the_first_and_both_stay(answered: Store) -> None:
    answered.feedback.add(event("f1", value=True))
    second = answered.feedback.add(event("f2", value=False))
    assert second.supersedes == "f1"
    assert [e.id for e in answered.feedback.events("c1")] == ["f1", "f2"]
    assert [e.id for e in answered.feedback.latest("c1")] == ["f2"]


def test_votes_of_other_people_choices_and_kinds_do_not_supersede(answered: Store) -> None:
    answered.feedback.add(event("f1"))
    for name, change in (
        ("f2", {"principal": "bob"}),
        ("f3", {"choice_index": 1}),
        ("f4", {"kind": FeedbackKind.RATING, "value": 4}),
    ):
        assert answered.feedback.add(replace(event(name), **change)).supersedes is None
    assert len(answered.feedback.latest("c1")) == 4


def test_the_same_event_again_answers_with_the_first(answered: Store) -> None:
    first = answered.feedback.add(event("f1"))
    assert answered.feedback.add(event("f1", created_at=9.0)) == first
    assert answered.feedback.count() == 1


def test_an_id_with_another_body_is_a_conflict(answered: Store) -> None:
    answered.feedback.add(event("f1"))
    with pytest.raises(Conflict):
        answered.feedback.add(event("f1", value=False))
    with pytest.raises(Conflict):
        answered.feedback.add(event("f1", principal="bob"))


def test_an_idempotency_key_repeats_or_conflicts_for_one_person_only(answered: Store) -> None:
    first = answered.feedback.add(event("f1"), idempotency_key="k")
    assert answered.feedback.add(event("f2"), idempotency_key="k") == first
    with pytest.raises(Conflict):
        answered.feedback.add(event("f3", value=False), idempotency_key="k")
    other = answered.feedback.add(event("f4", principal="bob"), idempotency_key="k")
    assert other.id == "f4"


@pytest.mark.parametrize("target", [{"completion_id": "nope"}, {"choice_index": 5}])
def test_what_does_not_exist_cannot_be_voted_on(answered: Store, target: dict[str, object]) -> None:
    with pytest.raises(NotFound):
        answered.feedback.add(replace(event("f1"), **target))
    assert answered.feedback.count() == 0


def test_an_answer_can_be_voted_on_while_it_streams(store: Store) -> None:
    store.completions.begin(
        completion("c1", status=CompletionStatus.STREAMING, choices=(Choice(0, "", None),))
    )
    assert store.feedback.add(event("f1")).id == "f1"
    with pytest.raises(NotFound):
        store.feedback.add(event("f2", choice_index=1))


def test_events_cannot_be_edited(answered: Store) -> None:
    answered.feedback.add(event("f1"))
    with pytest.raises(sqlite3.IntegrityError, match="append-only"):
        answered.atomic(
            lambda tx: tx.feedback._session.write(lambda db: db.execute("update feedback set value = '0'"))
        )
    assert answered.feedback.get("f1").value is True


def test_only_live_votes_on_stored_chat_answers_count(store: Store) -> None:
    cases = {
        "counts": {},
        "cut": {"status": CompletionStatus.CANCELLED},
        "broken": {"status": CompletionStatus.FAILED},
        "opted-out": {"stored": False},
        "side-job": {"source": Source.TASK},
    }
    for name, changes in cases.items():
        store.completions.begin(completion(name, **changes))
        store.feedback.add(event(f"f-{name}", name))
    store.completions.begin(completion("taken-back"))
    store.feedback.add(event("g1", "taken-back"))
    store.feedback.add(event("g2", "taken-back", value=None))
    assert [item.completion.id for item in store.feedback.live()] == ["counts", "cut"]


def test_live_takes_events_before_a_time(answered: Store) -> None:
    answered.feedback.add(event("f1", created_at=5.0))
    answered.feedback.add(event("f2", "c2", created_at=6.0))
    assert [item.feedback.id for item in answered.feedback.live(before=6.0)] == ["f1"]
    assert answered.feedback.count(since=5.0) == 1


def test_live_takes_the_newest_so_many_oldest_first(answered: Store) -> None:
    for name, answer in (("f1", "c1"), ("f2", "c2"), ("f3", "c3")):
        if answer not in ("c1", "c2"):
            answered.completions.begin(completion(answer))
        answered.feedback.add(event(name, answer))
    for read in (answered.feedback.live, answered.feedback.spoken):
        assert [[item.feedback.id for item in read(most=most)] for most in (None, 3, 2, 0)] == [
            ["f1", "f2", "f3"],
            ["f1", "f2", "f3"],
            ["f2", "f3"],
            [],
        ]


@pytest.mark.parametrize(
    ("stage", "split", "used"),
    [
        (Stage.ACTIVE, Split.TRAIN, True),
        (Stage.HELD, Split.TRAIN, False),
        (Stage.ROLLED_BACK, Split.TRAIN, True),
        (Stage.REJECTED, Split.TRAIN, False),
        (Stage.FAILED, Split.TRAIN, False),
        (Stage.TRAINING, Split.TRAIN, False),
        (Stage.ACTIVE, Split.NEVER_TRAIN, False),
    ],
)
def test_feedback_is_used_once_an_adapter_that_was_kept_learned_from_it(
    answered: Store, stage: Stage, split: Split, used: bool
) -> None:
    answered.feedback.add(event("f1"))
    iteration = answered.iterations.begin(trigger="test", incumbent=None, config={})
    answered.iterations.add_examples([Example(iteration.id, "f1", "c1", split, "kto", True, 1.0)])
    answered.iterations.move(iteration.id, stage)
    assert (answered.feedback.unused() == []) is used
    assert (answered.feedback.unused_answers() == set()) is used


def test_a_changed_vote_is_unused_again(answered: Store) -> None:
    answered.feedback.add(event("f1"))
    iteration = answered.iterations.begin(trigger="test", incumbent=None, config={})
    answered.iterations.add_examples([Example(iteration.id, "f1", "c1", Split.TRAIN, "kto", True, 1.0)])
    answered.iterations.move(iteration.id, Stage.ACTIVE)
    answered.feedback.add(event("f2", value=False))
    assert [item.feedback.id for item in answered.feedback.unused()] == ["f2"]


VOTES = st.lists(
    st.tuples(
        st.sampled_from(["c1", "c2"]),
        st.integers(0, 1),
        st.sampled_from(["ann", "bob"]),
        st.sampled_from([True, False, None]),
        st.booleans(),
    ),
    max_size=40,
)


@settings(max_examples=40, deadline=None)
@given(VOTES)
def test_the_latest_view_is_what_a_simple_model_says(
    votes: list[tuple[str, int, str, bool | None, bool]],
) -> None:
    """Votes, changes, takebacks and retries in any order; a dict is the model."""
    model: dict[tuple[str, int, str], bool | None] = {}
    with Store.memory() as store:
        for name in ("c1", "c2"):
            store.completions.begin(completion(name))
        for number, (target, choice, person, value, retried) in enumerate(votes):
            vote = event(f"f{number}", target, value, choice_index=choice, principal=person)
            store.feedback.add(vote, idempotency_key=f"k{number}")
            if retried:
                store.feedback.add(replace(vote, id=f"again-{number}"), idempotency_key=f"k{number}")
            model[target, choice, person] = value
        found = {
            (e.completion_id, e.choice_index, e.principal): e.value
            for name in ("c1", "c2")
            for e in store.feedback.latest(name)
        }
        assert found == model
        assert len(store.feedback.live()) == sum(value is not None for value in model.values())
        assert store.feedback.count() == len(votes)
