"""Decoding speed on the embedded model: bare transformers against honed, with one chat and with eight.

All see the same conversation and are held to the same number of new tokens, greedy, prompt included in the time.
First the engine by itself, then a whole service over HTTP with the openai client, each taking turns with bare
`generate`; the median of the turns counts, so that a neighbour on the machine does not decide the ratio. Prints a
table and writes benchmarks/results/chat.json. The floors are held against the speeds over HTTP.

    python -m benchmarks.bench_chat
"""

import argparse
import asyncio
import json
import os
import statistics
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch

from daemon.simulate import service
from policies.chat import encode_prompt, load_tokenizer
from policies.config import EngineConfig
from policies.engines import build_engine, resolve_base
from policies.hf_engine import HfEngine
from store.records import Message, Sampling

RESULTS = Path(__file__).parent / "results" / "chat.json"
TOGETHER = 8
#: What must hold: against bare `generate` with one request.
SINGLE_FLOOR, TOTAL_FLOOR = 0.9, 3.0
QUESTION = [Message("user", "Write a long story about a lighthouse keeper and the sea.")]


def load_bare(directory: Path) -> tuple[Any, list[int]]:
    """The plain transformers model and the conversation's tokens."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32, local_files_only=True)
    return model.eval(), encode_prompt(load_tokenizer(directory), QUESTION)


def bare_speed(model: Any, prompt: list[int], tokens: int) -> float:
    """New tokens per second of `generate`."""
    ids = torch.tensor([prompt])
    began = time.perf_counter()
    with torch.inference_mode():
        out = model.generate(
            ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=tokens, pad_token_id=0
        )
    return (out.shape[1] - len(prompt)) / (time.perf_counter() - began)


async def engine_speed(engine: HfEngine, requests: int, tokens: int, temperature: float) -> float:
    """New tokens per second of `requests` chats at once, all together."""

    async def one(seed: int) -> int:
        sampling = Sampling(max_tokens=tokens, temperature=temperature, seed=seed)
        stream = await engine.generate(QUESTION, sampling, adapter=None)
        usage = [delta.usage async for delta in stream][-1]
        return usage.completion_tokens if usage else 0

    began = time.perf_counter()
    drawn = await asyncio.gather(*(one(seed) for seed in range(requests)))
    return sum(drawn) / (time.perf_counter() - began)


async def measure(directory: Path, digest: str, *, tokens: int, rounds: int, threads: int) -> dict[str, Any]:
    """Every speed, a figure per round."""
    engine = build_engine(EngineConfig(threads=threads), directory, digest)
    assert isinstance(engine, HfEngine)
    await engine.start()
    model, prompt = load_bare(directory)
    speeds: dict[str, list[float]] = {"bare": [], "one": [], "eight": [], "eight_sampled": []}
    try:
        bare_speed(model, prompt, 8)
        for _ in range(rounds):
            speeds["bare"].append(bare_speed(model, prompt, tokens))
            speeds["one"].append(await engine_speed(engine, 1, tokens, 0.0))
            speeds["eight"].append(await engine_speed(engine, TOGETHER, tokens, 0.0))
            speeds["eight_sampled"].append(await engine_speed(engine, TOGETHER, tokens, 0.8))
    finally:
        await engine.close()
    return speeds


def http_speed(url: str, requests: int, tokens: int) -> float:
    """New tokens per second of `requests` chats at once, all together, through a service."""
    from openai import OpenAI

    def one(seed: int) -> int:
        with OpenAI(base_url=f"{url}/v1", api_key=f"bench-{seed}", timeout=600) as client:
            answer = client.chat.completions.create(
                model="honed",
                messages=[{"role": "user", "content": QUESTION[0].content}],
                max_tokens=tokens,
                temperature=0,
                seed=seed,
            )
        return answer.usage.completion_tokens if answer.usage else 0

    began = time.perf_counter()
    with ThreadPoolExecutor(requests) as pool:
        drawn = sum(pool.map(one, range(requests)))
    return drawn / (time.perf_counter() - began)


def measure_http(directory: Path, *, tokens: int, rounds: int, threads: int) -> dict[str, list[float]]:
    """The same over HTTP, against a service process on a state directory of its own."""
    model, prompt = load_bare(directory)
    speeds: dict[str, list[float]] = {"bare_again": [], "http_one": [], "http_eight": []}
    settings = {
        "HONED_POLICIES__ENGINE__MODEL": str(directory.resolve()),
        "HONED_POLICIES__ENGINE__THREADS": str(threads),
    }
    with (
        tempfile.TemporaryDirectory(prefix="honed-bench-") as folder,
        service(Path(folder), **settings) as client,
    ):
        http_speed(client.url, 1, 8)
        for _ in range(rounds):
            speeds["bare_again"].append(bare_speed(model, prompt, tokens))
            speeds["http_one"].append(http_speed(client.url, 1, tokens))
            speeds["http_eight"].append(http_speed(client.url, TOGETHER, tokens))
    return speeds


def report(speeds: dict[str, list[float]], settings: dict[str, Any]) -> dict[str, Any]:
    """Medians and the two ratios."""
    median = {name: statistics.median(values) for name, values in speeds.items()}
    return {
        **settings,
        "tokens_per_second": median,
        "engine_single_ratio": median["one"] / median["bare"],
        "engine_total_ratio": min(median["eight"], median["eight_sampled"]) / median["bare"],
        "single_ratio": median["http_one"] / median["bare_again"],
        "total_ratio": median["http_eight"] / median["bare_again"],
        "rounds": speeds,
    }


def main() -> None:
    """Measure, print, write; exit 1 if a floor is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tokens", type=int, default=96, help="new tokens per answer")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--state", type=Path, help="state directory that has the converted model")
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    with tempfile.TemporaryDirectory(prefix="honed-bench-") as folder:
        directory, digest = resolve_base(EngineConfig(), chosen.state or Path(folder))
        speeds = asyncio.run(
            measure(directory, digest, tokens=chosen.tokens, rounds=chosen.rounds, threads=chosen.threads)
        )
        speeds |= measure_http(directory, tokens=chosen.tokens, rounds=chosen.rounds, threads=chosen.threads)
    figures = report(speeds, {"threads": chosen.threads, "tokens": chosen.tokens, "torch": torch.__version__})
    for name, speed in figures["tokens_per_second"].items():
        print(f"{name:14} {speed:7.1f} tokens/s")
    single, total = figures["single_ratio"], figures["total_ratio"]
    print(
        f"engine alone / bare: one {figures['engine_single_ratio']:.2f}, eight {figures['engine_total_ratio']:.2f}"
    )
    print(f"one chat / bare: {single:.2f} (at least {SINGLE_FLOOR})")
    print(f"eight at once / bare: {total:.2f} (at least {TOTAL_FLOOR})")
    RESULTS.write_text(json.dumps(figures, indent=2) + "\n")
    raise SystemExit(0 if single >= SINGLE_FLOOR and total >= TOTAL_FLOOR else 1)


if __name__ == "__main__":
    main()
