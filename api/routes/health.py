"""Probes and metrics. `/healthz`: this process is worth keeping. `/readyz`: it answers people now."""

import asyncio
from collections import Counter
from typing import Any

from fastapi import APIRouter, Response
from fastapi.responses import JSONResponse

from api import views
from api.deps import Given, Operator, Services
from policies.engine import Metered
from store.records import BASE

router = APIRouter()

#: Iterations counted for the gauge by stage.
COUNTED = 10_000


async def store_problem(services: Services) -> str | None:
    """What is wrong with the store, in words; None when it reads and its writer lives."""
    problem = await asyncio.to_thread(services.store.problem)
    if problem is not None:
        return f"store: {problem}"
    try:
        await asyncio.to_thread(services.store.completions.count)
    except Exception as error:
        return f"store: {error}"
    return None


async def engine_problem(services: Services) -> str | None:
    try:
        health = await services.engine.health()
    except Exception as error:
        return f"engine: {error}"
    return None if health.ready else f"engine: not ready {health.detail}".rstrip()


def verdict(problems: list[str]) -> Response:
    answer: dict[str, Any] = {"status": "unavailable" if problems else "ok", "reasons": problems}
    return JSONResponse(answer, 503 if problems else 200, {"cache-control": "no-store"})


@router.get("/healthz")
@router.get("/health")
async def healthz(services: Given) -> Response:
    problem = await asyncio.to_thread(services.store.problem)
    return verdict([] if problem is None else [f"store: {problem}"])


@router.get("/readyz")
async def readyz(services: Given) -> Response:
    found = [await store_problem(services), await engine_problem(services)]
    return verdict([problem for problem in found if problem])


@router.get("/metrics")
async def metrics(services: Given, _: Operator) -> Response:
    active = await asyncio.to_thread(services.store.adapters.active)
    iterations = await asyncio.to_thread(services.store.iterations.list, limit=COUNTED)
    judges = await asyncio.to_thread(views.judges, services.store)
    text = services.meters.render(
        await services.engine.health(),
        adapter=active.version if active else BASE,
        stages=Counter(one.stage.value for one in iterations),
        judges=judges,
    )
    if isinstance(services.engine, Metered):
        text += (await services.engine.metrics()).encode()
    return Response(text, media_type="text/plain; version=0.0.4; charset=utf-8")
