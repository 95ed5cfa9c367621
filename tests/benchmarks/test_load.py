"""The load's clients read whole answers, in one piece or in chunks, and notice a stream that breaks."""

import asyncio
from pathlib import Path

import pytest

from benchmarks.bench_load import Connection, Reply, Tally, answer_id, drive, lost_votes, read_reply
from store.db import Store
from tests.store.conftest import completion, event

WHOLE = b"HTTP/1.1 201 Created\r\nContent-Length: 5\r\nRetry-After: 2\r\n\r\nhello"
EVENTS = (b'data: {"id":"a","choices":[]}\n\n', b"data: [DONE]\n\n", b"")
CHUNKS = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + b"".join(
    b"%x\r\n%s\r\n" % (len(piece), piece) for piece in EVENTS
)


async def read(content: bytes) -> Reply:
    reader = asyncio.StreamReader()
    reader.feed_data(content)
    reader.feed_eof()
    return await read_reply(reader)


def test_answers_are_read_to_their_end() -> None:
    reply = asyncio.run(read(WHOLE))
    assert (reply.status, reply.headers["retry-after"], reply.body) == (201, "2", b"hello")
    reply = asyncio.run(read(CHUNKS))
    assert reply.status == 200 and answer_id("stream", reply) == "a"
    assert answer_id("chat", Reply(200, {}, b'{"id": "b"}')) == "b"


@pytest.mark.parametrize("content", [WHOLE[:-1], CHUNKS[:-9], CHUNKS[:30], b""])
def test_half_an_answer_is_none(content: bytes) -> None:
    with pytest.raises(EOFError):
        asyncio.run(read(content))


@pytest.mark.parametrize(
    "body", [b"", b'data: {"id":"a"}\n\n', b'data: {"id":"a"}\n\ndata: {"error":{}}\n\ndata: [DONE]\n\n']
)
def test_a_stream_that_breaks_is_a_fault(body: bytes) -> None:
    with pytest.raises(ValueError, match="stream"):
        answer_id("stream", Reply(200, {}, body))


@pytest.mark.parametrize(
    ("answer", "faulty", "waits"),
    [
        (b"HTTP/1.1 429 Too Many\r\nRetry-After: 1\r\nContent-Length: 2\r\n\r\n{}", False, True),
        (b"HTTP/1.1 429 Too Many\r\nContent-Length: 2\r\n\r\n{}", True, False),
        (b"HTTP/1.1 500 Oops\r\nContent-Length: 2\r\n\r\n{}", True, False),
        (b"", True, False),
    ],
)
def test_only_who_is_told_when_to_come_again_is_refused_by_right(
    answer: bytes, faulty: bool, waits: bool
) -> None:
    async def serve() -> Tally:
        async def one(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(answer)
            await writer.drain()
            await asyncio.sleep(0.2)
            writer.close()

        tally = Tally()
        async with await asyncio.start_server(one, "127.0.0.1", 0) as server:
            address = server.sockets[0].getsockname()[:2]
            until = asyncio.get_running_loop().time() + 0.1
            await drive(Connection(address, "ann"), tally, until, seed=1)
        return tally

    tally = asyncio.run(serve())
    assert bool(tally.faults) is faulty and (tally.waited > 0) is waits
    assert tally.open == 0 and not tally.seconds


def test_votes_that_are_not_there_are_named(tmp_path: Path) -> None:
    with Store.open(tmp_path / "honed.db") as store:
        store.completions.begin(completion("a"))
        store.feedback.add(event("kept", "a", True))
    assert lost_votes(tmp_path / "honed.db", ["kept", "gone"]) == ["gone"]
