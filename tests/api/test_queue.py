"""The queue over HTTP: its shape, its limits, and that its answers go back as labels."""

from typing import Any

import pytest
from fastapi import FastAPI
from starlette.testclient import TestClient

from api.app import create_app
from api.config import ApiConfig
from policies.fake_engine import FakeEngine
from store.db import Store
from store.judging import Queue, QueueItem, Shown
from store.records import Message
from tests.api.conftest import SECRET, URL, ask
from tests.clock import Clock


@pytest.fixture
def asked() -> list[int]:
    return []


@pytest.fixture
def app(store: Store, engine: FakeEngine, settings: ApiConfig, clock: Clock, asked: list[int]) -> FastAPI:
    def queue(limit: int) -> Queue:
        asked.append(limit)
        one, other = (completion.id for completion in store.completions.recent(limit=2))
        shown = Shown(one, 0, "this"), Shown(other, 0, "that")
        return Queue((QueueItem("ab", (Message("user", "Hello"),), *shown),))

    return create_app(store=store, engine=engine, settings=settings, clock=clock, secret=SECRET, queue=queue)


def test_a_pair_is_shown_blind_and_its_answer_is_a_label(
    client: TestClient, store: Store, asked: list[int]
) -> None:
    ids = [ask(client).json()["id"] for _ in range(2)]
    body = client.get("/v1/operator/queue", params={"limit": 3}).json()
    assert asked == [3] and body["reason"] is None
    (item,) = body["data"]
    assert set(item) == {"id", "prompt", "left", "right"}
    assert item["prompt"] == [{"role": "user", "content": "Hello"}]
    assert set(item["left"]) == {"completion_id", "choice_index", "text"}
    better, worse = item["right"], item["left"]
    for extra in ({}, {"same": True}):
        label: dict[str, Any] = {
            "completion_id": better["completion_id"], "choice_index": better["choice_index"],
            "over": worse["completion_id"], "over_index": worse["choice_index"], **extra,
        }  # fmt: skip
        assert client.post("/v1/operator/label", json=label).status_code == 202
    first, second = (intent.arguments for intent in store.intents.pending())
    assert {first["completion_id"], first["other_id"]} == set(ids) and "same" not in first
    assert second == {**first, "same": True}


@pytest.mark.parametrize("limit", ["0", "51", "many"])
def test_a_limit_beyond_what_is_shown_at_once_is_refused(client: TestClient, limit: str) -> None:
    answer = client.get("/v1/operator/queue", params={"limit": limit})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "limit")


def test_same_needs_two_answers(client: TestClient) -> None:
    one = ask(client).json()["id"]
    for body in ({"completion_id": one, "good": True, "same": True},
                 {"prompt": "?", "better": "a", "worse": "b", "same": True}):  # fmt: skip
        assert client.post("/v1/operator/label", json=body).status_code == 400


def test_an_app_without_a_queue_says_so(
    store: Store, engine: FakeEngine, settings: ApiConfig, clock: Clock
) -> None:
    bare = create_app(store=store, engine=engine, settings=settings, clock=clock, secret=SECRET)
    with TestClient(bare, base_url=URL) as client:
        body = client.get("/v1/operator/queue").json()
    assert body == {"object": "list", "data": [], "reason": "this service compares no answers"}
