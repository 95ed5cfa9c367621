"""Keys, scopes, receipts and strangers."""

import hashlib
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from api.app import create_app
from api.auth import add_key, identify, load_keys, token_of
from api.config import ApiConfig
from api.errors import Unauthorised
from api.receipts import Receipt, sign, verify
from policies.fake_engine import FakeEngine
from store.db import Store
from store.errors import ConfigError, Invalid
from tests.api.conftest import NOW, SECRET, URL, ask, error_of
from tests.clock import Clock

KEYS = {"ann-key": ["chat", "feedback"], "bob-key": ["chat", "feedback"], "op-key": ["operate", "feedback"]}


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


@pytest.fixture
def keys_file(tmp_path: Path) -> Path:
    file = tmp_path / "keys.toml"
    tables = (
        f'[[key]]\nname = "{key[:3]}"\nsha256 = "{hashlib.sha256(key.encode()).hexdigest()}"\nscopes = {scopes}\n'
        for key, scopes in KEYS.items()
    )
    file.write_text("\n".join(tables))
    return file


@pytest.fixture
def keyed(store: Store, engine: FakeEngine, clock: Clock, keys_file: Path) -> Iterator[TestClient]:
    settings = ApiConfig(keys_file=keys_file)
    app = create_app(store=store, engine=engine, settings=settings, clock=clock, secret=SECRET)
    with TestClient(app, base_url="http://chat.example") as client:
        yield client


def thumb(client: TestClient, completion: str, headers: dict[str, str]) -> Any:
    body = {"completion_id": completion, "kind": "thumb", "value": True}
    return client.post("/v1/feedback", json=body, headers=headers)


@pytest.mark.parametrize("headers", [{}, bearer("wrong"), bearer(""), {"Authorization": "Basic !!"}])
def test_without_a_known_key_everything_is_401(keyed: TestClient, headers: dict[str, str]) -> None:
    for path in ("/v1/models", "/v1/status", "/v1/completions/x/feedback", "/metrics"):
        response = keyed.get(path, headers=headers)
        assert error_of(response, 401)["code"] == "invalid_api_key"
        assert response.headers["www-authenticate"].startswith("Bearer")
    error_of(ask(keyed, headers=headers), 401)
    error_of(keyed.post("/v1/operator/train", json={}, headers=headers), 401)


def test_probes_need_no_key(keyed: TestClient) -> None:
    assert [keyed.get(path).status_code for path in ("/healthz", "/health", "/readyz")] == [200, 200, 200]


def test_scopes_open_their_own_doors_only(keyed: TestClient, store: Store) -> None:
    body = ask(keyed, headers=bearer("ann-key")).json()
    assert store.completions.get(body["id"]).principal == "key:ann"
    assert "'operate'" in error_of(keyed.get("/v1/status", headers=bearer("ann-key")), 403)["message"]
    assert keyed.get("/v1/status", headers=bearer("op-key")).status_code == 200
    error_of(ask(keyed, headers=bearer("op-key")), 403)


def test_votes_are_for_those_who_received_the_answer_and_for_operators(keyed: TestClient) -> None:
    answer = ask(keyed, headers=bearer("ann-key")).json()["id"]
    assert error_of(thumb(keyed, answer, bearer("bob-key")), 403)["code"] == "forbidden"
    assert thumb(keyed, answer, bearer("ann-key")).status_code == 201
    assert thumb(keyed, answer, bearer("op-key")).status_code == 201


def test_one_cannot_prefer_over_an_answer_of_somebody_else(keyed: TestClient) -> None:
    mine = ask(keyed, headers=bearer("ann-key")).json()["id"]
    theirs = ask(keyed, headers=bearer("bob-key")).json()["id"]
    body = {"completion_id": mine, "kind": "preference", "value": theirs}
    error_of(keyed.post("/v1/feedback", json=body, headers=bearer("ann-key")), 403)


def test_a_receipt_votes_without_a_key_on_its_own_answer_only(
    keyed: TestClient, store: Store, clock: Clock
) -> None:
    response = ask(keyed, headers=bearer("ann-key"), stream=True)
    other = ask(keyed, headers=bearer("ann-key")).json()["id"]
    receipt = {"X-Honed-Receipt": response.headers["x-honed-receipt"]}
    own = verify(receipt["X-Honed-Receipt"], SECRET, now=NOW).completion_id
    assert thumb(keyed, own, receipt).status_code == 201
    assert store.feedback.latest(own)[0].principal == "key:ann"
    assert keyed.get(f"/v1/completions/{own}/feedback", headers=receipt).json()["data"][0]["value"] is True
    error_of(thumb(keyed, other, receipt), 403)
    error_of(ask(keyed, headers=receipt), 401)
    clock.now += 91 * 86_400
    assert "expired" in error_of(thumb(keyed, own, receipt), 401)["message"]


@pytest.mark.parametrize(
    "change", [lambda t: t[:-1], lambda t: "A" + t, lambda _: "", lambda _: ".", lambda _: "é."]
)
def test_a_changed_receipt_does_not_verify(change: Any) -> None:
    text = sign(Receipt("chatcmpl-1", "local", NOW + 10), SECRET)
    assert verify(text, SECRET, now=NOW) == Receipt("chatcmpl-1", "local", NOW + 10)
    with pytest.raises(Unauthorised):
        verify(change(text), SECRET, now=NOW)
    with pytest.raises(Unauthorised):
        verify(text, b"another secret", now=NOW)


@pytest.mark.parametrize(
    ("headers", "name"),
    [
        ({}, "local"),
        (bearer("secret"), "key:" + hashlib.sha256(b"secret").hexdigest()[:12]),
        ({"x-openwebui-user-id": "u1", "authorization": "Bearer x"}, "owui:u1"),
    ],
)
def test_open_mode_tells_people_apart_and_opens_everything(headers: dict[str, str], name: str) -> None:
    principal = identify({key.lower(): value for key, value in headers.items()}, None)
    assert principal.name == name
    assert principal.scopes == {"chat", "feedback", "operate"}


def test_a_key_may_come_as_the_password_of_http_basic() -> None:
    assert token_of({"authorization": "Basic YW5uOmFubi1rZXk="}) == "ann-key"


def test_the_chat_page_makes_the_browser_ask_for_the_key(keyed: TestClient) -> None:
    response = keyed.get("/")
    assert response.status_code == 401 and response.headers["www-authenticate"].startswith("Basic")
    assert keyed.get("/ops", auth=("any", "op-key")).status_code == 200
    assert keyed.get("/", auth=("any", "op-key")).status_code == 403
    assert keyed.get("/", auth=("any", "ann-key")).status_code == 200


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "key"),
        ("[[key]", "keys.toml"),
        ('[[key]]\nname = "a"\nsha256 = "00"\nscopes = ["chat"]', "key.0.sha256"),
        (f'[[key]]\nname = "a"\nsha256 = "{"0" * 64}"\nscopes = ["fly"]', "key.0.scopes"),
        (f'[[key]]\nname = "a"\nsha256 = "{"0" * 64}"\nscopes = ["chat"]\nkey = "k"', "key.0.key"),
        (f'[[key]]\nname = "a"\nsha256 = "{"0" * 64}"\nscopes = ["chat"]\n' * 2, "same name"),
    ],
)
def test_a_bad_keys_file_says_what_is_wrong(tmp_path: Path, text: str, says: str) -> None:
    file = tmp_path / "keys.toml"
    file.write_text(text)
    with pytest.raises(ConfigError, match=says.replace(".", r"\.")):
        load_keys(file)
    with pytest.raises(ConfigError):
        load_keys(tmp_path / "absent.toml")


def test_an_open_service_on_loopback_answers_to_loopback_names_only(client: TestClient) -> None:
    for host in ("localhost:8000", "127.0.0.1", "[::1]:9"):
        assert client.get("/v1/models", headers={"Host": host}).status_code == 200
    assert "keys_file" in error_of(client.get("/v1/models", headers={"Host": "evil.example"}), 403)["message"]


def test_pages_of_other_sites_may_not_write(client: TestClient) -> None:
    error_of(ask(client, headers={"Origin": "http://evil.example"}), 403)
    assert ask(client, headers={"Origin": URL}).status_code == 200


def test_no_page_of_another_site_may_read_an_answer(client: TestClient) -> None:
    asks = {"Origin": "http://evil.example", "Access-Control-Request-Method": "POST"}
    told = [
        client.options("/v1/chat/completions", headers=asks),
        client.get("/v1/status", headers={"Origin": "http://evil.example"}),
        ask(client, headers={"Origin": "http://evil.example"}),
    ]
    assert [answer.status_code for answer in told] == [403, 200, 403]
    for answer in told:
        assert not [name for name in answer.headers if name.startswith("access-control-")]


def test_a_key_that_was_made_opens_what_it_says_and_the_file_does_not_hold_it(tmp_path: Path) -> None:
    file = tmp_path / "new" / "keys.toml"
    ann = add_key(file, "ann", ["chat"])
    bob = add_key(file, "bob", ["operate", "chat"], requests_per_minute=30)
    assert ann not in file.read_text() and bob not in file.read_text()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    keys = load_keys(file)
    assert [(key.name, key.scopes, key.requests_per_minute) for key in keys] == [
        ("ann", {"chat"}, None),
        ("bob", {"operate", "chat"}, 30),
    ]
    assert identify({"authorization": f"Bearer {bob}"}, keys).name == "key:bob"


def test_a_file_of_keys_keeps_its_mode_and_one_of_another_form_is_left_alone(tmp_path: Path) -> None:
    file = tmp_path / "keys.toml"
    add_key(file, "ann", ["chat"])
    file.chmod(0o640)
    add_key(file, "bob", ["chat"])
    assert stat.S_IMODE(file.stat().st_mode) == 0o640
    file.write_text(f'key = [{{name = "ann", sha256 = "{"0" * 64}", scopes = ["chat"]}}]\n')
    before = file.read_text()
    with pytest.raises(ConfigError, match="not written as"):
        add_key(file, "eve", ["chat"])
    assert file.read_text() == before


@pytest.mark.parametrize(
    ("name", "scopes", "said"),
    [
        ("ann", ["chat"], "already"),
        ("no space", ["chat"], "name"),
        ("bob", ["all"], "scopes"),
        ("bob", [], "scopes"),
    ],
)
def test_a_key_that_may_not_be_made_leaves_the_file_alone(
    tmp_path: Path, name: str, scopes: list[str], said: str
) -> None:
    file = tmp_path / "keys.toml"
    add_key(file, "ann", ["chat"])
    before = file.read_text()
    with pytest.raises(Invalid, match=said):
        add_key(file, name, scopes)
    assert file.read_text() == before
