"""Spans of answers, as a collector receives them."""

import gzip
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from starlette.testclient import TestClient

from api.app import create_app
from api.config import ApiConfig
from api.spans import PATIENCE, NoSpans, spans_to
from policies.fake_engine import FakeEngine
from store.db import Store
from tests.api.conftest import NOW, SECRET, URL, ask
from tests.clock import Clock

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


@pytest.fixture
def collector() -> Iterator[tuple[str, list[Any]]]:
    """An OTLP endpoint on loopback, and the spans that came."""
    spans: list[Any] = []

    class Collect(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            if self.headers.get("content-encoding") == "gzip":
                body = gzip.decompress(body)
            for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
                for scope in resource.scope_spans:
                    spans.extend(scope.spans)
            self.send_response(200)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Collect)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1/traces", spans
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def value(attribute: Any) -> Any:
    kind = attribute.value.WhichOneof("value")
    found = getattr(attribute.value, kind)
    return [one.string_value for one in found.values] if kind == "array_value" else found


def told(span: Any) -> dict[str, Any]:
    return {attribute.key: value(attribute) for attribute in span.attributes}


def test_an_answer_is_a_span_with_its_numbers_and_without_its_words(
    store: Store, engine: FakeEngine, clock: Clock, collector: tuple[str, list[Any]]
) -> None:
    endpoint, spans = collector
    settings = ApiConfig(otlp_endpoint=endpoint)
    app = create_app(store=store, engine=engine, settings=settings, clock=clock, secret=SECRET)
    with TestClient(app, base_url=URL) as client:
        one = ask(
            client, "xylophone", headers={"traceparent": f"00-{TRACE}-{SPAN}-01"}, temperature=0.25
        ).json()
        unkept = ask(client, "xylophone", store=False, stream=True)
        assert unkept.status_code == 200
    first, second = spans  # leaving the app sends what waits
    assert first.name == "chat base"
    assert (first.trace_id.hex(), first.parent_span_id.hex()) == (TRACE, SPAN)
    assert second.trace_id.hex() != TRACE
    assert first.start_time_unix_nano == int(NOW * 1e9) <= first.end_time_unix_nano
    known = told(first)
    assert known["gen_ai.response.id"] == one["id"]
    assert known["gen_ai.usage.output_tokens"] == one["usage"]["completion_tokens"]
    assert known["gen_ai.usage.input_tokens"] == one["usage"]["prompt_tokens"]
    assert known["gen_ai.request.temperature"] == 0.25
    assert known["gen_ai.response.finish_reasons"] == [one["choices"][0]["finish_reason"]]
    assert "error.type" not in known
    assert "gen_ai.request.temperature" not in told(second)
    assert "xylophone" not in str(spans)


def test_nobody_is_told_where_nobody_asked() -> None:
    assert isinstance(spans_to(None), NoSpans)


def test_a_collector_that_is_away_costs_no_answer(store: Store, engine: FakeEngine, clock: Clock) -> None:
    settings = ApiConfig(otlp_endpoint="http://127.0.0.1:9/v1/traces")
    app = create_app(store=store, engine=engine, settings=settings, clock=clock, secret=SECRET)
    with TestClient(app, base_url=URL) as client:
        assert ask(client).status_code == 200
        began = time.monotonic()
    assert time.monotonic() - began < 6 * PATIENCE  # the end of the service waits for it, but not for long


@pytest.mark.parametrize("endpoint", ["collector:4318", "ftp://collector/", ""])
def test_what_is_no_web_address_is_refused(endpoint: str) -> None:
    with pytest.raises(ValueError, match="otlp_endpoint"):
        ApiConfig(otlp_endpoint=endpoint)
