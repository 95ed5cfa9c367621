"""How the trainer behaves as a child process: it dies with its parent, yields the CPU, and owns its directory."""

import ctypes
import fcntl
import os
import shutil
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from policies.spec import ADAPTER, MANIFEST, PROGRESS, REPORT
from store.errors import TrainingFailed
from store.failpoints import PARENT

LOCK = "lock"
_PR_SET_PDEATHSIG = 1


def die_with_parent() -> None:
    """Ask Linux for SIGKILL when the parent goes; leave at once if it already has.

    Whoever starts a trainer sets `PARENT` to its own process id; one run by hand has no parent to die with. The
    kernel's "parent" is the thread that started this process: a service must start its trainer from a thread
    that lives as long as the service.

    Raises:
        TrainingFailed: the parent named in the environment is gone.
    """
    parent = os.environ.get(PARENT)
    if parent is None:
        return
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    # After the request, not before: a parent that died in between sends no signal any more.
    if os.getppid() != int(parent):
        raise TrainingFailed(f"the service that started this trainer (process {parent}) is gone")


def yield_cpu() -> None:
    """Let chat go first. Best effort: some containers forbid it."""
    with suppress(OSError):
        os.nice(10)


@contextmanager
def owning(run_dir: Path) -> Iterator[None]:
    """Hold the run directory; the kernel lets go when the process ends, however it ends.

    Raises:
        TrainingFailed: another trainer holds it, or it does not exist.
    """
    if not run_dir.is_dir():
        raise TrainingFailed(f"{run_dir} is not a directory")
    with (run_dir / LOCK).open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise TrainingFailed(f"another trainer works in {run_dir}") from error
        yield


def sweep(run_dir: Path) -> None:
    """Remove what an earlier run left. The manifest goes first: without it nothing else counts."""
    for name in (MANIFEST, REPORT, PROGRESS):
        (run_dir / name).unlink(missing_ok=True)
    for directory in (run_dir / ADAPTER, run_dir / f".{ADAPTER}.tmp"):
        shutil.rmtree(directory, ignore_errors=True)
    for leftover in run_dir.glob(".*.tmp"):
        leftover.unlink(missing_ok=True)
