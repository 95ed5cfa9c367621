"""Servers that fail, lie, sleep and forget: the vLLM engine against fake servers on real sockets, no vLLM needed."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack, suppress
from pathlib import Path

import pytest

from policies import vllm_fleet
from policies.config import EngineConfig
from policies.engine import AdapterRef
from policies.vllm_client import Patience
from policies.vllm_engine import VllmEngine
from policies.vllm_replica import Replica, State
from store.errors import AdapterInvalid, EngineBusy, EngineUnavailable, HonedError, Invalid, NotFound
from tests.policies.fake_vllm import FakeVllm, Host
from tests.policies.serving import GREEDY, ask, text, until

MIB = 2**20


class Scene:
    """An engine on fake servers, the first of them honed's own."""

    def __init__(self, engine: VllmEngine, servers: list[FakeVllm], host: Host) -> None:
        self.engine, self.servers, self.host, self.server = engine, servers, host, servers[0]

    @property
    def replicas(self) -> tuple[Replica, ...]:
        return self.engine._rotation.replicas

    async def serving(self, count: int = 1) -> None:
        await self.met(lambda: len(self.engine._rotation.serving()) == count)

    async def met(self, condition: Callable[[], bool]) -> None:
        async def check() -> bool:
            return condition()

        await until(check, seconds=6)


Play = Callable[[Scene], Awaitable[None]]


@pytest.fixture
def play(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    monkeypatch.setattr(vllm_fleet, "LOOK_EVERY", 0.03)
    monkeypatch.setattr("policies.vllm_engine.verify_adapter", lambda path, digest: None)

    async def run(scene: Play, count: int, share: str, prepare: Callable[[FakeVllm], None] | None) -> None:
        async with AsyncExitStack() as stack, asyncio.timeout(20):
            servers = [FakeVllm() for _ in range(count)]
            for fake in servers:
                listening = await asyncio.start_server(fake.serve, "127.0.0.1", 0)
                stack.callback(listening.close)
                fake.url = f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}"
                if prepare is not None:
                    prepare(fake)
            settings = {"spawn": False, "urls": [fake.url for fake in servers], "share": share}
            limits = {"start_timeout": 5, "load_timeout": 5, "max_batch": 8, "recycle_growth_mb": 64}
            config = EngineConfig.model_validate({"kind": "vllm", **settings, **limits})
            host = Host(servers[0])
            engine = VllmEngine(config, tiny_model, "tiny", host=host)
            stack.push_async_callback(engine.close)
            await engine.start()
            told = Scene(engine, servers, host)
            await told.serving(count)
            await scene(told)

    def run_it(
        scene: Play,
        count: int = 1,
        share: str = "coreside",
        prepare: Callable[[FakeVllm], None] | None = None,
    ) -> None:
        asyncio.run(run(scene, count, share, prepare))

    return run_it


def adapter(number: int) -> AdapterRef:
    return AdapterRef(f"it{number:04d}-0000000{number}", Path(f"/adapters/{number}"), str(number) * 64)


ONE, TWO = adapter(1), adapter(2)


@pytest.mark.parametrize("how", ["refused", "damaged"])
def test_a_broken_adapter_keeps_nothing_else_out(play: Callable[..., None], how: str) -> None:
    async def scene(at: Scene) -> None:
        await at.engine.load(ONE)
        await at.engine.load(TWO)
        getattr(at.server, how).add(str(ONE.path))
        at.server.forget()
        await at.met(lambda: at.engine._fleet.open() == (TWO.version,))
        await at.serving()
        await at.met(lambda: ONE.version not in at.engine._fleet.served)
        assert await text(at.engine, ask("hi")) == await text(at.engine, ask("hi"), adapter=TWO.version)
        with pytest.raises(NotFound):
            await text(at.engine, ask("hi"), adapter=ONE.version)
        assert list(at.server.names.values()) == [str(TWO.path)]
        assert len(at.server.slots) == 1
        assert at.host.restarts == 0

    play(scene)


def test_an_adapter_others_answer_with_is_not_closed_for_one_server_that_fails(
    play: Callable[..., None],
) -> None:
    async def scene(at: Scene) -> None:
        await at.engine.load(ONE)
        at.servers[1].refused.add(str(ONE.path))
        at.servers[1].forget()
        await at.met(lambda: "does not fit" in at.replicas[1].detail)
        assert await at.engine.resident() == (ONE.version,)
        await text(at.engine, ask("hi"), adapter=ONE.version)
        at.servers[1].refused.clear()
        await at.serving(2)

    play(scene, 2)


def test_a_server_that_is_to_be_restarted_stays_out_until_it_is(play: Callable[..., None]) -> None:
    async def scene(at: Scene) -> None:
        await at.engine.load(ONE)
        for fake in at.servers:
            fake.go_on.clear()
        answers = [asyncio.create_task(text(at.engine, ask(f"hi {n}"))) for n in range(4)]
        await at.met(lambda: at.replicas[0].running > 0)
        at.host.bytes = 100 * MIB
        at.host.started.clear()
        await at.engine.load(TWO)
        await at.met(lambda: at.replicas[0].state is State.LEAVING)
        await asyncio.sleep(0.2)
        assert (at.replicas[0].state, at.host.restarts) == (State.LEAVING, 0)
        for fake in at.servers:
            fake.go_on.set()
        await asyncio.gather(*answers)
        await at.met(lambda: at.host.restarts == 1)
        await asyncio.sleep(0.2)
        assert at.replicas[0].state is State.LEAVING
        at.host.started.set()
        await at.serving(2)
        assert (at.host.restarts, len(at.server.names)) == (1, 2)

    play(scene, 2)


def test_a_sleeping_server_is_restarted_for_its_memory_after_it_woke(play: Callable[..., None]) -> None:
    async def scene(at: Scene) -> None:
        await at.engine.load(ONE)
        await at.engine.yield_compute()
        at.host.bytes = 100 * MIB
        await at.engine.load(TWO)
        await asyncio.sleep(0.2)
        assert (at.replicas[0].state, at.host.restarts) == (State.ASLEEP, 0)
        await at.engine.reclaim_compute()
        await at.met(lambda: at.host.restarts == 1)
        await at.serving(2)

    play(scene, 2, "sleep")


def test_a_server_left_asleep_is_woken(play: Callable[..., None]) -> None:
    async def scene(at: Scene) -> None:
        assert not at.server.asleep

    play(scene, prepare=lambda fake: setattr(fake, "asleep", True))


def test_a_server_that_wakes_oddly_is_looked_after(play: Callable[..., None]) -> None:
    async def scene(at: Scene) -> None:
        await at.engine.yield_compute()
        assert at.server.asleep
        at.server.odd = True
        await at.engine.reclaim_compute()
        assert at.replicas[0].state is State.AWAY
        at.server.odd = False
        await at.serving()

    play(scene, share="sleep")


def test_whatever_fails_in_waking_the_server_is_looked_after(
    play: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scene(at: Scene) -> None:
        await at.engine.yield_compute()

        async def broken() -> None:
            raise OSError("nobody thought of this")

        with monkeypatch.context() as patch:
            patch.setattr(at.replicas[0].client, "wake", broken)
            await at.engine.reclaim_compute()
            assert at.replicas[0].state is State.AWAY
        await at.serving()

    play(scene, share="sleep")


def test_a_server_that_woke_wrong_is_restarted_once(play: Callable[..., None]) -> None:
    async def scene(at: Scene) -> None:
        await at.engine.load(ONE)
        await at.engine.yield_compute()
        at.server.value = -5.0
        at.host.started.clear()
        waking = asyncio.create_task(at.engine.reclaim_compute())
        await at.met(lambda: at.host.restarts == 1)
        await asyncio.sleep(0.2)
        at.host.started.set()
        await waking
        await at.serving()
        assert at.host.restarts == 1

    play(scene, share="sleep")


@pytest.mark.parametrize("status", [200, 500], ids=["in the stream", "at once"])
def test_one_poisonous_request_takes_no_server_out(play: Callable[..., None], status: int) -> None:
    async def scene(at: Scene) -> None:
        for fake in at.servers:
            fake.poisoned, fake.status = True, status
        with pytest.raises(EngineUnavailable) as told:
            await text(at.engine, ask("hi"))
        assert told.value.retry_after > 0
        assert "127.0.0.1" not in str(told.value) and "einsum" not in str(told.value)
        assert sum(fake.asked for fake in at.servers) == 2
        assert len(at.engine._rotation.serving()) == 3

    play(scene, 3)


def test_a_dead_server_is_out_and_another_answers(play: Callable[..., None]) -> None:
    async def scene(at: Scene) -> None:
        at.servers[0].dead = True
        await asyncio.gather(*(text(at.engine, ask(f"hi {n}")) for n in range(4)))
        await at.serving(1)
        at.servers[1].dead = True
        with pytest.raises(EngineUnavailable, match="^no model server answers now$"):
            await text(at.engine, ask("hi"))
        assert at.servers[1].url in (await at.engine.health()).detail

    play(scene, 2)


def test_an_engine_that_hangs_behind_a_living_server_has_to_prove_itself(play: Callable[..., None]) -> None:
    async def scene(at: Scene) -> None:
        at.replicas[0].client._patience = Patience(5, 0.1)
        at.server.go_on.clear()
        before = at.server.scored
        with pytest.raises(EngineUnavailable):
            await text(at.engine, ask("hi"))
        at.server.go_on.set()
        await at.serving()
        assert at.server.scored > before

    play(scene)


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        *((429, EngineBusy), (408, EngineBusy), (400, Invalid), (413, Invalid), (422, Invalid)),
        *((401, EngineUnavailable), (405, EngineUnavailable)),
    ],
)
def test_a_refusal_reaches_clients_as_what_it_is(
    play: Callable[..., None], status: int, kind: type[HonedError]
) -> None:
    async def scene(at: Scene) -> None:
        at.server.status = status
        with pytest.raises(HonedError) as told:
            await text(at.engine, ask("hi"))
        assert type(told.value) is kind
        assert "127.0.0.1" not in str(told.value)
        assert len(at.engine._rotation.serving()) == 1

    play(scene)


def test_a_slot_that_leaked_is_freed_before_the_next_load(play: Callable[..., None]) -> None:
    async def scene(at: Scene) -> None:
        await at.engine.load(ONE)
        await at.engine.unload(ONE.version)
        at.server.slots.add(99)
        await at.engine.load(TWO)
        assert at.server.slots == {2}

    play(scene)


def test_a_name_that_is_taken_is_loaded_anew(play: Callable[..., None]) -> None:
    async def scene(at: Scene) -> None:
        at.server.load(f"{ONE.version}.{ONE.digest[:12]}", "/another")
        await at.engine.load(ONE)
        assert list(at.server.names.values()) == [str(ONE.path)]
        await at.engine.unload(ONE.version)
        assert not at.server.slots

    play(scene)


def test_scoring_takes_a_quarter_of_the_rows_and_stops_at_the_first_error(play: Callable[..., None]) -> None:
    async def scene(at: Scene) -> None:
        found = await at.engine.score([ask("hi")] * 12, ["ab"] * 12, adapter=None)
        assert found == [[-1.0] * len(found[0])] * 12
        assert at.server.most == 2
        at.server.scored, at.server.poisoned = 0, True
        with pytest.raises(EngineUnavailable):
            await at.engine.score([ask("hi")] * 12, ["ab"] * 12, adapter=None)
        assert at.server.scored <= 3

    play(scene)


def test_scoring_while_the_engine_closes_says_so(play: Callable[..., None]) -> None:
    async def scene(at: Scene) -> None:
        scoring = asyncio.create_task(at.engine.score([ask("hi")] * 20, ["ab"] * 20, adapter=None))
        await at.met(lambda: at.server.scoring > 0)
        await at.engine.close()
        with pytest.raises(EngineUnavailable):
            await scoring

    play(scene)


def test_a_load_that_fails_oddly_leaves_nothing_running(
    play: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scene(at: Scene) -> None:
        ended: list[bool] = []

        async def odd(item: object) -> None:
            raise OSError("odd")

        async def slow(item: object) -> None:
            await asyncio.sleep(0.2)
            ended.append(True)

        monkeypatch.setattr(at.replicas[0], "add", odd)
        monkeypatch.setattr(at.replicas[1], "add", slow)
        with pytest.raises(OSError, match="odd"):
            await at.engine.load(ONE)
        assert ended == [True]

    play(scene, 2)


def test_an_adapter_no_server_takes_is_refused_and_its_answers_were_none(play: Callable[..., None]) -> None:
    async def scene(at: Scene) -> None:
        at.server.refused.add(str(ONE.path))
        with pytest.raises(AdapterInvalid):
            await at.engine.load(ONE)
        assert await at.engine.resident() == ()
        with suppress(NotFound):
            stream = await at.engine.generate(ask("hi"), GREEDY, adapter=ONE.version)
            await stream.aclose()
        await at.serving()

    play(scene)


def test_metrics_are_of_the_servers_that_answer(play: Callable[..., None]) -> None:
    async def scene(told: Scene) -> None:
        both = await told.engine.metrics()
        assert [f'server="{fake.url}"' in both for fake in told.servers] == [True, True]
        told.servers[0].dead = True
        left = await told.engine.metrics()
        assert [f'server="{fake.url}"' in left for fake in told.servers] == [False, True]

    play(scene, 2)
