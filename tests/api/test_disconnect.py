"""A client that leaves: its generation stops, and what it had read is on disk."""

import asyncio
from typing import Any

import pytest

from api.app import create_app
from api.config import ApiConfig
from policies.fake_engine import FakeEngine, FakeLimits
from store.db import Store
from store.records import Completion, CompletionStatus
from tests.api.asgi import talk

BODY: dict[str, Any] = {"model": "honed", "messages": [{"role": "user", "content": "Hello"}], "seed": 7}


def leave_early(store: Store, *, stream: bool, words: int, n: int = 1) -> tuple[Completion, int]:
    """Ask, leave after about so many content chunks; returns the row and what the engine still runs."""

    async def run() -> int:
        engine = FakeEngine(FakeLimits(token_delay=0.02))
        await engine.start()
        app = create_app(store=store, engine=engine, settings=ApiConfig())
        body = {**BODY, "stream": stream, "n": n}
        await talk(
            app,
            "POST",
            "/v1/chat/completions",
            body=body,
            leave=lambda read: read.count(b'"content":" ') >= words,
        )
        await asyncio.sleep(0)
        health = await engine.health()
        return health.running + health.waiting

    running = asyncio.run(run())
    [row] = store.completions.recent()
    return row, running


def test_leaving_a_stream_cancels_it_and_keeps_the_part_that_came(store: Store) -> None:
    row, running = leave_early(store, stream=True, words=3)
    assert row.status is CompletionStatus.CANCELLED
    assert 3 <= len(row.choices[0].text.split()) < 20
    assert row.choices[0].finish_reason is None and running == 0


def test_leaving_before_a_whole_answer_cancels_it_too(store: Store) -> None:
    row, running = leave_early(store, stream=False, words=0)
    assert (row.status, running) == (CompletionStatus.CANCELLED, 0)


@pytest.mark.parametrize("n", [1, 3])
def test_leaving_at_the_first_byte_cancels_every_choice(store: Store, n: int) -> None:
    row, running = leave_early(store, stream=True, words=0, n=n)
    assert row.status is CompletionStatus.CANCELLED
    assert (len(row.choices), running) == (n, 0)


def test_the_row_is_on_disk_before_the_final_chunk(store: Store) -> None:
    seen: list[CompletionStatus] = []

    async def run() -> None:
        engine = FakeEngine()
        await engine.start()
        app = create_app(store=store, engine=engine, settings=ApiConfig())

        def watch(read: bytes) -> bool:
            if b'"role":"assistant"' in read:
                seen.append(store.completions.recent()[0].status)
            return b'"finish_reason":"stop"' in read

        await talk(app, "POST", "/v1/chat/completions", body={**BODY, "stream": True}, leave=watch)

    asyncio.run(run())
    assert seen[0] is CompletionStatus.STREAMING, "begun before the first token"
    assert seen[-1] is CompletionStatus.DONE
