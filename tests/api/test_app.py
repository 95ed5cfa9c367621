"""What holds for every route: envelopes, request ids, size limits, models, probes, metrics, pages."""

import asyncio
import logging
import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families
from starlette.testclient import TestClient

from api.app import create_app
from api.config import ApiConfig
from api.errors import ANSWERS, answer_for, field_path
from api.routes.pages import WEB
from policies.fake_engine import FakeEngine
from store import errors
from store.db import Store
from store.records import Adapter, AdapterStatus, GateResult, Intent, IntentKind, IntentStatus, Stage, Verdict
from tests.api.conftest import NOW, URL, ask, error_of


def test_an_unknown_route_and_a_wrong_method_are_envelopes(client: TestClient) -> None:
    assert error_of(client.get("/v1/nothing"), 404)["code"] == "unknown_route"
    response = client.get("/v1/chat/completions")
    assert error_of(response, 405)["code"] == "method_not_allowed"
    assert response.headers["allow"] == "POST"


def test_every_error_of_the_store_has_a_row_in_the_table() -> None:
    assert answer_for(errors.ConfigError("x")).status == 400
    assert answer_for(errors.Conflict("x")).status == 422
    assert answer_for(ZeroDivisionError()).status == 500
    retried = {408, 409, 429, 500, 502, 503, 504}
    permanent = {errors.Invalid, errors.Forbidden, errors.NotFound, errors.Conflict, errors.RefusedByGate}
    assert {ANSWERS[kind].status for kind in permanent}.isdisjoint(retried)


def test_field_paths_read_like_openais() -> None:
    assert field_path(("body", "messages", 0, "role")) == "messages[0].role"
    assert field_path(("body",)) is None


def test_every_answer_has_a_request_id_and_a_harmless_one_is_kept(client: TestClient) -> None:
    made = {
        client.get(path).headers["x-request-id"] for path in ("/", "/v1/nothing", "/v1/models", "/healthz")
    }
    assert len(made) == 4 and all(re.fullmatch(r"req_[0-9a-f]{32}", each) for each in made)
    assert client.get("/healthz", headers={"X-Request-Id": "mine-1"}).headers["x-request-id"] == "mine-1"
    assert client.get("/healthz", headers={"X-Request-Id": "a b"}).headers["x-request-id"].startswith("req_")


class BrokenEngine(FakeEngine):
    async def resident(self) -> tuple[str, ...]:
        raise ZeroDivisionError("a secret detail")

    async def generate(self, *args: Any, **kwargs: Any) -> Any:
        raise ZeroDivisionError("a secret detail")


@pytest.fixture
def broken(store: Store) -> Iterator[TestClient]:
    with TestClient(
        create_app(store=store, engine=BrokenEngine(), settings=ApiConfig()), base_url=URL
    ) as client:
        yield client


def test_what_nobody_expected_is_500_logged_and_keeps_its_detail(
    broken: TestClient, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.ERROR):
        response = ask(broken)
    assert error_of(response, 500)["code"] == "internal_error"
    assert "secret" not in response.text
    assert response.headers["x-request-id"] in caplog.text and "a secret detail" in caplog.text


def test_a_body_over_the_limit_is_413_whatever_its_length_claims(store: Store, engine: FakeEngine) -> None:
    app = create_app(store=store, engine=engine, settings=ApiConfig(max_body_bytes=1024))

    def pieces() -> Iterator[bytes]:
        for _ in range(3):
            yield b" " * 500

    with TestClient(app, base_url=URL) as client:
        response = client.post("/v1/feedback", content=pieces(), headers={"content-type": "application/json"})
        assert "1024 bytes" in error_of(response, 413)["message"]
        assert error_of(ask(client, "x" * 2000), 413)["code"] == "body_too_large"
        assert ask(client).status_code == 200


def test_a_body_of_another_type_is_told_which_is_wanted(client: TestClient) -> None:
    response = client.post("/v1/feedback", content=b"{}", headers={"content-type": "text/plain"})
    assert "application/json" in error_of(response, 400)["message"]


def test_models_are_the_alias_the_base_and_what_is_servable_and_loaded(
    client: TestClient, add_adapter: Callable[..., Adapter]
) -> None:
    add_adapter("it0001-aaaaaaaa")
    add_adapter("it0002-bbbbbbbb", AdapterStatus.ACTIVE)
    add_adapter("it0003-cccccccc", AdapterStatus.REJECTED)
    add_adapter("it0004-dddddddd", resident=False)
    body = client.get("/v1/models").json()
    assert body["object"] == "list"
    assert {model["id"]: (model["root"], model["parent"]) for model in body["data"]} == {
        "honed": ("it0002-bbbbbbbb", None),
        "base": ("base", None),
        "it0001-aaaaaaaa": ("base", "base"),
        "it0002-bbbbbbbb": ("base", "base"),
    }
    assert client.get("/v1/models/it0001-aaaaaaaa").json()["object"] == "model"
    assert error_of(client.get("/v1/models/it0003-cccccccc"), 404)["code"] == "model_not_found"


def test_probes_are_well_when_all_is_well(client: TestClient) -> None:
    for path in ("/healthz", "/health", "/readyz"):
        assert client.get(path).json() == {"status": "ok", "reasons": []}


def test_a_stopped_engine_is_not_ready_but_alive(client: TestClient, engine: FakeEngine) -> None:
    asyncio.run(engine.close())
    response = client.get("/readyz")
    assert response.status_code == 503 and response.json()["reasons"] == ["engine: not ready"]
    assert client.get("/healthz").status_code == 200


def test_a_closed_store_is_neither(engine: FakeEngine) -> None:
    store = Store.memory()
    with TestClient(create_app(store=store, engine=engine, settings=ApiConfig()), base_url=URL) as client:
        store.close()
        assert client.get("/healthz").status_code == 503
        assert "writer" in client.get("/readyz").json()["reasons"][0]


def samples_of(client: TestClient) -> dict[str, float]:
    found = {}
    for family in text_string_to_metric_families(client.get("/metrics").text):
        for sample in family.samples:
            labels = ",".join(f"{key}={value}" for key, value in sorted(sample.labels.items()))
            found[f"{sample.name}{{{labels}}}"] = sample.value
    return found


def test_metrics_count_what_happened(
    client: TestClient, store: Store, add_adapter: Callable[..., Adapter]
) -> None:
    add_adapter("it0001-aaaaaaaa", AdapterStatus.ACTIVE)
    begun = store.iterations.begin(trigger="manual", incumbent=None, config={})
    store.iterations.move(begun.id, Stage.REJECTED)
    body = ask(client).json()
    client.post("/v1/feedback", json={"completion_id": body["id"], "kind": "thumb", "value": True})
    client.get("/v1/nothing")
    found = samples_of(client)
    chat = "honed_requests_total{method=POST,route=/v1/chat/completions,status=200}"
    assert found[chat] == found["honed_completions_total{status=done}"] == 1
    assert found["honed_requests_total{method=GET,route=unmatched,status=404}"] == 1
    assert found["honed_tokens_total{kind=completion}"] == body["usage"]["completion_tokens"]
    assert found["honed_time_to_first_token_seconds_count{}"] == 1
    assert found["honed_feedback_total{kind=thumb}"] == 1
    assert found["honed_active_adapter_info{version=it0001-aaaaaaaa}"] == 1
    assert found["honed_iterations{stage=rejected}"] == 1
    assert (found["honed_engine_queue_depth{}"], found["honed_engine_ready{}"]) == (0, 1)


def test_two_apps_keep_their_numbers_apart(client: TestClient, store: Store, engine: FakeEngine) -> None:
    ask(client)
    with TestClient(create_app(store=store, engine=engine, settings=ApiConfig()), base_url=URL) as other:
        assert "honed_completions_total{status=done}" not in samples_of(other)


@pytest.mark.parametrize("path", ["/", "/ops"])
def test_pages_load_nothing_from_elsewhere_and_run_nothing_inline(client: TestClient, path: str) -> None:
    response = client.get(path)
    assert response.status_code == 200
    assert "default-src 'self'" in response.headers["content-security-policy"]
    assert response.headers["x-content-type-options"] == "nosniff"
    assert not re.search(r"<script(?![^>]*src=)|<style|\sstyle=|\son\w+=|https?://", response.text)
    for asset in re.findall(r'(?:src|href)="(/static/[^"]+)"', response.text):
        assert client.get(asset).status_code == 200


def test_scripts_import_only_their_neighbours_and_never_set_markup() -> None:
    for script in (WEB / "static").glob("*.js"):
        text = script.read_text()
        assert "innerHTML" not in text and "eval(" not in text
        for module in re.findall(r'from "([^"]+)"', text):
            assert (script.parent / module).is_file()


def test_the_operations_page_shows_the_history_and_escapes_it(
    client: TestClient, store: Store, add_adapter: Callable[..., Adapter]
) -> None:
    add_adapter("it0001-aaaaaaaa", AdapterStatus.ACTIVE)
    add_adapter("it0002-bbbbbbbb", AdapterStatus.HELD)
    begun = store.iterations.begin(trigger="<b>manual</b>", incumbent=None, config={})
    store.iterations.add_gates([GateResult(begun.id, "kl/base_token", 0.5, 0.3, 0.45, Verdict.FAIL, "over")])
    store.metrics.add(begun.id, {"kl/step_token": 0.1234})
    store.iterations.move(begun.id, Stage.REJECTED, changes={"reason": "KL over budget"})
    store.intents.add(Intent("in-1", NOW, IntentKind.PAUSE, "local", "tired", {}, IntentStatus.PENDING))
    store.state.set(
        "schedule", {"waiting_for": ["12 more votes"], "next_at": None, "new_feedback": 4, "min_feedback": 16}
    )
    now, detail = client.get("/ops").text, client.get(f"/ops/iterations/{begun.id}").text
    for shown in ("it0001-aaaaaaaa", "tired", "12 more votes", "/ops/act/pause"):
        assert shown in now
    assert "0.123" in client.get("/ops/iterations").text and "KL over budget" in detail
    assert "<b>manual" not in detail and "&lt;b&gt;manual" in detail
    assert "/ops/promote?version=it0002-bbbbbbbb" in client.get("/ops/adapters").text


@pytest.mark.parametrize("headers", [{"host": "["}, {"origin": "http://["}, {"origin": "null"}])
def test_headers_no_browser_sends_are_refused_and_not_a_fault(
    client: TestClient, headers: dict[str, str]
) -> None:
    assert client.post("/v1/feedback", json={}, headers=headers).status_code == 403


def test_invented_methods_share_one_time_series(client: TestClient) -> None:
    for number in range(5):
        client.request(f"AAA{number}", "/v1/models")
    text = client.get("/metrics").text
    assert 'method="OTHER"' in text
    assert "AAA" not in text


def test_log_probabilities_are_given_even_where_nothing_is_stored(client: TestClient) -> None:
    answer = ask(client, store=False, logprobs=True).json()
    assert answer["choices"][0]["logprobs"]["content"]
