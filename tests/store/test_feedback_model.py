"""Feedback as a state machine: votes, edits, takebacks, retries and duplicates in any order against a dictionary.

The model says for every event what the log must answer (itself, the first one, or a conflict), and after them all
what is the latest of everybody. Small cases by hypothesis, which shrinks them; then one run of 100,000 seeded events.
"""

import random
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from store.db import Store
from store.errors import Conflict, NotFound
from store.feedback import body_digest
from store.records import Completion, CompletionStatus, Feedback, FeedbackKind, Source
from tests.store.conftest import completion

Slot = tuple[str, int, str, FeedbackKind]

#: Statuses, and whether an answer counts whose votes are in order; the others are logged only.
ANSWERS: tuple[tuple[str, dict[str, Any], bool], ...] = (
    ("done", {}, True),
    ("cut", {"status": CompletionStatus.CANCELLED}, True),
    ("failed", {"status": CompletionStatus.FAILED}, False),
    ("opted-out", {"stored": False}, False),
    ("side-job", {"source": Source.TASK}, False),
)


@dataclass
class Model:
    """What the log must know. `keys`: by person and Idempotency-Key; `order`: a slot's place by its latest event."""

    answers: dict[str, Completion]
    counts: dict[str, bool]
    by_id: dict[str, Feedback] = field(default_factory=dict)
    keys: dict[tuple[str, str], str] = field(default_factory=dict)
    latest: dict[Slot, Feedback] = field(default_factory=dict)

    def add(self, given_: Feedback, key: str | None) -> Feedback | type[Exception] | None:
        """The event the log must answer with, or what it must raise."""
        known = [
            self.by_id[name]
            for name in (given_.id, self.keys.get((given_.principal, key)) if key is not None else None)
            if name is not None and name in self.by_id
        ]
        if len({one.id for one in known}) > 1:
            return None  # the id is one event's and the key another's: either may answer
        if known:
            return known[0] if body_digest(known[0]) == body_digest(given_) else Conflict
        answer = self.answers.get(given_.completion_id)
        if answer is None or given_.choice_index not in [one.index for one in answer.choices]:
            return NotFound
        slot = slot_of(given_)
        before = self.latest.pop(slot, None)  # so that the slot goes to the end
        stored = replace(given_, supersedes=before.id if before else None)
        self.by_id[given_.id] = self.latest[slot] = stored
        if key is not None:
            self.keys[given_.principal, key] = given_.id
        return stored

    def live(self) -> list[Feedback]:
        return [
            one for one in self.latest.values() if one.value is not None and self.counts[one.completion_id]
        ]


def slot_of(one: Feedback) -> Slot:
    return one.completion_id, one.choice_index, one.principal, one.kind


class Crowd:
    """Draws events: new ones, repetitions of earlier ones late and out of order, and misuse of ids and keys."""

    def __init__(self, rng: random.Random, answers: list[str], people: int) -> None:
        self.rng, self.answers = rng, answers
        self.people = [f"p{number}" for number in range(people)]
        self.sent: list[tuple[Feedback, str | None]] = []

    def draw(self, number: int) -> tuple[Feedback, str | None]:
        rng, what = self.rng, self.rng.random()
        if self.sent and what < 0.15:  # a retry: the client's clock moved on, the rest is the same
            again, key = rng.choice(self.sent)
            return replace(again, created_at=float(number)), key
        if self.sent and what < 0.2:  # the same key under a new id, as a client that makes its ids anew
            again, key = rng.choice(self.sent)
            return replace(again, id=f"f{number}", created_at=float(number)), key
        if self.sent and what < 0.24:  # an id, or a key, with another body
            again, key = rng.choice(self.sent)
            name = again.id if rng.random() < 0.5 else f"f{number}"
            return replace(again, id=name, value=value_of(rng, again.kind), comment=f"c{number}"), key
        if what < 0.25:  # an answer, or a choice, that is not there
            target, choice = (f"none{number}", 0) if rng.random() < 0.5 else (rng.choice(self.answers), 7)
            fresh = self.new(number, target, choice)
        else:
            fresh = self.new(number, rng.choice(self.answers), rng.randrange(2))
        key = f"k{number}" if rng.random() < 0.5 else None
        self.sent.append((fresh, key))
        return fresh, key

    def new(self, number: int, target: str, choice: int) -> Feedback:
        kind = self.rng.choice(
            (FeedbackKind.THUMB, FeedbackKind.THUMB, FeedbackKind.RATING, FeedbackKind.EDIT)
        )
        # Clocks run apart: what counts is the order in which events came in.
        at = number + self.rng.uniform(-500, 500)
        person = self.rng.choice(self.people)
        return Feedback(f"f{number}", at, target, choice, person, kind, value_of(self.rng, kind))


def value_of(rng: random.Random, kind: FeedbackKind) -> Any:
    match kind:
        case FeedbackKind.THUMB:
            return rng.choice((True, False, None))
        case FeedbackKind.RATING:
            return rng.randint(1, 5)
        case _:
            return f"Corrected \u2028 {rng.randrange(10)}."


def fresh_model(store: Store, answers: int) -> Model:
    """Answers of every kind, in store and model."""
    known, counts = {}, {}
    for number in range(answers):
        kind, changes, counted = ANSWERS[number % len(ANSWERS)]
        one = completion(f"{kind}-{number}", **changes)
        store.completions.begin(one)
        known[one.id], counts[one.id] = one, counted
    return Model(known, counts)


def run(store: Store, model: Model, events: list[tuple[Feedback, str | None]]) -> None:
    """Every event to both; they must agree on each answer."""
    for given_, key in events:
        expected = model.add(given_, key)
        if isinstance(expected, type):
            with pytest.raises(expected):
                store.feedback.add(given_, idempotency_key=key)
        elif expected is not None:
            assert store.feedback.add(given_, idempotency_key=key) == expected


def check(store: Store, model: Model) -> None:
    """Everything the log tells of itself against the model."""
    assert store.feedback.count() == len(model.by_id)
    found = [one for name in model.answers for one in store.feedback.latest(name)]
    assert {slot_of(one): one for one in found} == model.latest
    assert len(found) == len(model.latest)
    live = [item.feedback for item in store.feedback.live()]
    assert live == model.live()
    for one in live[:50]:
        assert store.feedback.get(one.id) == one


@settings(max_examples=25, deadline=None)
@given(st.randoms(use_true_random=False), st.integers(1, 60))
def test_any_order_of_events_is_what_a_dictionary_says(rng: random.Random, count: int) -> None:
    with Store.memory() as store:
        model = fresh_model(store, 5)
        crowd = Crowd(rng, list(model.answers), people=2)
        run(store, model, [crowd.draw(number) for number in range(count)])
        check(store, model)
        assert [item.feedback for item in store.feedback.unused()] == model.live()
        answers = {(one.completion_id, one.choice_index) for one in model.live()}
        assert store.feedback.unused_answers() == answers


def test_a_hundred_thousand_events_are_what_a_dictionary_says() -> None:
    """Through the real functions, a thousand to a transaction."""
    count, batch = 100_000, 1000
    with Store.memory() as store:
        model = fresh_model(store, 500)
        crowd = Crowd(random.Random(20), list(model.answers), people=40)
        for start in range(0, count, batch):
            events = [crowd.draw(number) for number in range(start, start + batch)]
            store.atomic(lambda tx, drawn=events: run(tx, model, drawn))
        assert len(model.by_id) > 70_000
        assert len(model.latest) < len(model.by_id) * 0.9
        check(store, model)
