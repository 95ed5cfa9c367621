"""The voters of the feedback benchmark read answers that come in pieces, and count what was answered."""

import selectors
import socket
from collections.abc import Iterator

import pytest

from benchmarks.bench_feedback import Client, Tally, exchange

HEAD = b"HTTP/1.1 201 Created\r\nContent-Length: 11\r\n\r\n"


@pytest.fixture
def pair() -> Iterator[tuple[Client, socket.socket]]:
    """A client that has sent its first vote, and the service's end of its connection."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        client = Client(server.getsockname()[:2], "v3")
        service, _ = server.accept()
        client.send()
        with service, client.socket:
            yield client, service


def test_an_answer_counts_once_it_is_whole(pair: tuple[Client, socket.socket]) -> None:
    client, service = pair
    asked = service.recv(65536)
    assert b'{"id":"v3-0","completion_id":"chatcmpl-' in asked
    head, _, body = asked.partition(b"\r\n\r\n")
    assert f"Content-Length: {len(body)}".encode() in head
    for piece in (HEAD[:10], HEAD[10:], b'{"id":'):
        service.sendall(piece)
        assert client.receive() is None
    service.sendall(b'"v3"}')
    assert client.receive() == (201, b'{"id":"v3"}')


def test_votes_are_told_apart_by_how_they_were_answered(pair: tuple[Client, socket.socket]) -> None:
    client, service = pair
    tally, selector = Tally(), selectors.DefaultSelector()
    selector.register(client.socket, selectors.EVENT_READ, client)
    service.sendall(HEAD + b"hello world")
    exchange(selector, tally, timeout=5)
    assert tally.stored == ["v3-0"] and len(tally.seconds) == 1
    service.sendall(HEAD.replace(b"201", b"422") + b"hello world")
    exchange(selector, tally, timeout=5)
    assert tally.stored == ["v3-0"] and tally.refused == ["422: hello world"]
    service.close()  # with the third vote unread, as a killed service leaves it
    exchange(selector, tally, timeout=5)
    assert not selector.get_map() and tally.stored == ["v3-0"]
    selector.close()
