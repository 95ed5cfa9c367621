"""Durable feedback over HTTP: votes per second, latency, and that every 201 is there after SIGKILL.

A real service process, whose engine answers nobody here, on a database on disk that already holds answers. Clients
on kept-alive connections each send one vote after the other, new ones only; a 201 comes after the commit that carries
the vote. In the last and busiest turn the service is killed with SIGKILL in the middle of it all, and every vote that
was ever answered with 201 is looked for in the database. Clients and service share the machine's cores, so the CPU
time that each of them takes per vote is told, too: a busy machine changes that least. `fsync_ms` is what one write
costs the disk, by itself, before anybody votes. Prints a table and writes benchmarks/results/feedback.json.

    python -m benchmarks.bench_feedback
"""

import argparse
import json
import logging
import os
import re
import selectors
import signal
import socket
import statistics
import tempfile
import time
import zlib
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
log = logging.getLogger(__name__)
LENGTH = re.compile(rb"content-length: *([0-9]+)", re.IGNORECASE)


@dataclass
class Tally:
    """What was answered: ids of votes with a 201, seconds of each, what was no 201.

    Up to the kill: `measured` votes in `took` seconds, CPU seconds of the service (`user`, `system`) and the clients
    (`own`). What was answered later counts for durability, not for speed.
    """

    stored: list[str] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    measured: int = 0
    took: float = 0.0
    user: float = 0.0
    system: float = 0.0
    own: float = 0.0


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


class Client:
    """One kept-alive connection that sends a vote, waits for its answer, and sends the next; new votes only."""

    def __init__(self, address: tuple[str, int], name: str) -> None:
        self.socket = socket.create_connection(address)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.prefix, self.count = name, 0
        self.head = (
            f"POST /v1/feedback HTTP/1.1\r\nHost: {address[0]}:{address[1]}\r\n"
            "Content-Type: application/json\r\nContent-Length: "
        )
        self.got, self.name, self.began = b"", "", 0.0

    def send(self) -> None:
        """The next vote, in one write."""
        self.name = f"{self.prefix}-{self.count}"
        answer = zlib.crc32(self.name.encode()) % ANSWERS
        value = "true" if self.count % 3 else "false"
        body = f'{{"id":"{self.name}","completion_id":"chatcmpl-{answer}","kind":"thumb","value":{value}}}'
        self.count, self.got, self.began = self.count + 1, b"", time.perf_counter()
        self.socket.sendall(f"{self.head}{len(body)}\r\n\r\n{body}".encode())

    def receive(self) -> tuple[int, bytes] | None:
        """Status and body once the answer is whole; None while it is not.

        Raises:
            OSError: the service is gone.
        """
        piece = self.socket.recv(65536)
        if not piece:
            raise ConnectionResetError
        self.got += piece
        head, ended, body = self.got.partition(b"\r\n\r\n")
        if not ended:
            return None
        length = LENGTH.search(head)
        if length is None:
            raise HonedError(f"an answer without a length: {head!r}")
        return (int(head[9:12]), body) if len(body) >= int(length[1]) else None


def storm(url: str, pid: int, *, clients: int, seconds: float, kill: bool) -> Tally:
    """All clients for so many seconds; `kill`: then SIGKILL, with a vote of each under way.

    One thread and one selector for all of them, since it shares the cores with what it measures.
    """
    parts = urlsplit(url)
    address = parts.hostname or "", parts.port or 0
    tally, selector = Tally(), selectors.DefaultSelector()
    for number in range(clients):
        client = Client(address, f"v{clients}-{number}")
        selector.register(client.socket, selectors.EVENT_READ, client)
        client.send()
    began, used, own = time.perf_counter(), cpu_seconds(pid), time.process_time()
    while time.perf_counter() - began < seconds:
        exchange(selector, tally, timeout=seconds)
    tally.took, tally.own = time.perf_counter() - began, time.process_time() - own
    now = cpu_seconds(pid)
    tally.user, tally.system, tally.measured = now[0] - used[0], now[1] - used[1], len(tally.seconds)
    if kill:
        os.kill(pid, signal.SIGKILL)
    while selector.get_map():
        exchange(selector, tally, timeout=10.0, more=False)
    return tally


def exchange(selector: selectors.BaseSelector, tally: Tally, *, timeout: float, more: bool = True) -> None:
    """Take the answers that have come; send the next votes (`more`), or be done with that client.

    A connection that is gone is left out.
    """
    for key, _ in selector.select(timeout):
        client: Client = key.data
        try:
            answer = client.receive()
            if answer is None:
                continue
            if answer[0] == 201:
                tally.stored.append(client.name)
                tally.seconds.append(time.perf_counter() - client.began)
            else:
                tally.refused.append(f"{answer[0]}: {answer[1][:200].decode(errors='replace')}")
            if more:
                client.send()
                continue
        except OSError:
            log.debug("%s: the service is gone", client.name)  # killed, as planned
        selector.unregister(client.socket)
        client.socket.close()


def cpu_seconds(pid: int) -> tuple[float, float]:
    """What a process has used for itself and in the kernel, of all its threads."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    tick = os.sysconf("SC_CLK_TCK")
    return int(fields[11]) / tick, int(fields[12]) / tick


def fsync_ms(folder: Path, *, times: int = 50) -> float:
    """Median milliseconds of one page appended and made durable, as a commit does it."""
    taken = []
    with (folder / "fsync").open("wb") as file:
        for _ in range(times):
            file.write(bytes(4096))
            file.flush()
            began = time.perf_counter()
            os.fdatasync(file.fileno())
            taken.append(time.perf_counter() - began)
    return 1000 * statistics.median(taken)


def missing(path: Path, stored: list[str]) -> list[str]:
    """Votes with a 201 that are not in the database."""
    with Store.open(path) as store:
        known = {one.id for one in store.feedback.recent(limit=10 * len(stored) + 1000)}
    return [name for name in stored if name not in known]


def measure(folder: Path, *, clients: list[int], seconds: float) -> dict[str, Any]:
    """One service from start to kill, with so many clients in turn."""
    fill(folder / DATABASE)
    disk = fsync_ms(folder)
    # An iteration would start after 32 votes, and share the cores.
    settings = {"HONED_POLICIES__ENGINE__KIND": "fake", "HONED_DAEMON__SCHEDULE__ENABLED": "false"}
    stored: list[str] = []
    rows = []
    with service(folder, **settings) as client:
        pid = json.loads((folder / SERVICE).read_text())["pid"]
        for number in clients:
            last = number == clients[-1]
            tally = storm(client.url, pid, clients=number, seconds=seconds, kill=last)
            stored += tally.stored
            rows.append(row_of(number, tally))
            print(line(rows[-1]), flush=True)
    lost = missing(folder / DATABASE, stored)
    return {"fsync_ms": round(disk, 2), "acknowledged": len(stored), "lost": len(lost), "clients": rows}


def row_of(clients: int, tally: Tally) -> dict[str, Any]:
    """What one turn showed. `service_alone_per_second`: what its CPU time would allow on one core of its own."""
    votes = tally.measured
    if votes < 2:
        raise HonedError(f"hardly a vote was answered: {tally.refused[:3]}")
    cuts = statistics.quantiles(tally.seconds[:votes], n=100)
    cpu = 1000 * (tally.user + tally.system) / votes
    return {
        "clients": clients,
        "seconds": round(tally.took, 2),
        "votes": votes,
        "votes_per_second": round(votes / tally.took, 1),
        "latency_ms": {"p50": round(1000 * cuts[49], 1), "p99": round(1000 * cuts[98], 1)},
        "service_cpu_ms_per_vote": {
            "user": round(1000 * tally.user / votes, 3),
            "system": round(1000 * tally.system / votes, 3),
        },
        "service_alone_per_second": round(1000 / cpu, 1) if cpu else None,
        "clients_cpu_ms_per_vote": round(1000 * tally.own / votes, 3),
        "load": round(os.getloadavg()[0], 1),
        "refused": tally.refused[:5],
    }


def line(row: dict[str, Any]) -> str:
    latency, cpu = row["latency_ms"], row["service_cpu_ms_per_vote"]
    return (
        f"{row['clients']:4} clients {row['votes_per_second']:8.1f} votes/s, median {latency['p50']:6.1f} ms, p99 "
        f"{latency['p99']:6.1f} ms, CPU a vote {cpu['user']:.2f} + {cpu['system']:.2f} ms and clients' "
        f"{row['clients_cpu_ms_per_vote']:.2f} ms; load {row['load']}"
    )


def main() -> None:
    """Measure, print, write; exit 1 below the floor, or where a vote was lost or refused."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 16, 64, 128, 192])
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument(
        "--folder", type=Path, help="where databases are made; on the disk that is to be measured"
    )
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="honed-bench-", dir=chosen.folder) as folder:
        figures = measure(Path(folder), clients=chosen.clients, seconds=chosen.seconds)
    print(f"{figures['acknowledged']} acknowledged, {figures['lost']} lost; fsync {figures['fsync_ms']} ms")
    best = max(row["votes_per_second"] for row in figures["clients"])
    figures = {"cores": os.cpu_count(), "floor": FLOOR, "best": best, **figures}
    RESULTS.write_text(json.dumps(figures, indent=2) + "\n")
    sound = not figures["lost"] and not any(row["refused"] for row in figures["clients"])
    raise SystemExit(0 if best >= FLOOR and sound else 1)


if __name__ == "__main__":
    main()
