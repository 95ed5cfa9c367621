"""What the embedded engine's thread has to do, and for whom: the state asyncio and the thread share."""

import contextlib
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, InvalidStateError
from dataclasses import dataclass, field
from typing import Any

from policies.decoding import Answer, Batch
from policies.engine import Priority
from policies.forward import Forward
from policies.scoring import ScoreJob


@dataclass
class Served:
    """One resident version. It is dropped when it is closed and nobody uses it any more.

    People and background work step apart, so that a chat's step costs what the chats in it cost.
    """

    batches: dict[Priority, Batch]
    users: int = 0
    closed: bool = False

    @property
    def model(self) -> Forward:
        return self.batches[Priority.CHAT].model

    def rows(self) -> int:
        return sum(len(batch.answers) for batch in self.batches.values())


@dataclass
class Work:
    """What the thread has to do; guarded by the engine's condition."""

    waiting: dict[Priority, deque[Answer]] = field(
        default_factory=lambda: {priority: deque() for priority in Priority}
    )
    joining: list[Answer] = field(default_factory=list)
    calls: deque[tuple[Callable[[], Any], Future[Any]]] = field(default_factory=deque)
    scores: deque[tuple[ScoreJob, Future[Any]]] = field(default_factory=deque)
    live: dict[Priority, int] = field(default_factory=lambda: dict.fromkeys(Priority, 0))
    """Requests admitted and not yet ended."""
    closing: bool = False

    def queued(self) -> int:
        return sum(map(len, self.waiting.values()))


def resolve(future: Future[Any], outcome: Callable[[], Any]) -> None:
    """Settle a future with what `outcome` returns or raises; one given up meanwhile stays given up."""
    try:
        value = outcome()
    except Exception as error:  # the caller's to handle, on the caller's side
        with contextlib.suppress(InvalidStateError):
            future.set_exception(error)
    else:
        with contextlib.suppress(InvalidStateError):
            future.set_result(value)


def refuse(future: Future[Any], error: Exception) -> None:
    """Settle a future with an error, unless it was given up meanwhile."""
    with contextlib.suppress(InvalidStateError):
        future.set_exception(error)
