"""How often one key may ask: the arithmetic by table, and over HTTP."""

import hashlib
from pathlib import Path

import pytest
from fastapi import FastAPI
from hypothesis import given
from hypothesis import strategies as st
from starlette.testclient import TestClient

from api.app import create_app
from api.config import ApiConfig
from api.limits import NAMES, Bucket, Limiter, take
from policies.fake_engine import FakeEngine
from store.db import Store
from tests.api.conftest import SECRET, URL, ask
from tests.clock import Clock


@pytest.mark.parametrize(
    ("bucket", "now", "left", "wait"),
    [
        (None, 0.0, 9.0, 0.0),  # 60 a minute: ten at once
        (Bucket(1.0, 0.0), 0.0, 0.0, 0.0),
        (Bucket(0.0, 0.0), 0.0, 0.0, 1.0),
        (Bucket(0.0, 0.0), 0.25, 0.25, 0.75),
        (Bucket(0.0, 0.0), 1.0, 0.0, 0.0),
        (Bucket(3.0, 0.0), 100.0, 9.0, 0.0),  # no fuller than full
        (Bucket(0.5, 100.0), 0.0, 0.5, 0.5),  # the clock was set back
    ],
)
def test_one_request(bucket: Bucket | None, now: float, left: float, wait: float) -> None:
    after, seconds = take(bucket, per_minute=60, now=now)
    assert (after, seconds) == (Bucket(pytest.approx(left), now), pytest.approx(wait))


@given(
    per_minute=st.integers(1, 100_000),
    gaps=st.lists(st.floats(0, 5, allow_nan=False), min_size=1, max_size=200),
)
def test_nobody_is_let_through_more_often_than_allowed(per_minute: int, gaps: list[float]) -> None:
    bucket, now, taken = None, 0.0, 0
    for gap in gaps:
        now += gap
        bucket, wait = take(bucket, per_minute=per_minute, now=now)
        taken += wait == 0
        if wait:  # who waits as long as told is let through
            assert take(bucket, per_minute=per_minute, now=now + wait + 1e-6)[1] == 0
    assert taken <= max(1.0, per_minute / 6) + per_minute / 60 * now + 1e-6


def test_the_table_of_names_does_not_grow_without_bound() -> None:
    limiter = Limiter()
    for number in range(NAMES + 10):
        limiter.wait(str(number), per_minute=1, now=0.0)
    assert len(limiter._buckets) == NAMES
    assert limiter.wait("any", per_minute=0, now=0.0) == 0.0
    assert len(limiter._buckets) == NAMES


@pytest.fixture
def keyed(store: Store, engine: FakeEngine, clock: Clock, tmp_path: Path) -> FastAPI:
    """Ann may ask six times a minute, as everybody; bob any number of times."""
    file = tmp_path / "keys.toml"
    tables = [
        f'[[key]]\nname = "{name}"\nsha256 = "{hashlib.sha256(name.encode()).hexdigest()}"\n'
        f'scopes = ["chat", "feedback"]\n{more}'
        for name, more in (("ann", ""), ("bob", "requests_per_minute = 0\n"))
    ]
    file.write_text("\n".join(tables))
    settings = ApiConfig(keys_file=file, requests_per_minute=6)
    return create_app(store=store, engine=engine, settings=settings, clock=clock, secret=SECRET)


def test_too_many_requests_are_refused_until_the_time_they_are_told(keyed: FastAPI, clock: Clock) -> None:
    with TestClient(keyed, base_url=URL) as client:
        ann, bob = ({"authorization": f"Bearer {name}"} for name in ("ann", "bob"))
        first = ask(client, headers=ann)
        assert first.status_code == 200
        refused = ask(client, headers=ann)
        assert refused.status_code == 429
        assert refused.json()["error"]["code"] == "rate_limit_exceeded"
        assert refused.headers["retry-after"] == "10"
        assert all(ask(client, headers=bob).status_code == 200 for _ in range(20))
        # A receipt speaks for the key that asked, and is counted as its.
        vote = {"completion_id": first.json()["id"], "kind": "thumb", "value": True}
        receipt = {"x-honed-receipt": first.headers["x-honed-receipt"]}
        assert client.post("/v1/feedback", json=vote, headers=receipt).status_code == 429
        clock.now += 10
        assert client.post("/v1/feedback", json=vote, headers=receipt).status_code == 201
        assert client.get("/healthz").status_code == 200
