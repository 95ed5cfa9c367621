"""Exit statuses and messages of the command line, without a service."""

import json

import pytest

from daemon.cli import Exit, verdict_code
from daemon.client import Client, message_of
from daemon.views import iterations, table, verdict
from store.errors import EngineUnavailable, Invalid


@pytest.mark.parametrize(
    ("status", "outcome", "code"),
    [
        ("done", {"stage": "active"}, Exit.DONE),
        ("done", {"serving": "base"}, Exit.DONE),
        ("done", {"stage": "rejected"}, Exit.REFUSED),
        ("done", {"stage": "held"}, Exit.REFUSED),
        ("done", {"stage": "aborted"}, Exit.FAILED),
        ("failed", {"stage": "failed"}, Exit.FAILED),
        ("failed", {"message": "no adapter"}, Exit.FAILED),
        ("refused", {"message": "it is rejected"}, Exit.REFUSED),
    ],
)
def test_how_an_intent_ended_is_the_exit_status(status: str, outcome: dict[str, str], code: Exit) -> None:
    assert verdict_code({"status": status, "outcome": outcome}) is code


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (json.dumps({"error": {"message": "no such version"}}), "no such version"),
        ("<html>proxy error</html>", "HTTP 502: <html>proxy error</html>"),
        ("[]", "HTTP 502: []"),
    ],
)
def test_error_messages_are_read_from_the_envelope_or_shown_as_they_came(text: str, message: str) -> None:
    assert message_of(text, 502) == message


def test_only_http_addresses_are_accepted() -> None:
    with pytest.raises(Invalid, match="ftp"):
        Client("ftp://example.org")


def test_nobody_listening_is_a_clear_error() -> None:
    with pytest.raises(EngineUnavailable, match="no answer from http://127.0.0.1:9"):
        Client("http://127.0.0.1:9").get("/v1/status")


def test_tables_line_up() -> None:
    assert table(("A", "LONG"), [(1, None), ("wide", 0.12345)]) == "A     LONG\n1     -\nwide  0.123"


def test_verdicts_are_one_sentence() -> None:
    row = {"kind": "train", "status": "done", "outcome": {"iteration": 3, "stage": "held", "reason": "wait"}}
    assert verdict(row) == "iteration 3: held: wait"
    assert iterations([]) == "no iteration yet"
