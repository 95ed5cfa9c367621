"""Started and stopped as systemd does it."""

import contextlib
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.integration.service import Service, ask

UNIT = Path(__file__).parents[2] / "docs" / "honed.service"
#: Seconds that answers have to finish; then those that never do are cut off.
DRAIN = 2


@contextlib.contextmanager
def stuck(url: str, line: bytes) -> Iterator[None]:
    """A client that asked, reads nothing and never leaves."""
    parts = urlsplit(url)
    with socket.create_connection((parts.hostname, parts.port)) as connection:
        host = f"Host: {parts.hostname}\r\nContent-Length: 100\r\nContent-Type: application/json\r\n\r\n{{"
        connection.sendall(line + b"\r\n" + host.encode())
        time.sleep(0.2)
        yield


@pytest.mark.slow
def test_ready_is_said_and_stopping_and_who_never_finishes_is_cut_off_in_time(
    tiny_model: Path, tmp_path: Path
) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(120)
        overrides = {"NOTIFY_SOCKET": str(tmp_path / "notify"), "HONED_API__DRAIN_SECONDS": str(DRAIN)}
        service = Service(tmp_path / "state", tiny_model, **overrides)
        try:
            assert manager.recv(100) == b"READY=1"
            client = service.wait_until_ready(1.0)
            assert client is not None
            assert ask(client, "hello")["choices"]
            with (
                stuck(client.url, b"GET /v1/events HTTP/1.1"),
                stuck(client.url, b"POST /v1/feedback HTTP/1.1"),
            ):
                service.process.send_signal(signal.SIGTERM)
                assert manager.recv(100) == b"STOPPING=1"
                began = time.monotonic()
                assert service.process.wait(60) == 0
                assert DRAIN <= time.monotonic() - began < DRAIN + 10
        finally:
            service.close()


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="no systemd here to ask")
def test_systemd_thinks_little_of_what_the_unit_exposes() -> None:
    # 10 would be everything; what is left is network, devices (a GPU is one) and compiled kernels.
    command = ["systemd-analyze", "security", "--offline=true", "--no-pager", "--threshold=25", str(UNIT)]
    found = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert found.returncode == 0, found.stdout + found.stderr
