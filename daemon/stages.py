"""Where an iteration stands, and how far: what page, command line and HTTP read while it runs."""

import asyncio
import time
from collections.abc import Callable
from typing import TypeVar

from daemon.opinions import OnProgress
from daemon.runtime import Runtime
from store.records import Iteration, Stage

T = TypeVar("T")

#: Seconds between two writes of progress.
PROGRESS_EVERY = 1.0


def progress(runtime: Runtime, iteration: Iteration, phase: str) -> OnProgress:
    """Writes how far a phase is, at most once a second and when it is complete."""
    last = 0.0

    async def show(done: int, total: int) -> None:
        nonlocal last
        if done < total and time.monotonic() - last < PROGRESS_EVERY:
            return
        last = time.monotonic()
        row = {"phase": phase, "done": done, "total": total, "metrics": {}, "at": runtime.clock()}
        await asyncio.to_thread(runtime.store.iterations.set_progress, iteration.id, row)

    return show


async def to_its_end(work: Callable[[], T]) -> T:
    """Run what writes files on a thread; cancelled, first let it end: nothing may be written after a stop."""
    task = asyncio.ensure_future(asyncio.to_thread(work))
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait([task])
        raise


async def move(runtime: Runtime, iteration: Iteration, stage: Stage) -> Iteration:
    return await asyncio.to_thread(runtime.store.iterations.move, iteration.id, stage)
