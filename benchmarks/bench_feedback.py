"""Durable feedback over HTTP: votes per second, latency, and that every 201 is there after SIGKILL.

A real service process, whose engine answers nobody here, on a database on disk that already holds answers. Clients
on kept-alive connections each send one vote after the other, new ones only; a 201 comes after the commit that carries
the vote. When time is up the service is killed with SIGKILL in the middle of it all, and every vote that was answered
with 201 is looked for in the database. Clients and service share the machine's cores, so the service's own CPU time
per vote is told, too: it is what a busy machine cannot change. Prints a table and writes
benchmarks/results/feedback.json.

    python -m benchmarks.bench_feedback
"""

import argparse
import asyncio
import json
import os
import signal
import statistics
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from daemon.simulate import service
from daemon.state_files import DATABASE, SERVICE
from store.db import Store
from store.errors import HonedError
from store.records import Choice, Completion, CompletionStatus, Message, Sampling, Source

RESULTS = Path(__file__).parent / "results" / "feedback.json"
#: Votes per second that must hold.
FLOOR = 1000.0
ANSWERS = 2000
#: The principal of an open service for somebody who sends no key.
WHO = "local"


@dataclass
class Tally:
    """What was answered: ids of votes with a 201, seconds of each, what was no 201; `cpu`: the service's seconds."""

    stored: list[str] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    cpu: float = 0.0
    refused: list[str] = field(default_factory=list)


def fill(path: Path) -> None:
    """Answers to vote on."""
    with Store.open(path) as store:

        def work(tx: Store) -> None:
            for number in range(ANSWERS):
                tx.completions.begin(
                    Completion(
                        id=f"chatcmpl-{number}",
                        created_at=time.time(),
                        principal=WHO,
                        source=Source.CHAT,
                        messages=(Message("user", f"Question {number}?"),),
                        sampling=Sampling(),
                        adapter=None,
                        engine="bench",
                        status=CompletionStatus.DONE,
                        choices=(Choice(0, f"Answer {number}.", "stop", 3),),
                    )
                )

        store.atomic(work)


async def voter(address: tuple[str, int], number: int, tally: Tally) -> None:
    """One client: a vote, its answer, the next vote, until the service is gone."""
    reader, writer = await asyncio.open_connection(*address)
    count = 0
    try:
        while True:
            name = f"v{number}-{count}"
            answer = (number * 7919 + count) % ANSWERS
            body = json.dumps(
                {"id": name, "completion_id": f"chatcmpl-{answer}", "kind": "thumb", "value": count % 3 > 0}
            ).encode()
            head = (
                f"POST /v1/feedback HTTP/1.1\r\nHost: {address[0]}:{address[1]}\r\n"
                f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
            )
            began = time.perf_counter()
            writer.write(head.encode() + body)
            status, said = await answered(reader)
            if status == 201:
                tally.stored.append(name)
                tally.seconds.append(time.perf_counter() - began)
            else:
                tally.refused.append(f"{status}: {said[:200].decode(errors='replace')}")
            count += 1
    except (OSError, asyncio.IncompleteReadError):
        return  # killed, as planned
    finally:
        writer.close()


async def answered(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    """Status and body of one answer."""
    head = await reader.readuntil(b"\r\n\r\n")
    lines = head.decode().split("\r\n")
    length = next(int(line[15:]) for line in lines if line.lower().startswith("content-length:"))
    return int(lines[0].split()[1]), await reader.readexactly(length)


async def storm(url: str, pid: int, *, clients: int, seconds: float) -> tuple[Tally, float]:
    """All clients for so many seconds, then SIGKILL. Returns what was answered, and the seconds until the kill."""
    parts = urlsplit(url)
    tally, address = Tally(), (parts.hostname or "", parts.port or 0)
    began, used = time.perf_counter(), cpu_seconds(pid)
    voters = [asyncio.create_task(voter(address, number, tally)) for number in range(clients)]
    await asyncio.sleep(seconds)
    took = time.perf_counter() - began
    measured, tally.cpu = len(tally.stored), cpu_seconds(pid) - used
    os.kill(pid, signal.SIGKILL)
    await asyncio.gather(*voters)
    # What was on its way counts for durability, not for speed.
    tally.seconds = tally.seconds[:measured]
    return tally, took


def cpu_seconds(pid: int) -> float:
    """What a process has used, of all its threads."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def missing(path: Path, stored: list[str]) -> list[str]:
    """Votes with a 201 that are not in the database."""
    with Store.open(path) as store:
        known = {one.id for one in store.feedback.recent(limit=10 * len(stored) + 1000)}
    return [name for name in stored if name not in known]


def turn(folder: Path, *, clients: int, seconds: float) -> dict[str, Any]:
    """One service from start to kill."""
    fill(folder / DATABASE)
    # An iteration would start after 32 votes, and share the cores.
    settings = {"HONED_POLICIES__ENGINE__KIND": "fake", "HONED_DAEMON__SCHEDULE__ENABLED": "false"}
    with service(folder, **settings) as client:
        pid = json.loads((folder / SERVICE).read_text())["pid"]
        client.get("/v1/status")
        tally, took = asyncio.run(storm(client.url, pid, clients=clients, seconds=seconds))
    if len(tally.seconds) < 2:
        raise HonedError(f"hardly a vote was answered: {tally.refused[:3]}")
    lost = missing(folder / DATABASE, tally.stored)
    cuts = statistics.quantiles(tally.seconds, n=100)
    return {
        "clients": clients,
        "seconds": round(took, 2),
        "votes": len(tally.seconds),
        "votes_per_second": round(len(tally.seconds) / took, 1),
        "latency_ms": {"p50": round(1000 * cuts[49], 1), "p99": round(1000 * cuts[98], 1)},
        "cpu_ms_per_vote": round(1000 * tally.cpu / len(tally.seconds), 3),
        "acknowledged": len(tally.stored),
        "lost": len(lost),
        "refused": tally.refused[:5],
    }


def line(row: dict[str, Any]) -> str:
    latency = row["latency_ms"]
    return (
        f"{row['clients']:4} clients {row['votes_per_second']:8.1f} votes/s, median {latency['p50']:6.1f} ms, p99 "
        f"{latency['p99']:6.1f} ms, {row['cpu_ms_per_vote']:5.2f} ms of CPU a vote; "
        f"{row['acknowledged']} acknowledged, {row['lost']} lost"
    )


def main() -> None:
    """Measure, print, write; exit 1 below the floor, or where a vote was lost or refused."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 16, 64, 128])
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument(
        "--folder", type=Path, help="where databases are made; on the disk that is to be measured"
    )
    chosen = parser.parse_args()
    rows = []
    for clients in chosen.clients:
        with tempfile.TemporaryDirectory(prefix="honed-bench-", dir=chosen.folder) as folder:
            rows.append(turn(Path(folder), clients=clients, seconds=chosen.seconds))
        row = rows[-1]
        print(line(row), flush=True)
    best = max(row["votes_per_second"] for row in rows)
    load = os.getloadavg()[0]
    figures = {"cores": os.cpu_count(), "load": round(load, 1), "floor": FLOOR, "best": best, "clients": rows}
    RESULTS.write_text(json.dumps(figures, indent=2) + "\n")
    sound = not any(row["lost"] or row["refused"] for row in rows)
    raise SystemExit(0 if best >= FLOOR and sound else 1)


if __name__ == "__main__":
    main()
