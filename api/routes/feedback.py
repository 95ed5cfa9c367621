"""`POST /v1/feedback`: what somebody thought of an answer. A 201 means it is on disk.

A vote is looked up, checked and written in one transaction on the store's writer, which commits many at once; its
coroutine waits meanwhile, and no thread does.
"""

import hashlib
import uuid
from dataclasses import asdict
from typing import Annotated, Any

from fastapi import APIRouter, Header

from api.auth import Principal
from api.deps import Given, Services, Voter, Votes
from api.schemas import FeedbackRequest
from store.db import Store
from store.errors import Forbidden, Invalid, NotFound
from store.records import BASE, Feedback, FeedbackKind, Target

router = APIRouter()

IdempotencyKey = Annotated[str | None, Header(alias="idempotency-key", min_length=1, max_length=255)]


def received(completion_id: str, voter: Voter, store: Store, *, param: str) -> Target:
    """The answer, if this voter may speak about it.

    Raises:
        NotFound: there is none.
        Forbidden: somebody else received it, or the receipt is for another.
    """
    completion = store.completions.target(completion_id)
    if completion is None:
        raise NotFound(f"no completion {completion_id!r}", param=param)
    if not _may_speak(voter.principal, completion):
        raise Forbidden(f"completion {completion_id!r} was not given to you")
    return completion


def _may_speak(principal: Principal, completion: Target) -> bool:
    return completion.principal == principal.name or "operate" in principal.scopes


def check_choice(body: FeedbackRequest, completion: Target) -> None:
    """Which choice is meant may be left out only where there is one."""
    if body.choice_index is None and len(completion.choices) > 1:
        last = len(completion.choices) - 1
        raise Invalid(f"choice_index is required for this completion: 0 to {last}", param="choice_index")


def check_reference(body: FeedbackRequest, completion: Target, voter: Voter, store: Store) -> None:
    """Hold a value that points at another answer against what there is."""
    if body.kind not in (FeedbackKind.PREFERENCE, FeedbackKind.REGENERATE):
        return
    if isinstance(body.value, str):
        if body.value == body.completion_id:
            raise Invalid(f"value: a {body.kind} names another completion than its own", param="value")
        received(body.value, voter, store, param="value")
        return
    choice = body.choice_index or 0
    if body.value == choice or body.value not in completion.choices:
        others = [index for index in completion.choices if index != choice]
        raise Invalid(f"value: must be another choice of this completion, one of {others}", param="value")


def event_id(body: FeedbackRequest, key: str | None, voter: Voter) -> str:
    """The client's id, else one that a repeated idempotency key arrives at again, else a new one."""
    if body.id is not None:
        return body.id
    if key is None:
        return f"fb-{uuid.uuid4().hex}"
    return "fb-" + hashlib.sha256(f"{voter.principal.name}\n{key}".encode()).hexdigest()[:32]


def event_of(body: FeedbackRequest, key: str | None, voter: Voter, services: Services) -> Feedback:
    """The event as it is stored if nothing speaks against it."""
    event = Feedback(
        id=event_id(body, key, voter),
        created_at=services.clock(),
        completion_id=body.completion_id,
        choice_index=body.choice_index or 0,
        principal=voter.principal.name,
        kind=FeedbackKind(body.kind),
        value=body.value,
        reason=body.reason,
        comment=body.comment,
        metadata=dict(body.metadata or {}),
    )
    return services.privacy.feedback(event)


@router.post("/v1/feedback", status_code=201)
async def add(
    body: FeedbackRequest, services: Given, voter: Votes, idempotency_key: IdempotencyKey = None
) -> dict[str, Any]:
    if voter.only is not None and voter.only != body.completion_id:
        raise Forbidden("this receipt is for another completion")
    if not services.privacy.keeps(voter.principal.name):
        raise Forbidden(
            "nothing you say is kept here (store.privacy.excluded), so feedback is not taken either"
        )
    event = event_of(body, idempotency_key, voter, services)

    def take(tx: Store) -> tuple[Target, Feedback]:
        completion = received(body.completion_id, voter, tx, param="completion_id")
        check_choice(body, completion)
        check_reference(body, completion, voter, tx)
        if event.kind is FeedbackKind.EDIT and not completion.stored:
            raise Invalid(
                "this answer was asked with store: false, so no text of it is kept", param="completion_id"
            )
        return completion, tx.feedback.add(event, idempotency_key=idempotency_key)

    completion, stored = await services.store.atomic_async(take, marks=frozenset({"feedback"}))
    services.meters.feedback.labels(event.kind.value).inc()
    return {
        "id": stored.id,
        "completion_id": stored.completion_id,
        "choice_index": stored.choice_index,
        "adapter": completion.adapter or BASE,
        "supersedes": stored.supersedes,
    }


@router.get("/v1/completions/{completion_id}/feedback")
def mine(completion_id: str, services: Given, voter: Votes) -> dict[str, Any]:
    """What counts now of what this principal said about an answer, so that a page can show it again."""
    if voter.only is not None and voter.only != completion_id:
        raise Forbidden("this receipt is for another completion")
    received(completion_id, voter, services.store, param="completion_id")
    events = services.store.feedback.latest(completion_id)
    own = [asdict(event) for event in events if event.principal == voter.principal.name]
    return {"object": "list", "data": own}
