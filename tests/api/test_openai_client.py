"""The unmodified openai-python client against a real server on loopback."""

import asyncio
import time
from collections.abc import Iterator

import openai
import pytest

from api.app import create_app
from api.config import ApiConfig
from policies.fake_engine import FakeEngine, FakeLimits, answer_tokens
from store.db import Store
from store.records import CompletionStatus, Message
from tests.listening import listening

MESSAGES = [{"role": "user", "content": "Hello"}]
ANSWER = "".join(answer_tokens([Message("user", "Hello")], None, 7))


@pytest.fixture
def engine() -> FakeEngine:
    made = FakeEngine(FakeLimits(max_batch=2, max_queue=1, token_delay=0.01))
    asyncio.run(made.start())
    return made


@pytest.fixture
def sdk(store: Store, engine: FakeEngine) -> Iterator[openai.OpenAI]:
    app = create_app(store=store, engine=engine, settings=ApiConfig())
    with (
        listening(app) as url,
        openai.OpenAI(base_url=f"{url}/v1", api_key="anything", max_retries=0) as client,
    ):
        yield client


def test_it_chats_and_lists_models(sdk: openai.OpenAI) -> None:
    answer = sdk.chat.completions.create(
        model="honed", messages=MESSAGES, seed=7, logprobs=True, top_logprobs=1
    )
    assert answer.choices[0].message.content == ANSWER
    assert answer.usage is not None and answer.usage.total_tokens > 0
    assert answer.choices[0].logprobs is not None
    assert [model.id for model in sdk.models.list()] == ["honed", "base"]


def test_it_streams(sdk: openai.OpenAI) -> None:
    stream = sdk.chat.completions.create(
        model="honed", messages=MESSAGES, seed=7, stream=True, stream_options={"include_usage": True}
    )
    chunks = list(stream)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == ANSWER
    assert chunks[-1].usage is not None and chunks[-1].choices == []
    assert len({chunk.id for chunk in chunks}) == 1


def test_stopping_in_the_middle_cancels_the_answer(sdk: openai.OpenAI, store: Store) -> None:
    with sdk.chat.completions.create(model="honed", messages=MESSAGES, seed=7, stream=True) as stream:
        for chunk in stream:
            if chunk.choices[0].delta.content:
                break
    for _ in range(200):
        [row] = store.completions.recent()
        if row.status is not CompletionStatus.STREAMING:
            break
        time.sleep(0.01)
    assert row.status is CompletionStatus.CANCELLED


def test_errors_become_its_own_classes(sdk: openai.OpenAI, engine: FakeEngine) -> None:
    create = sdk.chat.completions.create
    with pytest.raises(openai.BadRequestError) as bad:
        create(model="honed", messages=MESSAGES, temperature=3)
    assert bad.value.param == "temperature"
    with pytest.raises(openai.NotFoundError) as missing:
        create(model="it0009-aaaaaaaa", messages=MESSAGES)
    assert missing.value.code == "model_not_found"
    with pytest.raises(openai.RateLimitError) as busy:
        create(model="honed", messages=MESSAGES, n=5)
    assert busy.value.response.headers["retry-after-ms"] == "1000"
