"""The tail of what happens: audit entries and iteration stages, found by looking at the store again and again.

Polling by id instead of being told by the writer: the store stays ignorant of who listens, and a listener that
was away misses nothing.
"""

import asyncio
from collections.abc import AsyncGenerator
from dataclasses import asdict, dataclass, field
from typing import Any

from api import sse, views
from api.deps import Services
from store.db import Store

#: A stage change is noticed in this many newest iterations.
WATCHED = 3


@dataclass(slots=True)
class Cursor:
    """How far a listener has come: the last audit id, stages seen per iteration, and the progress last told."""

    audit: int
    stages: dict[int, int] = field(default_factory=dict)
    progress: dict[str, Any] = field(default_factory=dict)


def present(store: Store, after: int | None) -> Cursor:
    """Where a listener starts: after the given audit entry, or now."""
    newest = store.audit.list(limit=1)
    audit = after if after is not None else newest[0].id if newest else 0
    watched = store.iterations.list(limit=WATCHED)
    return Cursor(audit, {one.id: len(store.iterations.stages(one.id)) for one in watched})


def news(store: Store, cursor: Cursor, *, now: float) -> list[bytes]:
    """Frames for what is new; moves the cursor. Progress has no history: only where it stands now is told."""
    frames: list[bytes] = []
    for entry in store.audit.since(cursor.audit):
        frames.append(sse.frame(asdict(entry), event="audit", id=entry.id))
        cursor.audit = entry.id
    for one in reversed(store.iterations.list(limit=WATCHED)):
        entries = store.iterations.stages(one.id)
        for stage in entries[cursor.stages.get(one.id, 0) :]:
            data: dict[str, Any] = {**asdict(stage), "candidate": one.candidate, "reason": one.reason}
            frames.append(sse.frame(data, event="iteration"))
        cursor.stages[one.id] = len(entries)
    running = store.iterations.running()
    told = store.iterations.progress(running.id) if running else {}
    if running and told and told != cursor.progress:
        where = {"iteration": running.id, "stage": running.stage.value}
        frames.append(sse.frame({**where, **views.progress(told, now=now)}, event="progress"))
    cursor.progress = told
    return frames


async def follow_store(services: Services, *, after: int | None) -> AsyncGenerator[bytes, None]:
    """Frames for ever; a comment after `keepalive_s` of silence."""
    settings, store = services.settings, services.store
    cursor = await asyncio.to_thread(present, store, after)
    # At once, so that a client knows it is listening.
    yield sse.KEEPALIVE
    silent = 0.0
    while True:
        for frame in await asyncio.to_thread(news, store, cursor, now=services.clock()):
            silent = 0.0
            yield frame
        if silent >= settings.keepalive_s:
            silent = 0.0
            yield sse.KEEPALIVE
        await asyncio.sleep(settings.events_poll_s)
        silent += settings.events_poll_s
