"""How much memory processes hold, and whether enough is free for a trainer: from /proc, and nvidia-smi for GPUs."""

import asyncio
import contextlib
import os
from pathlib import Path

from store.errors import TrainingFailed

PROC = Path("/proc")
DEV = Path("/dev")
#: Seconds nvidia-smi may take; with a driver that hangs it never ends.
SMI_TIMEOUT = 10.0
#: What nvidia-smi says of a GPU that shares the main memory.
NO_MEMORY = ("[N/A]", "[Not Supported]")
#: For processes started here that use a GPU, unless the operator says otherwise. nvidia-smi counts GPUs by their
#: place on the bus and CUDA, untold, by speed: where they differ, CUDA_VISIBLE_DEVICES=0 would be two GPUs.
DEVICE_ORDER = {"CUDA_DEVICE_ORDER": "PCI_BUS_ID"}


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
    """Free bytes of the first GPU a trainer would see; None where there is none, or none with memory of its own.

    Raises:
        TrainingFailed: there is a GPU and nvidia-smi does not say.
    """
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None and visible.split(",")[0].strip() in ("", "-1"):
        return None
    chosen = ("--id", visible.split(",")[0].strip()) if visible else ()
    try:
        return parse_free(await ask_smi(*chosen))
    except OSError as error:
        if not has_gpu():
            return None
        # Main memory says nothing about a GPU that is there.
        raise TrainingFailed(
            f"policies.train.free_memory_mb cannot be checked: nvidia-smi: {error}; repair it, or set "
            "policies.train.free_memory_mb = 0 to train without looking"
        ) from error


def has_gpu() -> bool:
    """Whether the driver shows one; the second is the name under Windows."""
    return any(DEV.glob("nvidia[0-9]*")) or (DEV / "dxg").exists()


async def ask_smi(*chosen: str) -> str:
    """What nvidia-smi says of free memory.

    Raises:
        OSError: it is not there, fails, hangs, or knows no figure of a GPU that should have one.
    """
    asking = await asyncio.create_subprocess_exec(
        *("nvidia-smi", "--query-gpu=memory.free", "--format=csv,noheader,nounits", *chosen),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        said, _ = await asyncio.wait_for(asking.communicate(), SMI_TIMEOUT)
    except TimeoutError as error:
        raise OSError(f"no answer in {SMI_TIMEOUT:g} s") from error
    finally:
        if asking.returncode is None:
            asking.kill()
            # A process that is stuck in the driver does not heed even that.
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(asking.wait(), 1)
    text = said.decode(errors="replace").strip()
    if asking.returncode != 0:
        raise OSError(f"status {asking.returncode}")
    if parse_free(text) is None and not text.startswith(NO_MEMORY):
        raise OSError(f"it says {text[:100]!r}")
    return text


def parse_free(said: str) -> int | None:
    """nvidia-smi's first line, MiB, as bytes; None if it is no number."""
    first = said.strip().split("\n")[0].strip()
    return int(first) * 2**20 if first.isdigit() else None


async def require_free(needed_mb: int, *, processes: int = 1) -> None:
    """Refuse to start a trainer that would run out of memory, or push the server out of it.

    Args:
        needed_mb: for each of its processes: of main memory, or of a GPU of its own (the first one is looked at).

    Raises:
        TrainingFailed: less is free, or how much cannot be told.
    """
    if needed_mb == 0:
        return
    on_gpu = await free_gpu()
    free = free_ram() // processes if on_gpu is None else on_gpu
    if free < needed_mb * 2**20:
        where = "on the GPU"
        if on_gpu is None:
            where = (
                "of main memory" if processes == 1 else f"of main memory for each of {processes} processes"
            )
        raise TrainingFailed(
            f"only {free / 2**20:.0f} MiB {where} are free and policies.train.free_memory_mb asks for {needed_mb}"
        )
