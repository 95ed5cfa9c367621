"""The embedded engine says what transformers and PEFT themselves would say."""

import asyncio
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from policies.chat import encode_completion, encode_prompt, load_tokenizer
from policies.engine import AdapterRef, Engine
from policies.spec import write_manifest
from store.errors import AdapterInvalid
from store.records import Message, Sampling
from tests.policies.serving import GREEDY, ask, make_adapter, make_engine, text, with_engine

VERSION = "it0001-00000001"
WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"
#: Longer than one piece of prefill, so that pieces must fit together.
PROMPTS = [ask("hi"), ask("tell me of the sea"), ask("long " * 120)]


@pytest.fixture(scope="module")
def adapter(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> AdapterRef:
    return make_adapter(tiny_model, tmp_path_factory.mktemp("adapter") / VERSION, version=VERSION)


def plain(model: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32).eval()


def adapted(model: Path, adapter: AdapterRef) -> Any:
    with warnings.catch_warnings():
        # PEFT still asks the model for an attribute that transformers has renamed.
        warnings.simplefilter("ignore", FutureWarning)
        return PeftModel.from_pretrained(plain(model), adapter.path).eval()


def greedy_text(model: Any, directory: Path, messages: list[Message], tokens: int) -> str:
    tokenizer = load_tokenizer(directory)
    ids = torch.tensor([encode_prompt(tokenizer, messages)])
    with torch.inference_mode():
        out = model.generate(
            input_ids=ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=tokens
        )
    decoded: str = tokenizer.decode(out[0, ids.shape[1] :], skip_special_tokens=True)
    return decoded


def answers(engine: Engine, version: str | None = None) -> list[str]:
    async def scene(engine: Engine) -> list[str]:
        tasks = (text(engine, prompt, replace(GREEDY, max_tokens=48), adapter=version) for prompt in PROMPTS)
        return list(await asyncio.gather(*tasks))

    return with_engine(engine, scene)


def test_base_text_equals_generate(tiny_model: Path) -> None:
    model = plain(tiny_model)
    expected = [greedy_text(model, tiny_model, prompt, 48) for prompt in PROMPTS]
    assert answers(make_engine("hf", tiny_model)) == expected


def test_adapter_text_equals_peft_and_leaves_the_base_as_it_was(
    tiny_model: Path, adapter: AdapterRef
) -> None:
    base, tuned = plain(tiny_model), adapted(tiny_model, adapter)
    expected = [greedy_text(tuned, tiny_model, prompt, 48) for prompt in PROMPTS]
    untouched = [greedy_text(base, tiny_model, prompt, 48) for prompt in PROMPTS]
    assert expected != untouched

    async def scene(engine: Engine) -> tuple[list[str], list[str]]:
        await engine.load(adapter)
        asked = replace(GREEDY, max_tokens=48)
        versions = (VERSION, None)
        rows = [text(engine, prompt, asked, adapter=version) for version in versions for prompt in PROMPTS]
        found = list(await asyncio.gather(*rows))
        return found[: len(PROMPTS)], found[len(PROMPTS) :]

    assert with_engine(make_engine("hf", tiny_model), scene) == (expected, untouched)


def test_scores_equal_a_plain_forward_with_and_without_the_adapter(
    tiny_model: Path, adapter: AdapterRef
) -> None:
    tokenizer = load_tokenizer(tiny_model)
    continuations = ["yes", "a longer answer " * 8, "and one that is read in pieces " * 30]

    def expected(model: Any) -> list[list[float]]:
        rows = []
        for prompt, continuation in zip(PROMPTS, continuations, strict=True):
            given = encode_prompt(tokenizer, prompt)
            answer = encode_completion(tokenizer, continuation, ended=False)
            with torch.inference_mode():
                logprobs = model(input_ids=torch.tensor([given + answer])).logits[0].log_softmax(-1)
            rows.append([float(logprobs[len(given) - 1 + at, token]) for at, token in enumerate(answer)])
        return rows

    async def scene(engine: Engine) -> list[list[list[float]]]:
        await engine.load(adapter)
        return [await engine.score(PROMPTS, continuations, adapter=version) for version in (None, VERSION)]

    found = with_engine(make_engine("hf", tiny_model), scene)
    for rows, model in zip(found, (plain(tiny_model), adapted(tiny_model, adapter)), strict=True):
        for row, right in zip(rows, expected(model), strict=True):
            assert row == pytest.approx(right, abs=1e-4)


def test_scores_beside_a_chat_are_the_same(tiny_model: Path) -> None:
    prompts, continuations = PROMPTS * 2, ["some answer " * 20] * 6

    async def scene(engine: Engine) -> tuple[list[list[float]], list[list[float]]]:
        alone = await engine.score(prompts, continuations, adapter=None)
        chat = asyncio.create_task(text(engine, ask("hi"), replace(GREEDY, max_tokens=300)))
        await asyncio.sleep(0.02)
        beside = await engine.score(prompts, continuations, adapter=None)
        await chat
        return alone, beside

    alone, beside = with_engine(make_engine("hf", tiny_model), scene)
    for row, other in zip(beside, alone, strict=True):
        assert row == pytest.approx(other, abs=1e-4)


def test_penalties_keep_greedy_answers_from_repeating(tiny_model: Path) -> None:
    async def scene(engine: Engine) -> tuple[str, str]:
        asked = replace(GREEDY, max_tokens=40, logprobs=True)
        repeated = replace(asked, presence_penalty=100.0)
        texts = []
        for sampling in (asked, repeated):
            stream = await engine.generate(ask("hi"), sampling, adapter=None)
            tokens = [token.token for delta in [d async for d in stream] for token in delta.logprobs]
            texts.append(tokens)
        return texts[0], texts[1]

    loose, strict = with_engine(make_engine("hf", tiny_model), scene)
    assert len(set(loose)) < len(loose)
    # Tokens that are not whole characters all print alike; the others may appear once.
    whole = [token for token in strict if token != "\ufffd"]
    assert len(set(whole)) == len(whole)


def test_logprobs_are_the_model_s_own_whatever_the_temperature(tiny_model: Path) -> None:
    async def scene(engine: Engine) -> list[float]:
        found = []
        for temperature in (0.5, 1.5):
            sampling = Sampling(
                max_tokens=1, temperature=temperature, top_p=1.0, seed=3, logprobs=True, top_logprobs=1
            )
            stream = await engine.generate(ask("hi"), sampling, adapter=None)
            found += [token.top[0][1] for delta in [d async for d in stream] for token in delta.logprobs]
        return found

    cold, warm = with_engine(make_engine("hf", tiny_model), scene)
    assert cold == pytest.approx(warm, abs=1e-6)


def rewritten(adapter: AdapterRef, directory: Path, change: Any) -> AdapterRef:
    """The adapter with its tensors changed and sealed again, so that only the content is wrong."""
    directory.mkdir()
    tensors = load_file(adapter.path / WEIGHTS)
    save_file(change(tensors), directory / WEIGHTS, metadata={"format": "pt"})
    (directory / CONFIG).write_bytes((adapter.path / CONFIG).read_bytes())
    return AdapterRef(VERSION, directory, write_manifest(directory, [WEIGHTS, CONFIG]))


def with_nan(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    key = next(iter(tensors))
    return {**tensors, key: torch.full_like(tensors[key], float("nan"))}


def for_a_wider_model(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {key: torch.zeros(4, 64) if "q_proj.lora_A" in key else value for key, value in tensors.items()}


def for_a_deeper_model(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {key.replace("layers.3.", "layers.9."): value for key, value in tensors.items()}


def with_half_a_pair(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return dict(list(tensors.items())[1:])


@pytest.mark.parametrize("change", [with_nan, for_a_wider_model, for_a_deeper_model, with_half_a_pair])
def test_an_adapter_that_does_not_fit_is_refused_and_changes_nothing(
    tiny_model: Path, tmp_path: Path, adapter: AdapterRef, change: Any
) -> None:
    bad = rewritten(adapter, tmp_path / "bad", change)

    async def scene(engine: Engine) -> tuple[str, str]:
        before = await text(engine, ask("hi"))
        with pytest.raises(AdapterInvalid):
            await engine.load(bad)
        assert await engine.resident() == ()
        return before, await text(engine, ask("hi"))

    before, after = with_engine(make_engine("hf", tiny_model), scene)
    assert after == before


def test_a_model_that_is_not_there_fails_the_start(tmp_path: Path) -> None:
    engine = make_engine("hf", tmp_path)
    with pytest.raises((OSError, ValueError), match="config.json"):
        asyncio.run(engine.start())
    asyncio.run(engine.close())
