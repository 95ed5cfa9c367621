"""`POST /v1/feedback`: what somebody thought of an answer. A 201 means it is on disk.

Plain `def` endpoints, hence the threadpool: the one thing they do is wait for the store.
"""

import hashlib
import uuid
from dataclasses import asdict
from typing import Annotated, Any

from fastapi import APIRouter, Header

from api.auth import Principal
from api.deps import Given, Services, Voter, Votes
from api.schemas import FeedbackRequest
from store.errors import Forbidden, Invalid, NotFound
from store.records import BASE, Completion, Feedback, FeedbackKind

router = APIRouter()

IdempotencyKey = Annotated[str | None, Header(alias="idempotency-key", min_length=1, max_length=255)]


def received(completion_id: str, voter: Voter, services: Services, *, param: str) -> Completion:
    """The completion, if this voter may speak about it.

    Raises:
        NotFound: there is none.
        Forbidden: somebody else received it, or the receipt is for another.
    """
    completion = services.store.completions.find(completion_id)
    if completion is None:
        raise NotFound(f"no completion {completion_id!r}", param=param)
    if not _may_speak(voter.principal, completion):
        raise Forbidden(f"completion {completion_id!r} was not given to you")
    return completion


def _may_speak(principal: Principal, completion: Completion) -> bool:
    return completion.principal == principal.name or "operate" in principal.scopes


def choice_of(body: FeedbackRequest, completion: Completion) -> int:
    """Which choice is meant; may be left out only where there is one."""
    if body.choice_index is None and len(completion.choices) > 1:
        last = len(completion.choices) - 1
        raise Invalid(f"choice_index is required for this completion: 0 to {last}", param="choice_index")
    return body.choice_index or 0


def check_reference(body: FeedbackRequest, choice: int, voter: Voter, services: Services) -> None:
    """Hold a value that points at another answer against what there is."""
    kind = FeedbackKind(body.kind)
    if kind not in (FeedbackKind.PREFERENCE, FeedbackKind.REGENERATE):
        return
    if isinstance(body.value, str):
        if body.value == body.completion_id:
            raise Invalid(f"value: a {kind.value} names another completion than its own", param="value")
        received(body.value, voter, services, param="value")
        return
    known = {one.index for one in services.store.completions.get(body.completion_id).choices}
    if body.value == choice or body.value not in known:
        others = sorted(known - {choice})
        raise Invalid(f"value: must be another choice of this completion, one of {others}", param="value")


def event_id(body: FeedbackRequest, key: str | None, voter: Voter) -> str:
    """The client's id, else one that a repeated idempotency key arrives at again, else a new one."""
    if body.id is not None:
        return body.id
    if key is None:
        return f"fb-{uuid.uuid4().hex}"
    return "fb-" + hashlib.sha256(f"{voter.principal.name}\n{key}".encode()).hexdigest()[:32]


@router.post("/v1/feedback", status_code=201)
def add(
    body: FeedbackRequest, services: Given, voter: Votes, idempotency_key: IdempotencyKey = None
) -> dict[str, Any]:
    if voter.only is not None and voter.only != body.completion_id:
        raise Forbidden("this receipt is for another completion")
    if not services.privacy.keeps(voter.principal.name):
        raise Forbidden(
            "nothing you say is kept here (store.privacy.excluded), so feedback is not taken either"
        )
    completion = received(body.completion_id, voter, services, param="completion_id")
    choice = choice_of(body, completion)
    check_reference(body, choice, voter, services)
    kind = FeedbackKind(body.kind)
    if kind is FeedbackKind.EDIT and not completion.stored:
        raise Invalid(
            "this answer was asked with store: false, so no text of it is kept", param="completion_id"
        )
    event = Feedback(
        id=event_id(body, idempotency_key, voter),
        created_at=services.clock(),
        completion_id=completion.id,
        choice_index=choice,
        principal=voter.principal.name,
        kind=kind,
        value=body.value,
        reason=body.reason,
        comment=body.comment,
        metadata=dict(body.metadata or {}),
    )
    kept = services.privacy.feedback(event)
    stored = services.store.feedback.add(kept, idempotency_key=idempotency_key)
    services.meters.feedback.labels(kind.value).inc()
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
    received(completion_id, voter, services, param="completion_id")
    events = services.store.feedback.latest(completion_id)
    own = [asdict(event) for event in events if event.principal == voter.principal.name]
    return {"object": "list", "data": own}
