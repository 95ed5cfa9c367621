"""A raw TCP endpoint that answers exactly what a test says: real sockets, and whatever misbehaviour is wanted."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any


class Endpoint:
    """What came in, and where to send it."""

    def __init__(self) -> None:
        self.url = ""
        self.heads: list[str] = []
        self.bodies: list[Any] = []

    @property
    def calls(self) -> int:
        return len(self.heads)


#: The bytes to answer the n-th request (from 0) with; None: never answer.
Answering = Callable[[int], bytes | None]


def http(status: int, body: bytes | str = b"", **headers: str) -> bytes:
    """A whole HTTP response. Underscores in header names stand for dashes."""
    content = body.encode() if isinstance(body, str) else body
    lines = [f"HTTP/1.1 {status} As Told", f"content-length: {len(content)}", "connection: close"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode() + content


def completion(text: str, alternatives: dict[str, float] | None = None) -> bytes:
    """A chat completion as OpenAI answers it."""
    choice: dict[str, Any] = {"index": 0, "message": {"role": "assistant", "content": text}}
    if alternatives is not None:
        top = [{"token": token, "logprob": value, "bytes": None} for token, value in alternatives.items()]
        choice["logprobs"] = {"content": [{"token": text[:1], "logprob": -0.1, "top_logprobs": top}]}
    return http(200, json.dumps({"object": "chat.completion", "choices": [choice]}))


@asynccontextmanager
async def endpoint(answering: Answering) -> AsyncIterator[Endpoint]:
    """A server on a free port of loopback for the length of a block."""
    seen = Endpoint()
    connections: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            length = next(
                int(line.split(":")[1])
                for line in head.lower().split("\r\n")
                if line.startswith("content-length:")
            )
            number = seen.calls
            seen.heads.append(head)
            seen.bodies.append(json.loads(await reader.readexactly(length)))
            reply = answering(number)
            if reply is None:
                await asyncio.sleep(3600)
            writer.write(reply or b"")
            await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError):
            pass  # the client had enough
        finally:
            writer.close()

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.get_running_loop().create_task(serve(reader, writer))
        connections.add(task)
        task.add_done_callback(connections.discard)

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    seen.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
    try:
        yield seen
    finally:
        server.close()
        for task in list(connections):
            task.cancel()
        await asyncio.gather(*connections, return_exceptions=True)
        await server.wait_closed()
