"""What only an engine of real vLLM servers has to get right: slots, proofs, leftovers, sleep, aborts."""

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import httpx
import pytest

from policies.config import EngineConfig
from policies.engine import AdapterRef, Engine, KnownText, Proof
from policies.vllm_client import Patience, VllmClient
from policies.vllm_engine import VllmEngine
from store.errors import AttestationFailed, EngineBusy, EngineUnavailable
from tests.policies.serving import GREEDY, LONG, ask, make_adapter, text, until, with_engine
from tests.tiny import make_servable_model
from tests.vllm_cpu import Server, needs_vllm, servers

pytestmark = needs_vllm

SLOTS = 4


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_servable_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def server(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with servers(model, tmp_path_factory.mktemp("server"), max_loras=SLOTS) as (started,):
        yield started


@pytest.fixture(scope="module")
def adapters(model: Path, tmp_path_factory: pytest.TempPathFactory) -> list[AdapterRef]:
    """More than there are slots."""
    folder = tmp_path_factory.mktemp("adapters")
    return [
        make_adapter(model, folder / f"{n}", version=f"it{n:04d}-0000000{n}", seed=n) for n in range(1, 7)
    ]


def engine_on(server: Server, model: Path, share: str = "coreside") -> VllmEngine:
    settings = {"spawn": False, "urls": [server.url], "share": share, "max_loras": SLOTS}
    config = EngineConfig.model_validate({"kind": "vllm", "start_timeout": 60, "load_timeout": 5, **settings})
    return VllmEngine(config, model, "tiny")


@asynccontextmanager
async def client(server: Server) -> AsyncIterator[VllmClient]:
    opened = VllmClient(server.url, Patience())
    try:
        yield opened
    finally:
        await opened.close()


async def slots(server: Server) -> frozenset[int]:
    async with client(server) as opened:
        return await opened.slots()


async def names(server: Server) -> list[str]:
    async with client(server) as opened:
        return [card.name for card in await opened.cards()]


async def asked_together(engine: Engine, versions: list[str | None]) -> list[str]:
    return list(await asyncio.gather(*(text(engine, ask("hello"), adapter=version) for version in versions)))


def test_many_adapters_one_after_the_other_leave_base_and_slots_as_they_were(
    server: Server, model: Path, adapters: list[AdapterRef]
) -> None:
    """vLLM's unload frees no slot, and a full set of slots gives base rows the last adapter on a CPU."""

    async def scene(engine: Engine) -> None:
        base = await text(engine, ask("hello"))
        for adapter in adapters:
            await engine.load(adapter)
            alone = await text(engine, ask("hello"), adapter=adapter.version)
            assert alone != base
            mixed = await asked_together(engine, [None, adapter.version] * 4)
            assert mixed == [base, alone] * 4
            await engine.unload(adapter.version)
            assert await slots(server) == frozenset()

    with_engine(engine_on(server, model), scene)


def test_one_slot_stays_empty_and_the_setting_is_named(
    server: Server, model: Path, adapters: list[AdapterRef]
) -> None:
    async def scene(engine: Engine) -> None:
        for adapter in adapters[: SLOTS - 1]:
            await engine.load(adapter)
        with pytest.raises(EngineBusy, match="policies.engine.max_loras"):
            await engine.load(adapters[SLOTS])
        assert len(await engine.resident()) == SLOTS - 1

    with_engine(engine_on(server, model), scene)


def test_what_an_earlier_service_left_is_taken_away(
    server: Server, model: Path, adapters: list[AdapterRef]
) -> None:
    async def load(engine: Engine) -> None:
        await engine.load(adapters[0])
        await engine.load(adapters[1])

    async def look(engine: Engine) -> list[str]:
        assert await engine.resident() == ()
        return await names(server)

    with_engine(engine_on(server, model), load)
    assert with_engine(engine_on(server, model), look) == ["base"]


def test_an_adapter_is_held_against_the_trainers_numbers(
    server: Server, model: Path, adapters: list[AdapterRef]
) -> None:
    prompt, answer = tuple(ask("hello")), "a few words to be scored"

    async def scene(engine: Engine) -> None:
        await engine.load(adapters[0])
        (right,) = await engine.score([prompt], [answer], adapter=adapters[0].version)
        (base,) = await engine.score([prompt], [answer], adapter=None)
        await engine.unload(adapters[0].version)

        def proof(logprobs: list[float]) -> Proof:
            return Proof((KnownText(prompt, answer, tuple(logprobs), tuple(base)),), 0.01)

        # The base's numbers are what an adapter that was never applied computes.
        with pytest.raises(AttestationFailed, match=adapters[0].version):
            await engine.load(replace(adapters[0], proof=proof(base)))
        assert await engine.resident() == ()
        assert await slots(server) == frozenset()
        await engine.load(replace(adapters[0], proof=proof(right)))
        assert await engine.resident() == (adapters[0].version,)

    with_engine(engine_on(server, model), scene)


def test_an_adapter_lost_behind_our_back_is_loaded_again_before_it_is_served(
    server: Server, model: Path, adapters: list[AdapterRef]
) -> None:
    """As after a restart that was quicker than the next look."""

    async def scene(engine: Engine) -> None:
        await engine.load(adapters[0])
        expected = await text(engine, ask("hello"), adapter=adapters[0].version)
        async with client(server) as opened:
            await opened.unload((await names(server))[1])
        with pytest.raises(EngineUnavailable):
            await text(engine, ask("hello"), adapter=adapters[0].version)

        async def back() -> bool:
            return (await engine.health()).ready

        await until(back)
        assert await text(engine, ask("hello"), adapter=adapters[0].version) == expected

    with_engine(engine_on(server, model), scene)


def test_while_it_sleeps_chats_are_told_when_to_come_back(
    server: Server, model: Path, adapters: list[AdapterRef]
) -> None:
    """On a CPU the server only says that it sleeps; what honed does around it is the same."""

    async def scene(engine: Engine) -> tuple[str, str]:
        await engine.load(adapters[0])
        before = await text(engine, ask("hello"), adapter=adapters[0].version)
        await engine.yield_compute()
        assert httpx.get(f"{server.url}/is_sleeping").json() == {"is_sleeping": True}
        with pytest.raises(EngineUnavailable, match="policies.engine.share") as told:
            await text(engine, ask("hello"))
        assert told.value.retry_after >= 10
        assert not (await engine.health()).ready
        await engine.reclaim_compute()
        assert httpx.get(f"{server.url}/is_sleeping").json() == {"is_sleeping": False}
        return before, await text(engine, ask("hello"), adapter=adapters[0].version)

    before, after = with_engine(engine_on(server, model, share="sleep"), scene)
    assert after == before


def running_in(server: Server) -> float:
    found = re.search(
        r"^vllm:num_requests_running\{.*\} (.*)$", httpx.get(f"{server.url}/metrics").text, re.M
    )
    assert found is not None
    return float(found[1])


@pytest.mark.parametrize("how", ["closed", "stop string"])
def test_an_answer_that_ends_early_is_aborted_in_the_server(server: Server, model: Path, how: str) -> None:
    async def scene(engine: Engine) -> None:
        if how == "closed":
            stream = await engine.generate(ask("hello"), LONG, adapter=None)
            await anext(stream)
            await stream.aclose()
        else:
            whole = await text(engine, ask("hello"), GREEDY)
            assert await text(engine, ask("hello"), replace(LONG, stop=(whole[2:5],))) == whole[:2]

        async def idle() -> bool:
            return await asyncio.to_thread(running_in, server) == 0

        await until(idle, seconds=3)

    work: Callable[[Engine], Awaitable[None]] = scene
    with_engine(engine_on(server, model), work)
