"""What honed costs in front of vLLM: tokens per second and time to first token, through honed and directly.

One vLLM server, started by honed. The same streamed greedy chats go to honed and to the server itself, the two taking
turns, at 1, 4 and 16 clients; the median of the turns counts, so that a neighbour on the machine does not decide the
ratio. Through honed a chat is also admitted, written to the database before its first token and after its last, and
its text is made from token ids. Prints a table and writes benchmarks/results/serving.json.

    python -m benchmarks.bench_serving --command .venv-vllm/bin/vllm --arguments='["--enforce-eager"]'
"""

import argparse
import asyncio
import json
import os
import statistics
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from daemon.simulate import service
from policies.config import EngineConfig
from policies.engines import resolve_base

RESULTS = Path(__file__).parent / "results" / "serving.json"
#: What must hold at every number of clients: honed's tokens per second against the server's own.
FLOOR = 0.95
TOPICS = ("a lighthouse", "a baker", "two rivers", "an old map", "a lost dog", "the first snow", "a violin")
#: Of a CPU build of vLLM; a GPU's ignores them.
CPU = {"OMP_NUM_THREADS": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind", "VLLM_CPU_KVCACHE_SPACE": "2"}


@dataclass(frozen=True, slots=True)
class Chat:
    """One answer: its tokens, and seconds to its first text."""

    tokens: int
    first: float


async def chat(http: httpx.AsyncClient, url: str, model: str, number: int, tokens: int) -> Chat:
    """One streamed chat. The number makes each prompt another, so that no cache answers for the model."""
    topic = TOPICS[number % len(TOPICS)]
    body = {
        "model": model,
        "messages": [{"role": "user", "content": f"Write a long story, number {number}, about {topic}."}],
        "max_tokens": tokens,
        "temperature": 0,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    began, first, drawn = time.perf_counter(), 0.0, 0
    async with http.stream("POST", f"{url}/v1/chat/completions", json=body) as answer:
        answer.raise_for_status()
        async for line in answer.aiter_lines():
            if not line.startswith("data: {"):
                continue
            row = json.loads(line[6:])
            if not first and row["choices"] and row["choices"][0]["delta"].get("content"):
                first = time.perf_counter() - began
            if row.get("usage"):
                drawn = row["usage"]["completion_tokens"]
    return Chat(drawn, first)


async def turn(url: str, model: str, clients: int, *, tokens: int, offset: int) -> dict[str, float]:
    """All clients at once: tokens per second together, and the times to first token."""
    async with httpx.AsyncClient(
        timeout=600, trust_env=False, limits=httpx.Limits(max_connections=None)
    ) as http:
        began = time.perf_counter()
        answers = await asyncio.gather(
            *(chat(http, url, model, offset + number, tokens) for number in range(clients))
        )
        seconds = time.perf_counter() - began
    firsts = sorted(answer.first for answer in answers)
    return {
        "tokens_per_second": sum(answer.tokens for answer in answers) / seconds,
        "first_token_median": statistics.median(firsts),
        "first_token_worst": firsts[-1],
    }


async def measure(
    honed: str, vllm: str, clients: list[int], *, tokens: int, rounds: int
) -> list[dict[str, Any]]:
    """A row per number of clients, with every turn."""
    rows, offset = [], 0
    for count in clients:
        turns: dict[str, list[dict[str, float]]] = {"honed": [], "vllm": []}
        for number in range(rounds + 1):
            ways = [("honed", honed, "base"), ("vllm", vllm, "base")]
            # Each goes first in turn; the first round only warms both up.
            for way, url, model in ways if number % 2 else ways[::-1]:
                offset += count
                found = await turn(url, model, count, tokens=tokens, offset=offset)
                if number:
                    turns[way].append(found)
        rows.append(summary(count, turns))
    return rows


def summary(clients: int, turns: dict[str, list[dict[str, float]]]) -> dict[str, Any]:
    """Medians over the turns, and honed's against the server's."""
    medians = {
        way: {name: statistics.median(found[name] for found in all_found) for name in all_found[0]}
        for way, all_found in turns.items()
    }
    ratio = medians["honed"]["tokens_per_second"] / medians["vllm"]["tokens_per_second"]
    return {"clients": clients, **medians, "ratio": ratio, "turns": turns}


def main() -> None:
    """Measure, print, write; exit 1 if a floor is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--command", default="vllm", help="the vllm program")
    parser.add_argument("--arguments", default="[]", help="further arguments of `vllm serve`, as JSON")
    parser.add_argument("--model", default="bundled:smollm2-135m-instruct")
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 4, 16])
    parser.add_argument("--tokens", type=int, default=64, help="new tokens per answer")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--port", type=int, default=8199, help="the vLLM server's")
    parser.add_argument("--state", type=Path, help="state directory that has the converted model")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="honed-bench-") as folder:
        config = EngineConfig(model=chosen.model)
        directory, _ = resolve_base(config, chosen.state or Path(folder))
        settings = {
            **{name: value for name, value in CPU.items() if name not in os.environ},
            "HONED_POLICIES__ENGINE__KIND": "vllm",
            "HONED_POLICIES__ENGINE__MODEL": str(directory.resolve()),
            "HONED_POLICIES__ENGINE__COMMAND": str(Path(chosen.command).absolute())
            if "/" in chosen.command
            else chosen.command,
            "HONED_POLICIES__ENGINE__ARGUMENTS": chosen.arguments,
            "HONED_POLICIES__ENGINE__PORT": str(chosen.port),
            "HONED_POLICIES__ENGINE__MAX_BATCH": str(max(chosen.clients)),
        }
        with service(Path(folder), **settings) as client:
            rows = asyncio.run(
                measure(
                    client.url,
                    f"http://127.0.0.1:{chosen.port}",
                    chosen.clients,
                    tokens=chosen.tokens,
                    rounds=chosen.rounds,
                )
            )
    report = {"tokens": chosen.tokens, "cores": os.cpu_count(), "floor": FLOOR, "clients": rows}
    for row in rows:
        honed, vllm = row["honed"], row["vllm"]
        print(
            f"{row['clients']:3} clients: honed {honed['tokens_per_second']:7.1f} tokens/s, first token "
            f"{honed['first_token_median']:.3f} s; vLLM {vllm['tokens_per_second']:7.1f}, "
            f"{vllm['first_token_median']:.3f} s; ratio {row['ratio']:.3f} (at least {FLOOR})"
        )
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(report, indent=2) + "\n")
    raise SystemExit(0 if all(row["ratio"] >= FLOOR for row in rows) else 1)


if __name__ == "__main__":
    main()
