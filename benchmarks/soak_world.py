"""What everybody in the soak shares: where the service is, what it answered, and which votes it acknowledged.

Errors that a restart explains are counted, and everything else is a fault: a connection that breaks while the service
should be up, a status that nobody asked for.
"""

import http.client
import json
import os
import random
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from benchmarks.soak_report import Timing

#: Seconds an answer may take before it counts as hung.
PATIENCE = 60.0
#: Seconds after which a connection that rested is opened anew: the service closes those that rest for five, and what
#: is sent just then meets a closed door.
REST = 3.0


class Cut(Exception):
    """The service was taken away in the middle; the same may be asked again."""


class Ledger:
    """Votes with a 201, on disk before they count, as a client would who trusts nobody."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("a", encoding="utf-8")
        self._lock = threading.Lock()
        self.acknowledged: dict[str, tuple[str, str]] = {}

    def write(self, key: str, person: str, sent: str) -> None:
        with self._lock:
            self._file.write(json.dumps([key, person, sent]) + "\n")
            self._file.flush()
            os.fsync(self._file.fileno())
            self.acknowledged[key] = (person, sent)

    def close(self) -> None:
        self._file.close()


@dataclass
class World:
    """`began` on the monotonic clock. `up` is set while the service should answer; `life` counts its processes."""

    seed: int
    ledger: Ledger
    began: float = field(default_factory=time.monotonic)
    url: str = ""
    life: int = 0
    up: threading.Event = field(default_factory=threading.Event)
    over: threading.Event = field(default_factory=threading.Event)
    timings: list[Timing] = field(default_factory=list)
    statuses: Counter[str] = field(default_factory=Counter)
    orders: Counter[str] = field(default_factory=Counter)
    counts: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)
    #: People whose visit is over, and answers given to anybody lately: for the operator.
    gone: list[str] = field(default_factory=list)
    answers: list[str] = field(default_factory=list)
    forgotten: set[str] = field(default_factory=set)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def now(self) -> float:
        return time.monotonic() - self.began

    def rng(self, name: str) -> random.Random:
        return random.Random(f"{self.seed}/{name}")

    def count(self, among: Counter[str], name: str) -> None:
        with self._lock:
            among[name] += 1

    def fault(self, text: str) -> None:
        with self._lock:
            self.faults.append(f"{self.now():.1f} s, life {self.life}: {text}")

    def broken(self, what: str, life: int, error: Exception) -> Cut:
        """A connection broke. Where no restart explains it, that is a fault."""
        # The one who restarts says so before it signals, but a request may be on its way just then.
        explained = not self.up.is_set() or self.life != life
        if explained:
            self.count(self.counts, f"cut by a restart: {what}")
        else:
            self.fault(f"{what}: {error!r}")
        return Cut(what)


class Wire:
    """One kept-alive connection of one person; opened anew after every restart."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.life, self.used = 0, 0.0
        self._connection: http.client.HTTPConnection | None = None

    def open(self) -> http.client.HTTPConnection:
        """Wait for the service, then connect.

        Raises:
            Cut: the soak is over.
        """
        while not self.world.up.wait(0.5):
            if self.world.over.is_set():
                raise Cut("over")
        rested = time.monotonic() - self.used > REST
        self.used = time.monotonic()
        if self._connection is None or rested or self.life != self.world.life:
            self.close()
            parts = urlsplit(self.world.url)
            self.life = self.world.life
            self._connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=PATIENCE)
        return self._connection

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def send(
        self, method: str, path: str, body: dict[str, Any] | None = None, **headers: str
    ) -> http.client.HTTPResponse:
        """Ask; 429 and 503 that say when to come back are obeyed.

        Raises:
            Cut: the service went away.
        """
        content = None if body is None else json.dumps(body)
        given = {"Content-Type": "application/json", **{k.replace("_", "-"): v for k, v in headers.items()}}
        while True:
            connection = self.open()
            try:
                connection.request(method, path, body=content, headers=given)
                response = connection.getresponse()
            except (OSError, http.client.HTTPException) as error:
                raise self.lost(f"{method} {path}", error) from error
            self.world.count(self.world.statuses, str(response.status))
            wait = response.headers.get("Retry-After")
            if response.status not in (429, 503) or wait is None:
                return response
            self.read(response, path)
            time.sleep(min(float(wait), 5.0))

    def read(self, response: http.client.HTTPResponse, what: str) -> bytes:
        try:
            return response.read()
        except (OSError, http.client.HTTPException) as error:
            raise self.lost(what, error) from error

    def line(self, response: http.client.HTTPResponse, what: str) -> bytes:
        """The next line of a stream; empty at its end."""
        try:
            return response.readline()
        except (OSError, http.client.HTTPException) as error:
            raise self.lost(what, error) from error

    def lost(self, what: str, error: Exception) -> Cut:
        self.close()
        return self.world.broken(what, self.life, error)

    def json(
        self, method: str, path: str, body: dict[str, Any] | None = None, *, want: int = 200, **headers: str
    ) -> Any:
        """The answer's JSON; any other status is a fault, and the answer is None."""
        response = self.send(method, path, body, **headers)
        content = self.read(response, path)
        if response.status != want:
            self.world.fault(f"{method} {path}: {response.status} {content[:200]!r}")
            return None
        return json.loads(content)
