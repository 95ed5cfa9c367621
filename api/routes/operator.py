"""What operators read, and the one door through which they act: an intent row that the loop picks up."""

import asyncio
import re
import uuid
from dataclasses import asdict
from typing import Annotated, Any

from fastapi import APIRouter, Header, HTTPException, Path, Query, Request, Response
from fastapi.responses import JSONResponse

from api import sse, views
from api.auth import Principal
from api.deps import Given, Operator, Services
from api.events import follow_store
from api.labels import label_of
from api.schemas import OperatorRequest
from store.db import Store
from store.errors import Invalid
from store.records import BASE, Intent, IntentKind, IntentStatus

router = APIRouter()

#: What the loop acts on.
SUPPORTED_INTENTS = frozenset(
    (
        IntentKind.TRAIN,
        IntentKind.PROMOTE,
        IntentKind.ROLLBACK,
        IntentKind.PAUSE,
        IntentKind.RESUME,
        IntentKind.LABEL,
        IntentKind.RELEASE,
        IntentKind.FORGET,
    )
)
#: Moves of what people are answered by: never without saying why.
MOVES = frozenset((IntentKind.PROMOTE, IntentKind.ROLLBACK))
NEEDS_REASON = MOVES | {IntentKind.RELEASE, IntentKind.FORGET}
#: What one kind alone takes. Elsewhere it is refused: who asks for it must not believe that it happens.
ONLY = {
    "quarantine": IntentKind.ROLLBACK,
    "iteration": IntentKind.RELEASE,
    "all": IntentKind.RELEASE,
    "user": IntentKind.FORGET,
}

#: SQLite's largest integer: what is above it cannot be looked up.
MOST = 2**63 - 1
Limit = Annotated[int, Query(ge=1, le=200)]
Before = Annotated[int | None, Query(ge=1, le=MOST)]
Number = Annotated[int, Path(ge=1, le=MOST)]
Kind = Annotated[str, Path(json_schema_extra={"enum": sorted(SUPPORTED_INTENTS)})]


def page(rows: list[dict[str, Any]], limit: int) -> dict[str, Any]:
    """A list answer; `rows` holds one more than asked if there is more."""
    return {"object": "list", "data": rows[:limit], "has_more": len(rows) > limit}


async def status_of(services: Services) -> dict[str, Any]:
    known = await asyncio.to_thread(views.status, services.store, now=services.clock())
    health = await services.engine.health()
    engine = {
        "name": services.engine.name,
        "fingerprint": services.engine.fingerprint,
        "ready": health.ready,
        "running": health.running,
        "waiting": health.waiting,
        "adapters": list(health.adapters),
        "detail": health.detail,
    }
    return {**known, "engine": engine}


@router.get("/v1/status")
async def status(services: Given, _: Operator) -> dict[str, Any]:
    return await status_of(services)


@router.get("/v1/iterations")
def iterations(services: Given, _: Operator, limit: Limit = 50, before: Before = None) -> dict[str, Any]:
    """Newest first; `before` is the id the page before this one ended with."""
    rows = services.store.iterations.list(limit=limit + 1, before=before)
    return page([views.iteration(one) for one in rows], limit)


@router.get("/v1/iterations/{id}")
def one_iteration(id: Number, services: Given, _: Operator) -> dict[str, Any]:
    return views.iteration_in_full(services.store, id, now=services.clock())


@router.get("/v1/adapters")
def adapters(services: Given, _: Operator) -> dict[str, Any]:
    return {"object": "list", "data": [views.adapter(one) for one in services.store.adapters.list()]}


@router.get("/v1/adapters/{version}")
def one_adapter(version: str, services: Given, _: Operator) -> dict[str, Any]:
    return views.adapter_in_full(services.store, version)


@router.get("/v1/completions/{completion_id}")
def one_completion(completion_id: str, services: Given, _: Operator) -> dict[str, Any]:
    return views.completion_in_full(services.store, completion_id)


@router.get("/v1/events")
async def events(
    services: Given,
    _: Operator,
    after: Annotated[int | None, Query(ge=0, le=MOST)] = None,
    last_event_id: Annotated[str | None, Header()] = None,
) -> Response:
    """Audit entries and iteration stages as they are written; resumes after `Last-Event-ID` or `after`."""
    known = last_event_id is not None and re.fullmatch(r"[0-9]{1,18}", last_event_id)
    resumed = int(last_event_id) if last_event_id is not None and known else after
    return sse.EventStream(follow_store(services, after=resumed))


def kind_of(name: str) -> IntentKind:
    if name == "queue":  # a resource of its own, that the path of orders would match as well
        raise HTTPException(405, "the queue is only read", {"allow": "GET"})
    supported = ", ".join(sorted(SUPPORTED_INTENTS))
    if name not in SUPPORTED_INTENTS:
        raise Invalid(f"kind {name!r} is not supported; supported are {supported}", param="kind")
    return IntentKind(name)


def arguments_of(kind: IntentKind, body: OperatorRequest, services: Services) -> dict[str, Any]:
    """What the kind is told beside its reason; what does not exist is told right away."""
    for name, only in ONLY.items():
        if getattr(body, name) and kind is not only:
            raise Invalid(f"{name} is for {only.value}, not for {kind.value}", param=name)
    if kind is IntentKind.LABEL:
        return label_of(body, services.store)
    if kind is IntentKind.RELEASE:
        return released_of(body, services.store)
    if kind is IntentKind.FORGET:
        if body.user is None:
            raise Invalid("user is required to forget: whom", param="user")
        return {"user": services.store.forgetting.name_of(body.user)}
    if kind is IntentKind.PROMOTE and body.version is None:
        raise Invalid("version is required to promote", param="version")
    quarantine = {"quarantine": True} if body.quarantine else {}
    if kind not in MOVES or body.version is None:
        return quarantine
    if not (kind is IntentKind.ROLLBACK and body.version == BASE):
        services.store.adapters.get(body.version)
    return {"version": body.version, **quarantine}


def released_of(body: OperatorRequest, store: Store) -> dict[str, Any]:
    """Whose feedback leaves quarantine: one iteration's, or all."""
    if bool(body.all) == (body.iteration is not None):
        param = "all" if body.all else "iteration"
        raise Invalid("release takes one of iteration (a number) and all (true)", param=param)
    if body.iteration is None:
        return {"all": True}
    store.iterations.get(body.iteration)
    return {"iteration": body.iteration}


def reason_of(kind: IntentKind, body: OperatorRequest) -> str:
    reason = (body.reason or "").strip()
    if not reason and kind in NEEDS_REASON:
        raise Invalid(f"reason is required to {kind.value}: a sentence for the audit log", param="reason")
    return reason or "manual"


def write_intent(kind: IntentKind, body: OperatorRequest, who: Principal, services: Services) -> Intent:
    body = services.privacy.order(body)
    intent = Intent(
        id=f"in-{uuid.uuid4().hex}",
        created_at=services.clock(),
        kind=kind,
        principal=who.name,
        reason=reason_of(kind, body),
        arguments=arguments_of(kind, body, services),
        status=IntentStatus.PENDING,
    )
    services.store.intents.add(intent)
    return intent


@router.get("/v1/operator/queue")
def queue(services: Given, _: Operator, limit: Annotated[int, Query(ge=1, le=50)] = 10) -> dict[str, Any]:
    """Pairs of answers to compare, the next first; nothing in it tells who gave them or what judges think."""
    found = services.queue(limit)
    return {"object": "list", "data": [asdict(one) for one in found.items], "reason": found.reason}


# Before the POST route, whose path would match this one too and answer 405.
@router.get("/v1/operator/intents/{id}")
def one_intent(id: str, services: Given, _: Operator) -> dict[str, Any]:
    return views.intent(services.store.intents.get(id))


@router.post("/v1/operator/{kind}")
def act(
    kind: Kind, request: Request, services: Given, who: Operator, body: OperatorRequest | None = None
) -> Response:
    intent = write_intent(kind_of(kind), body or OperatorRequest(), who, services)
    answer = {"id": intent.id, "kind": intent.kind.value, "status": intent.status.value}
    location = request.url_for("one_intent", id=intent.id).path
    return JSONResponse(answer, 202, {"location": location})
