"""Processes of honed that begin in milliseconds: forked from one that has imported everything and computed nothing.

A service takes seconds to import, which is most of what a test costs that starts hundreds. Here the importing is done
once. What is forked runs the same entry points (`honed ...`, `python -m policies.train`) in a process of its own,
with an environment, a log and a session of its own, and can be killed.

A service must not fork its trainer (torch has computed in it by then), so it asks a `Nest`, forked before anything
was computed. The kernel would tie a trainer to the nest and not to the service, so a thread in it watches that.
"""

import asyncio
import contextlib
import ctypes
import gc
import importlib
import json
import os
import select
import selectors
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from unittest.mock import patch

from store.failpoints import PARENT
from tests.integration.service import ROOT

#: What they import before they work, or at their first request.
IMPORTED = (
    *("daemon.cli", "daemon.serve", "daemon.backup", "daemon.export", "daemon.forget", "daemon.views"),
    *("policies.train", "policies.hf_engine", "transformers.models.llama.modeling_llama"),
    *("uvicorn.protocols.http.auto", "uvicorn.protocols.http.h11_impl", "uvicorn.protocols.websockets.auto"),
    *("uvicorn.lifespan.on", "uvicorn.loops.asyncio", "apscheduler.triggers.interval", "daemon.logs"),
)


_LIBC = ctypes.CDLL(None)
_PR_SET_PDEATHSIG = 1


class Forked:
    """A forked process, which tells of itself as `subprocess.Popen` does."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.returncode: int | None = None

    def poll(self) -> int | None:
        if self.returncode is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.returncode = os.waitstatus_to_exitcode(status)
        return self.returncode

    def wait(self, seconds: float) -> int:
        limit = time.monotonic() + seconds
        while self.poll() is None:
            if time.monotonic() > limit:
                raise AssertionError(f"process {self.pid} still runs after {seconds:g} s")
            time.sleep(0.005)
        assert self.returncode is not None
        return self.returncode

    def send_signal(self, signum: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, signum)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)
        self.wait(30)


def warm_up() -> None:
    """Import all that a service, a trainer and the commands import, and keep the collector off it."""
    for name in IMPORTED:
        importlib.import_module(name)
    gc.collect()
    gc.freeze()


def fork(main: Callable[[], int | None], environment: Mapping[str, str], log: Path) -> Forked:
    """Run `main` in a new process, which ends with what it returns. Call it from a process that has one thread."""
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid:
        return Forked(pid)
    status = 1
    try:
        os.setsid()
        if sys.platform == "linux":
            _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)  # whoever ends this all leaves nothing running
        output = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        for fd in (1, 2):
            os.dup2(output, fd)
        os.environ.clear()
        os.environ.update(environment)
        os.chdir(ROOT)
        status = main() or 0
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        with contextlib.suppress(OSError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(status)


def command(*arguments: str) -> Callable[[], int | None]:
    """`honed ...` as a process's main function."""

    def main() -> None:
        from daemon.cli import main as honed

        sys.argv = ["honed", *arguments]
        honed()

    return main


def service(nest: Path) -> Callable[[], int | None]:
    """`honed serve`, whose trainers come from the nest at this socket."""

    def main() -> None:
        hatch = hatching(nest, asyncio.create_subprocess_exec)
        with patch.object(asyncio, "create_subprocess_exec", hatch):
            command("serve")()

    return main


class Hatched:
    """A trainer of the nest, which tells of itself as `asyncio.subprocess.Process` does."""

    def __init__(self, pid: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.pid = pid
        self.returncode: int | None = None
        self._writer = writer
        self._ended = asyncio.ensure_future(self._follow(reader))

    async def _follow(self, reader: asyncio.StreamReader) -> int:
        line = await reader.readline()
        self.returncode = int(line) if line else -signal.SIGKILL
        self._writer.close()
        return self.returncode

    async def wait(self) -> int:
        return await asyncio.shield(self._ended)


def hatching(nest: Path, otherwise: Callable[..., Any]) -> Callable[..., Any]:
    """`asyncio.create_subprocess_exec`, but that the trainer comes from the nest."""

    async def create(*words: str, **options: Any) -> Any:
        if "policies.train" not in words:
            return await otherwise(*words, **options)
        reader, writer = await asyncio.open_unix_connection(str(nest))
        order = {
            "run": words[-1],
            "log": options["stdout"].name,
            "environment": dict(options["env"]),
            "service": os.getpid(),
        }
        writer.write(json.dumps(order).encode() + b"\n")
        return Hatched(int(await reader.readline()), reader, writer)

    return create


class Nest:
    """A process that forks trainers on demand and tells how each ended."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "nest.socket"
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(self.path))
        listener.listen()
        self.process = fork(lambda: hatch_for_ever(listener), os.environ, folder / "nest.log")
        listener.close()


def hatch_for_ever(listener: socket.socket) -> None:
    looking = selectors.DefaultSelector()
    looking.register(listener, selectors.EVENT_READ)
    while True:
        for key, _ in looking.select():
            if key.fileobj is listener:
                connection, _ = listener.accept()
                order = json.loads(connection.makefile().readline())
                child = hatch(order)
                with contextlib.suppress(OSError):
                    connection.sendall(b"%d\n" % child.pid)
                looking.register(os.pidfd_open(child.pid), selectors.EVENT_READ, (child, connection))
            else:
                child, connection = key.data
                looking.unregister(key.fileobj)
                os.close(key.fd)
                with contextlib.suppress(OSError):  # the service may have gone first
                    connection.sendall(b"%d\n" % child.wait(30))
                connection.close()


def hatch(order: dict[str, Any]) -> Forked:
    environment = {**order["environment"], PARENT: str(os.getpid())}

    def main() -> int:
        from policies.train import main as train

        threading.Thread(target=die_with, args=(order["service"],), daemon=True).start()
        return train([order["run"]])

    return fork(main, environment, Path(order["log"]))


def die_with(pid: int) -> None:
    """SIGKILL for this process as soon as that one is gone."""
    with contextlib.suppress(ProcessLookupError):
        select.select([os.pidfd_open(pid)], [], [])
    os.kill(os.getpid(), signal.SIGKILL)
