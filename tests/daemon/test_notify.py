"""The messages that systemd waits for, on real sockets."""

import os
import socket
from pathlib import Path

import pytest

from daemon.notify import READY, STOPPING, notify


@pytest.mark.parametrize("abstract", [False, True])
def test_a_message_arrives_in_one_piece(tmp_path: Path, abstract: bool) -> None:
    name = f"honed-{os.getpid()}" if abstract else str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(f"\0{name}" if abstract else name)
        listening.settimeout(5)
        for message in (READY, STOPPING):
            assert notify(message, {"NOTIFY_SOCKET": f"@{name}" if abstract else name})
            assert listening.recv(100).decode() == message


def test_with_nobody_listening_the_service_goes_on(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert not notify(READY, {})
    assert not notify(READY, {"NOTIFY_SOCKET": str(tmp_path / "gone")})
    assert "systemd is not told READY=1" in caplog.text
