"""A server that hangs, as a service that was killed leaves it: it listens, heeds no SIGTERM, and is recorded."""

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from daemon import leash

_CODE = (
    "import os, signal, socket, time\n"
    "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
    "listener = socket.create_server(('127.0.0.1', 0))\n"
    "if os.fork():\n"  # the other one is a worker
    "    print(listener.getsockname()[1], flush=True)\n"
    "time.sleep(600)\n"
)


@contextlib.contextmanager
def hanging(record: Path) -> Iterator[tuple[int, int]]:
    """Process number and port."""
    with subprocess.Popen(
        [sys.executable, "-c", _CODE], start_new_session=True, stdout=subprocess.PIPE, text=True
    ) as child:
        try:
            assert child.stdout is not None
            port = int(child.stdout.readline())
            leash.remember(child.pid, record)
            yield child.pid, port
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)
