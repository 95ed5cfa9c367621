"""A runtime on the fake engine and a fresh store: everything of the loop but the tensors."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import pytest

from daemon.config import Config
from daemon.gate import Decision, Outcome
from daemon.promote import Settlement, settle
from daemon.runtime import Runtime, adapter_path
from policies.fake_engine import FakeEngine, FakeLimits
from policies.spec import AttestationRow, Report, Turn
from store.db import Store
from store.records import Adapter, AdapterStatus, Iteration, Message, Stage

T = TypeVar("T")

PROMPT = [Message("user", "How are you?")]


class Stale(FakeEngine):
    """An engine that answers with the base, whatever adapter was asked for: the fault attestation is for."""

    async def score(
        self, prompts: Sequence[Sequence[Message]], continuations: Sequence[str], *, adapter: str | None
    ) -> list[list[float]]:
        return await super().score(prompts, continuations, adapter=None)


@pytest.fixture
def store() -> Iterator[Store]:
    with Store.memory() as fresh:
        yield fresh


def runtime_with(store: Store, engine: FakeEngine, directory: Path, **config: Any) -> Runtime:
    settings = Config.model_validate({"store": {"directory": directory}, **config})
    return Runtime(settings, store, engine, model=directory / "model", base_digest="b" * 16)


@pytest.fixture
def runtime(store: Store, tmp_path: Path) -> Runtime:
    return runtime_with(store, FakeEngine(FakeLimits(verify=False)), tmp_path)


def run(work: Callable[[], Awaitable[T]], runtime: Runtime) -> T:
    """Run a coroutine with the engine started, on a loop of its own."""

    async def main() -> T:
        await runtime.engine.start()
        return await work()

    return asyncio.run(main())


async def attestation(version: str) -> list[AttestationRow]:
    """What an honest trainer would have measured of the fake engine."""
    engine = FakeEngine(FakeLimits(verify=False))
    await engine.start()
    from policies.engine import AdapterRef

    await engine.load(AdapterRef(version, Path("nowhere"), ""))
    with_adapter = await engine.score([PROMPT], ["fine thank you"], adapter=version)
    without = await engine.score([PROMPT], ["fine thank you"], adapter=None)
    return [
        AttestationRow(
            prompt=[Turn(role="user", content="How are you?")],
            continuation="fine thank you",
            logprobs=with_adapter[0],
            base_logprobs=without[0],
        )
    ]


def report_of(version: str, rows: list[AttestationRow]) -> Report:
    return Report(
        version=version,
        scale=1.0,
        steps=3,
        stopped_early=False,
        metrics={},
        scales=[],
        attestation=rows,
        samples=[],
        heldout={},
        seconds={},
        adapter_digest="d" * 64,
    )


def candidate_of(iteration: Iteration, version: str) -> Adapter:
    path, parent = adapter_path(iteration.id), iteration.incumbent
    return Adapter(version, parent, iteration.id, path, "d" * 64, AdapterStatus.CANDIDATE, 1.0, 1.0)


async def settle_one(runtime: Runtime, version: str, outcome: Outcome = Outcome.PROMOTE) -> Iteration:
    """An iteration that ends with a verdict, its candidate loaded as `iteration.run` would have."""
    from daemon.attest import load_and_attest

    active = runtime.store.adapters.active()
    begun = runtime.store.iterations.begin(
        trigger="test", incumbent=active.version if active else None, config={}
    )
    begun = runtime.store.iterations.move(begun.id, Stage.EVALUATING)
    rows = await attestation(version)
    candidate = candidate_of(begun, version)
    if outcome is not Outcome.REJECT:
        await load_and_attest(runtime, candidate, rows)
    decision, report = Decision(outcome, (), ("why",)), report_of(version, rows)
    return await settle(runtime, Settlement(begun, candidate, report, decision, {"train/steps": 3.0}))
