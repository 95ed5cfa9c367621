"""A client by hand, for what ordinary ones cannot do: leave in the middle, or read a stream that never ends."""

import asyncio
import json
from collections.abc import Callable
from typing import Any

from fastapi import FastAPI


async def talk(
    app: FastAPI,
    method: str,
    path: str,
    *,
    body: dict[str, Any] | None = None,
    leave: Callable[[bytes], bool],
) -> bytes:
    """Send one request and read until `leave` says enough; then close the socket. Returns what was read."""
    content = b"" if body is None else json.dumps(body).encode()
    gone = asyncio.Event()
    read = bytearray()
    asked = False

    async def receive() -> dict[str, Any]:
        nonlocal asked
        if not asked:
            asked = True
            return {"type": "http.request", "body": content, "more_body": False}
        await gone.wait()
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        read.extend(message.get("body", b""))
        if leave(bytes(read)):
            gone.set()

    path, _, query = path.partition("?")
    scope = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": query.encode(),
        "root_path": "",
        "headers": [(b"host", b"127.0.0.1"), (b"content-type", b"application/json")],
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 8000),
    }
    if leave(b""):
        asyncio.get_running_loop().call_later(0.1, gone.set)
    async with asyncio.timeout(20):
        await app(scope, receive, send)
    return bytes(read)
