"""New answers to old questions: repeatable, at background priority, drawn once."""

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import pytest

from judge.candidates import LONGEST_PAUSE, Asked, Draw, Purpose, answer, sample, sample_all, together
from policies.engine import AdapterRef, Engine, Priority
from policies.fake_engine import FakeEngine, FakeLimits, answer_tokens
from store.db import Store
from store.errors import EngineBusy, EngineUnavailable
from store.records import Completion, CompletionStatus, Message, Sampling, Source
from tests.judge.saying import SayingEngine

T = TypeVar("T")
PROMPT = (Message("user", "How do I boil an egg?"),)
ASKED = Asked(PROMPT, "chatcmpl-1")
DRAW = Draw(iteration=7, adapter=None, count=4, sampling=Sampling(max_tokens=60, seed=11), at=5.0)


def ask(*texts: str) -> list[Asked]:
    return [Asked((Message("user", text),), f"chatcmpl-{n}") for n, text in enumerate(texts)]


def on(engine: Engine, work: Callable[[Engine], Coroutine[Any, Any, T]]) -> T:
    async def scene() -> T:
        await engine.start()
        try:
            return await asyncio.wait_for(work(engine), timeout=20)
        finally:
            await engine.close()

    return asyncio.run(scene())


def test_a_sample_is_a_record_ready_to_be_stored() -> None:
    drawn = on(FakeEngine(), lambda engine: sample(engine, ASKED, DRAW))
    assert (drawn.source, drawn.principal, drawn.status) == (Source.SAMPLE, "honed", CompletionStatus.DONE)
    assert (drawn.messages, drawn.adapter, drawn.engine) == (PROMPT, None, FakeEngine.fingerprint)
    assert drawn.id.startswith("sample-0007-")
    assert drawn.metadata == {
        "iteration": 7,
        "purpose": "candidates",
        "prompt_of": "chatcmpl-1",
        "self_instruct": False,
    }
    assert [choice.index for choice in drawn.choices] == [0, 1, 2, 3]
    assert len({choice.text for choice in drawn.choices}) == 4
    assert drawn.completion_tokens == sum(choice.tokens for choice in drawn.choices) > 0
    assert drawn.prompt_tokens > 0
    with Store.memory() as store:
        store.completions.begin(drawn)
        assert store.completions.get(drawn.id) == drawn


def test_the_same_draw_is_the_same_and_what_changes_the_text_changes_the_id() -> None:
    async def scene(engine: Engine) -> None:
        await engine.load(AdapterRef("it0001", Path(), "d"))
        first = await sample(engine, ASKED, DRAW)
        assert first == await sample(engine, ASKED, DRAW)
        others = [
            replace(DRAW, iteration=8),
            replace(DRAW, adapter="it0001"),
            replace(DRAW, count=3),
            replace(DRAW, purpose=Purpose.BASE),
            replace(DRAW, sampling=replace(DRAW.sampling, temperature=0.1)),
            replace(DRAW, sampling=replace(DRAW.sampling, seed=12)),
        ]
        ids = {(await sample(engine, ASKED, other)).id for other in others}
        assert len(ids | {first.id}) == 7
        assert (await sample(engine, ASKED, replace(DRAW, at=99.0))).id == first.id

    on(FakeEngine(FakeLimits(verify=False)), scene)


def test_every_answer_has_its_own_seed() -> None:
    engine = SayingEngine(lambda _: "In water.")
    on(engine, lambda e: sample_all(e, ask("Why?", "How?"), DRAW, already={}))
    assert len(set(engine.seeds)) == 8
    assert all(seed is not None and 0 <= seed < 2**31 for seed in engine.seeds)


def test_sampling_asks_at_background_priority() -> None:
    engine = SayingEngine(lambda _: "In water.")
    on(engine, lambda e: sample(e, ASKED, DRAW))
    assert engine.priorities == {Priority.BACKGROUND}


def test_resuming_does_not_sample_again() -> None:
    engine = SayingEngine(lambda _: "In water.")
    kept: dict[str, Completion] = {}
    progress: list[int] = []

    async def keep(completion: Completion) -> None:
        kept[completion.id] = completion

    asked = ask("Why?", "How?", "When?")
    first = on(engine, lambda e: sample_all(e, asked[:2], DRAW, already={}, keep=keep))
    assert [item.id for item in first] == list(kept)
    before = dict(kept)
    again = on(
        engine,
        lambda e: sample_all(e, asked, DRAW, already=before, keep=keep, on_progress=progress.append),
    )
    assert again[:2] == first
    assert len(engine.asked) == 12
    assert len(kept) == 3
    assert progress == [1, 2, 3]


def test_one_prompt_twice_is_drawn_once() -> None:
    engine = SayingEngine(lambda _: "In water.")
    drawn = on(engine, lambda e: sample_all(e, [ASKED, ASKED], DRAW, already={}))
    assert (len(drawn), len(engine.asked)) == (1, 4)


def test_a_prompt_the_engine_refuses_costs_only_itself() -> None:
    asked = ask("Why?", "word " * 100, "How?")
    engine = FakeEngine(FakeLimits(max_context=100))
    drawn = on(engine, lambda e: sample_all(e, asked, DRAW, already={}))
    assert [item.status for item in drawn] == ["done", "failed", "done"]
    assert "context" in drawn[1].metadata["refused"]
    assert drawn[1].choices == ()


def test_a_full_queue_is_waited_out_and_the_wait_grows() -> None:
    engine = SayingEngine(lambda _: "In water.", busy=7)
    waits: list[float] = []

    async def sleep(seconds: float) -> None:
        waits.append(seconds)

    drawn = on(engine, lambda e: sample(e, ASKED, replace(DRAW, count=1), sleep=sleep))
    assert drawn.choices[0].text == "In water."
    assert waits == [2.0, 4.0, 8.0, 16.0, LONGEST_PAUSE, LONGEST_PAUSE, LONGEST_PAUSE]


def test_more_answers_than_the_queue_holds_all_come() -> None:
    async def sleep(_: float) -> None:
        await asyncio.sleep(0.001)

    engine = FakeEngine(FakeLimits(max_batch=1, max_queue=0))
    drawn = on(engine, lambda e: sample(e, ASKED, DRAW, sleep=sleep))
    assert len({choice.text for choice in drawn.choices}) == 4


def test_people_are_answered_while_the_background_is_full() -> None:
    async def scene(engine: Engine) -> None:
        draw = replace(DRAW, count=2)
        task = asyncio.ensure_future(sample_all(engine, ask(*map(str, range(20))), draw, already={}))
        await asyncio.sleep(0.02)
        async for _ in await engine.generate(PROMPT, Sampling(max_tokens=60), adapter=None):
            pass
        assert not task.done()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await asyncio.sleep(0.01)
        health = await engine.health()
        assert (health.running, health.waiting) == (0, 0)

    on(FakeEngine(FakeLimits(max_batch=2, max_queue=20, token_delay=0.002)), scene)


def test_other_errors_end_it_and_leave_nothing_running() -> None:
    def say(messages: Sequence[Message]) -> str:
        if messages[-1].content == "gone":
            raise EngineUnavailable("closed")
        return "In water."

    with pytest.raises(EngineUnavailable):
        on(SayingEngine(say), lambda e: sample_all(e, ask("Why?", "gone"), DRAW, already={}))


def test_a_failure_cancels_the_rest() -> None:
    ended: list[str] = []

    async def slow() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            ended.append("slow")

    async def fails() -> None:
        await asyncio.sleep(0)
        raise EngineBusy("no")

    async def scene() -> None:
        with pytest.raises(EngineBusy):
            await together([slow(), fails()])
        assert ended == ["slow"]

    asyncio.run(scene())


def test_an_answer_cut_short_says_so() -> None:
    async def scene(engine: Engine) -> None:
        tokens = answer_tokens(PROMPT, None, 3)
        choice, usage = await answer(engine, PROMPT, Sampling(max_tokens=2, seed=3), adapter=None)
        assert (choice.text, choice.finish_reason) == ("".join(tokens[:2]), "length")
        assert usage.completion_tokens == choice.tokens == 2

    on(FakeEngine(), scene)
