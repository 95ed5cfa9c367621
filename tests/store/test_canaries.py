"""Canaries: one at a time, sticky people, and how a version's answers fared."""

import sqlite3
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from store.canaries import in_canary
from store.db import Store
from store.errors import Invalid
from store.outcomes import Answer, Span, Vote
from store.records import (
    Adapter,
    AdapterStatus,
    CanaryOutcome,
    Completion,
    CompletionStatus,
    FeedbackKind,
    Source,
)
from tests.clock import Clock
from tests.store.conftest import completion, event

ONE = "it0001-00000001"


@given(st.text(), st.text(min_size=1), st.floats(0, 1), st.floats(0, 1))
def test_a_growing_share_only_adds_people(person: str, version: str, a: float, b: float) -> None:
    small, large = sorted((a, b))
    assert in_canary(person, version, small) <= in_canary(person, version, large)
    assert not in_canary(person, version, 0.0) and in_canary(person, version, 1.0)


@pytest.mark.parametrize("share", [0.05, 0.25, 0.5])
def test_the_share_is_that_of_people_and_differs_with_the_version(share: float) -> None:
    people = [f"person-{number}" for number in range(4000)]
    one = {person for person in people if in_canary(person, ONE, share)}
    two = {person for person in people if in_canary(person, "it0002-00000002", share)}
    assert abs(len(one) / 4000 - share) < 0.03
    assert abs(len(one & two) / 4000 - share * share) < 0.03


def begin(store: Store) -> int:
    path = Path("iterations/0001/adapter")
    store.adapters.add(Adapter(ONE, None, None, path, "d" * 64, AdapterStatus.CANARY, 1.0, 1.0))
    return store.canaries.begin(version=ONE, incumbent=None, iteration=None, share=0.05).id


def test_a_canary_begins_grows_and_ends(store: Store, clock: Clock) -> None:
    number = begin(store)
    opened = store.canaries.open()
    assert opened is not None and (opened.step, opened.share, opened.outcome) == (0, 0.05, None)
    clock.now = 2000.0
    wider = store.canaries.widen(number, 0.25)
    assert (wider.step, wider.share, wider.began_at, wider.step_at) == (1, 0.25, 1000.0, 2000.0)
    ended = store.canaries.end(number, CanaryOutcome.HELD, "undecided")
    assert (ended.ended_at, ended.outcome, ended.reason) == (2000.0, CanaryOutcome.HELD, "undecided")
    assert store.canaries.open() is None and store.canaries.list() == [ended]
    for change in (
        lambda: store.canaries.widen(number, 0.5),
        lambda: store.canaries.end(number, ended.outcome, ""),
    ):
        with pytest.raises(Invalid, match="not open"):
            change()


def test_two_canaries_at_once_are_refused_by_the_database(store: Store) -> None:
    begin(store)
    with pytest.raises(sqlite3.IntegrityError):
        store.canaries.begin(version=ONE, incumbent=None, iteration=None, share=0.05)


def answer(store: Store, name: str, **changes: object) -> Completion:
    row = completion(name, **{"adapter": ONE, **changes})
    store.completions.begin(row)
    return row


def test_the_latest_vote_on_an_answer_counts_once(store: Store) -> None:
    answer(store, "c1", created_at=10.0)
    for number, (value, at) in enumerate([(True, 11.0), (False, 12.0)]):
        store.feedback.add(event(f"f{number}", value=value, created_at=at))
    store.feedback.add(event("f2", value=False, created_at=13.0, choice_index=1))
    assert store.outcomes.votes(Span(ONE)) == [Vote("ann", 12.0, False), Vote("ann", 13.0, False)]
    assert store.outcomes.votes(Span(ONE, before=12.0)) == [Vote("ann", 11.0, True)]
    store.feedback.add(event("f3", value=None, created_at=14.0))
    assert store.outcomes.votes(Span(ONE)) == [Vote("ann", 13.0, False)]


def test_votes_are_those_on_one_version_within_the_span(store: Store) -> None:
    rows = [
        ("old", {"created_at": 5.0}),
        ("base", {"created_at": 20.0, "adapter": None}),
        ("task", {"created_at": 20.0, "source": Source.TASK}),
        ("c1", {"created_at": 20.0}),
        ("c2", {"created_at": 21.0, "stored": False, "messages": ()}),
    ]
    for number, (name, changes) in enumerate(rows):
        answer(store, name, **changes)
        store.feedback.add(event(f"f{number}", name, created_at=30.0 + number))
    assert [vote.at for vote in store.outcomes.votes(Span(ONE, since=10.0))] == [33.0, 34.0]
    assert [vote.at for vote in store.outcomes.votes(Span(None))] == [31.0]
    assert [vote.at for vote in store.outcomes.votes(Span(ONE, limit=1, newest=True))] == [34.0]


def test_answers_tell_failures_retries_length_and_pace(store: Store) -> None:
    ends = {
        "done": (CompletionStatus.DONE, (9, 30), 1.5),
        "failed": (CompletionStatus.FAILED, (9, 0), 0.2),
        "left": (CompletionStatus.CANCELLED, (9, 4), 0.2),
        # Cut off by a stop of the service: nobody's fault that is being watched.
        "cut": (CompletionStatus.FAILED, (0, 0), None),
    }
    for number, (name, (status, usage, latency)) in enumerate(ends.items()):
        row = answer(store, name, created_at=float(number), status=CompletionStatus.STREAMING)
        store.completions.finish(name, status=status, choices=row.choices, usage=usage, latency_s=latency)
    answer(store, "again", created_at=9.0, status=CompletionStatus.STREAMING)
    store.feedback.add(event("f1", "left", "again", kind=FeedbackKind.REGENERATE))
    assert store.outcomes.answers(Span(ONE)) == [
        Answer("ann", 0.0, failed=False, regenerated=False, length=15.0, pace=0.05),
        Answer("ann", 1.0, failed=True, regenerated=False, length=None, pace=None),
        Answer("ann", 2.0, failed=False, regenerated=True, length=None, pace=None),
    ]


def test_of_each_person_so_many_count_before_the_limit(store: Store) -> None:
    """Whoever is busy takes nobody else's place, from either end of the span."""

    def commit(tx: Store) -> None:
        people = ["busy"] * 60 + [f"p{number}" for number in range(10)] + ["busy"] * 60
        for number, person in enumerate(people):
            name = f"c{number}"
            row = completion(name, adapter=ONE, created_at=float(number), principal=person)
            tx.completions.begin(row)
            tx.completions.finish(
                name, status=CompletionStatus.DONE, choices=row.choices, usage=(1, 9), latency_s=1.0
            )
            tx.feedback.add(event(f"f{number}", name, created_at=float(number), principal=person))

    store.atomic(commit)
    for newest, kept in ((False, [0.0, 1.0, 2.0]), (True, [127.0, 128.0, 129.0])):
        span = Span(ONE, limit=20, most=3, newest=newest)
        for rows in (store.outcomes.votes(span), store.outcomes.answers(span)):
            assert [row.at for row in rows if row.principal == "busy"] == kept
            assert sum(row.principal != "busy" for row in rows) == 10
            assert [row.at for row in rows] == sorted(row.at for row in rows)
    hourly = store.outcomes.answers(Span(ONE, most=2, period=50.0))
    assert [row.at for row in hourly if row.principal == "busy"] == [0.0, 1.0, 50.0, 51.0, 100.0, 101.0]
    assert (store.outcomes.voters(Span(ONE, limit=1)), store.outcomes.askers(Span(ONE, limit=1))) == (11, 11)
    assert (store.outcomes.voters(Span(None)), store.outcomes.askers(Span(ONE, since=70.0))) == (0, 1)
