"""The OpenAPI document against the service: generated requests, good and bad, find no status that it does not name.

A few for each operation; `make fuzz` takes twenty thousand.
"""

from pathlib import Path

import pytest
from fastapi import FastAPI

from api.openapi import document, operations
from benchmarks.bench_fuzz import ELSEWHERE, added, answered, by_operation, config_of, once


def test_no_generated_request_finds_an_answer_that_is_not_documented(tmp_path: Path) -> None:
    ran, counts, wrong = once(tmp_path, examples=5, seed=1)
    assert ran.status == 0, ran.output
    assert wrong == []
    assert ran.cases > 500
    # It does not stop at names that do not exist.
    assert "200" in counts["POST /v1/chat/completions"] and "200" in counts["GET /v1/adapters/{version}"]


@pytest.mark.parametrize(
    ("operation", "status", "wrong"),
    [
        ("GET /v1/status", "200", False),
        ("GET /v1/status", "418", True),
        ("GET /v1/status", "500", True),
        ("GET /v1/status", "503", False),
        ("POST /v1/status", "405", False),
        ("POST /v1/status", "201", True),
        ("GET unmatched", "404", False),
        ("GET unmatched", "502", True),
    ],
)
def test_statuses_are_held_against_the_document(
    app: FastAPI, operation: str, status: str, wrong: bool
) -> None:
    found, told = by_operation({operation: {status: 2}}, app)
    assert told == ([f"{operation}: {status}"] if wrong else [])
    assert found[operation if operation == "GET /v1/status" else ELSEWHERE] == {status: 2}


def test_what_the_service_counted_is_read_and_added() -> None:
    told = answered(
        'honed_requests_total{method="GET",route="/v1/status",status="200"} 3.0\n'
        'honed_requests_created{method="GET",route="/v1/status",status="200"} 1.8e9\n'
        'honed_requests_total{method="GET",route="/v1/status",status="403"} 1e+04\n'
    )
    assert told == {"GET /v1/status": {"200": 3, "403": 10_000}}
    assert added([told, told]) == {"GET /v1/status": {"200": 6, "403": 20_000}}


def test_names_of_what_is_there_are_bound_to_what_asks_for_them() -> None:
    made = config_of({"models": ["honed", 'a "b"']})
    assert 'values = ["honed", "a \\"b\\""]' in made
    assert '"body.model" = { dictionary = "models", probability = 0.5 }' in made
    assert "completion_id" not in made and "[parameters]" not in config_of({})


def test_every_operation_names_its_refusals_and_they_are_envelopes(app: FastAPI) -> None:
    made = document(app)
    assert made is document(app)
    for method, path, operation in operations(made):
        statuses = operation["responses"]
        if path.startswith("/v1/"):
            assert {"400", "401", "403"} <= statuses.keys(), (method, path)
        if "{" in path:
            assert "404" in statuses, (method, path)
        for status, told in statuses.items():
            if int(status) >= 400 and path.startswith("/v1/"):
                assert told["content"]["application/json"]["schema"] == {
                    "$ref": "#/components/schemas/Envelope"
                }
    assert "HTTPValidationError" not in str(made)
