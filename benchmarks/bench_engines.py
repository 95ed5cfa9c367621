"""Chat on a CPU through honed's embedded engine, and through what one would use instead, in one run.

All answer with the same model, in float32, greedy, so many new tokens, prompt included in the time, and take turns;
the median of the turns counts. One client: transformers' `generate`. Eight at once: its continuous batching,
and vLLM's CPU build where `--vllm` names its program. `--llama` names the Python of an environment with `xllamacpp`:
llama.cpp computes on the four-bit file that the embedded model comes as, with eight-bit arithmetic, so it is shown
and not compared with. honed, vLLM and llama.cpp are asked over HTTP, transformers in this process. Prints a table and
writes benchmarks/results/engines.json.

    python -m benchmarks.bench_engines --vllm .venv-vllm/bin/vllm --llama .venv-llama/bin/python
"""

import argparse
import asyncio
import json
import os
import socket
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import torch

from benchmarks.bench_chat import bare_speed, load_bare
from benchmarks.bench_serving import turn
from daemon.simulate import service
from policies.config import EngineConfig
from policies.cores import usable_cores
from policies.engines import resolve_base
from policies.models import BUNDLED, locate_bundled

RESULTS = Path(__file__).parent / "results" / "engines.json"
#: honed's tokens per second against the better of what it is compared with, by number of clients.
FLOORS = {1: 1.5, 8: 1.0}
START_LIMIT = 900.0

#: New tokens per second of so many clients at once; `offset` makes their prompts others than before.
Speed = Callable[[int, int], float]


@dataclass(frozen=True, slots=True)
class Way:
    """One way to chat: which numbers of clients it is asked with, and whether honed is held against it."""

    name: str
    speed: Speed
    clients: tuple[int, ...] = (1, 8)
    compared: bool = True


def over_http(url: str, model: str, tokens: int) -> Speed:
    """Streamed chats, all at once."""

    def speed(clients: int, offset: int) -> float:
        return asyncio.run(turn(url, model, clients, tokens=tokens, offset=offset))["tokens_per_second"]

    return speed


def generate(model: Any, prompt: list[int], tokens: int) -> Speed:
    """transformers' `generate`, one request."""

    def speed(clients: int, offset: int) -> float:
        del clients, offset
        return bare_speed(model, prompt, tokens)

    return speed


def continuous(model: Any, prompt: list[int], tokens: int) -> Speed:
    """transformers' continuous batching, all requests handed over at once, in a cache no larger than they need."""
    from transformers import ContinuousBatchingConfig, GenerationConfig

    asked = GenerationConfig(max_new_tokens=tokens, do_sample=False, eos_token_id=-1, pad_token_id=0)

    def speed(clients: int, offset: int) -> float:
        del offset
        fits = ContinuousBatchingConfig(
            page_size=32, num_blocks=clients * ((len(prompt) + tokens) // 32 + 2), max_batch_tokens=512
        )
        began = time.perf_counter()
        found = model.generate_batch(
            [prompt] * clients, generation_config=asked, continuous_batching_config=fits, warmup=False
        )
        return sum(len(one.generated_tokens) for one in found.values()) / (time.perf_counter() - began)

    return speed


@contextmanager
def listening(command: list[str], port: int, log: Path, **environment: str) -> Iterator[str]:
    """A server process and its address, once it answers."""
    with log.open("ab") as output:
        child = subprocess.Popen(command, env={**os.environ, **environment}, stdout=output, stderr=output)
    url, limit = f"http://127.0.0.1:{port}", time.monotonic() + START_LIMIT
    try:
        while not answers(url):
            if child.poll() is not None or time.monotonic() > limit:
                raise SystemExit(f"{command[0]} does not answer:\n{log.read_text(errors='replace')[-3000:]}")
            time.sleep(0.5)
        yield url
    finally:
        child.terminate()
        child.wait(60)


def answers(url: str) -> bool:
    """Whether a server lists its models."""
    try:
        return httpx.get(f"{url}/v1/models", trust_env=False, timeout=5).status_code == 200
    except httpx.TransportError:
        return False


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port: int = taken.getsockname()[1]
        return port


def vllm(
    program: str, arguments: list[str], directory: Path, threads: int, port: int
) -> tuple[list[str], dict[str, str]]:
    """vLLM's command and environment, for as many threads as honed has."""
    command = [program, "serve", str(directory), "--served-model-name", "base", "--port", str(port)]
    command += ["--dtype", "float32", "--max-model-len", "2048", "--max-num-seqs", "16", *arguments]
    bound = {"VLLM_CPU_OMP_THREADS_BIND": "nobind", "VLLM_CPU_KVCACHE_SPACE": "2"}
    return command, {"OMP_NUM_THREADS": str(threads), **bound}


def llama(python: str, threads: int, port: int) -> list[str]:
    """llama.cpp's server on the embedded model's own file."""
    server = Path(__file__).with_name("llama_server.py")
    model = locate_bundled(next(iter(BUNDLED)))
    return [python, str(server), str(model), "--port", str(port), "--threads", str(threads)]


def measure(ways: list[Way], rounds: int) -> dict[int, dict[str, list[float]]]:
    """By number of clients and way, a speed per round. Each way goes first in turn; a first round only warms up."""
    found: dict[int, dict[str, list[float]]] = {}
    offset = 0
    for clients in FLOORS:
        asked = [way for way in ways if clients in way.clients]
        found[clients] = {way.name: [] for way in asked}
        for number in range(rounds + 1):
            first = number % len(asked)
            for way in asked[first:] + asked[:first]:
                offset += clients
                speed = way.speed(clients, offset)
                if number:
                    found[clients][way.name].append(speed)
    return found


def report(ways: list[Way], found: dict[int, dict[str, list[float]]]) -> list[dict[str, Any]]:
    """Medians, and honed's against the best of what it is compared with."""
    compared = {way.name for way in ways if way.compared}
    rows = []
    for clients, speeds in found.items():
        medians = {name: statistics.median(values) for name, values in speeds.items()}
        best = max((name for name in medians if name in compared), key=lambda name: medians[name])
        ratio = medians["honed"] / medians[best]
        rows.append(
            {
                "clients": clients,
                "medians": medians,
                "best": best,
                "ratio": ratio,
                "floor": FLOORS[clients],
                "turns": speeds,
            }
        )
    return rows


@contextmanager
def everybody(chosen: argparse.Namespace, folder: Path) -> Iterator[list[Way]]:
    """All ways, their servers running. The first is honed."""
    directory, _ = resolve_base(EngineConfig(), chosen.state or folder)
    settings = {
        "HONED_POLICIES__ENGINE__MODEL": str(directory.resolve()),
        "HONED_POLICIES__ENGINE__THREADS": str(chosen.threads),
    }
    (folder / "state").mkdir()
    model, prompt = load_bare(directory)
    with ExitStack() as running:
        client = running.enter_context(service(folder / "state", **settings))
        ways = [
            Way("honed", over_http(client.url, "base", chosen.tokens), compared=False),
            Way("transformers generate", generate(model, prompt, chosen.tokens), (1,)),
            Way("transformers continuous", continuous(model, prompt, chosen.tokens), (8,)),
        ]
        if chosen.vllm:
            port = free_port()
            command, environment = vllm(
                chosen.vllm, json.loads(chosen.arguments), directory, chosen.threads, port
            )
            url = running.enter_context(listening(command, port, folder / "vllm.log", **environment))
            ways.append(Way("vLLM", over_http(url, "base", chosen.tokens), (8,)))
        if chosen.llama:
            port = free_port()
            url = running.enter_context(
                listening(llama(chosen.llama, chosen.threads, port), port, folder / "llama.log")
            )
            ways.append(Way("llama.cpp, 4 bits", over_http(url, "base", chosen.tokens), compared=False))
        yield ways


def main() -> None:
    """Measure, print, write; exit 1 if a floor is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--vllm", help="vLLM's program")
    parser.add_argument("--arguments", default="[]", help="further arguments of `vllm serve`, as JSON")
    parser.add_argument("--llama", help="Python of an environment with xllamacpp")
    parser.add_argument("--tokens", type=int, default=64, help="new tokens per answer")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=usable_cores())
    parser.add_argument("--state", type=Path, help="state directory that has the converted model")
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    with (
        tempfile.TemporaryDirectory(prefix="honed-bench-") as folder,
        everybody(chosen, Path(folder)) as ways,
    ):
        rows = report(ways, measure(ways, chosen.rounds))
    for row in rows:
        told = ", ".join(f"{name} {speed:.1f}" for name, speed in row["medians"].items())
        print(f"{row['clients']} at once: {told} tokens/s")
        print(f"  against {row['best']}: {row['ratio']:.2f} (at least {row['floor']})")
    figures = {
        "threads": chosen.threads,
        "tokens": chosen.tokens,
        "torch": torch.__version__,
        "clients": rows,
    }
    RESULTS.write_text(json.dumps(figures, indent=2) + "\n")
    raise SystemExit(0 if all(row["ratio"] >= row["floor"] for row in rows) else 1)


if __name__ == "__main__":
    main()
