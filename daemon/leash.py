"""Runs a program that ends when the service does: `python -m daemon.leash PARENT PROGRAM [ARGUMENT ...]`.

A program of somebody else's cannot ask the kernel for that itself. This process asks, then becomes the program: what
was asked for survives `exec`. The signal is SIGTERM, so that a server can end its own children in good order.
"""

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1


def main(arguments: list[str]) -> None:
    """Become `arguments[1:]`, unless the parent named first is gone already."""
    parent, *program = arguments
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    # After the request, not before: a parent that died in between sends no signal any more.
    if os.getppid() != int(parent):
        sys.exit(f"the service that started this (process {parent}) is gone")
    os.execvp(program[0], program)  # noqa: S606  # the program is the operator's own setting


if __name__ == "__main__":
    main(sys.argv[1:])
