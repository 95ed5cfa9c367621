"""Logging in to the operators' pages: the cookie, its end, and the token that writes carry."""

import hashlib
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from api import sessions
from api.app import create_app
from api.auth import Key
from api.config import ApiConfig
from api.errors import Unauthorised
from api.routes.login import inside
from api.signing import seal, unseal
from policies.fake_engine import FakeEngine
from store.db import Store
from store.errors import Forbidden
from tests.api.conftest import NOW, SECRET, error_of
from tests.clock import Clock

URL = "http://chat.example"


def key(name: str, secret: str, *scopes: str) -> Key:
    return Key(name=name, sha256=hashlib.sha256(secret.encode()).hexdigest(), scopes=frozenset(scopes))


OPERATOR = key("op", "op-key", "operate")


@pytest.fixture
def keyed(store: Store, engine: FakeEngine, clock: Clock, tmp_path: Path) -> Iterator[TestClient]:
    file = tmp_path / "keys.toml"
    file.write_text(
        "".join(
            f'[[key]]\nname = "{one.name}"\nsha256 = "{one.sha256}"\nscopes = {sorted(one.scopes)}\n'
            for one in (OPERATOR, key("ann", "ann-key", "chat", "feedback"))
        )
    )
    settings = ApiConfig(keys_file=file, session_hours=1)
    app = create_app(store=store, engine=engine, settings=settings, clock=clock, secret=SECRET)
    with TestClient(app, base_url=URL, follow_redirects=False) as client:
        yield client


def log_in(client: TestClient, secret: str = "op-key", **more: str) -> str:
    """The response's `location`, or its text."""
    response = client.post("/ops/login", data={"key": secret, **more}, headers={"origin": URL})
    return response.headers.get("location") or response.text


def token_on(client: TestClient, path: str = "/ops") -> str:
    found = re.search(r'name="csrf" value="([^"]+)"', client.get(path).text)
    assert found is not None
    return found[1]


def test_who_is_not_logged_in_is_led_to_the_login_and_back(keyed: TestClient) -> None:
    response = keyed.get("/ops/iterations?limit=5")
    assert response.status_code == 303
    assert response.headers["location"] == "/ops/login?next=/ops/iterations%3Flimit%3D5"
    page = keyed.get(response.headers["location"]).text
    assert 'value="/ops/iterations?limit=5"' in page and "&lt;" not in page
    assert log_in(keyed, next="/ops/iterations?limit=5") == "/ops/iterations?limit=5"
    assert keyed.get("/ops/iterations?limit=5").status_code == 200


def test_the_cookie_is_for_this_site_and_not_for_scripts(keyed: TestClient) -> None:
    response = keyed.post("/ops/login", data={"key": "op-key"})
    cookie = response.headers["set-cookie"].lower()
    assert cookie.startswith("honed_session=") and "httponly" in cookie and "samesite=strict" in cookie
    assert "max-age=3600" in cookie and "path=/" in cookie and "secure" not in cookie
    assert "op-key" not in cookie and OPERATOR.sha256 not in cookie
    with TestClient(keyed.app, base_url="https://chat.example", follow_redirects=False) as safe:
        assert "secure" in safe.post("/ops/login", data={"key": "op-key"}).headers["set-cookie"].lower()


@pytest.mark.parametrize(
    ("secret", "says"), [("wrong", "not known"), ("", "not known"), ("ann-key", "no such scope")]
)
def test_only_a_key_that_may_operate_logs_in(keyed: TestClient, secret: str, says: str) -> None:
    response = keyed.post("/ops/login", data={"key": secret})
    assert response.status_code == 401 and says in response.text
    assert "set-cookie" not in response.headers


def test_keys_are_not_guessed_by_trying_them_all(keyed: TestClient, clock: Clock) -> None:
    tried = [keyed.post("/ops/login", data={"key": f"guess {number}"}).status_code for number in range(9)]
    assert tried == [401] * 5 + [429] * 4
    assert keyed.post("/ops/login", data={"key": "op-key"}).status_code == 429
    clock.now += 10
    assert keyed.post("/ops/login", data={"key": "op-key"}).status_code == 303


def test_a_session_ends_by_itself_and_by_logging_out(keyed: TestClient, clock: Clock) -> None:
    log_in(keyed)
    clock.now += 3599
    assert keyed.get("/ops").status_code == 200
    clock.now += 2
    gone = keyed.get("/ops")
    assert gone.headers["location"] == "/ops/login" and 'honed_session=""' in gone.headers["set-cookie"]
    log_in(keyed)
    fields = {"csrf": token_on(keyed)}
    assert keyed.post("/ops/logout", data={"csrf": "no"}).status_code == 403
    assert keyed.get("/ops").status_code == 200
    clock.now += 3601
    assert keyed.post("/ops/logout", data=fields).headers["location"] == "/ops/login"
    assert "honed_session" not in keyed.cookies


def test_a_session_reads_the_api_and_writes_only_with_its_token(keyed: TestClient, store: Store) -> None:
    log_in(keyed)
    assert keyed.get("/v1/status").status_code == 200
    token = token_on(keyed)
    body = {"reason": "r"}
    for wrong in ({}, {"x-honed-csrf": "no"}, {"x-honed-csrf": sessions.token(None, SECRET)}):
        error_of(keyed.post("/v1/operator/pause", json=body, headers=wrong), 403)
    assert store.intents.recent() == []
    assert keyed.post("/v1/operator/pause", json=body, headers={"x-honed-csrf": token}).status_code == 202
    assert store.intents.recent()[0].principal == "key:op"


def test_a_form_without_its_token_or_from_elsewhere_changes_nothing(keyed: TestClient, store: Store) -> None:
    log_in(keyed)
    token = token_on(keyed)
    for fields, headers in (
        ({"reason": "r"}, {}),
        ({"reason": "r", "csrf": "no"}, {}),
        ({"reason": "r", "csrf": token}, {"origin": "http://evil.example"}),
    ):
        assert keyed.post("/ops/act/train", data=fields, headers=headers).status_code == 403
    assert store.intents.recent() == []
    done = keyed.post("/ops/act/train", data={"reason": "r", "csrf": token})
    assert done.status_code == 303 and done.headers["location"].startswith("/ops/intents/in-")
    assert store.intents.recent()[0].principal == "key:op"


def test_a_token_is_its_sessions_own(keyed: TestClient, clock: Clock) -> None:
    log_in(keyed)
    old = token_on(keyed)
    clock.now += 10
    log_in(keyed)
    assert token_on(keyed) != old
    assert keyed.post("/ops/act/train", data={"csrf": old}).status_code == 403


def test_a_key_in_the_headers_still_opens_the_pages(keyed: TestClient) -> None:
    assert keyed.get("/ops", auth=("any", "op-key")).status_code == 200
    assert keyed.get("/ops", auth=("any", "wrong")).status_code == 401
    assert keyed.get("/ops", auth=("any", "ann-key")).status_code == 403


def test_an_open_service_has_no_login_and_its_forms_have_a_token_all_the_same(
    client: TestClient, store: Store
) -> None:
    client.follow_redirects = False
    assert client.get("/ops/login").headers["location"] == "/ops"
    assert client.post("/ops/act/pause", data={"reason": "r"}).status_code == 403
    fields = {"reason": "r", "csrf": token_on(client)}
    assert client.post("/ops/act/pause", data=fields).status_code == 303
    assert store.intents.recent()[0].principal == "local"


@pytest.mark.parametrize(
    ("path", "to"),
    [
        ("/ops", "/ops"),
        ("/ops/audit?before=3", "/ops/audit?before=3"),
        ("/opsy", "/ops"),
        ("//evil.example/ops", "/ops"),
        ("https://evil.example/ops/", "/ops"),
        ("/ops/\\evil.example", "/ops"),
        ("/ops/\r\nx: y", "/ops"),
        ("", "/ops"),
        (None, "/ops"),
    ],
)
def test_after_the_login_only_pages_of_ours_follow(path: str | None, to: str) -> None:
    assert inside(path) == to


@pytest.mark.parametrize(
    "text",
    [
        "",
        "x",
        "a.b",
        "é.é",
        seal(["op", OPERATOR.sha256[:16], int(NOW) + 9], purpose="honed receipt 1", secret=SECRET),
        seal(["op", OPERATOR.sha256[:16], int(NOW) + 9], purpose=sessions.PURPOSE, secret=b"other"),
        sessions.begin(key("op", "an older key", "operate"), SECRET, until=NOW + 9),
        sessions.begin(key("gone", "op-key", "operate"), SECRET, until=NOW + 9),
        sessions.begin(OPERATOR, SECRET, until=NOW),
    ],
)
def test_what_is_no_session_of_a_known_key_is_refused(text: str) -> None:
    with pytest.raises(Unauthorised):
        sessions.verify(text, (OPERATOR,), SECRET, now=NOW)


def test_a_session_stands_for_its_key() -> None:
    text = sessions.begin(OPERATOR, SECRET, until=NOW + 9)
    assert sessions.verify(text, (OPERATOR,), SECRET, now=NOW) is OPERATOR
    sessions.require_token(sessions.token(text, SECRET), text, SECRET)
    for wrong in (None, "", "é", sessions.token("another", SECRET)):
        with pytest.raises(Forbidden):
            sessions.require_token(wrong, text, SECRET)


def test_what_is_signed_for_one_purpose_opens_nothing_else() -> None:
    text = seal(["a", 1], purpose="one", secret=SECRET)
    assert unseal(text, purpose="one", secret=SECRET) == ["a", 1]
    assert unseal(text, purpose="two", secret=SECRET) is None


def test_a_body_that_is_no_form_is_refused(client: TestClient) -> None:
    assert client.post("/ops/act/train", json={"reason": "r"}).status_code == 400
    headers = {"content-type": "application/x-www-form-urlencoded"}
    assert client.post("/ops/act/train", content=b"\xff\xfe", headers=headers).status_code == 400
