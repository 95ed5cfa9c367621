"""People who chat and vote, written straight into a store: what canaries and the watch decide from."""

from collections.abc import Iterator
from itertools import count

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

NUMBERS: Iterator[int] = count()


def answer(
    store: Store,
    person: str,
    adapter: str | None,
    *,
    at: float,
    status: CompletionStatus = CompletionStatus.DONE,
) -> str:
    """An answer as the chat route records it; returns its id."""
    name = f"c{next(NUMBERS)}"
    row = Completion(
        id=name,
        created_at=at,
        principal=person,
        source=Source.CHAT,
        messages=(Message("user", "?"),),
        sampling=Sampling(),
        adapter=adapter,
        engine="fake",
        status=CompletionStatus.STREAMING,
    )
    tokens = 20 if status is CompletionStatus.DONE else 0
    store.completions.begin(row)
    choices = (Choice(0, "!", "stop", tokens),)
    store.completions.finish(name, status=status, choices=choices, usage=(3, tokens), latency_s=0.5)
    return name


def vote(store: Store, person: str, adapter: str | None, *, up: bool, at: float) -> None:
    """One answer and the thumb it gets."""
    name = answer(store, person, adapter, at=at)
    store.feedback.add(Feedback(f"f-{name}", at, name, 0, person, FeedbackKind.THUMB, up))


def votes(store: Store, adapter: str | None, ups: int, downs: int, *, at: float, people: int = 40) -> None:
    """So many thumbs of so many people, ups and downs evenly mixed."""

    def commit(tx: Store) -> None:
        for number in range(ups + downs):
            up = (number * ups) // (ups + downs) != ((number + 1) * ups) // (ups + downs)
            vote(tx, f"p{number % people}", adapter, up=up, at=at + number * 0.001)

    store.atomic(commit)
