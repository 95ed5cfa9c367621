"""Runs a program that ends when the service does: `python -m daemon.leash PARENT PROGRAM [ARGUMENT ...]`.

A program of somebody else's cannot ask the kernel for that itself. This process asks, then becomes the program: what
was asked for survives `exec`. The signal is SIGTERM, so that a server can end its own children in good order.

A program that hangs does not heed it, and a good one takes a while: the service keeps a record of what it started, so
that the next one can tell what the last one left behind from a stranger that was given the same number.
"""

import contextlib
import ctypes
import json
import os
import signal
import sys
from pathlib import Path

_PR_SET_PDEATHSIG = 1
#: Where Linux tells of processes.
PROC = Path("/proc")


def main(arguments: list[str]) -> None:
    """Become `arguments[1:]`, unless the parent named first is gone already."""
    parent, *program = arguments
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    # After the request, not before: a parent that died in between sends no signal any more.
    if os.getppid() != int(parent):
        sys.exit(f"the service that started this (process {parent}) is gone")
    os.execvp(program[0], program)  # noqa: S606  # the program is the operator's own setting


def remember(pid: int, record: Path) -> None:
    """Write down a process that leads a group: its number and when it started, which no later process shares."""
    stat = _stat(pid)
    if stat is not None:
        record.write_text(json.dumps({"pid": pid, "started": _started(stat)}) + "\n")


def left_over(record: Path) -> int | None:
    """The recorded process, which is also its group's number, if it is there still."""
    try:
        row = json.loads(record.read_text())
        pid = int(row["pid"])
        stat = _stat(pid)
        same = stat is not None and _started(stat) == row["started"] and _group(stat) == pid
    except (OSError, ValueError, LookupError, TypeError, OverflowError, RecursionError):
        return None
    return pid if same else None


def lives(group: int) -> bool:
    """Whether any process of a group still runs; one that is dead and not yet waited for does not."""
    stats = [_stat(int(entry.name)) for entry in PROC.iterdir() if entry.name.isdigit()]
    return any(stat is not None and _group(stat) == group and stat[0] not in "ZX" for stat in stats)


def _stat(pid: int) -> list[str] | None:
    """Fields of /proc/PID/stat from the third on: the second, the name, may hold spaces and brackets."""
    with contextlib.suppress(OSError):
        return (PROC / str(pid) / "stat").read_text(errors="replace").rpartition(")")[2].split() or None
    return None


def _group(stat: list[str]) -> int:
    return int(stat[2])


def _started(stat: list[str]) -> str:
    """Field 22 is clock ticks since boot; numbers and ticks begin anew with each boot."""
    return f"{(PROC / 'sys/kernel/random/boot_id').read_text().strip()} {stat[19]}"


if __name__ == "__main__":
    main(sys.argv[1:])
