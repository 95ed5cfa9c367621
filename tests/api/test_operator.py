"""What operators read, what they may ask for, and the tail of events."""

import asyncio
import json
from collections.abc import Callable
from typing import Any

import pytest
from fastapi import FastAPI
from starlette.testclient import TestClient

from api.views import seconds_left
from store.db import Store
from store.judging import Judgement
from store.records import (
    Adapter,
    AdapterStatus,
    Example,
    GateResult,
    IntentKind,
    Iteration,
    Split,
    Stage,
    Verdict,
)
from tests.api.asgi import talk
from tests.api.conftest import NOW, ask, error_of
from tests.clock import Clock


@pytest.fixture
def iteration(store: Store, clock: Clock, client: TestClient) -> Iteration:
    """A rejected iteration that learned from one thumb, ten seconds a stage."""
    answer = ask(client).json()["id"]
    body = {"id": "f1", "completion_id": answer, "kind": "thumb", "value": True}
    client.post("/v1/feedback", json=body)
    begun = store.iterations.begin(trigger="manual", incumbent=None, config={"a": 1})
    for stage in (Stage.COLLECTING, Stage.TRAINING, Stage.EVALUATING):
        clock.now += 10
        store.iterations.move(begun.id, stage)
    store.iterations.add_examples([Example(begun.id, "f1", answer, Split.TRAIN, "kto", True, 1.0)])
    gate = GateResult(begun.id, "kl/step_token", 0.4, 0.15, 0.3, Verdict.FAIL, "over the hard limit")
    store.iterations.add_gates([gate])
    store.metrics.add(begun.id, {"kl/step_token": 0.4})
    store.iterations.save_report(
        begun.id, {"samples": [{"before": "a", "after": "b"}], "seconds": {"train": 3.0}}
    )
    return begun


def reject(store: Store, iteration: Iteration) -> None:
    store.iterations.move(iteration.id, Stage.REJECTED, changes={"reason": "KL"})


def test_status_says_what_is_served_and_what_is_awaited(client: TestClient, store: Store) -> None:
    store.state.set("schedule", {"waiting_for": ["3 more votes"]})
    body = client.get("/v1/status").json()
    assert body["serving"]["version"] == "base" and body["paused"] is False
    assert body["engine"]["ready"] is True and body["engine"]["name"] == "fake"
    assert body["schedule"] == {"waiting_for": ["3 more votes"]}
    assert (body["running"], body["last_iteration"]) == (None, None)
    assert body["feedback"] == {"total": 0, "since_last_iteration": 0}


def test_status_shows_the_running_iteration_with_its_progress(
    client: TestClient, store: Store, iteration: Iteration
) -> None:
    store.iterations.set_progress(iteration.id, {"phase": "train", "done": 3, "total": 9})
    store.state.set("paused", True)
    body = client.get("/v1/status").json()
    assert (body["running"]["stage"], body["running"]["progress"]["done"]) == ("evaluating", 3)
    assert body["paused"] is True
    assert body["feedback"] == {"total": 1, "since_last_iteration": 0}


def test_an_iteration_is_told_in_full(
    client: TestClient, store: Store, iteration: Iteration, clock: Clock
) -> None:
    clock.now += 5
    reject(store, iteration)
    clock.now += 100
    body = client.get(f"/v1/iterations/{iteration.id}").json()
    timeline = [(stage["stage"], stage["seconds"]) for stage in body["stages"]]
    assert timeline == [
        ("queued", 10.0),
        ("collecting", 10.0),
        ("training", 10.0),
        ("evaluating", 5.0),
        ("rejected", None),
    ]
    assert body["metrics"] == {"kl/step_token": 0.4}
    assert body["gates"][0] | {"iteration": 1} == {
        "iteration": 1, "metric": "kl/step_token", "value": 0.4, "soft": 0.15, "hard": 0.3,
        "verdict": "fail", "reason": "over the hard limit",
    }  # fmt: skip
    assert body["examples"][0]["feedback_id"] == "f1" and body["samples"] == [{"before": "a", "after": "b"}]
    assert (body["stage"], body["reason"], body["config"]) == ("rejected", "KL", {"a": 1})


def test_an_iteration_is_told_with_the_votes_on_every_version(
    client: TestClient, store: Store, iteration: Iteration, add_adapter: Callable[..., Adapter]
) -> None:
    add_adapter("it0001-aaaaaaaa", AdapterStatus.ACTIVE)
    for name, up in (("f2", True), ("f3", False)):
        answer = ask(client).json()["id"]
        client.post("/v1/feedback", json={"id": name, "completion_id": answer, "kind": "thumb", "value": up})
    store.quarantine.hold([iteration.id], kept=(), actor="ann", reason="it lies")
    base, first = client.get(f"/v1/iterations/{iteration.id}").json()["thumbs"]
    assert (base["version"], base["votes"], base["rate"], base["quarantined"]) == ("base", 1, 1.0, 1)
    assert (first["version"], first["up"], first["down"], first["people"]) == ("it0001-aaaaaaaa", 1, 1, 1)


def test_a_running_stage_is_timed_up_to_now(client: TestClient, iteration: Iteration, clock: Clock) -> None:
    clock.now += 7
    assert client.get(f"/v1/iterations/{iteration.id}").json()["stages"][-1]["seconds"] == 7.0


def test_iterations_are_paged_newest_first(client: TestClient, store: Store) -> None:
    for _ in range(3):
        begun = store.iterations.begin(trigger="manual", incumbent=None, config={})
        store.iterations.move(begun.id, Stage.FAILED)
    page = client.get("/v1/iterations?limit=2").json()
    assert ([one["id"] for one in page["data"]], page["has_more"]) == ([3, 2], True)
    page = client.get("/v1/iterations?limit=2&before=2").json()
    assert ([one["id"] for one in page["data"]], page["has_more"]) == ([1], False)


@pytest.mark.parametrize("query", ["limit=0", "limit=x", "before=0", "before=99999999999999999999"])
def test_bad_paging_is_400(client: TestClient, query: str) -> None:
    assert error_of(client.get(f"/v1/iterations?{query}"), 400)["param"] == query.split("=")[0]


@pytest.mark.parametrize(
    "path",
    ["/v1/iterations/9", "/v1/adapters/it0009-aaaaaaaa", "/v1/completions/x", "/v1/operator/intents/x"],
)
def test_what_is_not_there_is_404(client: TestClient, path: str) -> None:
    assert error_of(client.get(path), 404)["code"] == "not_found"


def test_adapters_are_told_with_ancestors_and_service_times(
    client: TestClient, store: Store, add_adapter: Callable[..., Adapter]
) -> None:
    first = add_adapter("it0001-aaaaaaaa", AdapterStatus.ACTIVE)
    second = Adapter(
        "it0002-bbbbbbbb", first.version, None, first.path, "e" * 64, AdapterStatus.CANDIDATE, 0.5, NOW + 1
    )
    store.adapters.add(second)
    listed = client.get("/v1/adapters").json()["data"]
    assert [(one["version"], one["parent"]) for one in listed] == [
        ("it0002-bbbbbbbb", "it0001-aaaaaaaa"),
        ("it0001-aaaaaaaa", "base"),
    ]
    assert client.get("/v1/adapters/it0002-bbbbbbbb").json()["ancestors"] == ["it0001-aaaaaaaa", "base"]
    assert client.get("/v1/adapters/it0001-aaaaaaaa").json()["activations"][0]["reason"] == "test"


def test_a_completion_is_told_with_everything_it_led_to(
    client: TestClient, store: Store, iteration: Iteration
) -> None:
    answer = store.completions.recent()[0]
    store.judgements.add([Judgement("d1", "relevance", "v1", 0.5, NOW, answer.id, 0)])
    body = client.get(f"/v1/completions/{answer.id}").json()
    assert body["messages"] == [{"role": "user", "content": "Hello"}] and body["adapter"] == "base"
    assert body["choices"][0]["text"] == answer.choices[0].text
    assert [event["id"] for event in body["feedback"]] == ["f1"]
    assert body["judgements"][0]["score"] == 0.5
    assert [one["id"] for one in body["iterations"]] == [iteration.id]


@pytest.mark.parametrize("kind", ["train", "pause", "resume", "rollback"])
def test_an_intent_is_written_and_can_be_followed(client: TestClient, store: Store, kind: str) -> None:
    response = client.post(f"/v1/operator/{kind}", json={"reason": "because"})
    assert response.status_code == 202
    answer = response.json()
    assert answer == {"id": answer["id"], "kind": kind, "status": "pending"}
    [intent] = store.intents.pending()
    assert (intent.kind, intent.reason, intent.principal, intent.arguments) == (kind, "because", "local", {})
    followed = client.get(response.headers["location"]).json()
    assert (followed["id"], followed["status"]) == (intent.id, "pending")


def test_train_needs_neither_reason_nor_body(client: TestClient, store: Store) -> None:
    assert client.post("/v1/operator/train").status_code == 202
    assert store.intents.pending()[0].reason == "manual"


@pytest.mark.parametrize("kind", ["promote", "rollback"])
@pytest.mark.parametrize("reason", [None, "", "  "])
def test_moves_of_what_is_served_need_a_reason(client: TestClient, kind: str, reason: str | None) -> None:
    body = {"version": "it0001-aaaaaaaa", "reason": reason}
    assert error_of(client.post(f"/v1/operator/{kind}", json=body), 400)["param"] == "reason"


def test_versions_are_checked_right_away(
    client: TestClient, store: Store, add_adapter: Callable[..., Adapter]
) -> None:
    add_adapter("it0001-aaaaaaaa", AdapterStatus.HELD)

    def post(kind: str, **body: Any) -> Any:
        return client.post(f"/v1/operator/{kind}", json={"reason": "because", **body})

    assert error_of(post("promote"), 400)["param"] == "version"
    assert error_of(post("promote", version="it0002-bbbbbbbb"), 404)["param"] == "version"
    assert error_of(post("rollback", version="it0002-bbbbbbbb"), 404)["param"] == "version"
    assert post("promote", version="it0001-aaaaaaaa").status_code == 202
    assert post("rollback", version="base").status_code == 202
    arguments = [intent.arguments for intent in store.intents.pending()]
    assert arguments == [{"version": "it0001-aaaaaaaa"}, {"version": "base"}]


def test_a_rollback_can_ask_for_quarantine(client: TestClient, store: Store) -> None:
    for body in ({"quarantine": True}, {"quarantine": True, "version": "base"}, {"quarantine": False}):
        assert client.post("/v1/operator/rollback", json={"reason": "because", **body}).status_code == 202
    arguments = [intent.arguments for intent in store.intents.pending()]
    assert arguments == [{"quarantine": True}, {"version": "base", "quarantine": True}, {}]


@pytest.mark.parametrize("kind", ["train", "pause", "resume", "promote", "label", "release"])
def test_quarantine_goes_with_a_rollback_only(client: TestClient, store: Store, kind: str) -> None:
    body = {"reason": "because", "quarantine": True, "version": "base", "all": True}
    error = error_of(client.post(f"/v1/operator/{kind}", json=body), 400)
    assert error["param"] in ("quarantine", "all") and store.intents.pending() == []


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"quarantine": "yes"}, "quarantine"),
        ({"quarantine": 1}, "quarantine"),
        ({"iteration": 3}, "iteration"),
        ({"all": True}, "all"),
    ],
)
def test_a_rollback_is_told_what_it_does_not_take(
    client: TestClient, store: Store, body: dict[str, Any], param: str
) -> None:
    response = client.post("/v1/operator/rollback", json={"reason": "because", **body})
    assert error_of(response, 400)["param"] == param and store.intents.pending() == []


def test_a_release_names_one_iteration_or_all(client: TestClient, store: Store, iteration: Iteration) -> None:
    for body in ({"all": True}, {"iteration": iteration.id}):
        assert client.post("/v1/operator/release", json={"reason": "fine", **body}).status_code == 202
    assert [intent.arguments for intent in store.intents.pending()] == [
        {"all": True},
        {"iteration": iteration.id},
    ]


@pytest.mark.parametrize(
    ("body", "status", "param"),
    [
        ({}, 400, "iteration"),
        ({"all": False}, 400, "iteration"),
        ({"all": True, "iteration": 1}, 400, "all"),
        ({"iteration": 0}, 400, "iteration"),
        ({"iteration": 99}, 404, "id"),
        ({"all": True, "reason": ""}, 400, "reason"),
    ],
)
def test_a_release_that_makes_no_sense_is_refused(
    client: TestClient, store: Store, body: dict[str, Any], status: int, param: str
) -> None:
    error = error_of(client.post("/v1/operator/release", json={"reason": "fine", **body}), status)
    assert error["param"] == param and store.intents.pending() == []


def test_an_answer_is_told_with_what_of_it_is_in_quarantine(
    client: TestClient, store: Store, iteration: Iteration
) -> None:
    store.quarantine.hold([iteration.id], kept=(), actor="ann", reason="it lies")
    answer = store.completions.recent()[0]
    (row,) = client.get(f"/v1/completions/{answer.id}").json()["quarantine"]
    assert (row["feedback_id"], row["iteration"], row["reason"]) == ("f1", iteration.id, "it lies")
    assert client.get("/v1/status").json()["quarantined"] == 1


@pytest.mark.parametrize("kind", ["erase", "dance"])
def test_other_kinds_are_400_and_told_what_there_is(client: TestClient, store: Store, kind: str) -> None:
    error = error_of(client.post(f"/v1/operator/{kind}", json={"reason": "because"}), 400)
    assert (
        error["param"] == "kind"
        and "forget, label, pause, promote, release, resume, rollback, train" in error["message"]
    )
    assert store.intents.pending() == []


def events_of(text: bytes) -> list[tuple[str, dict[str, Any]]]:
    found = []
    for block in text.decode().split("\n\n"):
        lines = dict(line.split(": ", 1) for line in block.split("\n") if line and not line.startswith(":"))
        if lines:
            found.append((lines["event"], json.loads(lines["data"])))
    return found


def test_events_tell_stages_and_audit_entries_as_they_are_written(app: FastAPI, store: Store) -> None:
    store.audit.add(actor="x", action="old", subject="s", reason="r")
    told = False

    def happen(read: bytes) -> bool:
        nonlocal told
        if not told and read:
            told = True
            begun = store.iterations.begin(trigger="manual", incumbent=None, config={})
            store.iterations.move(begun.id, Stage.COLLECTING)
            store.audit.add(actor="x", action="new", subject="s", reason="r")
        return read.count(b"data:") >= 3

    read = asyncio.run(talk(app, "GET", "/v1/events", leave=happen))
    events = events_of(read)
    assert sorted(data["stage"] for event, data in events if event == "iteration") == ["collecting", "queued"]
    assert [data["action"] for event, data in events if event == "audit"] == ["new"]


def test_events_resume_after_an_id(app: FastAPI, store: Store) -> None:
    for action in ("one", "two", "three"):
        store.audit.add(actor="x", action=action, subject="s", reason="r")
    read = asyncio.run(talk(app, "GET", "/v1/events?after=1", leave=lambda read: read.count(b"data:") >= 2))
    assert [data["action"] for _, data in events_of(read)] == ["two", "three"]


def test_progress_is_told_as_it_changes_with_the_time_left(
    app: FastAPI, store: Store, iteration: Iteration, clock: Clock
) -> None:
    def train(done: int, at: float) -> None:
        clock.now = at
        told = {"phase": "train", "done": done, "total": 9, "metrics": {}, "at": at}
        store.iterations.set_progress(iteration.id, told)

    train(1, NOW + 100)

    def happen(read: bytes) -> bool:
        if read.count(b"data:") == 1 and b'"done":3' not in read:
            train(3, NOW + 108)
        return read.count(b"data:") >= 2

    read = asyncio.run(talk(app, "GET", "/v1/events", leave=happen))
    told = [data for event, data in events_of(read) if event == "progress"]
    assert [(row["iteration"], row["stage"], row["done"]) for row in told] == [
        (iteration.id, "evaluating", 1),
        (iteration.id, "evaluating", 3),
    ]
    # Two of nine steps took eight seconds; six are left.
    assert [row["seconds_left"] for row in told] == [None, 24.0]


@pytest.mark.parametrize(
    ("done", "total", "began", "now", "left"),
    [
        (3, 9, {"at": 0.0, "done": 1}, 10.0, 30.0),
        (3, 9, {"at": 0.0, "done": 1}, 25.0, 15.0),
        (3, 9, {"at": 0.0, "done": 1}, 90.0, 0.0),
        (3, 9, {"at": 0.0, "done": 3}, 10.0, None),
        (3, 9, {"at": 10.0, "done": 1}, 10.0, None),
        (9, 9, {"at": 0.0, "done": 1}, 10.0, None),
        (0, 0, {"at": 0.0, "done": 0}, 10.0, None),
        (3, 9, None, 10.0, None),
    ],
)
def test_time_left_goes_by_the_pace_so_far(
    done: int, total: int, began: dict[str, float] | None, now: float, left: float | None
) -> None:
    told = {"phase": "train", "done": done, "total": total, "at": 10.0, "began": began}
    assert seconds_left(told, now=now) == left


def test_intents_supported_here_are_kinds_the_store_knows() -> None:
    from api.routes.operator import SUPPORTED_INTENTS

    assert set(IntentKind) >= SUPPORTED_INTENTS
