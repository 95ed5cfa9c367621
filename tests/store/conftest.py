"""A fresh store, and the records most tests need."""

from collections.abc import Iterator

import pytest

from store.db import Store
from store.records import (
    Choice,
    Completion,
    CompletionStatus,
    Feedback,
    FeedbackKind,
    Message,
    Sampling,
    Source,
)
from tests.clock import Clock


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store(clock: Clock) -> Iterator[Store]:
    with Store.memory(clock=clock) as fresh:
        yield fresh


def completion(name: str, **changes: object) -> Completion:
    usual: dict[str, object] = {
        "id": name,
        "created_at": 1.0,
        "principal": "ann",
        "source": Source.CHAT,
        "messages": (Message("user", "Grüezi?\u2028"),),
        "sampling": Sampling(stop=("END",), seed=7),
        "adapter": None,
        "engine": "fake",
        "status": CompletionStatus.DONE,
        "choices": (Choice(0, "Hello.", "stop", 2), Choice(1, "Hi.", "length", 1)),
        "metadata": {"user": "u1"},
    }
    return Completion(**{**usual, **changes})


def event(name: str, target: str = "c1", value: object = True, **changes: object) -> Feedback:
    usual: dict[str, object] = {
        "id": name,
        "created_at": 2.0,
        "completion_id": target,
        "choice_index": 0,
        "principal": "ann",
        "kind": FeedbackKind.THUMB,
        "value": value,
    }
    return Feedback(**{**usual, **changes})
