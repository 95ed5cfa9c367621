"""What every engine promises, held against each that is there."""

import asyncio
import math
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from policies.engine import AdapterRef, Engine, Priority
from store.errors import AdapterInvalid, EngineBusy, EngineUnavailable, Invalid, NotFound
from store.records import Message, Sampling
from tests.policies.serving import (
    GREEDY,
    LONG,
    ask,
    deltas,
    make_adapter,
    make_engine,
    text,
    until,
    with_engine,
)
from tests.tiny import make_servable_model
from tests.vllm_cpu import needs_vllm, servers

KINDS = ("fake", "hf", "vllm http://127.0.0.1:8100")
PROMPTS = [ask(f"question {number} " + "about the sea " * number) for number in range(8)]
WARM = Sampling(max_tokens=24, temperature=0.9, top_p=0.9, seed=7)


@pytest.fixture(scope="module")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One that every kind can serve."""
    return make_servable_model(tmp_path_factory.mktemp("contract-model"))


@pytest.fixture(scope="module")
def vllm_url(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with servers(tiny_model, tmp_path_factory.mktemp("contract-vllm")) as (server,):
        yield server.url


@pytest.fixture(params=["fake", "hf", pytest.param("vllm", marks=needs_vllm)])
def kind(request: pytest.FixtureRequest) -> str:
    """What `make_engine` takes."""
    if request.param == "vllm":
        return f"vllm {request.getfixturevalue('vllm_url')}"
    return str(request.param)


@pytest.fixture(scope="module")
def adapters(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[AdapterRef, AdapterRef]:
    folder = tmp_path_factory.mktemp("adapters")
    first, second = (
        make_adapter(tiny_model, folder / f"it000{n}", version=f"it000{n}-0000000{n}", seed=n) for n in (1, 2)
    )
    return first, second


def test_an_answer_ends_once_with_its_reason_and_usage(kind: str, tiny_model: Path) -> None:
    pieces = with_engine(make_engine(kind, tiny_model), lambda engine: deltas(engine, ask("hello")))
    assert [delta.finish_reason for delta in pieces[:-1]] == [None] * (len(pieces) - 1)
    assert pieces[-1].finish_reason in ("stop", "length")
    assert pieces[-1].usage is not None
    assert pieces[-1].usage.prompt_tokens > 0
    assert 0 < pieces[-1].usage.completion_tokens <= GREEDY.max_tokens
    assert len(pieces) > 2


def test_max_tokens_bounds_the_answer(kind: str, tiny_model: Path) -> None:
    short = replace(GREEDY, max_tokens=3)
    pieces = with_engine(make_engine(kind, tiny_model), lambda engine: deltas(engine, ask("hello"), short))
    usage = pieces[-1].usage
    assert pieces[-1].finish_reason == "length"
    assert usage is not None
    assert usage.completion_tokens == 3


def test_the_same_seed_gives_the_same_answer_alone_or_in_company(kind: str, tiny_model: Path) -> None:
    async def scene(engine: Engine) -> tuple[str, list[str], str]:
        alone = await text(engine, PROMPTS[0], WARM)
        company = await asyncio.gather(*(text(engine, prompt, WARM) for prompt in PROMPTS))
        return alone, company, await text(engine, PROMPTS[0], replace(WARM, seed=8))

    alone, company, other = with_engine(make_engine(kind, tiny_model), scene)
    assert company[0] == alone
    assert other != alone


def test_joining_a_running_batch_changes_no_answer(kind: str, tiny_model: Path) -> None:
    async def late(engine: Engine, number: int) -> str:
        await asyncio.sleep(0.02 * number)
        return await text(engine, PROMPTS[number], replace(GREEDY, max_tokens=40))

    async def scene(engine: Engine) -> tuple[list[str], list[str]]:
        alone = [await text(engine, prompt, replace(GREEDY, max_tokens=40)) for prompt in PROMPTS]
        return alone, list(await asyncio.gather(*(late(engine, number) for number in range(8))))

    alone, together = with_engine(make_engine(kind, tiny_model), scene)
    assert together == alone


def test_a_stop_string_cuts_the_answer_and_is_never_shown(kind: str, tiny_model: Path) -> None:
    async def scene(engine: Engine) -> tuple[str, str, str | None, str]:
        whole = await text(engine, ask("hello"))
        stop = whole[4:7]
        pieces = await deltas(engine, ask("hello"), replace(GREEDY, stop=("never this", stop)))
        return whole, "".join(delta.text for delta in pieces), pieces[-1].finish_reason, stop

    whole, cut, reason, stop = with_engine(make_engine(kind, tiny_model), scene)
    assert cut == whole[: whole.index(stop)]
    assert reason == "stop"


def test_each_token_has_its_logprob_and_alternatives_when_asked(kind: str, tiny_model: Path) -> None:
    asked = replace(GREEDY, max_tokens=5, logprobs=True, top_logprobs=3)
    pieces = with_engine(make_engine(kind, tiny_model), lambda engine: deltas(engine, ask("hello"), asked))
    tokens = [token for delta in pieces for token in delta.logprobs]
    assert len(tokens) == 5
    for token in tokens:
        assert token.logprob <= 0
        assert len(token.top) == 3
        # Greedy: what was drawn is the likeliest.
        assert token.top[0] == (token.token, token.logprob)


@pytest.mark.parametrize("started", [False, True], ids=["before the first piece", "midway"])
def test_closing_the_stream_frees_its_row(kind: str, tiny_model: Path, started: bool) -> None:
    async def idle(engine: Engine) -> bool:
        health = await engine.health()
        return health.running == 0 and health.waiting == 0

    async def scene(engine: Engine) -> str:
        stream = await engine.generate(ask("hello"), LONG, adapter=None)
        if started:
            await anext(stream)
        await stream.aclose()
        await until(lambda: idle(engine))
        return await text(engine, ask("again"))

    assert with_engine(make_engine(kind, tiny_model, max_batch=1), scene)


def test_a_full_queue_refuses_and_takes_again_when_there_is_room(kind: str, tiny_model: Path) -> None:
    async def scene(engine: Engine) -> float:
        streams = [await engine.generate(ask(f"{n}"), LONG, adapter=None) for n in range(3)]
        with pytest.raises(EngineBusy) as refused:
            for _ in range(3):
                streams.append(await engine.generate(ask("one too many"), LONG, adapter=None))
        for stream in streams:
            await stream.aclose()

        async def idle() -> bool:
            health = await engine.health()
            return health.running + health.waiting == 0

        await until(idle)
        await text(engine, ask("again"))
        return refused.value.retry_after

    assert with_engine(make_engine(kind, tiny_model, max_batch=2, max_queue=1), scene) > 0


def test_more_requests_than_rows_are_all_answered(kind: str, tiny_model: Path) -> None:
    async def scene(engine: Engine) -> list[str]:
        return list(await asyncio.gather(*(text(engine, prompt) for prompt in PROMPTS)))

    assert all(with_engine(make_engine(kind, tiny_model, max_batch=2), scene))


def test_a_chat_does_not_wait_for_background_work(kind: str, tiny_model: Path) -> None:
    async def scene(engine: Engine) -> tuple[str, int]:
        work = [
            await engine.generate(ask(f"{n}"), LONG, adapter=None, priority=Priority.BACKGROUND)
            for n in range(6)
        ]
        answer = await text(engine, ask("hello"), replace(GREEDY, max_tokens=4))
        left = await engine.health()
        for stream in work:
            await stream.aclose()
        return answer, left.running + left.waiting

    answer, unfinished = with_engine(make_engine(kind, tiny_model, max_batch=4), scene)
    assert answer
    assert unfinished > 0


def test_background_work_never_makes_the_queue_full_for_chats(kind: str, tiny_model: Path) -> None:
    async def scene(engine: Engine) -> list[str]:
        work = []
        with pytest.raises(EngineBusy):
            for number in range(20):
                work.append(
                    await engine.generate(ask(f"{number}"), LONG, adapter=None, priority=Priority.BACKGROUND)
                )
        # As many people as there are rows and places in the queue.
        chats = [await engine.generate(ask(f"chat {n}"), GREEDY, adapter=None) for n in range(6)]
        answers = ["".join([delta.text async for delta in chat]) for chat in chats]
        for stream in work:
            await stream.aclose()
        return answers

    assert all(with_engine(make_engine(kind, tiny_model, max_batch=4, max_queue=2), scene))


def test_an_engine_that_is_not_running_says_so(kind: str, tiny_model: Path) -> None:
    async def scene() -> None:
        engine = make_engine(kind, tiny_model)
        with pytest.raises(EngineUnavailable):
            await engine.generate(ask("hello"), GREEDY, adapter=None)
        await engine.start()
        running = await engine.generate(ask("hello"), LONG, adapter=None)
        await engine.close()
        with pytest.raises(EngineUnavailable):
            [_ async for _ in running]
        with pytest.raises(EngineUnavailable):
            await engine.score([ask("hello")], ["there"], adapter=None)
        assert not (await engine.health()).ready

    asyncio.run(scene())


def test_a_prompt_beyond_the_context_is_refused(kind: str, tiny_model: Path) -> None:
    async def scene(engine: Engine) -> None:
        with pytest.raises(Invalid) as refused:
            await engine.generate(ask("word " * 2100), GREEDY, adapter=None)
        assert refused.value.param == "messages"
        with pytest.raises(Invalid):
            await engine.generate(ask("word"), replace(GREEDY, max_tokens=2048), adapter=None)

    with_engine(make_engine(kind, tiny_model), scene)


def test_adapters_answer_at_once_each_as_it_does_alone(
    kind: str, tiny_model: Path, adapters: tuple[AdapterRef, AdapterRef]
) -> None:
    async def scene(engine: Engine) -> tuple[list[str], list[str], str]:
        before = await text(engine, ask("hello"))
        for adapter in adapters:
            await engine.load(adapter)
        versions = [None, *(adapter.version for adapter in adapters)] * 2
        alone = [await text(engine, ask("hello"), adapter=version) for version in versions]
        tasks = (text(engine, ask("hello"), adapter=version) for version in versions)
        return alone, list(await asyncio.gather(*tasks)), before

    alone, together, before = with_engine(make_engine(kind, tiny_model), scene)
    assert together == alone
    assert len(set(alone)) == 3
    assert alone[0] == before


def test_a_running_answer_keeps_the_version_it_started_with(
    kind: str, tiny_model: Path, adapters: tuple[AdapterRef, AdapterRef]
) -> None:
    version = adapters[0].version
    asked = replace(GREEDY, max_tokens=60)

    async def scene(engine: Engine) -> tuple[str, str]:
        await engine.load(adapters[0])
        whole = await text(engine, ask("hello"), asked, adapter=version)
        stream = await engine.generate(ask("hello"), asked, adapter=version)
        pieces = [await anext(stream)]
        await engine.unload(version)
        assert await engine.resident() == ()
        with pytest.raises(NotFound) as refused:
            await engine.generate(ask("hello"), asked, adapter=version)
        assert refused.value.param == "model"
        pieces += [delta async for delta in stream]
        return whole, "".join(delta.text for delta in pieces)

    whole, pinned = with_engine(make_engine(kind, tiny_model), scene)
    assert pinned == whole


def test_loading_twice_and_unloading_what_is_not_there_do_nothing(
    kind: str, tiny_model: Path, adapters: tuple[AdapterRef, AdapterRef]
) -> None:
    async def scene(engine: Engine) -> tuple[str, ...]:
        await engine.load(adapters[0])
        await engine.load(adapters[0])
        await engine.unload("it0009-99999999")
        loaded = await engine.resident()
        await engine.unload(adapters[0].version)
        await engine.load(adapters[0])
        assert await engine.resident() == loaded == (await engine.health()).adapters
        return loaded

    assert with_engine(make_engine(kind, tiny_model), scene) == (adapters[0].version,)


def test_an_adapter_that_does_not_verify_changes_nothing(
    kind: str, tiny_model: Path, tmp_path: Path, adapters: tuple[AdapterRef, AdapterRef]
) -> None:
    damaged = tmp_path / "damaged"
    shutil.copytree(adapters[0].path, damaged)
    weights = damaged / "adapter_model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    bad = [
        replace(adapters[0], path=damaged),
        replace(adapters[0], path=tmp_path / "nowhere"),
        replace(adapters[0], digest="0" * 64),
    ]

    async def scene(engine: Engine) -> None:
        whole = await text(engine, ask("hello"))
        for adapter in bad:
            with pytest.raises(AdapterInvalid):
                await engine.load(adapter)
        assert await engine.resident() == ()
        assert await text(engine, ask("hello")) == whole

    with_engine(make_engine(kind, tiny_model), scene)


def test_scores_are_one_finite_logprob_per_token(
    kind: str, tiny_model: Path, adapters: tuple[AdapterRef, AdapterRef]
) -> None:
    prompts = [ask("one"), ask("two"), [*ask("a longer one"), Message("assistant", "yes"), *ask("and?")]]
    answers = ["short", "a somewhat longer answer of several words", ""]

    async def scene(engine: Engine) -> tuple[list[list[float]], list[list[float]], list[list[float]]]:
        await engine.load(adapters[0])
        base = await engine.score(prompts, answers, adapter=None)
        again = await engine.score(prompts[::-1], answers[::-1], adapter=None)
        return base, again, await engine.score(prompts, answers, adapter=adapters[0].version)

    base, again, adapted = with_engine(make_engine(kind, tiny_model), scene)
    assert all(math.isfinite(value) and value <= 0 for row in base for value in row)
    assert 0 < len(base[0]) < len(base[1])
    assert base[2] == []
    assert [len(row) for row in adapted] == [len(row) for row in base]
    assert adapted != base
    for row, other in zip(base, again[::-1], strict=True):
        assert row == pytest.approx(other, abs=1e-4)


def test_scoring_for_an_adapter_that_is_not_there_is_refused(kind: str, tiny_model: Path) -> None:
    async def scene(engine: Engine) -> None:
        with pytest.raises(NotFound):
            await engine.score([ask("hello")], ["there"], adapter="it0009-99999999")

    with_engine(make_engine(kind, tiny_model), scene)


def test_giving_up_a_score_harms_no_running_answer(kind: str, tiny_model: Path) -> None:
    async def scene(engine: Engine) -> tuple[str, str]:
        whole = await text(engine, ask("hello"), replace(GREEDY, max_tokens=200))
        running = asyncio.create_task(text(engine, ask("hello"), replace(GREEDY, max_tokens=200)))
        await asyncio.sleep(0.02)
        for _ in range(3):
            score = asyncio.create_task(engine.score([ask("x " * 300)] * 6, ["y " * 200] * 6, adapter=None))
            await asyncio.sleep(0.02)
            score.cancel()
        return whole, await running

    whole, survived = with_engine(make_engine(kind, tiny_model), scene)
    assert survived == whole


def test_it_answers_the_same_with_its_compute_given_away(kind: str, tiny_model: Path) -> None:
    async def scene(engine: Engine) -> list[str]:
        texts = [await text(engine, ask("hello"))]
        await engine.yield_compute()
        texts.append(await text(engine, ask("hello")))
        await engine.reclaim_compute()
        return [*texts, await text(engine, ask("hello"))]

    assert len(set(with_engine(make_engine(kind, tiny_model), scene))) == 1


def test_the_fingerprint_is_stable_and_tells_kinds_apart(tiny_model: Path) -> None:
    prints = [make_engine(kind, tiny_model).fingerprint for kind in (*KINDS, *KINDS)]
    assert prints[:3] == prints[3:]
    assert len(set(prints)) == 3
