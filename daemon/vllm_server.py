"""The `vllm serve` child: started on the loopback interface, started again when it dies, ended with the service.

It knows nothing of adapters: whether the server is well, and what it must hold, is for `policies.vllm_fleet` to find
out over HTTP, as with servers somebody else runs. Its output goes to `vllm.log` in the state directory.
"""

import asyncio
import contextlib
import json
import logging
import os
import shutil
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Mapping
from pathlib import Path
from typing import TypeVar

from daemon import leash
from daemon.config import Config
from daemon.memory import DEVICE_ORDER, resident
from policies.engines import served_dtype
from policies.models import block_linears
from store.errors import ConfigError, EngineUnavailable
from store.files import rename

log = logging.getLogger(__name__)

LOG = "vllm.log"
#: Beside the log: which process the server is, for a service that starts after this one was killed.
RECORD = "vllm.process.json"
#: Bytes at the end of the log in which its last words are looked for.
TAIL = 64 * 1024
#: Seconds a left-over server, once killed, has to be gone and its port free.
PORT_WAIT = 30.0
#: Seconds between SIGTERM and SIGKILL.
GRACE = 15.0
#: Seconds before a server that died is started again, doubling; a life of `WELL` seconds resets it.
FIRST_WAIT, LONGEST_WAIT, WELL = 1.0, 60.0, 300.0
#: Ranks vLLM has kernels for.
RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
#: What `vllm serve` is told besides the operator's own environment.
ENVIRONMENT = {
    "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "1",
    "VLLM_SERVER_DEV_MODE": "1",  # the calls that sleep, wake and free a LoRA slot; the server listens on loopback
    "VLLM_NO_USAGE_STATS": "1",
    "HF_HUB_OFFLINE": "1",
}

T = TypeVar("T")


def check(config: Config) -> None:
    """Hold the settings of a vLLM engine against each other and against this machine.

    Raises:
        ConfigError: too few slots, too small a rank, or no such program.
    """
    engine = config.policies.engine
    if engine.kind != "vllm":
        return
    # The kept ones, the candidate, and one that stays empty.
    needed = config.daemon.keep_loaded + 2
    if engine.max_loras < needed:
        raise ConfigError(
            f"policies.engine.max_loras = {engine.max_loras}: at least {needed} are needed (daemon.keep_loaded "
            f"{config.daemon.keep_loaded}, one for the candidate, one that stays empty)",
            param="policies.engine.max_loras",
        )
    if engine.max_lora_rank != "auto" and engine.max_lora_rank < config.policies.train.rank:
        raise ConfigError(
            f"policies.engine.max_lora_rank = {engine.max_lora_rank}: policies.train.rank is "
            f"{config.policies.train.rank}",
            param="policies.engine.max_lora_rank",
        )
    if engine.spawn and shutil.which(engine.command) is None:
        raise ConfigError(
            f"policies.engine.command = {engine.command!r}: no such program; `pip install honed[vllm]` on a GPU "
            "machine, or see docs/vllm.md",
            param="policies.engine.command",
        )


def command(config: Config, model: Path) -> list[str]:
    """The command line of the server for a model directory."""
    engine = config.policies.engine
    rank = config.policies.train.rank if engine.max_lora_rank == "auto" else engine.max_lora_rank
    limits = json.loads((model / "config.json").read_text())
    context = min(engine.max_context, limits.get("max_position_embeddings", engine.max_context))
    program = shutil.which(engine.command) or engine.command
    return [
        *(str(Path(program).absolute()), "serve", str(model.absolute())),
        *("--host", "127.0.0.1", "--port", str(engine.port)),
        *("--served-model-name", "base", "--generation-config", "vllm"),
        *("--max-model-len", str(context), "--max-num-seqs", str(engine.max_batch)),
        *("--enable-lora", "--max-loras", str(engine.max_loras), "--max-cpu-loras", str(engine.max_loras)),
        # Without it vLLM adapts the output head as well, and prompt log-probabilities then break its CPU kernels.
        *("--lora-target-modules", *block_linears(model)),
        *("--max-lora-rank", str(next((known for known in RANKS if known >= rank), rank))),
        *("--dtype", served_dtype(engine)),
        *("--gpu-memory-utilization", str(engine.gpu_memory_fraction)),
        *("--uvicorn-log-level", "warning"),
        *(("--enable-sleep-mode",) if engine.share == "sleep" else ()),
        *engine.arguments,
    ]


def check_port(port: int) -> None:
    """Whoever has the port already would be taken for the server.

    Raises:
        ConfigError: somebody has it.
    """
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise ConfigError(
                f"policies.engine.port = {port}: cannot listen on 127.0.0.1: {error.strerror}",
                param="policies.engine.port",
            ) from error


async def take_port(port: int, record: Path) -> None:
    """End what a service that was killed left behind, and wait for its port; the state directory's lock is held.

    Raises:
        ConfigError: somebody else has the port, or what was left behind cannot be ended.
    """
    group = leash.left_over(record)
    if group is not None:
        log.warning("ending the vLLM server (process %d) of a honed service that was killed", group)
        # It was sent SIGTERM when its service went (daemon.leash), and nobody is left whom it could answer.
        _signal_group(group, signal.SIGKILL)
        until = time.monotonic() + PORT_WAIT
        while time.monotonic() < until and (leash.lives(group) or not is_free(port)):
            await asyncio.sleep(0.1)
    check_port(port)


def is_free(port: int) -> bool:
    try:
        check_port(port)
    except ConfigError:
        return False
    return True


class VllmServer:
    """Keeps one server running. Implements `policies.vllm_fleet.Host`."""

    def __init__(self, program: list[str], log_file: Path, environment: Mapping[str, str]) -> None:
        self._program, self._log_file, self._environment = program, log_file, dict(environment)
        self._record = log_file.with_name(RECORD)
        self._child: asyncio.subprocess.Process | None = None
        self._keeper: asyncio.Task[None] | None = None
        self._deaths = 0

    async def start(self) -> None:
        """Start the process, and begin to look after it."""
        await self._spawn()
        self._keeper = asyncio.create_task(self._keep(), name="vllm server")

    async def close(self) -> None:
        keeper, self._keeper = self._keeper, None
        if keeper is not None:
            keeper.cancel()
            await asyncio.gather(keeper, return_exceptions=True)
        await self._stop()

    @property
    def pid(self) -> int | None:
        return self._child.pid if self._child is not None and self._child.returncode is None else None

    def memory(self) -> int:
        """Bytes resident in the server's processes."""
        return resident(self.pid) if self.pid is not None else 0

    async def restart(self, reason: str) -> None:
        """Stop the process; whoever looks after it starts the next at once."""
        log.warning("restarting the vLLM server: %s", reason)
        self._deaths = 0
        await self._stop()

    async def during(self, work: Awaitable[T]) -> T:
        """Wait for something that needs the server, unless the server dies first.

        Raises:
            EngineUnavailable: it died; its last words are in the message.
        """
        working, child = asyncio.ensure_future(work), self._child
        if child is None:
            working.cancel()
            raise EngineUnavailable(f"the vLLM server is not running: {self._last_words()}")
        dying = asyncio.create_task(child.wait())
        try:
            await asyncio.wait({working, dying}, return_when=asyncio.FIRST_COMPLETED)
            if working.done():
                return working.result()
            raise EngineUnavailable(
                f"the vLLM server ended with status {child.returncode} while starting: {self._last_words()} "
                f"(all of it is in {self._log_file})"
            )
        finally:
            for task in (working, dying):
                task.cancel()
            await asyncio.gather(working, dying, return_exceptions=True)

    async def _spawn(self) -> None:
        if self._log_file.is_file():
            rename(self._log_file, self._log_file.with_suffix(".log.1"))
        with self._log_file.open("wb") as output:
            self._child = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "daemon.leash", str(os.getpid()), *self._program),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
                cwd=Path(__file__).resolve().parent.parent,
                env=self._environment,
            )
        log.info("vLLM server started (process %d, output in %s)", self._child.pid, self._log_file)
        try:
            leash.remember(self._child.pid, self._record)
        except OSError as error:  # a server that runs is worth more than a record of it
            log.warning("cannot write %s: %s", self._record, error)

    async def _keep(self) -> None:
        while True:
            child, began = self._child, time.monotonic()
            if child is not None:
                status = await child.wait()
                # What it started dies with it: a worker left behind would keep the GPU's memory and the next out.
                _signal_group(child.pid, signal.SIGKILL)
                log.warning("the vLLM server ended with status %s: %s", status, self._last_words())
                self._child = None  # its number may be a stranger's by the next round
            self._deaths = 1 if time.monotonic() - began > WELL else self._deaths + 1
            await asyncio.sleep(min(LONGEST_WAIT, FIRST_WAIT * 2 ** (self._deaths - 1)))
            try:
                await self._spawn()
            except OSError as error:  # a full disk, too many processes: they pass
                log.error("the vLLM server cannot be started, trying again: %s", error)

    async def _stop(self) -> None:
        child = self._child
        if child is None:
            return
        for signum in (signal.SIGTERM, signal.SIGKILL):
            if child.returncode is not None:
                break
            _signal_group(child.pid, signum)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(child.wait(), GRACE)
        _signal_group(child.pid, signal.SIGKILL)

    def _last_words(self) -> str:
        try:
            with self._log_file.open("rb") as file:
                file.seek(max(0, file.seek(0, os.SEEK_END) - TAIL))
                lines = file.read(TAIL).decode(errors="replace").split("\n")
        except OSError:
            lines = []
        said = [line.strip() for line in lines if line.strip()]
        telling = [line for line in said if "Error" in line and "WARNING" not in line]
        return (telling or said or ["it wrote nothing"])[-1][-400:]


def _signal_group(group: int, signum: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, signum)


@contextlib.asynccontextmanager
async def model_server(config: Config, model: Path) -> AsyncIterator[VllmServer | None]:
    """The server for the length of a block, if the configuration asks for one."""
    engine = config.policies.engine
    if engine.kind != "vllm" or not engine.spawn:
        yield None
        return
    await take_port(engine.port, config.store.directory / RECORD)
    own = {name: value for name, value in os.environ.items() if not name.startswith("HONED_")}
    environment = {**DEVICE_ORDER, **own, **ENVIRONMENT}
    server = VllmServer(command(config, model), config.store.directory / LOG, environment)
    await server.start()
    try:
        yield server
    finally:
        await server.close()
