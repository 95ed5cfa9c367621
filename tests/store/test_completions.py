"""Answers are begun, finished, found again."""

from dataclasses import replace

import pytest

from store.db import Store
from store.errors import NotFound
from store.records import Choice, CompletionStatus, Source, Target
from tests.store.conftest import completion


def test_what_is_written_is_read_back_unchanged(store: Store) -> None:
    written = completion("c1", adapter=None, latency_s=1.5, first_token_s=0.2)
    store.completions.begin(written)
    assert store.completions.get("c1") == written


def test_an_answer_is_begun_and_then_finished(store: Store) -> None:
    begun = completion("c1", status=CompletionStatus.STREAMING, choices=())
    store.completions.begin(begun)
    choices = (Choice(0, "Done.", "stop", 3),)
    store.completions.finish(
        "c1", status=CompletionStatus.DONE, choices=choices, usage=(5, 3), first_token_s=0.1, latency_s=0.9
    )
    assert store.completions.get("c1") == replace(
        begun,
        status=CompletionStatus.DONE,
        choices=choices,
        prompt_tokens=5,
        completion_tokens=3,
        first_token_s=0.1,
        latency_s=0.9,
    )


def test_recent_filters_and_orders(store: Store) -> None:
    for number in range(4):
        source = Source.TASK if number == 3 else Source.CHAT
        status = CompletionStatus.FAILED if number == 0 else CompletionStatus.DONE
        store.completions.begin(
            completion(f"c{number}", created_at=float(number), source=source, status=status)
        )
    assert [c.id for c in store.completions.recent()] == ["c3", "c2", "c1", "c0"]
    assert [c.id for c in store.completions.recent(source=Source.CHAT, done_only=True)] == ["c2", "c1"]
    assert [c.id for c in store.completions.recent(before=2.0, limit=1)] == ["c1"]
    assert store.completions.count() == 4


def test_get_all_gives_those_that_exist(store: Store) -> None:
    store.completions.begin(completion("c1"))
    assert list(store.completions.get_all(["c1", "nope"])) == ["c1"]
    assert store.completions.find("nope") is None
    with pytest.raises(NotFound, match="nope"):
        store.completions.get("nope")


def test_answers_a_dead_process_left_are_failed_once(store: Store) -> None:
    store.completions.begin(completion("c1", status=CompletionStatus.STREAMING, choices=()))
    assert [store.completions.fail_streaming(), store.completions.fail_streaming()] == [1, 0]
    assert store.completions.get("c1").status is CompletionStatus.FAILED


def test_answers_of_base_are_whole_chats_that_were_kept(store: Store) -> None:
    for name, changes in {
        "first": {},
        "second": {"created_at": 2.0},
        "adapted": {"adapter": "it0001-a"},
        "sampled": {"source": Source.SAMPLE},
        "opted-out": {"stored": False},
        "cancelled": {"status": CompletionStatus.CANCELLED},
    }.items():
        store.completions.begin(completion(name, **changes))
    assert [one.id for one in store.completions.of_base(limit=9)] == ["second", "first"]
    assert [one.id for one in store.completions.of_base(limit=1)] == ["second"]


def test_a_target_says_who_may_vote_on_what_and_no_words(store: Store) -> None:
    whole = completion("c1", adapter="v000001", stored=False)
    store.completions.begin(replace(whole, choices=tuple(Choice(n, "text", "stop") for n in (1, 0))))
    store.completions.begin(completion("c2", choices=()))
    assert store.completions.target("c1") == Target("c1", whole.principal, "v000001", False, (0, 1))
    assert store.completions.target("c2") == Target("c2", whole.principal, None, True, ())
    assert store.completions.target("c3") is None
