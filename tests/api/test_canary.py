"""Who is answered by a canary, and what operators see of it."""

from collections.abc import Callable
from typing import Any

import pytest
from starlette.testclient import TestClient

from policies.fake_engine import FakeEngine
from store.canaries import in_canary
from store.db import Store
from store.records import Adapter, AdapterStatus, CanaryOutcome
from tests.api.conftest import ask

OLD, NEW = "it0001-aaaaaaaa", "it0002-bbbbbbbb"
Add = Callable[..., Adapter]


@pytest.fixture
def canary(store: Store, add_adapter: Add) -> int:
    """NEW beside OLD, for half of the people."""
    add_adapter(OLD, AdapterStatus.ACTIVE)
    add_adapter(NEW, AdapterStatus.CANARY)
    return store.canaries.begin(version=NEW, incumbent=OLD, iteration=None, share=0.5).id


def asked(client: TestClient, person: str, model: str = "honed") -> str:
    response = ask(client, headers={"x-openwebui-user-id": person}, model=model)
    assert response.status_code == 200, response.text
    return str(response.json()["model"])


def people(share: float = 0.5) -> dict[str, bool]:
    return {f"u{number}": in_canary(f"owui:u{number}", NEW, share) for number in range(12)}


def test_a_canarys_people_stay_its_people(client: TestClient, canary: int, store: Store) -> None:
    for person, theirs in people().items():
        assert [asked(client, person) for _ in range(2)] == [NEW if theirs else OLD] * 2
    assert set(people().values()) == {True, False}
    store.canaries.widen(canary, 0.9)
    for person, theirs in people().items():
        wider = people(0.9)[person]
        assert asked(client, person) == (NEW if wider else OLD) and wider >= theirs


def test_the_row_names_the_canary_and_a_stream_says_so_too(
    client: TestClient, canary: int, store: Store
) -> None:
    person = next(name for name, theirs in people().items() if theirs)
    headers = {"x-openwebui-user-id": person}
    response = ask(client, headers=headers, stream=True)
    assert response.headers["x-honed-adapter"] == NEW
    assert store.completions.recent(limit=1)[0].adapter == NEW


def test_who_names_a_model_gets_that_one(client: TestClient, canary: int) -> None:
    for person in people():
        assert asked(client, person, OLD) == OLD
        assert asked(client, person, "base") == "base"
    assert ask(client, model=NEW).status_code == 404


def test_a_canary_that_is_not_loaded_makes_nobody_wait(
    client: TestClient, store: Store, add_adapter: Add
) -> None:
    add_adapter(OLD, AdapterStatus.ACTIVE)
    add_adapter(NEW, AdapterStatus.CANARY, resident=False)
    store.canaries.begin(version=NEW, incumbent=OLD, iteration=None, share=1.0)
    assert asked(client, "u1") == OLD


def test_the_base_can_have_a_canary_beside_it(client: TestClient, store: Store, add_adapter: Add) -> None:
    add_adapter(NEW, AdapterStatus.CANARY)
    store.canaries.begin(version=NEW, incumbent=None, iteration=None, share=0.5)
    for person, theirs in people().items():
        assert asked(client, person) == (NEW if theirs else "base")


@pytest.mark.parametrize("ended", [True, False])
def test_without_its_incumbent_or_its_row_a_canary_answers_nobody(
    client: TestClient, store: Store, canary: int, ended: bool
) -> None:
    if ended:
        store.canaries.end(canary, CanaryOutcome.HELD, "undecided")
    else:
        store.adapters.activate(None, actor="ann", reason="back")
    assert {asked(client, person) for person in people()} == {OLD if ended else "base"}


def test_operators_see_the_canary_and_the_watch(client: TestClient, store: Store, canary: int) -> None:
    assert client.get("/v1/status").json()["watch"] is None
    side = {"count": 12, "value": 0.25, "low": 0.1, "high": 0.5}
    thumbs = {"harm": 1.5, "harm_peak": 3.25, "limit": 50.0, "treated": side, "control": side}
    told = {"version": NEW, "share": 0.5, "reasons": ["12 of 20 votes"], "metrics": {"thumbs": thumbs}}
    store.state.set("canary", told)
    store.state.set(
        "watch", {**told, "version": OLD, "previous": "base", "until_at": 1_800_003_600.0, "reasons": []}
    )
    body = client.get("/v1/status").json()
    shown = body["canary"]
    assert (shown["version"], shown["incumbent"], shown["step"], shown["share"]) == (NEW, OLD, 1, 0.5)
    assert shown["metrics"]["thumbs"]["harm_peak"] == 3.25 and shown["reasons"] == ["12 of 20 votes"]
    assert (body["watch"]["version"], body["watch"]["previous"]) == (OLD, "base")
    page = client.get("/ops").text
    assert "answers 50%" in page and "12 of 20 votes" in page
    assert 'id="watch"' in page and "of 50" in page


def test_what_was_seen_of_another_step_is_not_shown(client: TestClient, store: Store, canary: int) -> None:
    store.state.set("canary", {"version": NEW, "share": 0.05, "reasons": ["old"], "metrics": {}})
    store.state.set("watch", {"version": "it0000-00000000"})
    body = client.get("/v1/status").json()
    assert body["canary"]["reasons"] == [] and body["watch"] is None


def test_a_canary_that_ends_between_look_up_and_admission_costs_no_answer(
    client: TestClient, store: Store, engine: FakeEngine, canary: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    person = next(name for name, theirs in people().items() if theirs)
    real = engine.generate

    async def generate(*arguments: Any, **more: Any) -> Any:
        if more["adapter"] == NEW:
            store.canaries.end(canary, CanaryOutcome.ROLLED_BACK, "harm")
            await engine.unload(NEW)
        return await real(*arguments, **more)

    monkeypatch.setattr(engine, "generate", generate)
    assert asked(client, person) == OLD
