"""Load: many connections at once against a real service with a tiny real model, for minutes.

Every connection is kept open and never rests: answers, streamed or not, votes on them, and looks at status, lists,
pages and metrics. Who is told 429 or 503 with Retry-After waits as long; any other refusal, a broken connection, a
vote that was acknowledged and is not in the database, or descriptors that stay open afterwards fail the run. Prints
the figures and writes benchmarks/results/load.json.

    python -m benchmarks.bench_load --connections 200 --minutes 10
"""

import argparse
import asyncio
import json
import os
import random
import signal
import sqlite3
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from benchmarks.bench_feedback import cpu_seconds
from benchmarks.soak_report import MIB, latency
from daemon.state_files import DATABASE
from tests.integration.service import Service
from tests.tiny import make_tiny_model

RESULTS = Path(__file__).parent / "results" / "load.json"
#: Of everything asked, in percent; a vote is on the connection's own last answer.
MIX = {
    "stream": 15,
    "chat": 15,
    "vote": 40,
    "status": 15,
    "models": 5,
    "iterations": 5,
    "metrics": 3,
    "page": 2,
}
READS = {
    "status": "/v1/status",
    "models": "/v1/models",
    "iterations": "/v1/iterations",
    "metrics": "/metrics",
    "page": "/ops",
}
#: Seconds an answer may take before it counts as hung.
PATIENCE = 60.0


@dataclass
class Tally:
    """What was answered. `seconds`: of answers that were given, by kind; `fewest`: connections open at any second."""

    seconds: dict[str, list[float]] = field(default_factory=dict)
    statuses: Counter[str] = field(default_factory=Counter)
    votes: list[str] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    open: int = 0
    fewest: int | None = None
    waited: float = 0.0


@dataclass(frozen=True)
class Reply:
    status: int
    headers: dict[str, str]
    body: bytes


class Connection:
    """One kept-alive connection."""

    def __init__(self, address: tuple[str, int], name: str) -> None:
        self.address, self.name = address, name
        self.reader: asyncio.StreamReader
        self.writer: asyncio.StreamWriter

    async def open(self) -> None:
        self.reader, self.writer = await asyncio.open_connection(*self.address)

    async def ask(self, method: str, path: str, body: dict[str, Any] | None = None) -> Reply:
        content = b"" if body is None else json.dumps(body).encode()
        head = (
            f"{method} {path} HTTP/1.1\r\nHost: {self.address[0]}:{self.address[1]}\r\n"
            f"Authorization: Bearer {self.name}\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(content)}\r\n\r\n"
        )
        self.writer.write(head.encode() + content)
        await self.writer.drain()
        return await read_reply(self.reader)


async def read_reply(reader: asyncio.StreamReader) -> Reply:
    """One whole answer, in one piece or in chunks."""
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in head[1:] if line)}
    if headers.get("transfer-encoding") != "chunked":
        body = await reader.readexactly(int(headers.get("content-length", 0)))
        return Reply(int(head[0].split()[1]), headers, body)
    body = b""
    while size := int(await reader.readline(), 16):
        body += await reader.readexactly(size)
        await reader.readexactly(2)
    await reader.readexactly(2)
    return Reply(int(head[0].split()[1]), headers, body)


def answer_id(kind: str, reply: Reply) -> str:
    """The id of an answer; of a stream, which has to end as streams do.

    Raises:
        ValueError: it tells of an error, or does not end.
    """
    if kind == "chat":
        return str(json.loads(reply.body)["id"])
    events = [line[6:] for line in reply.body.split(b"\n\n") if line.startswith(b"data: ")]
    if not events or events[-1] != b"[DONE]":
        raise ValueError(f"a stream without its end: {reply.body[-200:]!r}")
    chunks = [json.loads(event) for event in events[:-1]]
    if any("error" in chunk for chunk in chunks):
        raise ValueError(f"an error in a stream: {chunks[-1]}")
    return str(chunks[0]["id"])


def question(rng: random.Random, kind: str) -> dict[str, Any]:
    messages = [{"role": "user", "content": f"What is {rng.randrange(10_000)}?"}]
    return {"model": "honed", "messages": messages, "stream": kind == "stream", "max_tokens": 8}


async def drive(connection: Connection, tally: Tally, until: float, seed: int) -> None:
    """One connection, one thing after the other."""
    rng, answer, count = random.Random(f"{seed}/{connection.name}"), "", 0
    await connection.open()
    tally.open += 1
    try:
        while time.perf_counter() < until:
            kind = rng.choices(list(MIX), list(MIX.values()))[0]
            if kind == "vote" and not answer:
                kind = "chat"
            method, path, body = "GET", READS.get(kind, ""), None
            if kind in ("chat", "stream"):
                method, path, body = "POST", "/v1/chat/completions", question(rng, kind)
            elif kind == "vote":
                method, path = "POST", "/v1/feedback"
                body = {"id": f"{connection.name}-{count}", "completion_id": answer, "kind": "thumb"}
                body["value"] = rng.random() < 0.5
            count += 1
            began = time.perf_counter()
            reply = await asyncio.wait_for(connection.ask(method, path, body), PATIENCE)
            tally.statuses[f"{kind} {reply.status}"] += 1
            if reply.status in (429, 503) and "retry-after" in reply.headers:
                wait = min(float(reply.headers["retry-after"]), 5.0)
                tally.waited += wait
                await asyncio.sleep(wait)
                continue
            if reply.status >= 300:
                tally.faults.append(f"{kind}: {reply.status} {reply.body[:200]!r}")
                continue
            tally.seconds.setdefault(kind, []).append(time.perf_counter() - began)
            if kind in ("chat", "stream"):
                answer = answer_id(kind, reply)
            elif kind == "vote":
                tally.votes.append(f"{connection.name}-{count - 1}")
    except (OSError, EOFError, ValueError) as error:  # a time-out is an OSError
        tally.faults.append(f"{connection.name}: {error!r}")
    finally:
        tally.open -= 1
        connection.writer.close()


async def storm(url: str, *, connections: int, seconds: float, seed: int) -> Tally:
    """All connections for so many seconds."""
    parts, tally = urlsplit(url), Tally()
    until = time.perf_counter() + seconds
    each = [Connection((parts.hostname or "", parts.port or 0), f"person-{n}") for n in range(connections)]

    async def count() -> None:
        await asyncio.sleep(2.0)
        while time.perf_counter() < until - 1:
            tally.fewest = min(tally.open, tally.open if tally.fewest is None else tally.fewest)
            await asyncio.sleep(1.0)

    await asyncio.gather(count(), *(drive(connection, tally, until, seed) for connection in each))
    return tally


def lost_votes(database: Path, votes: list[str]) -> list[str]:
    """Acknowledged votes that are not in the database."""
    connection = sqlite3.connect(f"file:{database}?mode=ro", uri=True)
    try:
        known = {row[0] for row in connection.execute("select id from feedback")}
    finally:
        connection.close()
    return [vote for vote in votes if vote not in known]


def process(pid: int) -> dict[str, float]:
    """What the service holds now."""
    resident = int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    descriptors = sum(1 for _ in Path(f"/proc/{pid}/fd").iterdir())
    return {"rss_mib": round(resident / MIB, 1), "descriptors": descriptors}


def measure(folder: Path, *, connections: int, seconds: float, seed: int) -> dict[str, Any]:
    """One service from start to end, with its figures."""
    state = folder / "state"
    service = Service(state, make_tiny_model(folder / "model"))
    try:
        client = service.wait_until_ready()
        if client is None:
            raise RuntimeError(service.tail())
        pid = service.process.pid
        before, used, loads = process(pid), cpu_seconds(pid), [os.getloadavg()[0]]
        tally = asyncio.run(storm(client.url, connections=connections, seconds=seconds, seed=seed))
        now = cpu_seconds(pid)
        loads.append(os.getloadavg()[0])
        # Kept-alive connections that their clients closed are gone at once; give them a moment all the same.
        time.sleep(5)
        after = process(pid)
        service.process.send_signal(signal.SIGTERM)
        status = service.process.wait(120)
    finally:
        service.close()
    lost = lost_votes(state / DATABASE, tally.votes)
    given = sum(len(each) for each in tally.seconds.values())
    return {
        "connections": connections,
        "fewest_open": tally.fewest,
        "seconds": seconds,
        "answered": given,
        "answered_per_second": round(given / seconds, 1),
        "told_to_wait": sum(n for name, n in tally.statuses.items() if name.endswith(("429", "503"))),
        "latency": {
            kind: latency([1000 * one for one in each]) for kind, each in sorted(tally.seconds.items())
        },
        "statuses": dict(sorted(tally.statuses.items())),
        "votes": {"acknowledged": len(tally.votes), "lost": len(lost)},
        "service": {
            "before": before,
            "after": after,
            "cpu_seconds": round(sum(now) - sum(used), 1),
            "exit_status": status,
        },
        "load_average": [round(one, 1) for one in loads],
        "faults": tally.faults[:50],
        "passed": not tally.faults
        and not lost
        and status == 0
        and tally.fewest == connections
        and after["descriptors"] <= before["descriptors"] + 16,
    }


def main() -> None:
    """Measure, print, write; exit 1 where anything failed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--connections", type=int, default=200)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--output", type=Path, default=RESULTS)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="honed-load-") as folder:
        figures = measure(
            Path(folder), connections=chosen.connections, seconds=60 * chosen.minutes, seed=chosen.seed
        )
    figures = {"cores": os.cpu_count(), **figures}
    print(json.dumps(figures, indent=2))
    chosen.output.write_text(json.dumps(figures, indent=2) + "\n")
    raise SystemExit(0 if figures["passed"] else 1)


if __name__ == "__main__":
    main()
