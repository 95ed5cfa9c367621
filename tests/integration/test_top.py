"""`honed top` in a real terminal, on a real service."""

import os
import pty
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.integration.service import ask, running

pytestmark = pytest.mark.slow


def read_until(terminal: int, words: list[str], seconds: float = 60.0) -> str:
    """What came on the screen, once it has all these words."""
    limit, seen = time.monotonic() + seconds, ""
    while time.monotonic() < limit:
        if select.select([terminal], [], [], 0.2)[0]:
            seen += os.read(terminal, 65536).decode(errors="replace")
        if all(word in seen for word in words):
            return seen
    raise AssertionError(f"not within {seconds} s: {words}\n{seen[-3000:]}")


def test_the_screen_follows_the_service_until_interrupted(tiny_model: Path, tmp_path: Path) -> None:
    with running(tmp_path / "state", tiny_model) as service:
        client = service.wait_until_ready()
        assert client is not None, service.tail()
        ours, theirs = pty.openpty()
        command = [sys.executable, "-m", "daemon", "top", "--url", client.url, "--interval", "0.2"]
        environment = {**os.environ, "TERM": "xterm", "COLUMNS": "120", "LINES": "40"}
        watching = subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, env=environment)
        os.close(theirs)
        try:
            read_until(ours, ["base by hf, ready", "no iteration yet", "waits for"])
            ask(client, "hello")
            read_until(ours, ["answers                            1 "])
            watching.send_signal(signal.SIGINT)
            read_until(ours, ["\x1b[?1049l"])  # the terminal is given back as it was
            assert watching.wait(20) == 0
        finally:
            watching.kill()
            watching.wait()
            os.close(ours)
