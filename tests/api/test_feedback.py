"""Feedback over HTTP: every kind, who may vote on what, and repeating oneself."""

import json
from typing import Any

import pytest
from starlette.testclient import TestClient

from store.db import Store
from store.records import Choice, Completion, CompletionStatus, FeedbackKind, Message, Sampling, Source
from tests.api.conftest import ask, error_of
from tests.clock import Clock


@pytest.fixture
def answer(client: TestClient) -> str:
    return str(ask(client).json()["id"])


def vote(client: TestClient, completion: str, kind: str = "thumb", value: Any = True, **more: Any) -> Any:
    headers = more.pop("headers", None)
    body = {"completion_id": completion, "kind": kind, "value": value, **more}
    # json.dumps escapes what UTF-8 cannot hold, as a careless client would.
    headers = {"content-type": "application/json", **(headers or {})}
    return client.post("/v1/feedback", content=json.dumps(body), headers=headers)


def test_a_thumb_is_201_and_on_disk(client: TestClient, store: Store, answer: str) -> None:
    response = vote(client, answer, reason="clear", comment="thanks", metadata={"page": 1})
    assert response.status_code == 201
    body = response.json()
    assert body == {
        "id": body["id"],
        "completion_id": answer,
        "choice_index": 0,
        "adapter": "base",
        "supersedes": None,
    }
    event = store.feedback.get(body["id"])
    assert (event.kind, event.value, event.principal) == (FeedbackKind.THUMB, True, "local")
    assert (event.reason, event.comment, event.metadata) == ("clear", "thanks", {"page": 1})


def test_a_later_event_of_the_same_kind_supersedes(client: TestClient, store: Store, answer: str) -> None:
    first = vote(client, answer, value=True).json()
    second = vote(client, answer, value=None).json()
    other_kind = vote(client, answer, "rating", 4).json()
    assert second["supersedes"] == first["id"] and other_kind["supersedes"] is None
    assert {event.value for event in store.feedback.latest(answer)} == {None, 4}
    assert len(store.feedback.events(answer)) == 3


GOOD = [
    ("thumb", False),
    ("thumb", None),
    ("rating", 1),
    ("rating", 5),
    ("edit", "Better words"),
    ("click", "copy"),
    ("click", "dwell"),
    ("comment", "Nice"),
]


@pytest.mark.parametrize(("kind", "value"), GOOD)
def test_each_kind_takes_its_values(
    client: TestClient, store: Store, answer: str, kind: str, value: Any
) -> None:
    response = vote(client, answer, kind, value)
    assert response.status_code == 201
    assert store.feedback.get(response.json()["id"]).value == value


BAD = [
    ("thumb", 1, "true, false, or null"),
    ("thumb", "up", "true, false, or null"),
    ("rating", 0, "1 to 5"),
    ("rating", 6, "1 to 5"),
    ("rating", True, "1 to 5"),
    ("rating", 3.5, "1 to 5"),
    ("rating", None, "1 to 5"),
    ("preference", None, "id of the completion"),
    ("preference", -1, "index of the choice"),
    ("preference", True, "id of the completion"),
    ("edit", "  ", "not empty"),
    ("edit", None, "corrected text"),
    ("edit", "\ud800", "surrogate"),
    ("regenerate", 4, "new completion"),
    ("click", "hover", "copy, share, link, follow_up, abandon, dwell"),
    ("click", ["copy"], "copy, share"),
    ("comment", "", "not empty"),
]


@pytest.mark.parametrize(("kind", "value", "says"), BAD, ids=lambda value: str(value)[:20])
def test_other_values_are_400_and_told_what_is_allowed(
    client: TestClient, store: Store, answer: str, kind: str, value: Any, says: str
) -> None:
    error = error_of(vote(client, answer, kind, value), 400)
    assert error["param"] == "value" and says in error["message"]
    assert store.feedback.count() == 0


@pytest.mark.parametrize(
    ("change", "param", "says"),
    [
        ({"kind": "applause"}, "kind", "'thumb', 'rating'"),
        ({"completion_id": ""}, "completion_id", "at least 1"),
        ({"choice_index": -1}, "choice_index", "greater than or equal to 0"),
        ({"id": "no spaces"}, "id", "match pattern"),
        ({"reason": "r" * 1001}, "reason", "at most 1000"),
    ],
)
def test_other_fields_are_checked_too(
    client: TestClient, answer: str, change: dict[str, Any], param: str, says: str
) -> None:
    body = {"completion_id": answer, "kind": "thumb", "value": True, **change}
    error = error_of(client.post("/v1/feedback", json=body), 400)
    assert error["param"] == param and says in error["message"]


def test_a_missing_value_is_not_a_null(client: TestClient, answer: str) -> None:
    error = error_of(client.post("/v1/feedback", json={"completion_id": answer, "kind": "thumb"}), 400)
    assert error["message"] == "value is required"


def test_an_unknown_completion_is_404(client: TestClient) -> None:
    assert error_of(vote(client, "chatcmpl-none"), 404)["param"] == "completion_id"


def test_with_several_choices_the_index_is_needed_and_must_exist(client: TestClient) -> None:
    answer = ask(client, n=2).json()["id"]
    assert "0 to 1" in error_of(vote(client, answer), 400)["message"]
    assert vote(client, answer, choice_index=1).json()["choice_index"] == 1
    assert error_of(vote(client, answer, choice_index=2), 404)["param"] == "choice_index"


def test_a_preference_names_a_known_answer(client: TestClient, answer: str) -> None:
    other = ask(client, "Hello again").json()["id"]
    assert vote(client, answer, "preference", other).status_code == 201
    assert error_of(vote(client, answer, "preference", "chatcmpl-none"), 404)["param"] == "value"
    assert error_of(vote(client, answer, "preference", answer), 400)["param"] == "value"
    assert error_of(vote(client, answer, "preference", 1), 400)["param"] == "value"


def test_a_preference_between_choices_names_the_other_index(client: TestClient) -> None:
    answer = ask(client, n=2).json()["id"]
    assert vote(client, answer, "preference", 1, choice_index=0).status_code == 201
    assert "one of [1]" in error_of(vote(client, answer, "preference", 0, choice_index=0), 400)["message"]


def test_regenerate_names_the_new_answer(client: TestClient, answer: str) -> None:
    again = ask(client).json()["id"]
    assert vote(client, answer, "regenerate", again).status_code == 201
    assert error_of(vote(client, answer, "regenerate", "chatcmpl-none"), 404)["param"] == "value"


def test_a_repeated_id_replays_and_another_body_is_422(client: TestClient, store: Store, answer: str) -> None:
    first = vote(client, answer, id="mine-1")
    again = vote(client, answer, id="mine-1")
    assert (again.status_code, again.json()) == (201, first.json())
    assert store.feedback.count() == 1
    assert error_of(vote(client, answer, value=False, id="mine-1"), 422)["code"] == "idempotency_conflict"


def test_an_idempotency_key_replays_even_later(
    client: TestClient, store: Store, answer: str, clock: Clock
) -> None:
    key = {"Idempotency-Key": "k-1"}
    first = vote(client, answer, headers=key)
    clock.now += 86_400
    assert vote(client, answer, headers=key).json() == first.json()
    assert store.feedback.count() == 1
    error_of(vote(client, answer, value=False, headers=key), 422)
    other = vote(client, answer, headers={**key, "Authorization": "Bearer someone"})
    assert other.json()["id"] != first.json()["id"], "keys belong to a principal"


def test_an_answer_that_was_not_stored_takes_a_thumb_but_no_text(client: TestClient) -> None:
    answer = ask(client, store=False).json()["id"]
    assert vote(client, answer).status_code == 201
    assert "store: false" in error_of(vote(client, answer, "edit", "Better"), 400)["message"]


def test_an_answer_under_way_may_already_be_voted_on(client: TestClient, store: Store) -> None:
    row = Completion(
        "chatcmpl-x", 1.0, "local", Source.CHAT, (Message("user", "x"),), Sampling(), None, "fake",
        CompletionStatus.STREAMING, (Choice(0, "", None),),
    )  # fmt: skip
    store.completions.begin(row)
    assert vote(client, "chatcmpl-x").status_code == 201


def test_one_can_read_back_what_counts_of_ones_own_votes(client: TestClient, answer: str) -> None:
    vote(client, answer, value=True)
    vote(client, answer, value=False)
    vote(client, answer, "rating", 3, headers={"Authorization": "Bearer someone else"})
    data = client.get(f"/v1/completions/{answer}/feedback").json()["data"]
    assert [(event["kind"], event["value"]) for event in data] == [("thumb", False)]
    error_of(client.get("/v1/completions/none/feedback"), 404)
