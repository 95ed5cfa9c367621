"""Endurance: everything at once for an hour, on a real service with a tiny real model.

People chat (streamed or not; some leave in the middle) and vote (thumbs, edits, stars; taken back, sent twice); an
operator trains iteration after iteration, promotes, rolls back, quarantines, releases, labels, forgets people and
saves backups; pages and metrics are looked at. The service is stopped (SIGTERM) and killed (SIGKILL) in turn.
Measured every few seconds: memory, open files, threads, sizes; of every answer and vote how long it took. At the end
every vote that was ever acknowledged is looked for in the database, once and as it was sent. Prints a table, writes
benchmarks/results/soak.json, and exits 1 where a bound is broken.

    python -m benchmarks.bench_soak --minutes 60
"""

import argparse
import json
import os
import signal
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.soak_page import PAGE, rewritten
from benchmarks.soak_people import chat_and_vote, look, operate, stored
from benchmarks.soak_report import (
    MIB,
    Bounds,
    Sample,
    Votes,
    drift,
    latency,
    settled,
    slopes,
    verdict,
    windows,
)
from benchmarks.soak_world import Ledger, World
from daemon.state_files import DATABASE
from store.db import Store
from tests.integration.service import QUICK, Service
from tests.tiny import make_tiny_model

RESULTS = Path(__file__).parent / "results" / "soak.json"
#: Two long lives show slow growth; the short ones, how it goes on after a stop and after a kill.
LIVES = (0.4, 0.1, 0.05, 0.05, 0.4)
SAMPLE_SECONDS = 5.0
#: Opinions an iteration looks at: memory grows until there are as many.
HISTORY = 4000
#: Of the run, before memory counts at all.
FILLED = 0.25
#: Of a life, before its memory counts; in a trial run, a fifth of a long one.
WARM_UP = 270.0
PEOPLE = 4


def read_sizes(state: Path) -> tuple[int, int, int]:
    """Bytes of the database, of its write-ahead log, and of all files of the state directory."""

    def size(path: Path) -> int:
        try:
            return path.stat().st_size
        except FileNotFoundError:  # files come and go while one looks
            return 0

    return size(state / DATABASE), size(state / f"{DATABASE}-wal"), sum(map(size, state.rglob("*")))


def read_process(pid: int) -> tuple[int, int, int, int]:
    """Resident and proportional bytes, open descriptors, threads.

    Raises:
        OSError: it is gone.
    """
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    sizes = {line.split(":")[0]: line.split()[1] for line in lines[1:]}
    fds, threads = (sum(1 for _ in Path(f"/proc/{pid}/{name}").iterdir()) for name in ("fd", "task"))
    return 1024 * int(sizes["Rss"]), 1024 * int(sizes["Pss"]), fds, threads


class Watch:
    """Samples of the service as long as it is up."""

    def __init__(self, world: World, state: Path) -> None:
        self.world, self.state = world, state
        self.samples: list[Sample] = []
        self.pid, self.ready_at = 0, 0.0

    def run(self) -> None:
        while not self.world.over.wait(SAMPLE_SECONDS):
            if not self.world.up.is_set():
                continue
            at, life = self.world.now(), self.world.life
            try:
                rss, pss, fds, threads = read_process(self.pid)
            except (OSError, KeyError):
                continue  # killed just now
            sizes, load = read_sizes(self.state), os.getloadavg()[0]
            self.samples.append(Sample(at, life, at - self.ready_at, rss, pss, fds, threads, *sizes, load))


def live(world: World, watch: Watch, service: Service, seconds: float, how: signal.Signals) -> dict[str, Any]:
    """One process from ready to end."""
    began = world.now()
    client = service.wait_until_ready()
    if client is None:
        raise RuntimeError(f"the service did not start:\n{service.tail()}")
    world.url, world.life = client.url, world.life + 1
    watch.pid, watch.ready_at = service.process.pid, world.now()
    ready = world.now() - began
    world.up.set()
    limit = world.now() + seconds
    while world.now() < limit:
        time.sleep(0.5)
        if service.process.poll() is not None:
            world.fault(f"the service ended by itself with {service.process.returncode}")
            break
    world.up.clear()
    stopped = world.now()
    service.process.send_signal(how)
    status = service.process.wait(120)
    service.log.close()
    if how is signal.SIGTERM and status != 0:
        world.fault(f"SIGTERM ended with status {status}")
    row = {"life": world.life, "ready_s": ready, "lived_s": stopped - watch.ready_at, "ended_by": how.name}
    row |= {"end_s": world.now() - stopped}
    print(f"{world.now() / 60:6.1f} min  life {row}", flush=True)
    return {name: round(value, 1) if isinstance(value, float) else value for name, value in row.items()}


def soak(folder: Path, *, minutes: float, seed: int) -> dict[str, Any]:
    """The whole run; returns its figures."""
    state, model = folder / "state", make_tiny_model(folder / "model")
    overrides = {"HONED_DAEMON__SCHEDULE__TICK_SECONDS": "0.5", "HONED_FEEDBACK__MAX_HISTORY": str(HISTORY)}
    environment = {**os.environ, **QUICK, **overrides, "HONED_STORE__DIRECTORY": str(state)}
    world = World(seed, Ledger(folder / "acknowledged.jsonl"))
    watch = Watch(world, state)
    work: list[Callable[[], None]] = [
        watch.run,
        lambda: look(world),
        lambda: operate(world, folder, environment),
    ]
    work += [partial(chat_and_vote, world, number) for number in range(PEOPLE)]
    threads = [threading.Thread(target=guarded(world, each)) for each in work]
    lives = []
    for thread in threads:
        thread.start()
    try:
        for number, share in enumerate(LIVES):
            last = number == len(LIVES) - 1
            how = signal.SIGTERM if last or number % 2 == 0 else signal.SIGKILL
            service = Service(state, model, **overrides)
            try:
                lives.append(live(world, watch, service, 60 * minutes * share, how))
            finally:
                if service.process.poll() is None:
                    service.kill()
    finally:
        world.over.set()
        for thread in threads:
            thread.join()
        world.ledger.close()
    return figures_of(world, watch.samples, lives, state, warm_up=min(WARM_UP, 60 * minutes * max(LIVES) / 5))


def guarded(world: World, work: Callable[[], None]) -> Callable[[], None]:
    """A seat that fell over is a fault of the run, not a quiet one."""

    def run() -> None:
        try:
            work()
        except Exception as error:
            world.fault(f"the driver: {error!r}")
            raise

    return run


def figures_of(
    world: World, samples: list[Sample], lives: list[dict[str, Any]], state: Path, *, warm_up: float
) -> dict[str, Any]:
    """What was seen, and what lies on the disk now."""
    log = (state / "service.log").read_text(errors="replace")
    if "Traceback" in log:
        world.fault(f"the service logged a traceback: {log[log.index('Traceback') :][:1500]}")
    kept = {
        key: sent
        for key, (person, sent) in world.ledger.acknowledged.items()
        if person not in world.forgotten
    }
    votes = Votes(kept, stored(state / DATABASE), frozenset(world.ledger.acknowledged.keys() - kept.keys()))
    problems = votes.problems()
    with Store.open(state / DATABASE) as store:
        stages = Counter(one.stage.value for one in store.iterations.list(limit=10_000))
        swaps = len(store.adapters.activations())
    found = {
        "lives": lives,
        "warm_up_s": warm_up,
        "samples": len(samples),
        "filled_at_s": round(FILLED * samples[-1].at),
        "slopes": slopes(samples, warm_up=warm_up, filled_at=FILLED * samples[-1].at),
        "memory_mib": by_life(samples, lambda one: one.rss / MIB),
        "memory_mib_each_minute": {
            str(life): [round(value) for _, value in points]
            for life, points in settled(samples, lambda one: one.rss / MIB, warm_up=0, window=60).items()
        },
        "open_files": by_life(samples, lambda one: one.fds),
        "threads": by_life(samples, lambda one: one.threads),
        "disk_mib": disk(samples),
        "latency": windows(world.timings, samples, seconds=300.0),
        "latency_overall": {
            kind: latency([one.ms for one in world.timings if one.kind == kind])
            for kind in sorted({one.kind for one in world.timings})
        },
        "drift": drift(world.timings),
        "votes": {
            "acknowledged": len(world.ledger.acknowledged),
            "of_forgotten_people": len(votes.forgotten),
            "stored": len(votes.stored),
            "problems": {name: len(keys) for name, keys in problems.items()},
            "examples": {name: keys[:5] for name, keys in problems.items() if keys},
        },
        "iterations": dict(stages),
        "swaps": swaps,
        "people_forgotten": len(world.forgotten),
        "orders": dict(sorted(world.orders.items())),
        "statuses": dict(sorted(world.statuses.items())),
        "counts": dict(sorted(world.counts.items())),
        "faults": world.faults[:50],
    }
    bounds = Bounds()
    return {**found, "bounds": asdict(bounds), "checks": verdict(found, bounds)}


def by_life(samples: list[Sample], value: Callable[[Sample], float]) -> dict[str, list[float]]:
    """First, largest and last of each life."""
    lives: dict[str, list[float]] = {}
    for one in samples:
        lives.setdefault(str(one.life), []).append(value(one))
    return {life: [round(x, 1) for x in (each[0], max(each), each[-1])] for life, each in lives.items()}


def disk(samples: list[Sample]) -> dict[str, float]:
    """Mebibytes at the end, and the largest write-ahead log."""
    last = samples[-1]
    sizes = {"database": last.database, "state": last.state, "wal_max": max(one.wal for one in samples)}
    return {name: round(size / MIB, 1) for name, size in sizes.items()}


def table(figures: dict[str, Any]) -> str:
    """The figures for people."""
    lines = [f"{'':12}{'an hour':>10}{'low':>10}{'high':>10}"]
    for name, found in figures["slopes"].items():
        slope = found["pooled"] or {"per_hour": float("nan"), "low": float("nan"), "high": float("nan")}
        lines.append(f"{name:12}{slope['per_hour']:10.2f}{slope['low']:10.2f}{slope['high']:10.2f}")
    for row in figures["latency"]:
        told = "  ".join(
            f"{kind} {row[kind]['p50_ms']:.0f} / {row[kind]['p95_ms']:.0f} ms ({row[kind]['n']})"
            for kind in ("chat", "vote")
            if kind in row
        )
        lines.append(f"from {row['from_s'] / 60:3.0f} min  load {row['load']}  {told}")
    for name in (
        "votes",
        "iterations",
        "orders",
        "statuses",
        "counts",
        "drift",
        "memory_mib_each_minute",
        "disk_mib",
    ):
        lines.append(f"{name}: {json.dumps(figures[name])}")
    lines += figures["faults"]
    lines += [f"{'ok ' if one['ok'] else 'NOT'} {one['name']}: {one['detail']}" for one in figures["checks"]]
    return "\n".join(lines)


def main() -> None:
    """Soak, print, write; exit 1 where anything that must hold did not."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--folder", type=Path, help="where the state directory is made")
    parser.add_argument("--output", type=Path, default=RESULTS)
    parser.add_argument("--docs", action="store_true", help="only tell the last run in docs/reliability.md")
    chosen = parser.parse_args()
    if chosen.docs:
        PAGE.write_text(rewritten(PAGE.read_text(), json.loads(RESULTS.read_text())))
        return
    with tempfile.TemporaryDirectory(prefix="honed-soak-", dir=chosen.folder) as folder:
        figures = soak(Path(folder), minutes=chosen.minutes, seed=chosen.seed)
    figures = {"minutes": chosen.minutes, "seed": chosen.seed, "cores": os.cpu_count(), **figures}
    print(table(figures))
    chosen.output.write_text(json.dumps(figures, indent=2) + "\n")
    raise SystemExit(0 if all(one["ok"] for one in figures["checks"]) else 1)


if __name__ == "__main__":
    main()
