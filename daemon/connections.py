"""Connections cost no more than they may: a limit on how many there are, and on how long one may keep honed waiting.

uvicorn ends a kept-alive connection that stays silent, and nothing else: a request whose head never ends, a body that
goes on after its answer, and an answer that nobody reads would each keep a connection for ever. How long a body may
take is `api.middleware.BodyLimit`'s, which can say so in an answer.
"""

import asyncio
import json
import resource
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from api.config import ApiConfig
from api.errors import STATUSES, Answer, envelope

#: Descriptors for everything that is no client: database, model files, children, the system.
RESERVE = 192
#: Connections above the limit that are told why they are not served; further ones are just closed.
TOLD = 32
#: Seconds between two looks at a connection.
LOOK = 1.0
#: Seconds after which somebody who found no place may come again.
RETRY_AFTER = 2
FULL = Answer(503, "service_unavailable_error", "too_many_connections")


@dataclass(frozen=True, slots=True)
class Limits:
    """`head`: seconds until a request's head is there, counted from the connection's begin or the answer before.
    `unread`: seconds for which a client may take nothing of what waits for it.
    """

    connections: int
    head: float
    unread: float


@dataclass(slots=True)
class Patience:
    """What was seen of a connection. `since`: from when on it owes a request; `waiting` bytes at `seen`."""

    since: float
    waiting: int = 0
    seen: float = 0.0

    def unread_for(self, waiting: int, now: float) -> float:
        """Seconds for which none of the `waiting` bytes was taken."""
        if not waiting or not self.waiting or waiting < self.waiting:
            self.seen = now
        self.waiting = waiting
        return now - self.seen


class Connection(H11Protocol):
    """uvicorn's HTTP/1.1, by h11, within limits."""

    def __init__(self, *args: Any, limits: Limits, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.limits = limits
        self.patience = Patience(self.loop.time())
        self._next: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        super().connection_made(transport)
        over = len(self.connections) - self.limits.connections
        if over > TOLD:
            transport.abort()
            return
        if over > 0:
            self.app = full
        self._look()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._next is not None:
            self._next.cancel()
        super().connection_lost(exc)

    def on_response_complete(self) -> None:
        self.patience.since = self.loop.time()
        super().on_response_complete()

    def _look(self) -> None:
        """Once a second: timers for all that can be late would have to be set and cancelled with every request."""
        now = self.loop.time()
        self._next = self.loop.call_later(min(LOOK, self.limits.head / 2, self.limits.unread / 2), self._look)
        if self.patience.unread_for(self.transport.get_write_buffer_size(), now) >= self.limits.unread:
            self.transport.abort()  # to close would mean to wait for the reader
        elif (
            self._owes() and now - self.patience.since >= self.limits.head and not self.transport.is_closing()
        ):
            self._late()

    def _owes(self) -> bool:
        """No request is being answered: its head, or the rest of one that has its answer, is still to come."""
        return self.cycle is None or self.cycle.response_complete

    def _late(self) -> None:
        begun = bool(self.conn.trailing_data[0])
        if begun and self.conn.our_state is h11.IDLE:
            message = f"no whole request within {self.limits.head:g} s"
            self._answer(408, Answer(408, "invalid_request_error", "request_timeout"), message)
        self.transport.close()

    def send_400_response(self, msg: str) -> None:
        """What is no HTTP gets an envelope, as everything else does, where no other answer is on its way already."""
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            self._answer(400, STATUSES[400], msg)
        self.transport.close()

    def _answer(self, status: int, answer: Answer, message: str) -> None:
        headers, body = refusal(answer, message)
        for event in (
            h11.Response(status_code=status, headers=headers),
            h11.Data(data=body),
            h11.EndOfMessage(),
        ):
            self.transport.write(self.conn.send(event) or b"")


def refusal(
    answer: Answer, message: str, more: Mapping[bytes, bytes] | None = None
) -> tuple[list[tuple[bytes, bytes]], bytes]:
    """Headers and body of an answer after which the connection is closed."""
    body = json.dumps(envelope(message, answer)).encode()
    headers = {
        b"content-type": b"application/json",
        b"content-length": b"%d" % len(body),
        b"connection": b"close",
    }
    return [*headers.items(), *(more or {}).items()], body


def within(limits: Limits) -> type[Connection]:
    """The class uvicorn asks for, its limits known: uvicorn makes one for each connection and knows of none."""

    class Within(Connection):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, limits=limits, **kwargs)

    return Within


async def full(_scope: Mapping[str, Any], _receive: Any, send: Any) -> None:
    """Answers whoever comes when every place is taken."""
    message = "too many connections (api.max_connections); come again"
    headers, body = refusal(FULL, message, {b"retry-after": b"%d" % RETRY_AFTER})
    await send({"type": "http.response.start", "status": FULL.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def server_config(app: Any, settings: ApiConfig, *, room: int | None = None) -> uvicorn.Config:
    """How uvicorn serves the app. `room`: connections that there are descriptors for, where that is known."""
    most = settings.max_connections if room is None else min(settings.max_connections, room)
    limits = Limits(most, settings.head_seconds, settings.unread_seconds)
    return uvicorn.Config(
        app,
        http=within(limits),
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=settings.drain_seconds,
    )


def make_room(wanted: int) -> int:
    """Have descriptors for so many connections, as far as the system lets us. Returns how many there are for.

    Without one nothing can be opened, the database's files not either, and votes would be answered with 500.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = wanted + TOLD + RESERVE
    if soft != resource.RLIM_INFINITY and soft < needed:
        soft = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return wanted if soft == resource.RLIM_INFINITY else max(1, min(wanted, soft - TOLD - RESERVE))
