"""A real service whose disk is full, failing or read-only: what people are told, and that nothing is lost.

strace makes chosen calls of the running process fail, and lets go again: the disk is well again then.
"""

import contextlib
import http.client
import json
import sqlite3
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from daemon.client import Client
from daemon.state_files import DATABASE, LOCK
from store.db import Store
from tests.integration.service import (
    Service,
    ask,
    chat_and_vote,
    finished_iteration,
    running,
    stored_votes,
    thumb,
    wait_until,
)
from tests.power import needed

pytestmark = pytest.mark.slow

WAL = f"{DATABASE}-wal"


@pytest.fixture(scope="module", autouse=True)
def strace() -> None:
    needed.strace()


@contextmanager
def failing(service: Service, calls: str, error: str, *files: str) -> Iterator[None]:
    """Some calls of a running service fail for a while, on some of its files or (without `files`) on all."""
    pid = service.process.pid
    paths = [word for name in files for word in ("-P", str(service.state / name))]
    what = ["-e", f"trace={calls}", "-e", f"inject={calls}:error={error}", *paths]
    command = ["strace", "-f", "-q", "-p", str(pid), "-o", "/dev/null", *what]
    tracer = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    try:
        wait_until(lambda: all(traced(task) for task in Path(f"/proc/{pid}/task").iterdir()))
        yield
    finally:
        tracer.terminate()
        tracer.wait(30)


def traced(task: Path) -> bool:
    try:
        return "TracerPid:\t0\n" not in (task / "status").read_text()
    except OSError:  # the thread has ended meanwhile
        return True


def call(client: Client, method: str, path: str, body: dict[str, Any] | None = None) -> tuple[int, Any, Any]:
    """Status, headers, JSON."""
    parts = urlsplit(client.url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=60)
    try:
        content = None if body is None else json.dumps(body)
        connection.request(method, path, body=content, headers={"content-type": "application/json"})
        answer = connection.getresponse()
        return answer.status, answer.headers, json.loads(answer.read())
    finally:
        connection.close()


@pytest.fixture(scope="module")
def voted(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Iterator[tuple[Service, list[str]]]:
    """A service with votes, and the ids of all votes that it ever acknowledged."""
    with running(tmp_path_factory.mktemp("faults") / "state", tiny_model) as service:
        client = service.wait_until_ready()
        assert client is not None, service.tail()
        yield service, chat_and_vote(client, 16)


def check_refusal(answer: tuple[int, Any, Any], said: str) -> None:
    status, headers, body = answer
    assert status == 503, body
    assert int(headers["retry-after"]) >= 1
    assert body["error"]["type"] == "service_unavailable_error"
    assert body["error"]["code"] == "store_unavailable"
    assert said in body["error"]["message"]


@pytest.mark.parametrize(
    ("calls", "error", "said"),
    [("pwrite64", "ENOSPC", "the disk is full"), ("fdatasync", "EIO", "the disk fails")],
)
def test_what_cannot_be_stored_is_not_acknowledged_and_goes_on_by_itself(
    voted: tuple[Service, list[str]], calls: str, error: str, said: str
) -> None:
    service, votes = voted
    client = service.client
    assert client is not None
    answer = ask(client, "hello")
    body = {"completion_id": answer["id"], "kind": "thumb", "value": True, "id": f"fb-{error}"}
    with failing(service, calls, error, WAL):
        check_refusal(call(client, "POST", "/v1/feedback", body), said)
        chat = {"model": "honed", "messages": [{"role": "user", "content": "hello"}], "max_tokens": 4}
        check_refusal(call(client, "POST", "/v1/chat/completions", chat), said)
        status, _, health = call(client, "GET", "/healthz")
        assert status == 503 and said in health["reasons"][0], health
        assert call(client, "GET", "/v1/status")[0] == 200, "what is there can be read"
        assert f"fb-{error}" not in stored_votes(service.state)
    wait_until(lambda: call(client, "GET", "/healthz")[0] == 200, seconds=20)
    assert call(client, "POST", "/v1/feedback", body)[0] == 201
    votes.append(f"fb-{error}")
    votes.append(thumb(client, ask(client, "hello")["id"], False))
    kept = stored_votes(service.state)
    assert set(votes) <= set(kept) and len(kept) == len(set(kept))
    assert service.log_text().count(f"cannot be written, {said}") == 1, "told once, not at every request"


def test_a_disk_that_cannot_be_read_is_a_503_and_passes(voted: tuple[Service, list[str]]) -> None:
    service, _ = voted
    client = service.client
    assert client is not None
    wait_until(lambda: call(client, "GET", "/healthz")[0] == 200, seconds=20)
    with failing(service, "pread64", "EIO", DATABASE, WAL):
        thumb_of = {"completion_id": "chatcmpl-unknown", "kind": "thumb", "value": True}
        seen = [call(client, "GET", "/v1/iterations") for _ in range(3)]
        seen.append(call(client, "POST", "/v1/feedback", thumb_of))
        told = [answer for answer in seen if answer[0] == 503]
        assert {status for status, _, _ in seen} <= {200, 404, 503}
        for answer in told:
            check_refusal(answer, "the disk fails")
    assert call(client, "GET", "/v1/iterations")[0] == 200


def test_an_iteration_without_room_fails_with_the_reason_and_its_votes_are_used_later(
    voted: tuple[Service, list[str]],
) -> None:
    service, votes = voted
    client = service.client
    assert client is not None
    with failing(service, "fsync", "ENOSPC"):  # SQLite uses fdatasync, so this one is about files
        client.intend("train", reason="no room")
        ended = wait_until(lambda: finished_iteration(client, 1))
    assert ended["stage"] == "failed"
    assert "No space left on device" in ended["reason"]
    assert ask(client, "hello")["model"] == "base"
    client.intend("train", reason="there is room again")
    ended = wait_until(lambda: finished_iteration(client, 2))
    assert ended["stage"] == "active", ended
    assert ended["counts"]["events"] >= 16
    assert set(votes) <= set(stored_votes(service.state))


def test_after_a_kill_behind_all_of_that_everything_acknowledged_is_there(
    voted: tuple[Service, list[str]], tiny_model: Path
) -> None:
    service, votes = voted
    served = ask(service.client, "hello")["model"] if service.client else None
    service.kill()
    with running(service.state, tiny_model) as again:
        client = again.wait_until_ready()
        assert client is not None, again.tail()
        assert ask(client, "hello")["model"] == served
        kept = stored_votes(service.state)
        assert set(votes) <= set(kept) and len(kept) == len(set(kept))


@pytest.mark.parametrize(
    ("calls", "error", "file", "said"),
    [
        ("openat", "EROFS", LOCK, "Read-only file system"),
        ("pwrite64", "ENOSPC", DATABASE, "free some space"),
        ("fdatasync", "EIO", DATABASE, "kernel's log"),
    ],
)
def test_a_disk_that_fails_at_the_start_ends_it_with_one_line(
    tmp_path: Path, tiny_model: Path, calls: str, error: str, file: str, said: str
) -> None:
    state = tmp_path / "state"
    state.mkdir()
    what = ["-e", f"trace={calls}", "-e", f"inject={calls}:error={error}", "-P", str(state / file)]
    with running(state, tiny_model, prefix=["strace", "-D", "-f", "-q", "-o", "/dev/null", *what]) as service:
        assert service.wait_until_ready() is None
        assert service.process.returncode == 1
        lines = [line for line in service.log_text().splitlines() if line.startswith("honed: ")]
        assert len(lines) == 1 and said in lines[0] and file in lines[0]
        assert "Traceback" not in service.log_text()


def of_a_newer_honed(path: Path) -> None:
    with contextlib.closing(sqlite3.connect(path)) as db, db:
        known = (
            "insert into _sqlite_migrations (migration_set, name, applied_at) values ('honed', ?, 'later')"
        )
        db.execute(known, ["m999_future"])


def cut_short(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 8192 * 4096])


@pytest.mark.parametrize(
    ("spoil", "said"), [(of_a_newer_honed, "m999_future"), (cut_short, "restore a backup")]
)
def test_a_database_that_cannot_be_used_is_named_and_left_alone(
    tmp_path: Path, tiny_model: Path, spoil: Callable[[Path], None], said: str
) -> None:
    path = tmp_path / "state" / DATABASE
    path.parent.mkdir()
    Store.open(path).close()
    spoil(path)
    before = path.read_bytes()
    with running(path.parent, tiny_model) as service:
        assert service.wait_until_ready() is None
        assert service.process.returncode == 1
        assert said in service.log_text().splitlines()[-1]
    assert path.read_bytes() == before
