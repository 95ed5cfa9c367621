"""What is not kept: secrets in what people write, and every word of those who are excluded; and how to forget."""

from collections.abc import Iterator
from typing import Any

import pytest
from starlette.testclient import TestClient

from api.app import create_app
from api.config import ApiConfig
from policies.engine import Delta
from policies.fake_engine import FakeEngine
from store.config import PrivacyConfig
from store.db import Store
from tests.api.conftest import SECRET, URL, ask, error_of
from tests.clock import Clock

MAIL = "ann@example.org"


def vote(client: TestClient, completion: str, **body: Any) -> Any:
    return client.post(
        "/v1/feedback", json={"completion_id": completion, "kind": "thumb", "value": True, **body}
    )


class Parrot(FakeEngine):
    """Answers with an address, in two pieces."""

    async def generate(self, messages: Any, sampling: Any, *, adapter: str | None) -> Any:
        stream = await super().generate(messages, sampling, adapter=adapter)

        async def said() -> Any:
            async for delta in stream:
                if delta.finish_reason:
                    yield Delta("write to ann@exa")
                    yield Delta("mple.org")
                    yield delta

        return said()


@pytest.fixture
def parrot(store: Store, clock: Clock, engine: FakeEngine) -> Iterator[TestClient]:
    engine.__class__ = Parrot
    app = create_app(store=store, engine=engine, settings=ApiConfig(), clock=clock, secret=SECRET)
    with TestClient(app, base_url=URL) as made:
        yield made


def test_secrets_are_answered_as_they_are_and_stored_by_their_kind(parrot: TestClient, store: Store) -> None:
    answer = ask(parrot, f"I am {MAIL}", metadata={"from": MAIL}, stop=[MAIL]).json()
    assert answer["choices"][0]["message"]["content"].endswith(MAIL)
    row = store.completions.get(answer["id"])
    assert row.stored
    assert row.messages[0].content == "I am [email]"
    assert row.choices[0].text.endswith("write to [email]")
    assert MAIL not in repr(row)
    body = {"id": "f1", "kind": "edit", "value": f"No: {MAIL}", "comment": MAIL, "reason": MAIL}
    first = vote(parrot, answer["id"], **body)
    again = vote(parrot, answer["id"], **body)
    assert (first.status_code, again.status_code) == (201, 201)
    assert first.json() == again.json()
    assert store.feedback.get("f1").value == "No: [email]"
    assert MAIL not in repr(store.feedback.get("f1"))
    assert vote(parrot, answer["id"], **{**body, "value": "something else"}).status_code == 422


def test_redaction_can_be_switched_off(store: Store, engine: FakeEngine, clock: Clock) -> None:
    off = PrivacyConfig(redact=(), redact_patterns=("blue",))
    app = create_app(
        store=store, engine=engine, settings=ApiConfig(), clock=clock, secret=SECRET, privacy=off
    )
    with TestClient(app, base_url=URL) as client:
        answer = ask(client, f"{MAIL} likes blue").json()["id"]
    assert store.completions.get(answer).messages[0].content == f"{MAIL} likes [redacted]"


@pytest.mark.parametrize("named", [{"user": "ann"}, {"safety_identifier": "ann"}, {}])
def test_excluded_people_are_answered_and_nothing_of_theirs_is_kept(
    named: dict[str, str], store: Store, engine: FakeEngine, clock: Clock
) -> None:
    config = PrivacyConfig(excluded=("ann", "owui:77"))
    app = create_app(
        store=store, engine=engine, settings=ApiConfig(), clock=clock, secret=SECRET, privacy=config
    )
    headers = {} if named else {"x-openwebui-user-id": "77"}
    with TestClient(app, base_url=URL) as client:
        response = ask(client, "my diary", headers=headers, **named)
        assert response.json()["choices"][0]["message"]["content"]
        row = store.completions.get(response.json()["id"])
        assert (row.stored, row.messages, row.choices[0].text, row.metadata) == (False, (), "", {})
        if headers:
            body = {"completion_id": row.id, "kind": "comment", "value": "my diary too"}
            refused = client.post("/v1/feedback", json=body, headers=headers)
            assert refused.status_code == 403
            assert "excluded" in error_of(refused, 403)["message"]
            assert store.feedback.events(row.id) == []
        other = ask(client, "hello").json()["id"]
        assert vote(client, other).status_code == 201


def test_to_forget_somebody_takes_a_name_that_is_known_and_a_reason(client: TestClient, store: Store) -> None:
    ask(client, "hello", headers={"x-openwebui-user-id": "77"})
    post = "/v1/operator/forget"
    assert error_of(client.post(post, json={"reason": "asked"}), 400)["param"] == "user"
    assert error_of(client.post(post, json={"user": "77"}), 400)["param"] == "reason"
    assert client.post(post, json={"user": "78", "reason": "asked"}).status_code == 404
    assert error_of(client.post("/v1/operator/pause", json={"user": "77"}), 400)["param"] == "user"
    accepted = client.post(post, json={"user": "77", "reason": "asked"})
    assert accepted.status_code == 202
    assert store.intents.get(accepted.json()["id"]).arguments == {"user": "owui:77"}


def test_what_operators_write_down_is_stored_like_what_people_say(client: TestClient, store: Store) -> None:
    written = {"prompt": f"Who is {MAIL}?", "better": f"Ask {MAIL}.", "worse": "No idea."}
    body = {"reason": f"{MAIL} said so", **written}
    assert client.post("/v1/operator/label", json=body).status_code == 202
    assert MAIL not in repr(store.intents.recent())
    (intent,) = store.intents.pending()
    assert intent.reason == "[email] said so"
    assert intent.arguments == {"prompt": "Who is [email]?", "better": "Ask [email].", "worse": "No idea."}
    # Whom to forget is a name, and stays one.
    ask(client, "hello", user=MAIL)
    assert client.post("/v1/operator/forget", json={"user": MAIL, "reason": "asked"}).status_code == 202
