"""The OpenAPI document against the service: generated requests, good and bad, find no status that it does not name.

`HONED_FUZZ_EXAMPLES` is how many per operation and phase; `make fuzz` takes many.
"""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI

from api.openapi import document, operations
from store.records import Adapter, AdapterStatus
from tests.listening import listening

EXAMPLES = int(os.environ.get("HONED_FUZZ_EXAMPLES", "5"))
SEED = int(os.environ.get("HONED_FUZZ_SEED", "1"))
#: What a schema cannot say (that a completion exists, that `top_logprobs` wants `logprobs`) is refused with these.
CONFIG = """
[checks.positive_data_acceptance]
expected-statuses = ["2xx", "400", "401", "403", "404", "422"]
"""


@pytest.fixture
def address(app: FastAPI) -> Iterator[str]:
    """The app behind a real server on loopback."""
    with listening(app) as served:
        yield served


def test_no_generated_request_finds_an_answer_that_is_not_documented(
    address: str, add_adapter: Callable[..., Adapter], tmp_path: Path
) -> None:
    add_adapter("it0001-a", AdapterStatus.ACTIVE)
    body = {"model": "honed", "messages": [{"role": "user", "content": "Hello"}]}
    assert httpx.post(f"{address}/v1/chat/completions", json=body).status_code == 200
    config, told = tmp_path / "schemathesis.toml", tmp_path / "report.json"
    config.write_text(CONFIG)
    command = [sys.executable, "-m", "schemathesis.cli", f"--config-file={config}", "run"]
    command += [f"{address}/openapi.json", f"--max-examples={EXAMPLES}", f"--report-json-path={told}"]
    # An open stream never ends; tests/api/test_operator.py reads it.
    command += ["--exclude-path=/v1/events", "--no-color", f"--seed={SEED}", "--max-failures=10"]
    ran = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    print(ran.stdout)
    assert ran.returncode == 0, ran.stdout + ran.stderr


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
