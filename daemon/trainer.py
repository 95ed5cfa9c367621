"""The trainer child: started, listened to, and stopped; never trusted without its manifest.

A fresh interpreter (never a fork: torch does not survive one) in a session of its own, so that stopping it
stops everything it started. It shares only its run directory with the service. Where several processes train one
adapter (`policies.crew`) each is such a child; the first one tells and writes, and the loss of any ends all.
"""

import asyncio
import contextlib
import math
import os
import re
import secrets
import signal
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from daemon.memory import DEVICE_ORDER
from policies import spec
from store.errors import ProcessLost, TrainingFailed
from store.failpoints import PARENT
from store.reading import lines_of, read_bytes, told_as

#: Seconds between SIGTERM and SIGKILL.
GRACE = 5.0
#: Seconds between looks at progress.jsonl.
POLL = 0.25
LOG = "trainer.log"
#: What the name of a file begins with in which several processes meet; each attempt's has a name of its own.
CREW = "crew-"
#: A line with an error's name and what it says.
NAMED = re.compile(r"[A-Za-z_][\w.]*: ")
#: Bytes at the end of the log in which its last words are looked for.
TAIL = 64 * 1024

OnProgress = Callable[[spec.Progress], None]


@dataclass(frozen=True, slots=True)
class Child:
    """One of the processes that train."""

    process: asyncio.subprocess.Process
    log: Path
    begun: int
    """Bytes that the log had before."""

    def words(self) -> str:
        """Why it ended."""
        return last_words(self.log, begun=self.begun, disk_failed=self.process.returncode == os.EX_IOERR)


def finished(run_directory: Path) -> spec.Report | None:
    """The report of a run whose manifest verifies; None when there is no manifest yet.

    Raises:
        TrainingFailed: there is a manifest and the files do not match it.
    """
    if not (run_directory / spec.MANIFEST).is_file():
        return None
    return spec.read_report(run_directory)


def curve(run_directory: Path) -> list[dict[str, float]]:
    """What the child told of its optimiser steps, one row each: `step`, and the step's metrics by name.

    Raises:
        TrainingFailed: what it told cannot be read.
    """
    rows = []
    progress = run_directory / spec.PROGRESS
    with told_as(TrainingFailed):
        for number, line in lines_of(progress) if progress.exists() else ():
            told = spec.read_progress(line, f"{progress}, line {number}")
            if told.phase == "train" and told.metrics:
                finite = {name: value for name, value in told.metrics.items() if math.isfinite(value)}
                rows.append({"step": float(told.done), **finite})
    return rows


async def run(
    run_directory: Path, *, on_progress: OnProgress, stall_seconds: float, processes: int = 1
) -> spec.Report:
    """Train in a child, or several, and return the verified report; a run that already finished is not repeated.

    Raises:
        TrainingFailed: a child failed or stalled, or nothing was left that verifies.
    """
    done = finished(run_directory)
    if done is not None:
        return done
    # An earlier attempt's lines are not this child's.
    (run_directory / spec.PROGRESS).unlink(missing_ok=True)
    for left in run_directory.glob(f"{CREW}*"):  # where an earlier attempt's processes met
        left.unlink()
    meeting = run_directory / f"{CREW}{secrets.token_hex(4)}"
    children: list[Child] = []
    try:
        for rank in range(processes):
            children.append(await start(run_directory, rank, processes, meeting))
        progress = run_directory / spec.PROGRESS
        await follow(children, progress, on_progress=on_progress, stall_seconds=stall_seconds)
        if children[0].process.returncode == 0:
            failed = None  # whatever became of the others since
        else:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(told(children), GRACE)
            failed = why([(child.process.returncode, child.words()) for child in children])
    finally:
        await asyncio.gather(*(stop(child.process) for child in children))
        meeting.unlink(missing_ok=True)
    report = None if failed else finished(run_directory)
    if report is None:
        raise TrainingFailed(failed or f"the trainer left no manifest: {children[0].words()}")
    return report


async def start(run_directory: Path, rank: int, size: int, meeting: Path) -> Child:
    """Start one of the processes that train."""
    crew = ("--rank", str(rank), "--size", str(size), "--meeting", str(meeting.resolve())) if size > 1 else ()
    path = run_directory / (f"trainer-{rank}.log" if rank else LOG)
    with path.open("ab") as log:
        begun = log.tell()
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "policies.train",
            str(run_directory.resolve()),
            *crew,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            cwd=Path(__file__).resolve().parent.parent,
            env={**DEVICE_ORDER, **os.environ, PARENT: str(os.getpid())},
        )
    return Child(process, path, begun)


async def follow(
    children: Sequence[Child], progress: Path, *, on_progress: OnProgress, stall_seconds: float
) -> None:
    """Pass progress lines on until the first child ends, or another one ends badly.

    Raises:
        TrainingFailed: no line came for `stall_seconds`, or one that is none.
    """
    first, *others = (child.process for child in children)
    loop, seen, trained = asyncio.get_running_loop(), 0, False
    heard = loop.time()
    while True:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(first.wait(), POLL)
        with told_as(TrainingFailed):
            lines = read_bytes(progress).split(b"\n")[:-1] if progress.exists() else []
        # A rerun starts the file anew, so what was seen may be longer than what is there.
        for line in lines[seen if seen <= len(lines) else 0 :]:
            heard = loop.time()
            step = spec.read_progress(line, progress)
            trained = trained or step.phase not in spec.TOGETHER
            on_progress(step)
        seen = len(lines)
        if first.returncode is not None or (not trained and any(other.returncode for other in others)):
            return
        if loop.time() - heard > stall_seconds:
            raise TrainingFailed(f"the trainer reported nothing for {stall_seconds:g} s and was stopped")


async def told(children: Sequence[Child]) -> None:
    """Wait until one of them has told a reason of its own, or none is left to tell one."""
    while True:
        ended = [child for child in children if child.process.returncode is not None]
        if len(ended) == len(children) or any(
            child.process.returncode and not lost(child.process.returncode, child.words()) for child in ended
        ):
            return
        await asyncio.sleep(POLL)


def lost(status: int, words: str) -> bool:
    """Whether a process ended for another one's sake, as far as it knew."""
    return status > 0 and words.startswith(ProcessLost.__name__)


def why(ends: Sequence[tuple[int | None, str]]) -> str | None:
    """Why a run failed whose processes ended with these statuses (None: still running) and last words.

    One that lost another says so, which is no reason: the other's is. None where nobody failed.
    """
    found = []
    for rank, (status, words) in enumerate(ends):
        if status:
            name = "the trainer" if len(ends) == 1 else f"process {rank} of the trainer's {len(ends)}"
            found.append((lost(status, words), f"{name} ended with status {status}: {words}"))
    return min(found)[1] if found else None


async def stop(child: asyncio.subprocess.Process) -> None:
    """SIGTERM to the child's session, then SIGKILL to what is left of it."""
    for signum in (signal.SIGTERM, signal.SIGKILL):
        if child.returncode is not None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, signum)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(child.wait(), GRACE)


def last_words(log: Path, *, begun: int = 0, disk_failed: bool = False) -> str:
    """The last line a child wrote that names an error, or the last one, for the reason an operator reads; on a full
    disk it may have found no room.

    Args:
        begun: bytes of the log that earlier ones wrote.
    """
    lines: list[str] = []
    if log.is_file():
        with log.open("rb") as file:
            file.seek(max(begun, log.stat().st_size - TAIL))
            lines = file.read(TAIL).decode(errors="replace").strip().splitlines()
    # Libraries warn while a process ends, after it has said why.
    if named := [line for line in lines if NAMED.match(line)]:
        return named[-1]
    if lines:
        return lines[-1]
    return "its files could not be written or read" if disk_failed else "it wrote nothing"
