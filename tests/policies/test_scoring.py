"""Scores are what a plain forward of each row by itself says, and no token is computed twice for them."""

import asyncio
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from policies.engine import AdapterRef, Engine
from policies.forward import Whole
from policies.hf_engine import HfEngine
from policies.prefix_tree import Row, grow_tree
from policies.prefixes import LONG, Prefixes
from policies.scoring import ScoreJob, TokenCount
from store.errors import EngineUnavailable
from store.records import Message
from tests.policies.serving import GREEDY, ask, make_adapter, make_engine, text, with_engine

VERSION = "it0001-00000001"
RUBRIC = "Say how good the answer is, from nought to five, and nothing else. " * 6
MARKS = [f"Score: {mark}" for mark in range(6)]


@pytest.fixture(scope="module")
def model(tiny_model: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32).eval()


@pytest.fixture(scope="module")
def adapter(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> AdapterRef:
    return make_adapter(tiny_model, tmp_path_factory.mktemp("adapter") / VERSION, version=VERSION)


def some(length: int, seed: int) -> list[int]:
    return random.Random(seed).choices(range(5, 250), k=length)


def plain(model: Any, row: Row) -> list[float]:
    """One whole forward of one whole row."""
    prompt, answer = row
    with torch.inference_mode():
        logprobs = model(input_ids=torch.tensor([[*prompt, *answer]])).logits[0].log_softmax(-1)
    return [float(logprobs[len(prompt) - 1 + at, token]) for at, token in enumerate(answer)]


def scored(
    model: Any, rows: list[Row], *, budget: int = 256, prefixes: Prefixes | None = None
) -> tuple[list[list[float]], TokenCount]:
    job = ScoreJob(Whole(model), grow_tree(rows), None, Prefixes() if prefixes is None else prefixes)
    with torch.inference_mode():
        while True:
            before = job.count.computed
            done = job.advance(budget)
            assert job.count.computed - before <= budget
            if done:
                return job.results(), job.count


def rubric_rows(seed: int, *, answers: int = 4) -> list[Row]:
    """A rubric of 300 tokens; every answer with six options that differ in their last token."""
    prompts = [some(300, seed=0) + some(10 + 7 * number, seed=seed + number) for number in range(answers)]
    return [(prompt, [9, 8, option]) for prompt in prompts for option in range(10, 16)]


SHAPES: dict[str, list[Row]] = {
    "a rubric with six options": rubric_rows(100),
    "answers to a prompt and to a neutral one": [
        (prompt, some(20 + 9 * number, seed=number))
        for prompt in (some(90, seed=1), some(12, seed=2))
        for number in range(4)
    ],
    "empty answers among others": [(some(9, 1), []), (some(9, 1), [7]), (some(5, 2), []), ([3], [4, 5])],
    "only empty answers": [(some(9, 1), []), ([3], [])],
    "identical rows": [(some(30, 1), some(6, 2))] * 3,
    "one prompt begins another": [(some(40, 1)[:end], [7, 8]) for end in (40, 1, 17, 39)],
    "the same row split elsewhere": [(some(40, 1)[:at], some(40, 1)[at:]) for at in (1, 20, 39)],
    "longer than a forward": [(some(600, 1), some(300, 2)), (some(600, 1), [5]), (some(8, 3), some(4, 4))],
    "nothing in common": [([number, *some(number, number)], some(3, number)) for number in range(20, 26)],
}


@pytest.mark.parametrize("budget", [1, 7, 64, 256])
@pytest.mark.parametrize("shape", SHAPES)
def test_scores_equal_a_plain_forward_of_each_row(model: Any, shape: str, budget: int) -> None:
    rows = SHAPES[shape]
    results, count = scored(model, rows, budget=budget)
    for found, row in zip(results, rows, strict=True):
        assert found == pytest.approx(plain(model, row), abs=1e-4)
    assert count.computed == len({row[:end] for row in map(inputs, rows) for end in range(1, len(row) + 1)})


def inputs(row: Row) -> tuple[int, ...]:
    """What has to be read for a row: nothing where nothing is asked."""
    prompt, answer = row
    return (*prompt, *answer[:-1]) if answer else ()


def test_scores_behind_a_kept_prefix_equal_a_plain_forward(model: Any) -> None:
    prefixes = Prefixes()
    first, other = rubric_rows(100), rubric_rows(200)
    _, cold = scored(model, first, prefixes=prefixes)
    results, warm = scored(model, other, prefixes=prefixes)
    _, unaided = scored(model, other)
    for found, row in zip(results, other, strict=True):
        assert found == pytest.approx(plain(model, row), abs=1e-4)
    assert unaided.computed - warm.computed >= 300
    assert cold.asked == sum(len(prompt) + len(answer) for prompt, answer in first)


def test_a_kept_prefix_as_long_as_a_prompt_still_yields_its_first_target(model: Any) -> None:
    prefixes = Prefixes()
    whole = some(300, seed=0)
    scored(model, [(whole, [7])], prefixes=prefixes)
    for end in (300, 299, 150):
        results, count = scored(model, [(whole[:end], [5, 6])], prefixes=prefixes)
        assert results[0] == pytest.approx(plain(model, (whole[:end], [5, 6])), abs=1e-4)
        # The prompt's last token, whose state predicts, and the answer's first.
        assert count.computed == 2


def test_a_short_beginning_is_not_kept(model: Any) -> None:
    prefixes = Prefixes()
    scored(model, [(some(LONG, seed=0), [7])], prefixes=prefixes)
    assert prefixes.tokens == 0
    scored(model, [(some(LONG + 1, seed=0), [7])], prefixes=prefixes)
    assert prefixes.tokens == LONG


def rubric_prompts(subject: str, count: int) -> list[list[Message]]:
    return [
        [Message("system", RUBRIC), Message("user", f"{subject} {number} " * 4)] for number in range(count)
    ]


def judged(engine: Engine, prompts: list[list[Message]], adapter: str | None = None) -> Any:
    """Every prompt with every mark."""
    asked = [prompt for prompt in prompts for _ in MARKS]
    return engine.score(asked, MARKS * len(prompts), adapter=adapter)


def started(tiny_model: Path) -> HfEngine:
    engine = make_engine("hf", tiny_model)
    assert isinstance(engine, HfEngine)
    return engine


def test_a_rubric_is_read_once_for_all_calls(tiny_model: Path) -> None:
    engine = started(tiny_model)

    async def scene(_: Engine) -> list[int]:
        computed = []
        for subject in ("tides", "gulls", "ropes"):
            before = engine.scored.computed
            await judged(engine, rubric_prompts(subject, 3))
            computed.append(engine.scored.computed - before)
        return computed

    first, second, third = with_engine(engine, scene)
    # The tiny model's tokens are bytes.
    assert first - second >= len(RUBRIC)
    assert second == third
    assert second < len(RUBRIC)
    assert engine.scored.asked > 20 * engine.scored.computed


def test_an_adapter_has_prefixes_of_its_own_and_they_go_with_it(
    tiny_model: Path, adapter: AdapterRef
) -> None:
    engine = started(tiny_model)
    prompts = rubric_prompts("tides", 2)

    async def scene(_: Engine) -> tuple[list[Any], list[int]]:
        await engine.load(adapter)
        results, computed = [], []
        for version in (None, VERSION, VERSION, None):
            before = engine.scored.computed
            results.append(await judged(engine, prompts, version))
            computed.append(engine.scored.computed - before)
        await engine.unload(VERSION)
        await engine.load(adapter)
        before = engine.scored.computed
        await judged(engine, prompts, VERSION)
        return results, [*computed, engine.scored.computed - before]

    (base, tuned, tuned_again, base_again), computed = with_engine(engine, scene)
    assert computed[0] == computed[1] == computed[4]
    assert computed[2] == computed[3] < computed[0] - len(RUBRIC)
    for cold, warm in ((base, base_again), (tuned, tuned_again)):
        assert [value for row in warm for value in row] == pytest.approx(
            [value for row in cold for value in row], abs=1e-4
        )
    assert base != tuned


def test_a_score_given_up_midway_spoils_nothing_for_the_next(tiny_model: Path) -> None:
    prompts = rubric_prompts("tides", 12)

    async def scene(engine: Engine) -> tuple[Any, Any]:
        right = await judged(engine, prompts)
        chat = asyncio.create_task(text(engine, ask("hi"), GREEDY))
        for pause in (0.0, 0.005, 0.02):
            score = asyncio.create_task(judged(engine, rubric_prompts("gulls", 12)))
            await asyncio.sleep(pause)
            score.cancel()
        await chat
        return right, await judged(engine, prompts)

    right, after = with_engine(make_engine("hf", tiny_model), scene)
    for row, other in zip(after, right, strict=True):
        assert row == pytest.approx(other, abs=1e-4)


def test_a_score_whose_rows_are_still_being_read_at_the_close_is_refused(tiny_model: Path) -> None:
    async def scene() -> None:
        engine = make_engine("hf", tiny_model)
        await engine.start()
        score = asyncio.create_task(judged(engine, rubric_prompts("tides", 40)))
        await asyncio.sleep(0)
        await engine.close()
        with pytest.raises(EngineUnavailable):
            await asyncio.wait_for(score, timeout=20)

    asyncio.run(scene())
