"""Labelling answers: the three forms, and everything a label may not be."""

from typing import Any

import pytest
from starlette.testclient import TestClient

from store.db import Store
from tests.api.conftest import ask, error_of

WRITTEN = {"prompt": "Name a river.", "better": "The Rhine.", "worse": "Paris."}


@pytest.fixture
def answers(client: TestClient) -> list[str]:
    return [ask(client).json()["id"] for _ in range(2)]


def label(client: TestClient, **body: Any) -> Any:
    return client.post("/v1/operator/label", json={"reason": "clear", **body})


def test_each_form_becomes_an_intent_with_what_was_said(
    client: TestClient, store: Store, answers: list[str]
) -> None:
    one, other = answers
    assert label(client, completion_id=one, good=False).status_code == 202
    assert label(client, completion_id=one, over=other).status_code == 202
    assert label(client, **WRITTEN).status_code == 202
    assert [intent.arguments for intent in store.intents.pending()] == [
        {"completion_id": one, "choice_index": 0, "good": False},
        {"completion_id": one, "choice_index": 0, "other_id": other, "other_index": 0},
        WRITTEN,
    ]


def test_what_makes_no_label_is_400_with_the_field(
    client: TestClient, store: Store, answers: list[str]
) -> None:
    one, other = answers
    elsewhere = client.post(
        "/v1/chat/completions",
        json={"model": "honed", "messages": [{"role": "user", "content": "Something else"}]},
    ).json()["id"]
    cases: list[tuple[str, dict[str, Any]]] = [
        ("completion_id", {}),
        ("completion_id", {"completion_id": "nobody", "good": True}),
        ("good", {"completion_id": one}),
        ("over", {"completion_id": one, "good": True, "over": other}),
        ("over", {"completion_id": one, "over": "nobody"}),
        ("over", {"completion_id": one, "over": one}),
        ("over", {"completion_id": one, "over": elsewhere}),
        ("choice_index", {"completion_id": one, "choice_index": 5, "good": True}),
        ("over_index", {"completion_id": one, "over": other, "over_index": 5}),
        ("good", {**WRITTEN, "good": True}),
        ("completion_id", {**WRITTEN, "completion_id": one}),
        ("better", {**WRITTEN, "better": None}),
        ("better", {**WRITTEN, "better": "  "}),
        ("worse", {**WRITTEN, "worse": WRITTEN["better"]}),
    ]
    for param, body in cases:
        assert error_of(label(client, **body), 400)["param"] == param, body
    assert store.intents.pending() == []


def test_an_answer_whose_text_was_not_kept_cannot_be_labelled(client: TestClient) -> None:
    hidden = ask(client, store=False).json()["id"]
    assert error_of(label(client, completion_id=hidden, good=True), 400)["param"] == "completion_id"
