"""Server-sent events as raw bytes, and what to do when the reader leaves.

The frames are written by hand rather than by a library, because clients hold on to their exact form and the
tests compare it byte for byte.
"""

import asyncio
import json
from collections.abc import AsyncGenerator, Coroutine, Mapping
from contextlib import aclosing
from typing import Any, TypeVar

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

DONE = b"data: [DONE]\n\n"
#: Clients skip lines that begin with a colon.
KEEPALIVE = b": keep-alive\n\n"

T = TypeVar("T")


def frame(data: Any, *, event: str | None = None, id: int | None = None) -> bytes:
    """One event; JSON has no bare newline, so one data line is enough."""
    head = (f"id: {id}\n" if id is not None else "") + (f"event: {event}\n" if event else "")
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"))
    return f"{head}data: {text}\n\n".encode()


async def _disconnect(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def while_connected(receive: Receive, work: Coroutine[Any, Any, T]) -> T | None:
    """Run `work`, cancelling it when the client closes its socket. Returns None if it left first.

    `work` has ended, its `finally` clauses included, when this returns.
    """
    working = asyncio.create_task(work)
    leaving = asyncio.create_task(_disconnect(receive))
    try:
        await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        # Not `working` when it is done: cancelling would be a no-op, but its result must be read below.
        leaving.cancel()
        working.cancel()
        await asyncio.wait({working, leaving})
    return None if working.cancelled() else working.result()


class EventStream(Response):
    """Sends frames until they end or the reader leaves, and always closes the generator they come from.

    Starlette's `StreamingResponse` leaves a generator suspended at `yield` to the garbage collector; here its
    `finally` is what marks a completion as cancelled, so it has to run at once.
    """

    def __init__(self, frames: AsyncGenerator[bytes, None], headers: Mapping[str, str] | None = None) -> None:
        super().__init__(headers={"cache-control": "no-cache", "x-accel-buffering": "no", **(headers or {})})
        del self.headers["content-length"]
        self.headers["content-type"] = "text/event-stream; charset=utf-8"
        self.frames = frames

    async def __call__(self, _: Scope, receive: Receive, send: Send) -> None:
        await while_connected(receive, self._send(send))

    async def _send(self, send: Send) -> None:
        async with aclosing(self.frames) as frames:
            # The first frame comes before the headers: a generator never started has no `finally` to run.
            body = await anext(frames, b"")
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            await send({"type": "http.response.body", "body": body, "more_body": True})
            async for body in frames:
                await send({"type": "http.response.body", "body": body, "more_body": True})
            await send({"type": "http.response.body", "body": b"", "more_body": False})
