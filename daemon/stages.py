"""Where an iteration stands, and how far: what page, command line and HTTP read while it runs."""

import asyncio
import time

from daemon.opinions import OnProgress
from daemon.runtime import Runtime
from store.records import Iteration, Stage

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


async def move(runtime: Runtime, iteration: Iteration, stage: Stage) -> Iteration:
    return await asyncio.to_thread(runtime.store.iterations.move, iteration.id, stage)
