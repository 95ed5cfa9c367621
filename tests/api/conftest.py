"""An app on a fresh store and the fake engine, with a clock that stands still unless told to move."""

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from starlette.testclient import TestClient

from api.app import create_app
from api.config import ApiConfig
from policies.engine import AdapterRef
from policies.fake_engine import FakeEngine, FakeLimits
from store.db import Store
from store.records import Adapter, AdapterStatus
from tests.clock import Clock

NOW = 1_800_000_000.0
URL = "http://127.0.0.1:8000"
SECRET = b"a secret only this test knows"


@pytest.fixture
def clock() -> Clock:
    return Clock(NOW)


@pytest.fixture
def store(clock: Clock) -> Iterator[Store]:
    with Store.memory(clock=clock) as made:
        yield made


@pytest.fixture
def engine() -> FakeEngine:
    made = FakeEngine(FakeLimits(verify=False))
    asyncio.run(made.start())
    return made


@pytest.fixture
def settings() -> ApiConfig:
    return ApiConfig(events_poll_s=0.01, keepalive_s=5.0)


@pytest.fixture
def app(store: Store, engine: FakeEngine, settings: ApiConfig, clock: Clock) -> FastAPI:
    return create_app(store=store, engine=engine, settings=settings, clock=clock, secret=SECRET)


@pytest.fixture
def client(app: FastAPI) -> Iterator[TestClient]:
    with TestClient(app, base_url=URL) as made:
        yield made


@pytest.fixture
def add_adapter(store: Store, engine: FakeEngine) -> Callable[..., Adapter]:
    """Record an adapter, and have the engine hold it unless told otherwise."""

    def add(
        version: str, status: AdapterStatus = AdapterStatus.SUPERSEDED, *, resident: bool = True
    ) -> Adapter:
        adapter = Adapter(version, None, None, Path("/none") / version, "d" * 64, status, 1.0, NOW)
        store.adapters.add(adapter)
        if resident:
            asyncio.run(engine.load(AdapterRef(version, adapter.path, adapter.digest)))
        if status is AdapterStatus.ACTIVE:
            store.adapters.activate(version, actor="test", reason="test")
        return adapter

    return add


def ask(client: TestClient, words: str = "Hello", headers: dict[str, str] | None = None, **body: Any) -> Any:
    """A chat request; returns the response."""
    request = {"model": "honed", "messages": [{"role": "user", "content": words}], **body}
    return client.post("/v1/chat/completions", json=request, headers=headers)


def error_of(response: Any, status: int) -> dict[str, Any]:
    """The envelope's content, its shape checked."""
    assert response.status_code == status, response.text
    assert set(response.json()) == {"error"}
    error: dict[str, Any] = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["message"]
    return error
