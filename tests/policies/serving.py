"""Engines to test, adapters for them, and short ways to ask for an answer."""

import asyncio
import warnings
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

from policies.config import EngineConfig
from policies.engine import AdapterRef, Delta, Engine, Priority
from policies.fake_engine import FakeEngine, FakeLimits
from policies.hf_engine import HfEngine
from policies.spec import write_manifest
from policies.vllm_engine import VllmEngine
from store.records import Message, Sampling

T = TypeVar("T")

GREEDY = Sampling(max_tokens=24, temperature=0.0, seed=1)
#: Long enough still to be running when a test looks.
LONG = replace(GREEDY, max_tokens=1500)


def ask(text: str) -> list[Message]:
    return [Message("user", text)]


def make_engine(kind: str, model: Path, *, max_batch: int = 8, max_queue: int = 16) -> Engine:
    """An engine of that kind, not started. The fake one takes its time, so that it can be caught running.

    "vllm URL" is an engine on a server that runs there already.
    """
    kind, _, url = kind.partition(" ")
    if kind == "fake":
        return FakeEngine(FakeLimits(max_batch, max_queue, token_delay=0.005))
    if kind == "vllm":
        served = EngineConfig(
            kind="vllm", spawn=False, urls=[url], max_batch=max_batch, max_queue=max_queue, start_timeout=60
        )
        return VllmEngine(served, model, "tiny")
    config = EngineConfig(model=str(model), max_batch=max_batch, max_queue=max_queue, threads=1, device="cpu")
    return HfEngine(config, model, "tiny")


def with_engine(engine: Engine, work: Callable[[Engine], Awaitable[T]]) -> T:
    """Start, run `work`, close."""

    async def scene() -> T:
        await engine.start()
        try:
            return await asyncio.wait_for(work(engine), timeout=120)
        finally:
            await engine.close()

    return asyncio.run(scene())


async def deltas(
    engine: Engine,
    messages: list[Message],
    sampling: Sampling = GREEDY,
    *,
    adapter: str | None = None,
    priority: Priority = Priority.CHAT,
) -> list[Delta]:
    stream = await engine.generate(messages, sampling, adapter=adapter, priority=priority)
    return [delta async for delta in stream]


async def text(
    engine: Engine, messages: list[Message], sampling: Sampling = GREEDY, *, adapter: str | None = None
) -> str:
    return "".join(delta.text for delta in await deltas(engine, messages, sampling, adapter=adapter))


async def until(condition: Callable[[], Awaitable[bool]], *, seconds: float = 20.0) -> None:
    """Wait for something another task or thread brings about."""
    async with asyncio.timeout(seconds):
        while not await condition():
            await asyncio.sleep(0.005)


def make_adapter(
    model: Path, directory: Path, *, version: str, seed: int = 0, strength: float = 0.3
) -> AdapterRef:
    """A random LoRA as PEFT itself writes it, strong enough to change every answer."""
    torch.manual_seed(seed)
    base = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    config = LoraConfig(
        r=4,
        lora_alpha=8,
        target_modules=["q_proj", "v_proj", "o_proj", "up_proj", "down_proj"],
        task_type="CAUSAL_LM",
    )
    with warnings.catch_warnings():
        # PEFT still asks the model for an attribute that transformers has renamed.
        warnings.simplefilter("ignore", FutureWarning)
        peft = get_peft_model(base, config)
    for name, weight in peft.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=strength)
    peft.save_pretrained(directory)
    # PEFT adds a model card; an adapter directory holds the weights, their settings and the seal.
    (directory / "README.md").unlink()
    digest = write_manifest(directory, ["adapter_model.safetensors", "adapter_config.json"])
    return AdapterRef(version, directory, digest)
