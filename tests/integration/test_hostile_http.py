"""What no honest client sends: honed answers or hangs up in time, goes on answering others, and keeps nothing of it.

A real server on loopback, raw sockets, short time limits. Every test ends as it began: no connection, task or
descriptor more, and nothing logged that looks like a failure of honed's own.
"""

import asyncio
import contextlib
import json
import logging
import os
import resource
import socket
import statistics
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from api.app import create_app
from api.config import ApiConfig
from daemon.connections import RESERVE, TOLD, make_room
from policies.fake_engine import FakeEngine, FakeLimits
from store.db import Store
from tests.integration.service import wait_until
from tests.listening import listening

#: Limits, in seconds, and how long an answer may take until it counts as a hang.
HEAD, BODY, UNREAD, HANG, QUIET = 1.0, 1.0, 1.5, 10.0, 0.1
SETTINGS = ApiConfig(
    head_seconds=HEAD,
    body_seconds=BODY,
    unread_seconds=UNREAD,
    max_connections=600,
    max_body_bytes=65536,
    drain_seconds=5,
    max_tokens=8,
)
CHAT = {"model": "honed", "messages": [{"role": "user", "content": "Hello"}]}
REFUSED = {400, 404, 405, 408, 413, 422, 431, 501}


@dataclass(frozen=True)
class Served:
    """A running service, and how many descriptors this process had before anybody came."""

    url: str
    port: int

    def connect(self) -> socket.socket:
        made = socket.create_connection(("127.0.0.1", self.port), timeout=HANG)
        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return made

    def send(self, content: bytes, *, quiet: float = QUIET) -> list[tuple[int, bytes]]:
        """All that is answered to these bytes: until honed hangs up, or has answered and is silent for so long."""
        with closing(self.connect()) as wire:
            # honed may refuse before all of it was sent.
            with contextlib.suppress(OSError):
                wire.sendall(content)
            return answers(read_all(wire, quiet=quiet))


def read_all(wire: socket.socket, *, quiet: float = HANG) -> bytes:
    """Until the other side closes; a reset is one way to do so. `quiet`: seconds of silence that end it as well once
    there was a word; silence from the beginning is a failure.
    """
    found = b""
    while True:
        wire.settimeout(quiet if found else HANG)
        try:
            piece = wire.recv(65536)
        except ConnectionResetError:
            return found
        except TimeoutError:
            assert found, f"no word within {HANG:g} s"
            return found
        if not piece:
            return found
        found += piece


def answers(content: bytes) -> list[tuple[int, bytes]]:
    """Status and body of each HTTP answer in turn."""
    found = []
    while content:
        head, _, rest = content.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 "), content[:200]
        fields = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:])
        if b"content-length" in fields:
            body, content = rest[: int(fields[b"content-length"])], rest[int(fields[b"content-length"]) :]
        else:
            body, content = rest, b""
        found.append((int(head[9:12]), body))
    return found


def request(body: bytes, *headers: str, path: str = "/v1/feedback", length: str | None = None) -> bytes:
    given = [f"POST {path} HTTP/1.1", "Host: 127.0.0.1", "Content-Type: application/json", *headers]
    given += [f"Content-Length: {len(body) if length is None else length}"] if length != "" else []
    return "\r\n".join([*given, "", ""]).encode() + body


@contextmanager
def unharmed(served: Served, caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Afterwards everything is as it was, and nothing failed in between."""
    before = sockets()
    yield
    wait_until(lambda: sockets() <= before, seconds=HANG)
    assert httpx.get(f"{served.url}/healthz").status_code == 200
    failures = [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR]
    assert failures == []


def sockets() -> int:
    """How many are open, of both sides. Files are left out: the store keeps a reader for each thread that read."""
    links = []
    for entry in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # the listing's own
            links.append(str(entry.readlink()))
    return sum(link.startswith("socket:") for link in links)


@contextmanager
def serving(settings: ApiConfig) -> Iterator[Served]:
    """A server that has answered one of everything, so that what is made once is made."""
    engine = FakeEngine(FakeLimits(verify=False))
    asyncio.run(engine.start())
    with (
        Store.memory() as store,
        listening(create_app(store=store, engine=engine, settings=settings), settings) as url,
        httpx.Client(base_url=url, headers={"connection": "close"}) as client,
    ):
        assert client.post("/v1/chat/completions", json=CHAT).status_code == 200
        for path in (
            "/",
            "/ops",
            "/healthz",
            "/v1/status",
            "/openapi.json",
            "/v1/models/none",
            "/static/none",
        ):
            client.get(path)
        yield Served(url, int(url.rpartition(":")[2]))


@pytest.fixture(scope="module")
def server() -> Iterator[Served]:
    with serving(SETTINGS) as made:
        yield made


@pytest.fixture
def served(server: Served, caplog: pytest.LogCaptureFixture) -> Iterator[Served]:
    with unharmed(server, caplog):
        yield server


HEADS = {
    "no http at all": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + os.urandom(64) + b"\r\n\r\n",
    "one word": b"HELLO\r\n\r\n",
    "no version": b"GET /\r\n\r\n",
    "another version": b"GET / HTTP/9.9\r\nHost: a\r\n\r\n",
    "two spaces": b"GET  / HTTP/1.1\r\nHost: a\r\n\r\n",
    "a bare newline in the target": b"GET /\n HTTP/1.1\r\nHost: a\r\n\r\n",
    "NUL in the target": b"GET /v1/models/\x00 HTTP/1.1\r\nHost: a\r\n\r\n",
    "bytes above ASCII in the target": b"GET /v1/models/\xff\xfe HTTP/1.1\r\nHost: a\r\n\r\n",
    "escaped bytes that are no UTF-8": b"GET /v1/models/%ff%fe%00 HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
    "an escape that ends too early": b"GET /v1/models/%f HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
    "NUL in a header": b"GET / HTTP/1.1\r\nHost: a\r\nX-A: a\x00b\r\n\r\n",
    "a header without a colon": b"GET / HTTP/1.1\r\nHost: a\r\nnonsense\r\n\r\n",
    "a space before the colon": b"GET / HTTP/1.1\r\nHost : a\r\n\r\n",
    "a folded header": b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\nX-A: a\r\n b\r\n\r\n",
    "no host": b"GET / HTTP/1.1\r\n\r\n",
    "two hosts": b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nHost: evil.example\r\n\r\n",
    "another's host": b"GET / HTTP/1.1\r\nHost: evil.example\r\n\r\n",
    "a target of 100 kB": b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\nHost: a\r\n\r\n",
    "a header of 100 kB": b"GET / HTTP/1.1\r\nHost: a\r\nX-A: " + b"a" * 100_000 + b"\r\n\r\n",
    "10,000 headers": b"GET / HTTP/1.1\r\nHost: a\r\n" + b"X-A: a\r\n" * 10_000 + b"\r\n",
    "a tunnel": b"CONNECT evil.example:443 HTTP/1.1\r\nHost: evil.example:443\r\n\r\n",
    "another server's address": b"GET http://evil.example/ HTTP/1.1\r\nHost: evil.example\r\n\r\n",
    "an asterisk": b"OPTIONS * HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
    "a way up": b"GET /static/../../../../etc/passwd HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
    "a way up, escaped": b"GET /static/..%2f..%2f..%2fetc/passwd HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
    "HTTP/2 without a word": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "an upgrade": b"GET /v1/status HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
}
#: These are odd and allowed: an old way to write a long header, and an upgrade that is not taken up.
ANSWERED = {"a folded header", "an upgrade"}


@pytest.mark.parametrize("name", HEADS)
def test_a_malformed_head_is_refused(served: Served, name: str) -> None:
    found = served.send(HEADS[name])
    assert found
    for status, body in found:
        assert (status == 200) if name in ANSWERED else (400 <= status < 500), body
        assert b"root:" not in body
        if status == 400:
            assert json.loads(body)["error"]["type"] == "invalid_request_error"


LENGTHS = {
    "negative": "-1",
    "huge": "99999999999999999999999999999999",
    "a sign": "+5",
    "hexadecimal": "0x10",
    "words": "many",
    "two that differ": "2\r\nContent-Length: 7",
    "a list": "2, 7",
    "NUL": "2\x00",
    "digits of another script": "٣",
}


@pytest.mark.parametrize("name", LENGTHS)
def test_a_length_that_is_none_is_refused(served: Served, name: str) -> None:
    ((status, body),) = served.send(request(b"{}", length=LENGTHS[name]))
    assert status == 400, body


CHUNKED = "Transfer-Encoding: chunked"
BODIES = {
    "chunk size is no number": request(b"zz\r\n{}\r\n0\r\n\r\n", CHUNKED, length=""),
    "chunk size is negative": request(b"-2\r\n{}\r\n0\r\n\r\n", CHUNKED, length=""),
    "chunk size is huge": request(b"f" * 40 + b"\r\n{}\r\n0\r\n\r\n", CHUNKED, length=""),
    "chunk is longer than it says": request(b"2\r\n{}{}{}\r\n0\r\n\r\n", CHUNKED, length=""),
    "an extension without end": request(b"2;" + b"a" * 100_000 + b"\r\n{}\r\n0\r\n\r\n", CHUNKED, length=""),
    "trailers without end": request(b"0\r\n" + b"X-A: a\r\n" * 20_000 + b"\r\n", CHUNKED, length=""),
    "a length and chunks": request(b"0\r\n\r\n", CHUNKED, length="4"),
    "an unknown coding": request(b"{}", "Transfer-Encoding: gzip", length=""),
    "two codings": request(b"0\r\n\r\n", "Transfer-Encoding: gzip, chunked", length=""),
    "chunked twice": request(b"0\r\n\r\n", CHUNKED, CHUNKED, length=""),
    "a disguised coding": request(b"0\r\n\r\n", "Transfer-Encoding: xchunked", length="4"),
    "larger than allowed": request(b"[" + b" " * 70_000 + b"]"),
    "larger than allowed, in chunks": request(b"11170\r\n" + b" " * 70_000, CHUNKED, length=""),
    "ends too early": request(b"{", length="100"),
    "nothing": request(b""),
    "no UTF-8": request(b'{"completion_id": "\xff\xfe", "kind": "thumb", "value": true}'),
    "a NUL": request(b'{"completion_id": "\x00", "kind": "thumb", "value": true}'),
    "a lone surrogate": request(b'{"completion_id": "\\ud800", "kind": "comment", "value": "\\udfff"}'),
    "NaN": request(b'{"completion_id": "a", "kind": "rating", "value": NaN}'),
    "Infinity": request(b'{"completion_id": "a", "kind": "rating", "value": -Infinity}'),
    "a number of 10,000 digits": request(
        b'{"completion_id": "a", "kind": "rating", "value": ' + b"9" * 10_000 + b"}"
    ),
    "an exponent": request(b'{"completion_id": "a", "kind": "rating", "value": 1e999999}'),
    "deep lists": request(b"[" * 30_000),
    "deep lists, closed": request(b"[" * 30_000 + b"]" * 30_000),
    "deep objects": request(b'{"a":' * 10_000 + b"1" + b"}" * 10_000),
    "deep metadata": request(
        b'{"completion_id": "a", "kind": "thumb", "value": true, "metadata": '
        + b'{"a":' * 900
        + b"1"
        + b"}" * 901
    ),
    "the same key again and again": request(b"{" + b'"kind":"thumb",' * 4000 + b'"kind":"thumb"}'),
    "a list of everything": request(b"[" + b"{}," * 20_000 + b"{}]"),
    "words": request(b"hello"),
    "UTF-16": request('{"kind": "thumb"}'.encode("utf-16")),
    "deep chat": request(b'{"model":"honed","messages":' + b"[" * 20_000, path="/v1/chat/completions"),
    "a chat of NaN": request(
        b'{"model":"honed","messages":[{"role":"user","content":"a"}],"temperature":NaN}',
        path="/v1/chat/completions",
    ),
    "a form for a page": request(b"reason=%ff%00&token=" + b"a" * 5000, path="/ops/rollback"),
}


@pytest.mark.parametrize("name", BODIES)
def test_a_malformed_body_is_refused(served: Served, name: str) -> None:
    found = served.send(BODIES[name])
    assert found
    assert {status for status, _ in found} <= REFUSED, found


def test_a_second_request_inside_of_a_first_is_never_answered_as_one(served: Served) -> None:
    """Shapes by which a proxy and honed could come to see two different requests."""
    inner = b"GET /v1/status HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
    for shape in (
        request(b"0\r\n\r\n" + inner, CHUNKED, length=str(5 + len(inner))),
        request(b"0\r\n\r\n" + inner, "Transfer-Encoding : chunked", length=str(5 + len(inner))),
        request(b"0\r\n\r\n" + inner, "Transfer-Encoding:\x0bchunked", length=str(5 + len(inner))),
        request(b"0\r\n\r\n" + inner, "X: a\r\n Transfer-Encoding: chunked", length=str(5 + len(inner))),
        request(inner, "Content-Length: 0"),
        request(b"0\n\n" + inner, CHUNKED, length=""),
    ):
        found = served.send(shape, quiet=0.3)
        assert [status for status, _ in found] in ([400], [404]), found


def trickle(wire: socket.socket, content: bytes, *, every: float) -> bytes:
    """One byte after the other until honed hangs up; returns what it said."""
    wire.settimeout(0.001)
    found, began = b"", time.monotonic()
    for number in range(len(content)):
        assert time.monotonic() - began < HANG, "honed waits for ever"
        try:
            wire.send(content[number : number + 1])
            piece = wire.recv(65536)
        except TimeoutError:
            time.sleep(every)
            continue
        except OSError:
            break
        if not piece:
            break
        found += piece
    return found


def test_a_head_that_trickles_is_cut_off(served: Served) -> None:
    with closing(served.connect()) as wire:
        began = time.monotonic()
        said = trickle(wire, b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nX-A: " + b"a" * 10_000, every=0.05)
        assert time.monotonic() - began < 4 * HEAD
    ((status, body),) = answers(said)
    assert status == 408 and json.loads(body)["error"]["code"] == "request_timeout"


def test_a_body_that_trickles_is_cut_off(served: Served) -> None:
    with closing(served.connect()) as wire:
        wire.sendall(request(b"", length="10000"))
        said = trickle(wire, b" " * 10_000, every=0.05)
    ((status, body),) = answers(said)
    assert status == 408 and json.loads(body)["error"]["code"] == "request_timeout"


def test_who_connects_and_says_nothing_is_cut_off(served: Served) -> None:
    with closing(served.connect()) as wire:
        began = time.monotonic()
        assert read_all(wire) == b""
        assert HEAD <= time.monotonic() - began < 4 * HEAD


def test_a_body_that_goes_on_after_its_refusal_is_cut_off(served: Served) -> None:
    stopped = threading.Event()
    with closing(served.connect()) as wire:
        wire.sendall(request(b" " * 70_000, length="1000000000"))

        def go_on() -> None:
            while not stopped.wait(0.01):
                try:
                    wire.sendall(b" " * 100)
                except OSError:
                    return

        thread = threading.Thread(target=go_on)
        thread.start()
        try:
            said = read_all(wire)
        finally:
            stopped.set()
            thread.join()
    assert answers(said)[0][0] == 413


def test_an_answer_that_nobody_reads_is_cut_off(served: Served) -> None:
    """Pipelined requests whose answers fill every buffer: honed neither hoards answers nor waits for ever."""
    wire = socket.socket()
    wire.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    with closing(wire):
        wire.settimeout(HANG)
        wire.connect(("127.0.0.1", served.port))
        wire.setblocking(False)
        one = b"GET /openapi.json HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
        began = time.monotonic()

        def gone() -> bool:
            try:
                wire.send(one * 100)
            except BlockingIOError:
                return False
            except OSError:
                return True
            return False

        wait_until(gone, seconds=HANG)
        assert time.monotonic() - began >= UNREAD


def test_pipelined_requests_are_answered_in_turn(served: Served) -> None:
    good = b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
    votes = request(b'{"completion_id": "a", "kind": "thumb", "value": true}')
    found = served.send((good + votes) * 50 + b"GET / HTTP/9\r\n\r\n", quiet=HANG)
    assert [status for status, _ in found] == [200, 404] * 50 + [400]


def vanish(wire: socket.socket, *, reset: bool) -> None:
    if reset:
        wire.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    wire.close()


@pytest.mark.parametrize("reset", [False, True])
@pytest.mark.parametrize(
    "moment", ["at once", "in the head", "in the body", "before the answer", "in the answer", "half open"]
)
def test_clients_that_vanish_leave_nothing_behind(served: Served, moment: str, reset: bool) -> None:
    chat = request(json.dumps({**CHAT, "stream": True}).encode(), path="/v1/chat/completions")
    sent = {"at once": b"", "in the head": chat[:40], "in the body": chat[:-10]}.get(moment, chat)
    for _ in range(20):
        wire = served.connect()
        wire.sendall(sent)
        if moment == "in the answer":
            assert wire.recv(10)
        if moment == "half open":
            wire.shutdown(socket.SHUT_WR)
        vanish(wire, reset=reset)


def test_500_idle_connections_do_not_keep_others_waiting(served: Served) -> None:
    wires = [served.connect() for _ in range(500)]
    try:
        for wire in wires:
            wire.sendall(b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        for wire in wires:
            assert wire.recv(65536).startswith(b"HTTP/1.1 200")
        began = time.monotonic()
        assert httpx.post(f"{served.url}/v1/chat/completions", json=CHAT).status_code == 200
        assert time.monotonic() - began < HANG / 2
    finally:
        for wire in wires:
            wire.close()


def test_slow_clients_do_not_keep_others_waiting(served: Served) -> None:
    wires = [served.connect() for _ in range(100)]
    try:
        for wire in wires:
            wire.sendall(b"POST /v1/feedback HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 5\r\n\r\n{")
        taken = [seconds(lambda: httpx.get(f"{served.url}/healthz")) for _ in range(10)]
        assert statistics.median(taken) < 1.0
        for wire in wires:
            assert answers(read_all(wire))[0][0] == 408
    finally:
        for wire in wires:
            wire.close()


def seconds(work: Callable[[], Any]) -> float:
    began = time.monotonic()
    work()
    return time.monotonic() - began


def test_beyond_the_limit_connections_are_told_to_come_again(caplog: pytest.LogCaptureFixture) -> None:
    settings = SETTINGS.model_copy(update={"max_connections": 4, "head_seconds": 5.0})
    with serving(settings) as served:
        url = served.url
        with unharmed(served, caplog):
            idle = [served.connect() for _ in range(4)]
            with httpx.Client() as client:
                wait_until(lambda: client.get(f"{url}/healthz").status_code == 503)
                refused = client.get(f"{url}/healthz")
            assert refused.headers["retry-after"] == "2" and refused.headers["connection"] == "close"
            assert refused.json()["error"]["code"] == "too_many_connections"
            more = [served.connect() for _ in range(3 * TOLD)]
            # Those too many to be told are gone without a word, so that there is always a descriptor left.
            wait_until(lambda: len([wire for wire in more if closed(wire)]) >= TOLD)
            for wire in [*idle, *more]:
                wire.close()


def closed(wire: socket.socket) -> bool:
    wire.setblocking(False)
    try:
        return wire.recv(1, socket.MSG_PEEK) == b""
    except BlockingIOError:
        return False
    except OSError:
        return True


def test_there_are_descriptors_for_every_connection() -> None:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (256, before[1]))
        assert make_room(300) == 300
        assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] == 300 + TOLD + RESERVE
        resource.setrlimit(resource.RLIMIT_NOFILE, (before[0], before[1]))
        assert make_room(10**9) == before[1] - TOLD - RESERVE
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
