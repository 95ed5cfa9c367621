"""How much memory processes hold, and whether enough is free for a trainer: from /proc, and nvidia-smi for GPUs."""

import asyncio
import contextlib
import os
from pathlib import Path

from store.errors import TrainingFailed

PROC = Path("/proc")


def resident(pid: int) -> int:
    """Bytes resident in a process and everything in its session."""
    try:
        session = os.getsid(pid)
    except ProcessLookupError:
        return 0
    total = 0
    for entry in PROC.iterdir():
        if entry.name.isdigit():
            # A process may end while it is looked at.
            with contextlib.suppress(OSError, ValueError, IndexError):
                if os.getsid(int(entry.name)) == session:
                    total += int((entry / "statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return total


def free_ram() -> int:
    """Bytes the system can give out without swapping."""
    for line in (PROC / "meminfo").read_text().splitlines():
        name, _, value = line.partition(":")
        if name == "MemAvailable":
            return int(value.split()[0]) * 1024
    raise OSError("/proc/meminfo has no MemAvailable")


async def free_gpu() -> int | None:
    """Free bytes of the first GPU a trainer would see; None where there is none."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None and visible.split(",")[0].strip() in ("", "-1"):
        return None
    chosen = ("--id", visible.split(",")[0].strip()) if visible else ()
    try:
        asking = await asyncio.create_subprocess_exec(
            *("nvidia-smi", "--query-gpu=memory.free", "--format=csv,noheader,nounits", *chosen),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
        )
    except OSError:
        return None
    said, _ = await asking.communicate()
    return parse_free(said.decode()) if asking.returncode == 0 else None


def parse_free(said: str) -> int | None:
    """nvidia-smi's first line, MiB, as bytes; None if it is no number."""
    first = said.strip().split("\n")[0].strip()
    return int(first) * 2**20 if first.isdigit() else None


async def require_free(needed_mb: int) -> None:
    """Refuse to start a trainer that would run out of memory, or push the server out of it.

    Raises:
        TrainingFailed: less is free.
    """
    on_gpu = await free_gpu()
    free = free_ram() if on_gpu is None else on_gpu
    if free < needed_mb * 2**20:
        where = "of main memory" if on_gpu is None else "on the GPU"
        raise TrainingFailed(
            f"only {free / 2**20:.0f} MiB {where} are free and policies.train.free_memory_mb asks for {needed_mb}"
        )
