"""What the doctor says of the servers of a vLLM engine."""

import http.server
import json
import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from daemon import doctor
from daemon.config import Config
from daemon.state_files import SERVICE
from daemon.vllm_server import RECORD
from tests.daemon.left import hanging


def config(directory: Path, **engine: Any) -> Config:
    policies = {"engine": {"kind": "vllm", **engine}}
    return Config.model_validate({"store": {"directory": directory}, "policies": policies})


class Healthy(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200 if self.path == "/health" else 404)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def healthy() -> Iterator[str]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Healthy) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_another_engine_has_no_servers(tmp_path: Path) -> None:
    assert doctor.vllm(Config.model_validate({"store": {"directory": tmp_path}})) == []


def test_a_taken_engine_port_is_found(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        number = taken.getsockname()[1]
        (found,) = doctor.vllm(config(tmp_path, port=number))
        assert not found["ok"] and str(number) in found["detail"]
        assert "policies.engine.port" in found["remedy"]
    (found,) = doctor.vllm(config(tmp_path, port=number))
    assert found["ok"] and found["detail"] == f"127.0.0.1:{number} is free"


def test_honeds_own_server_may_have_the_port(tmp_path: Path) -> None:
    with hanging(tmp_path / RECORD) as (pid, port):
        (left,) = doctor.vllm(config(tmp_path, port=port))
        assert left["ok"] and f"pid {pid}" in left["detail"] and "a start ends it" in left["detail"]
        (tmp_path / SERVICE).write_text(json.dumps({"pid": os.getpid(), "url": "http://127.0.0.1:1"}))
        (own,) = doctor.vllm(config(tmp_path, port=port))
        assert own["ok"] and "runs" in own["detail"]


def test_each_address_is_asked_for_its_health(
    tmp_path: Path, healthy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "HEALTH_TIMEOUT", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as closed:
        gone = f"http://127.0.0.1:{closed.getsockname()[1]}"
    with socket.create_server(("127.0.0.1", 0)) as silent:
        silence = f"http://127.0.0.1:{silent.getsockname()[1]}"
        found = doctor.vllm(config(tmp_path, spawn=False, urls=[healthy, gone, silence]))
    assert [row["ok"] for row in found] == [True, False, False]
    assert gone in found[1]["detail"] and found[2]["detail"] == f"{silence} has not answered in 0.5 s"
    assert "policies.engine.urls" in found[1]["remedy"]
