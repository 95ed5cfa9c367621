"""The server's command line, what is refused before it starts, and a process that is kept running."""

import asyncio
import json
import os
import signal
import socket
import sys
from pathlib import Path
from typing import Any

import pytest

from daemon import memory
from daemon.config import Config
from daemon.vllm_server import VllmServer, check, check_port, command
from policies.config import EngineConfig
from store.errors import ConfigError, EngineUnavailable, TrainingFailed


def config(daemon: dict[str, Any] | None = None, **engine: Any) -> Config:
    settings = {"kind": "vllm", "command": sys.executable, **engine}
    return Config.model_validate({"daemon": daemon or {}, "policies": {"engine": settings}})


@pytest.mark.parametrize(
    ("wrong", "field"),
    [
        ({"daemon": {"keep_loaded": 4}}, "policies.engine.max_loras = 5: at least 6"),
        ({"max_lora_rank": 8}, "policies.engine.max_lora_rank = 8: policies.train.rank is 16"),
        ({"command": "no-such-vllm"}, "policies.engine.command = 'no-such-vllm'"),
    ],
)
def test_settings_that_cannot_work_are_named(wrong: dict[str, Any], field: str) -> None:
    with pytest.raises(ConfigError, match=field):
        check(config(**wrong))


@pytest.mark.parametrize(
    "engine", [{"spawn": False}, {"urls": ["10.0.0.1:8000"]}, {"urls": ["http://127.0.0.1:8100/"]}]
)
def test_addresses_are_there_whole_and_once(engine: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="urls|http"):
        EngineConfig(kind="vllm", **engine)


def test_the_started_server_is_the_first_of_the_rotation() -> None:
    engine = EngineConfig(kind="vllm", port=9000, urls=["http://10.0.0.1:8000/"])
    assert engine.servers() == ("http://127.0.0.1:9000", "http://10.0.0.1:8000")


def test_the_command_line_leaves_a_slot_and_the_output_head_alone(tiny_model: Path) -> None:
    line = command(config(arguments=["--enforce-eager"], dtype="float32"), tiny_model)
    assert line[line.index("--dtype") + 1] == "float32"
    assert line[line.index("--max-loras") + 1] == "5"
    assert line[line.index("--max-lora-rank") + 1] == "16"
    assert line[line.index("--host") + 1] == "127.0.0.1"
    targets = line[line.index("--lora-target-modules") + 1 : line.index("--max-lora-rank")]
    assert set(targets) == {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}
    assert line[-1] == "--enforce-eager"
    assert "--enable-sleep-mode" not in line
    assert "--enable-sleep-mode" in command(config(share="sleep"), tiny_model)


def test_a_taken_port_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=f"policies.engine.port = {port}"):
            check_port(port)


def sleeper(
    tmp_path: Path, code: str = "import time; print('here', flush=True); time.sleep(600)"
) -> VllmServer:
    return VllmServer([sys.executable, "-c", code], tmp_path / "vllm.log", os.environ)


async def until_other(server: VllmServer, than: int | None) -> int:
    async with asyncio.timeout(20):
        while server.pid in (None, than):
            await asyncio.sleep(0.05)
    assert server.pid is not None
    return server.pid


def test_a_process_that_dies_is_started_again_and_ends_with_its_keeper(tmp_path: Path) -> None:
    async def scene() -> int:
        server = sleeper(tmp_path)
        await server.start()
        first = await until_other(server, None)
        os.kill(first, signal.SIGKILL)
        second = await until_other(server, first)
        assert server.memory() > 0
        await server.restart("a test wants it")
        third = await until_other(server, second)
        await server.close()
        return third

    last = asyncio.run(scene())
    assert not Path(f"/proc/{last}").exists()
    assert memory.resident(last) == 0


def test_a_process_that_cannot_start_says_why(tmp_path: Path) -> None:
    async def scene() -> None:
        server = sleeper(tmp_path, "raise ValueError('no such flag')")
        await server.start()
        try:
            await server.during(asyncio.sleep(20))
        finally:
            await server.close()

    with pytest.raises(EngineUnavailable, match="no such flag"):
        asyncio.run(scene())


def test_a_leashed_program_ends_with_the_service(tmp_path: Path) -> None:
    """A service killed outright still takes its server along."""
    code = (
        "import asyncio, os, sys\nfrom pathlib import Path\nfrom daemon.vllm_server import VllmServer\n"
        "async def main():\n"
        "    s = VllmServer([sys.executable, '-c', 'import time; time.sleep(600)'], Path(sys.argv[1]), os.environ)\n"
        "    await s.start()\n    await asyncio.sleep(1)\n    print(s.pid, flush=True)\n    os.kill(os.getpid(), 9)\n"
        "asyncio.run(main())\n"
    )

    async def scene() -> int:
        child = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-c", code, str(tmp_path / "vllm.log")),
            stdout=asyncio.subprocess.PIPE,
            cwd=Path(__file__).parents[2],
        )
        said, _ = await child.communicate()
        pid = int(said)
        async with asyncio.timeout(10):
            while memory.resident(pid):
                await asyncio.sleep(0.05)
        return pid

    assert asyncio.run(scene())


@pytest.mark.parametrize(("said", "free"), [("1024\n2048\n", 2**30), ("[N/A]", None), ("", None)])
def test_free_gpu_memory_is_read_from_nvidia_smi(said: str, free: int | None) -> None:
    assert memory.parse_free(said) == free


def test_too_little_free_memory_stops_a_training_before_it_begins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    asyncio.run(memory.require_free(1))
    with pytest.raises(TrainingFailed, match="policies.train.free_memory_mb"):
        asyncio.run(memory.require_free(2**40))


def test_the_model_settings_are_read_for_the_context(tiny_model: Path) -> None:
    limits = json.loads((tiny_model / "config.json").read_text())["max_position_embeddings"]
    line = command(config(max_context=10 * limits), tiny_model)
    assert line[line.index("--max-model-len") + 1] == str(limits)
