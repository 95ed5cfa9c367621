"""One case of the failpoint sweep: a state directory, its processes, and what somebody was told is done.

What happens in a case is written so that it can be begun again after a death: what was acknowledged is not repeated,
what was not is sent again as a client would, and at the end all that was acknowledged must be there exactly once.
"""

import json
import os
import signal
import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from daemon.client import Client
from store.errors import HonedError
from store.failpoints import ARMED, TRACE
from tests.integration import warm
from tests.integration.service import QUICK

#: Seconds that anything in a case may take.
LIMIT = 90.0
POLL = 0.02
SETTINGS = {
    **QUICK,
    "HONED_API__PORT": "0",
    "HONED_DAEMON__SCHEDULE__TICK_SECONDS": "0.05",
    # Prepared states were interrupted before.
    "HONED_DAEMON__SCHEDULE__MAX_ATTEMPTS": "20",
    "HONED_POLICIES__ENGINE__THREADS": "1",
}

Row = dict[str, Any]


class Died(Exception):
    """The process was killed where it was to be."""


@dataclass
class Notes:
    """What was acknowledged. Kept beside a prepared state directory for those who go on from it."""

    answers: dict[str, str] = field(default_factory=dict)
    """Step -> completion."""
    votes: dict[str, str] = field(default_factory=dict)
    """Event -> who gave it."""
    orders: dict[str, str] = field(default_factory=dict)
    """Reason, which names one step of one case -> intent."""
    forgotten: list[str] = field(default_factory=list)
    """People whose events have other names by now."""


class World:
    """A folder with `state`, `notes.json` and what commands make beside it."""

    def __init__(self, folder: Path, model: Path, nest: Path, settings: Row | None = None) -> None:
        self.folder, self.model, self.nest = folder, model, nest
        self.state = folder / "state"
        self.settings: dict[str, str] = dict(settings or {})
        self.notes = Notes()
        if (folder / "notes.json").is_file():
            self.notes = Notes(**json.loads((folder / "notes.json").read_text()))
        self.process: warm.Forked | None = None
        self.url = ""
        #: The environment of the process that is to die, or to be recorded; which of them that is, a step says.
        self.armed: dict[str, str] = {}

    # Processes

    def arm(self, point: str | None, trace: Path | None = None) -> None:
        self.armed = {} if point is None else {ARMED: point}
        if trace is not None:
            self.armed[TRACE] = str(trace)

    def mark(self, name: str) -> None:
        """Note in the record, where there is one, that a step begins."""
        if TRACE in self.armed:
            with Path(self.armed[TRACE]).open("a") as file:
                file.write(json.dumps({"mark": name}) + "\n")

    def environment(self, **more: str) -> dict[str, str]:
        own = {"HONED_STORE__DIRECTORY": str(self.state), "HONED_POLICIES__ENGINE__MODEL": str(self.model)}
        return {**os.environ, **SETTINGS, **self.settings, **own, **more}

    @property
    def log(self) -> Path:
        return self.folder / "service.log"

    def serve(self, *, armed: bool = True) -> None:
        """Start a service unless one runs, and wait until it answers. `armed`: whether it is the one to die."""
        if self.process is not None:
            return
        self.state.mkdir(exist_ok=True)
        (self.state / "service.json").unlink(missing_ok=True)
        environment = self.environment(**(self.armed if armed else {}))
        self.process = warm.fork(warm.service(self.nest), environment, self.log)
        self.url = json.loads(self.until(lambda: read(self.state / "service.json")))["url"]
        self.until(lambda: self.ask_once("GET", "/readyz"))
        self.mark("ready")

    def ask_once(self, method: str, path: str) -> Any:
        try:
            return self.client().get(path) if method == "GET" else None
        except HonedError:
            return None

    def stop(self) -> None:
        """SIGTERM, and wait for the end."""
        assert self.process is not None
        self.mark("stop")
        self.process.send_signal(signal.SIGTERM)
        self.until(lambda: self.process is None or self.process.poll() is not None, watch=False)
        status, self.process = self.process.returncode, None
        if status == -signal.SIGKILL:
            raise Died
        assert status == 0, f"exit status {status}: {self.tail()}"

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process = None

    def command(self, *arguments: str, **settings: str) -> int:
        """Run `honed ...`, which is the process to die in this case. Returns its exit status."""
        environment = self.environment(**self.armed, **settings)
        child = warm.fork(warm.command(*arguments), environment, self.folder / "command.log")
        return self.ended(child)

    def train_by_hand(self, run: str) -> int:
        """Run the trainer on a sealed run directory."""

        def main() -> int:
            from policies.train import main as train

            return train([str(self.state / "iterations" / run)])

        return self.ended(warm.fork(main, self.environment(**self.armed), self.folder / "command.log"))

    def ended(self, child: warm.Forked) -> int:
        status = child.wait(LIMIT)
        self.mark("command")
        if status == -signal.SIGKILL:
            raise Died
        return status

    def tail(self) -> str:
        logs = (self.log, self.folder / "command.log", *self.state.glob("iterations/*/trainer*.log"))
        return "\n".join(
            f"{log.name}: {log.read_text(errors='replace')[-1500:]}" for log in logs if log.is_file()
        )

    # Steps

    def client(self, person: str = "bob") -> Client:
        return Client(self.url, key=person)

    def call(self, act: Callable[[], Any]) -> Any:
        """What the service answers; `Died` if it is killed over it."""
        try:
            return act()
        except (HonedError, OSError):
            limit = time.monotonic() + 2
            while time.monotonic() < limit:
                self.look_after()
                time.sleep(POLL)
            raise

    def look_after(self) -> None:
        """Notice a death."""
        if self.process is not None and self.process.poll() is not None:
            status, self.process = self.process.returncode, None
            if status == -signal.SIGKILL and self.armed.get(ARMED):
                raise Died
            raise AssertionError(f"the service ended with status {status}: {self.tail()}")

    def until(self, look: Callable[[], Any], *, watch: bool = True) -> Any:
        """The first true value."""
        limit = time.monotonic() + LIMIT
        while time.monotonic() < limit:
            if watch:
                self.look_after()
            try:
                found = look()
            except (HonedError, OSError):
                if not watch:
                    raise
                found = None
            if found:
                return found
            time.sleep(POLL)
        raise AssertionError(f"nothing within {LIMIT:g} s: {self.tail()}")

    def ask(self, step: str, *, person: str = "bob", seed: int = 0) -> str:
        """An answer's id. One that was not acknowledged is asked for again."""
        if step not in self.notes.answers:
            body = {"model": "honed", "messages": [{"role": "user", "content": f"question {step}"}]}
            body |= {"max_tokens": 8, "seed": seed, "temperature": 1.0}
            answer = self.call(lambda: self.client(person).post("/v1/chat/completions", body))
            self.notes.answers[step] = answer["id"]
        return self.notes.answers[step]

    def say(
        self, step: str, answer: str, *, person: str = "bob", kind: str = "thumb", value: Any = True
    ) -> None:
        """Feedback under a name of its own, so that it can be repeated."""
        if step not in self.notes.votes:
            body = {"id": step, "completion_id": answer, "kind": kind, "value": value}
            told = self.call(lambda: self.client(person).post("/v1/feedback", body))
            assert told["id"] == step
            self.notes.votes[step] = person

    def chat(self, name: str, count: int, *, person: str = "bob") -> None:
        for number in range(count):
            step = f"{name}-{number}"
            self.say(step, self.ask(step, person=person, seed=number), person=person, value=number % 2 == 0)

    def order(self, reason: str, kind: str, **arguments: Any) -> Row:
        """Give an order once and wait for its end. Not acknowledged, it is looked for first, as people would."""
        if reason not in self.notes.orders:
            known = self.rows("select id from intents where reason = ?", reason)
            if known:
                self.notes.orders[reason] = known[0]["id"]
            else:
                given = partial(self.client().intend, kind, reason=reason, **arguments)
                self.notes.orders[reason] = self.call(given)
        return self.follow(reason)

    def follow(self, reason: str) -> Row:
        path = f"/v1/operator/intents/{self.notes.orders[reason]}"
        open_ = ("pending", "running")
        return dict(
            self.until(lambda: row if (row := self.client().get(path))["status"] not in open_ else None)
        )

    def train(self, reason: str) -> Row:
        """An iteration that must come to a settled end."""
        row = self.order(reason, "train")
        assert row["status"] == "done", (row, self.tail())
        return row

    # Looking

    def rows(self, sql: str, *values: Any, state: Path | None = None) -> list[Row]:
        """Read without honed. `values`: in order, or one dictionary of them by name."""
        path = (state or self.state) / "honed.db"
        with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as db:
            db.row_factory = sqlite3.Row
            named = values[0] if values and isinstance(values[0], dict) else values
            return [dict(row) for row in db.execute(sql, named)]

    def spoil_leftovers(self) -> int:
        """Overwrite every half-written file that a death left. Nothing may ever read one. Returns how many."""
        found = [path for path in self.folder.rglob(".*") if ".tmp" in str(path) or ".part" in str(path)]
        files = [path for path in found if path.is_file()]
        files += [each for path in found if path.is_dir() for each in path.rglob("*") if each.is_file()]
        for path in files:
            path.write_bytes(b"left over\x00" * 3)
        return len(files)

    def keep(self) -> None:
        (self.folder / "notes.json").write_text(json.dumps(vars(self.notes)))


def read(path: Path) -> str | None:
    return path.read_text() if path.is_file() else None
