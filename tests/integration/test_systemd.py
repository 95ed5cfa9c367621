"""Started and stopped as systemd does it."""

import signal
import socket
from pathlib import Path

import pytest

from tests.integration.service import Service, ask

pytestmark = pytest.mark.slow


def test_ready_is_said_when_it_answers_and_stopping_before_it_ends(tiny_model: Path, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(120)
        service = Service(tmp_path / "state", tiny_model, NOTIFY_SOCKET=str(tmp_path / "notify"))
        try:
            assert manager.recv(100) == b"READY=1"
            client = service.wait_until_ready(1.0)
            assert client is not None
            assert ask(client, "hello")["choices"]
            service.process.send_signal(signal.SIGTERM)
            assert manager.recv(100) == b"STOPPING=1"
            assert service.process.wait(60) == 0
        finally:
            service.close()
