"""The server's command line, what is refused before it starts, and a process that is kept running."""

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from daemon import leash, memory, vllm_server
from daemon.config import Config
from daemon.vllm_server import (
    LOG,
    RECORD,
    TAIL,
    VllmServer,
    check,
    check_port,
    command,
    model_server,
    take_port,
)
from policies.config import EngineConfig
from store.errors import ConfigError, EngineUnavailable
from tests.daemon.left import hanging


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


@pytest.mark.parametrize(
    "engine",
    [
        {"urls": ["http://me:word@10.0.0.1:8000"]},
        {"urls": ["me:word@10.0.0.1"]},
        {"arguments": ["--api-key", "s"]},
        {"arguments": ["--api_key=s"]},
        {"arguments": ["--api-k=s"]},
    ],
)
def test_a_secret_is_sent_to_the_environment(engine: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="VLLM_API_KEY"):
        EngineConfig(kind="vllm", **engine)


def test_arguments_like_a_secret_are_no_secret() -> None:
    assert EngineConfig(kind="vllm", arguments=["--api-server-count", "2"]).arguments


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


def test_the_model_settings_are_read_for_the_context(tiny_model: Path) -> None:
    limits = json.loads((tiny_model / "config.json").read_text())["max_position_embeddings"]
    line = command(config(max_context=10 * limits), tiny_model)
    assert line[line.index("--max-model-len") + 1] == str(limits)


def test_what_a_killed_service_left_hanging_is_ended_and_its_port_free(tmp_path: Path) -> None:
    with hanging(tmp_path / RECORD) as (pid, port):
        with pytest.raises(ConfigError, match="policies.engine.port"):
            check_port(port)
        asyncio.run(take_port(port, tmp_path / RECORD))
        check_port(port)
        assert not leash.lives(pid)


def test_a_hung_server_outlives_its_killed_service_but_not_the_next_start(tmp_path: Path) -> None:
    """The leash's SIGTERM is not heeded; the record the killed service left is what ends the server."""
    server = (
        "import signal, socket, time\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "s = socket.create_server(('127.0.0.1', 0))\nprint(s.getsockname()[1], flush=True)\ntime.sleep(60)\n"
    )
    service = (
        "import asyncio, os, sys, time\nfrom pathlib import Path\nfrom daemon.vllm_server import VllmServer\n"
        "async def main():\n"
        "    await VllmServer([sys.executable, '-c', sys.argv[2]], Path(sys.argv[1]), os.environ).start()\n"
        "    while not Path(sys.argv[1]).read_text().strip():\n        time.sleep(0.05)\n"
        "    os.kill(os.getpid(), 9)\n"
        "asyncio.run(main())\n"
    )
    output = tmp_path / LOG
    line = [sys.executable, "-c", service, str(output), server]
    subprocess.run(line, cwd=Path(__file__).parents[2], timeout=60, check=False)
    port, left = int(output.read_text()), leash.left_over(tmp_path / RECORD)
    assert left is not None
    with pytest.raises(ConfigError):
        check_port(port)
    asyncio.run(take_port(port, tmp_path / RECORD))
    assert not leash.lives(left)


def test_a_stranger_of_the_same_number_is_let_be_and_told_of_at_once(tmp_path: Path) -> None:
    with hanging(tmp_path / RECORD) as (pid, port):
        row = json.loads((tmp_path / RECORD).read_text())
        (tmp_path / RECORD).write_text(json.dumps({**row, "started": "an earlier boot 1"}))
        with pytest.raises(ConfigError, match=f"policies.engine.port = {port}"):
            asyncio.run(asyncio.wait_for(take_port(port, tmp_path / RECORD), 5))
        assert leash.lives(pid)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"pid": "x", "started": 1}', '{"pid": 1}'])
def test_a_damaged_record_is_no_record(tmp_path: Path, text: str) -> None:
    (tmp_path / RECORD).write_text(text)
    assert leash.left_over(tmp_path / RECORD) is None


def test_a_start_ends_what_was_left_and_records_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = [sys.executable, "-c", "import os, time; print(dict(os.environ), flush=True); time.sleep(600)"]
    monkeypatch.setattr(vllm_server, "command", lambda *_: program)
    record = tmp_path / RECORD

    async def scene(port: int) -> int | None:
        table = {"store": {"directory": tmp_path}, "policies": {"engine": {"kind": "vllm", "port": port}}}
        async with model_server(Config.model_validate(table), tmp_path) as server, asyncio.timeout(20):
            assert server is not None and leash.left_over(record) == server.pid
            while "CUDA_DEVICE_ORDER" not in (tmp_path / LOG).read_text():
                await asyncio.sleep(0.05)
            return server.pid

    with hanging(record) as (left, port):
        assert asyncio.run(scene(port)) != left
        assert not leash.lives(left)
    assert "'CUDA_DEVICE_ORDER': 'PCI_BUS_ID'" in (tmp_path / LOG).read_text()
    assert leash.left_over(record) is None


def test_a_server_that_cannot_be_started_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(vllm_server, "FIRST_WAIT", 0.01)

    async def scene() -> None:
        server = sleeper(tmp_path)
        await server.start()
        first = await until_other(server, None)
        start, failures = (
            asyncio.create_subprocess_exec,
            iter([OSError(28, "disk full"), OSError(11, "again")]),
        )

        async def failing(*words: Any, **named: Any) -> Any:
            for failure in failures:
                raise failure
            return await start(*words, **named)

        monkeypatch.setattr(asyncio, "create_subprocess_exec", failing)
        os.kill(first, signal.SIGKILL)
        await until_other(server, first)
        await server.close()

    asyncio.run(scene())
    assert "disk full" in caplog.text and "again" in caplog.text


def test_a_record_that_cannot_be_written_costs_no_server(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / RECORD).mkdir()

    async def scene() -> None:
        server = sleeper(tmp_path)
        await server.start()
        assert server.pid is not None
        await server.close()

    asyncio.run(scene())
    assert "cannot write" in caplog.text


def test_last_words_are_looked_for_at_the_end_of_the_log(tmp_path: Path) -> None:
    server = sleeper(tmp_path)
    assert server._last_words() == "it wrote nothing"
    (tmp_path / "vllm.log").write_text("OldError: long ago\n" + "é" * TAIL + "\nlast\n")
    assert server._last_words() == "last"
    with (tmp_path / "vllm.log").open("a") as file:
        file.write("ValueError: now\nbye\n")
    assert server._last_words() == "ValueError: now"
