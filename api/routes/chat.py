"""`POST /v1/chat/completions`: OpenAI's chat, answered by the adapter that is active when the request comes."""

import asyncio
import hashlib
import logging
import uuid
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse

from api import errors, sse
from api.answers import Run, admit, begin, follow
from api.auth import Principal
from api.deps import Chatter, Given, Services
from api.schemas import ChatRequest
from policies.engine import TokenLogprob, Usage
from store.canaries import in_canary
from store.db import Store
from store.errors import EngineUnavailable, Invalid, NotFound
from store.records import (
    ACTIVE_ALIAS,
    BASE,
    SERVABLE,
    Adapter,
    Choice,
    Completion,
    CompletionStatus,
    Sampling,
    Source,
)

router = APIRouter()
log = logging.getLogger(__name__)

#: Front ends mark their own side jobs (titles, tags) with one of these.
TASK_HEADERS = ("x-openwebui-task", "x-honed-task")


@dataclass(frozen=True, slots=True)
class Face:
    """What every chunk and the whole answer say about themselves."""

    id: str
    created: int
    model: str
    fingerprint: str

    def dress(self, kind: str, choices: list[dict[str, Any]]) -> dict[str, Any]:
        return {
            "id": self.id,
            "object": kind,
            "created": self.created,
            "model": self.model,
            "choices": choices,
            "system_fingerprint": self.fingerprint,
        }


def find_adapter(name: str, store: Store) -> Adapter | None:
    """The adapter a model name means now, whoever asks; None is the base.

    Raises:
        NotFound: no such model, or one that never passed its gate.
    """
    if name == ACTIVE_ALIAS:
        return store.adapters.active()
    if name == BASE:
        return None
    adapter = store.adapters.find(name)
    if adapter is None or adapter.status not in SERVABLE:
        raise NotFound(
            f"the model {name!r} does not exist; GET /v1/models lists those that do", param="model"
        )
    return adapter


def find_canary(store: Store, active: Adapter | None, principal: str) -> Adapter | None:
    """The canary, if one runs beside the active adapter and this person is among those it answers."""
    canary = store.canaries.open()
    if canary is None or canary.incumbent != (active and active.version):
        return None
    if not in_canary(principal, canary.version, canary.share):
        return None
    return store.adapters.get(canary.version)


async def pin(name: str, principal: str, services: Services) -> Adapter | None:
    """The adapter that answers this person under a model name, and the engine has it. A canary that the engine has
    not is no reason for anybody to wait: the active adapter answers.

    Raises:
        EngineUnavailable: the active adapter is still being loaded; a retry will find it.
        NotFound: as `find_adapter`, or a version by name that is not loaded.
    """
    adapter = await asyncio.to_thread(find_adapter, name, services.store)
    loaded = await services.open_versions()
    if name == ACTIVE_ALIAS:
        canary = await asyncio.to_thread(find_canary, services.store, adapter, principal)
        if canary is not None and canary.version in loaded:
            return canary
    if adapter is not None and adapter.version not in loaded:
        if name == ACTIVE_ALIAS:
            raise EngineUnavailable(f"adapter {adapter.version} is being loaded", retry_after=2.0)
        raise NotFound(
            f"the model {name!r} is not loaded; GET /v1/models lists those that are", param="model"
        )
    return adapter


def fingerprint(services: Services, adapter: Adapter | None) -> str:
    parts = (services.engine.name, services.engine.fingerprint, adapter.digest if adapter else BASE)
    return "fp_" + hashlib.sha256("\n".join(parts).encode()).hexdigest()[:12]


def samplings(body: ChatRequest, services: Services, *, completion_id: str) -> list[Sampling]:
    """One per choice, their seeds distinct; a single choice without a seed leaves the draw to the engine."""
    one, n = body.sampling(services.settings), body.n or 1
    if one.seed is None and n == 1:
        return [one]
    first = one.seed
    if first is None:
        first = int.from_bytes(hashlib.sha256(completion_id.encode()).digest()[:7])
    return [replace(one, seed=first if index == 0 else (first + index) % 2**63) for index in range(n)]


def record(body: ChatRequest, request: Request, principal: Principal, services: Services) -> Completion:
    """The row as it begins, for the base; `store: false` keeps every word of it out, and so does being excluded."""
    named = (principal.name, body.user, body.safety_identifier)
    stored = body.store is not False and services.privacy.keeps(*named)
    told = {"metadata": body.metadata, "user": body.user, "safety_identifier": body.safety_identifier}
    task = any(request.headers.get(name) for name in TASK_HEADERS)
    row = Completion(
        id=f"chatcmpl-{uuid.uuid4().hex}",
        created_at=services.clock(),
        principal=principal.name,
        source=Source.TASK if task else Source.CHAT,
        messages=body.turns() if stored else (),
        # Stop strings are the client's words too.
        sampling=body.sampling(services.settings) if stored else Sampling(),
        adapter=None,
        engine=services.engine.name,
        status=CompletionStatus.STREAMING,
        # Empty as yet, but known: feedback may name one of them while it is being written.
        choices=tuple(Choice(index, "", None) for index in range(body.n or 1)),
        stored=stored,
        metadata={key: value for key, value in told.items() if value is not None} if stored else {},
    )
    return services.privacy.completion(row)


async def start(body: ChatRequest, row: Completion, services: Services) -> tuple[Run, Adapter | None]:
    """Pin a version, be admitted by the engine, write the row."""
    adapter = await pin(body.model, row.principal, services)
    version = adapter.version if adapter else None
    draws = samplings(body, services, completion_id=row.id)
    try:
        streams = await admit(services.engine, body.turns(), draws, version)
    except NotFound:
        if body.model != ACTIVE_ALIAS:
            raise
        # A promotion came between the look-up and the admission, or a canary's end: what is active now answers.
        adapter = await pin(body.model, row.principal, services)
        version = adapter.version if adapter else None
        streams = await admit(services.engine, body.turns(), draws, version)
    return await begin(services, replace(row, adapter=version), streams), adapter


@router.post("/v1/chat/completions")
async def chat(body: ChatRequest, request: Request, services: Given, principal: Chatter) -> Response:
    if (body.n or 1) > services.settings.max_choices:
        raise Invalid(f"n: at most {services.settings.max_choices} here", param="n")
    row = record(body, request, principal, services)
    run, adapter = await start(body, row, services)
    run.traceparent = request.headers.get("traceparent")
    model = adapter.version if adapter else BASE
    face = Face(row.id, int(row.created_at), model, fingerprint(services, adapter))
    headers = {"x-honed-receipt": services.receipt(row), "x-honed-adapter": model}
    if body.stream:
        return sse.EventStream(frames(run, face, services, include_usage=body.include_usage), headers)
    asked = bool(body.logprobs)  # the row forgets the request where nothing is stored
    answer = await sse.while_connected(request.receive, whole(run, face, services, logprobs=asked))
    return Response(status_code=499) if answer is None else JSONResponse(answer, headers=headers)


async def whole(run: Run, face: Face, services: Services, *, logprobs: bool) -> dict[str, Any]:
    """The answer in one piece."""
    async with aclosing(follow(run, services)) as pieces:
        async for _ in pieces:
            pass
    choices = [
        {
            "index": draft.index,
            "message": {"role": "assistant", "content": draft.text, "refusal": None},
            "logprobs": logprobs_of(draft.logprobs, asked=logprobs),
            "finish_reason": draft.finish_reason,
        }
        for draft in run.drafts
    ]
    return {**face.dress("chat.completion", choices), "usage": usage_of(run.usage)}


async def frames(
    run: Run, face: Face, services: Services, *, include_usage: bool
) -> AsyncGenerator[bytes, None]:
    """The answer as it comes: roles, contents, then (the row being on disk) finish reasons, usage and the end."""

    def chunk(index: int, delta: dict[str, str], logprobs: Any = None, finish: str | None = None) -> bytes:
        choice = {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": finish}
        data = face.dress("chat.completion.chunk", [choice])
        return sse.frame({**data, "usage": None} if include_usage else data)

    try:
        async with aclosing(follow(run, services)) as pieces:
            for draft in run.drafts:
                yield chunk(draft.index, {"role": "assistant", "content": ""})
            async for piece in pieces:
                if piece is None:
                    yield sse.KEEPALIVE
                elif piece.delta.text or piece.delta.logprobs:
                    logprobs = logprobs_of(list(piece.delta.logprobs), asked=bool(piece.delta.logprobs))
                    yield chunk(piece.index, {"content": piece.delta.text}, logprobs)
        for draft in run.drafts:
            yield chunk(draft.index, {}, finish=draft.finish_reason)
        if include_usage:
            yield sse.frame({**face.dress("chat.completion.chunk", []), "usage": usage_of(run.usage)})
    except Exception as error:
        log.warning("completion %s failed: %r", face.id, error)
        yield sse.frame(errors.payload(error))
    yield sse.DONE


def usage_of(usage: Usage) -> dict[str, int]:
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
    }


def logprobs_of(tokens: list[TokenLogprob], *, asked: bool) -> dict[str, Any] | None:
    if not asked:
        return None

    def entry(token: str, logprob: float) -> dict[str, Any]:
        return {"token": token, "logprob": logprob, "bytes": list(token.encode())}

    content = [
        {**entry(one.token, one.logprob), "top_logprobs": [entry(*other) for other in one.top]}
        for one in tokens
    ]
    return {"content": content, "refusal": None}
