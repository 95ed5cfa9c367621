"""LangChain and LiteLLM, unmodified, against a real server on loopback: each chats and streams."""

import asyncio
import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from langchain_openai import ChatOpenAI

from api.app import create_app
from api.config import ApiConfig
from policies.fake_engine import FakeEngine, FakeLimits, answer_tokens
from store.db import Store
from store.records import Completion, CompletionStatus, Message
from tests.listening import listening

ANSWER = "".join(answer_tokens([Message("user", "Hello")], None, 7))
LITELLM = Path(__file__).parents[2] / ".venv-litellm" / "bin" / "python"


@pytest.fixture
def url(store: Store) -> Iterator[str]:
    engine = FakeEngine(FakeLimits(token_delay=0.005))
    asyncio.run(engine.start())
    with listening(create_app(store=store, engine=engine, settings=ApiConfig())) as address:
        yield f"{address}/v1"


def recorded(store: Store) -> Completion:
    [row] = store.completions.recent()
    return row


@pytest.fixture
def langchain(url: str) -> ChatOpenAI:
    return ChatOpenAI(model="honed", base_url=url, api_key="ann", seed=7, max_retries=0)


def test_langchain_chats(langchain: ChatOpenAI, store: Store) -> None:
    answer = langchain.invoke("Hello")
    assert answer.content == ANSWER
    assert answer.response_metadata["model_name"] == "base"
    assert answer.usage_metadata is not None and answer.usage_metadata["output_tokens"] > 0
    assert answer.response_metadata["id"] == recorded(store).id, "what feedback refers to"


def test_langchain_streams(langchain: ChatOpenAI, store: Store) -> None:
    chunks = [str(chunk.content) for chunk in langchain.stream("Hello")]
    assert "".join(chunks) == ANSWER
    assert sum(bool(chunk) for chunk in chunks) > 1, "piece by piece"
    assert recorded(store).status is CompletionStatus.DONE


SCRIPT = """
import json, os, litellm
told = dict(model="openai/honed", api_base=os.environ["URL"], api_key="ann", seed=7, num_retries=0,
            messages=[{"role": "user", "content": "Hello"}])
whole = litellm.completion(**told)
pieces = [chunk.choices[0].delta.content or "" for chunk in litellm.completion(**told, stream=True) if chunk.choices]
print(json.dumps({"id": whole.id, "model": whole.model, "text": whole.choices[0].message.content, "pieces": pieces}))
"""


@pytest.mark.slow
@pytest.mark.skipif(not LITELLM.exists(), reason="LiteLLM has an environment of its own: make litellm")
def test_litellm_chats_and_streams(url: str, store: Store) -> None:
    # Its list of prices is read from the package, not from the network.
    environment = {**os.environ, "URL": url, "LITELLM_LOCAL_MODEL_COST_MAP": "True"}
    ran = subprocess.run(
        [LITELLM, "-c", SCRIPT], env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert ran.returncode == 0, ran.stderr[-2000:]
    said = json.loads(ran.stdout.splitlines()[-1])
    assert said["text"] == "".join(said["pieces"]) == ANSWER
    assert sum(map(bool, said["pieces"])) > 1, "piece by piece"
    rows = store.completions.recent()
    assert said["id"] in {row.id for row in rows} and len(rows) == 2
    assert {row.status for row in rows} == {CompletionStatus.DONE}
