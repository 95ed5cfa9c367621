"""The trainer child: started, listened to, and stopped; never trusted without its manifest.

A fresh interpreter (never a fork: torch does not survive one) in a session of its own, so that stopping it
stops everything it started. It shares only its run directory with the service.
"""

import asyncio
import contextlib
import math
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

from daemon.memory import DEVICE_ORDER
from policies import spec
from store.errors import TrainingFailed
from store.failpoints import PARENT
from store.reading import lines_of, read_bytes, told_as

#: Seconds between SIGTERM and SIGKILL.
GRACE = 5.0
#: Seconds between looks at progress.jsonl.
POLL = 0.25
LOG = "trainer.log"
#: Bytes at the end of the log in which its last words are looked for.
TAIL = 64 * 1024

OnProgress = Callable[[spec.Progress], None]


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


async def run(run_directory: Path, *, on_progress: OnProgress, stall_seconds: float) -> spec.Report:
    """Train in a child and return its verified report; a run that already finished is not repeated.

    Raises:
        TrainingFailed: the child failed, stalled, or left nothing that verifies.
    """
    done = finished(run_directory)
    if done is not None:
        return done
    # An earlier attempt's lines are not this child's.
    (run_directory / spec.PROGRESS).unlink(missing_ok=True)
    with (run_directory / LOG).open("ab") as log:
        child = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "policies.train",
            str(run_directory.resolve()),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            cwd=Path(__file__).resolve().parent.parent,
            env={**DEVICE_ORDER, **os.environ, PARENT: str(os.getpid())},
        )
    try:
        await follow(
            child, run_directory / spec.PROGRESS, on_progress=on_progress, stall_seconds=stall_seconds
        )
    finally:
        await stop(child)
    report = finished(run_directory) if child.returncode == 0 else None
    if report is None:
        said = last_words(run_directory, disk_failed=child.returncode == os.EX_IOERR)
        raise TrainingFailed(f"the trainer ended with status {child.returncode}: {said}")
    return report


async def follow(
    child: asyncio.subprocess.Process, progress: Path, *, on_progress: OnProgress, stall_seconds: float
) -> None:
    """Pass progress lines on until the child ends.

    Raises:
        TrainingFailed: no line came for `stall_seconds`, or one that is none.
    """
    loop, seen = asyncio.get_running_loop(), 0
    heard = loop.time()
    while True:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(child.wait(), POLL)
        with told_as(TrainingFailed):
            lines = read_bytes(progress).split(b"\n")[:-1] if progress.exists() else []
        # A rerun starts the file anew, so what was seen may be longer than what is there.
        for line in lines[seen if seen <= len(lines) else 0 :]:
            heard = loop.time()
            on_progress(spec.read_progress(line, progress))
        seen = len(lines)
        if child.returncode is not None:
            return
        if loop.time() - heard > stall_seconds:
            raise TrainingFailed(f"the trainer reported nothing for {stall_seconds:g} s and was stopped")


async def stop(child: asyncio.subprocess.Process) -> None:
    """SIGTERM to the child's session, then SIGKILL to what is left of it."""
    for signum in (signal.SIGTERM, signal.SIGKILL):
        if child.returncode is not None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, signum)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(child.wait(), GRACE)


def last_words(run_directory: Path, *, disk_failed: bool) -> str:
    """The last line the child wrote, for the reason an operator reads; on a full disk it may have found no room."""
    log = run_directory / LOG
    lines: list[str] = []
    if log.is_file():
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - TAIL))
            lines = file.read(TAIL).decode(errors="replace").strip().splitlines()
    if lines:
        return lines[-1]
    return "its files could not be written or read" if disk_failed else "it wrote nothing"
