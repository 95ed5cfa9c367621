"""A real service process on a tiny model, driven over HTTP: what the crash and end-to-end tests share."""

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from daemon.client import Client
from store.errors import HonedError

ROOT = Path(__file__).parents[2]
READY_LIMIT = 120.0
FINISHED = {"rejected", "held", "active", "rolled_back", "failed", "aborted"}

#: Small and quick: a tiny model, few steps, limits that a random model keeps.
QUICK = {
    "HONED_DAEMON__SCHEDULE__ENABLED": "false",
    "HONED_DAEMON__SCHEDULE__TICK_SECONDS": "0.1",
    "HONED_POLICIES__TRAIN__LAYERS": "2",
    "HONED_POLICIES__TRAIN__EPOCHS": "2",
    "HONED_POLICIES__TRAIN__BATCH_SIZE": "4",
    "HONED_POLICIES__TRAIN__PROBES": "4",
    "HONED_POLICIES__TRAIN__PROBE_TOKENS": "8",
    "HONED_API__MAX_TOKENS": "8",
    "HONED_DAEMON__GATE__EMPTY_HARD": "1.0",
    "HONED_DAEMON__GATE__LENGTH_RATIO_SOFT": "[0.0, 100.0]",
    "HONED_DAEMON__GATE__LENGTH_RATIO_HARD": "[0.0, 100.0]",
    "HONED_DAEMON__GATE__REPETITION_SOFT": "1.0",
    "HONED_DAEMON__GATE__REPETITION_HARD": "1.0",
    "HONED_DAEMON__GATE__STOCK_PHRASE_SOFT": "1.0",
    "HONED_DAEMON__GATE__STOCK_PHRASE_HARD": "1.0",
    "HONED_DAEMON__GATE__HELDOUT_MIN": "1000",
    # A random model says one thing or another to everything, and changes its mind on all of it.
    "HONED_DAEMON__GATE__BEHAVIOUR_SOFT": "1.0",
    "HONED_DAEMON__GATE__BEHAVIOUR_HARD": "1.0",
    "HONED_DAEMON__GATE__CAPABILITY_SOFT": "-1.0",
    "HONED_DAEMON__GATE__CAPABILITY_HARD": "-1.0",
}


class Service:
    """One process; `state` is its state directory. `prefix`: words before its command, for a tracer of it."""

    def __init__(self, state: Path, model: Path, *, prefix: Sequence[str] = (), **overrides: str) -> None:
        state.mkdir(parents=True, exist_ok=True)
        self.state = state
        environment = {
            **os.environ,
            **QUICK,
            "HONED_STORE__DIRECTORY": str(state),
            "HONED_POLICIES__ENGINE__MODEL": str(model),
            "HONED_API__PORT": "0",
            **overrides,
        }
        self.log = (state / "service.log").open("ab")
        self.process = subprocess.Popen(
            [*prefix, sys.executable, "-m", "daemon", "serve"],
            cwd=ROOT,
            env=environment,
            stdout=self.log,
            stderr=self.log,
        )
        self.client: Client | None = None

    def wait_until_ready(self, seconds: float = READY_LIMIT) -> Client | None:
        """A client once it answers; None if the process died before that."""
        limit = time.monotonic() + seconds
        file = self.state / "service.json"
        while time.monotonic() < limit:
            if self.process.poll() is not None:
                return None
            if file.is_file() and json.loads(file.read_text())["pid"] == self.process.pid:
                self.client = Client(json.loads(file.read_text())["url"])
                try:
                    self.client.get("/readyz")
                    return self.client
                except HonedError:
                    pass
            time.sleep(0.05)
        raise AssertionError(f"not ready within {seconds} s:\n{self.tail()}")

    def log_text(self) -> str:
        return (self.state / "service.log").read_text(errors="replace")

    def tail(self) -> str:
        return self.log_text()[-3000:]

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(30)

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.terminate()
            self.process.wait(60)
        self.log.close()


@contextmanager
def running(state: Path, model: Path, *, prefix: Sequence[str] = (), **overrides: str) -> Iterator[Service]:
    """A service for the length of a block; stopped however the block ends."""
    service = Service(state, model, prefix=prefix, **overrides)
    try:
        yield service
    finally:
        service.close()


def ask(client: Client, text: str, **more: Any) -> dict[str, Any]:
    body = {"model": "honed", "messages": [{"role": "user", "content": text}], "max_tokens": 8, **more}
    answer: dict[str, Any] = client.post("/v1/chat/completions", body)
    return answer


def thumb(client: Client, completion_id: str, up: bool) -> str:
    row = client.post("/v1/feedback", {"completion_id": completion_id, "kind": "thumb", "value": up})
    return str(row["id"])


def chat_and_vote(client: Client, count: int, *, seed: int = 0) -> list[str]:
    """Ask, and vote on every answer that has any text. Returns the ids of acknowledged votes."""
    votes = []
    for number in range(count):
        answer = ask(client, f"question {seed}/{number}", seed=1000 * seed + number, temperature=1.0)
        if answer["choices"][0]["message"]["content"].strip():
            votes.append(thumb(client, answer["id"], number % 2 == 0))
    return votes


def wait_until(look: Any, *, seconds: float = 120.0) -> Any:
    """The first true value `look` returns."""
    limit = time.monotonic() + seconds
    while time.monotonic() < limit:
        found = look()
        if found:
            return found
        time.sleep(0.1)
    raise AssertionError(f"nothing within {seconds} s")


def finished_iteration(client: Client, number: int) -> dict[str, Any] | None:
    rows = client.get("/v1/iterations")["data"]
    return next((row for row in rows if row["id"] == number and row["stage"] in FINISHED), None)


def stored_votes(state: Path) -> list[str]:
    """Feedback ids as they lie in the database, read without honed."""
    with sqlite3.connect(f"file:{state / 'honed.db'}?mode=ro", uri=True) as connection:
        rows = [row[0] for row in connection.execute("select id from feedback")]
    connection.close()
    return rows
