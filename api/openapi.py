"""`/openapi.json`: what FastAPI reads off the routes, with every refusal a client can meet and what else is sent.

One table, held against the service by generated requests (tests/api/test_openapi.py).
"""

from collections.abc import Iterator
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel

Row = dict[str, Any]

#: What any route under /v1 may answer: bad input, no key, not the key's to do, too often, the disk full or failing.
ANY = (400, 401, 403, 429, 503)
#: Method and path -> statuses beyond `ANY`, the 2xx that is meant where FastAPI does not know it among them.
MORE: dict[tuple[str, str], tuple[int, ...]] = {
    ("post", "/v1/chat/completions"): (404, 408, 413),
    ("get", "/v1/models/{name}"): (404,),
    ("post", "/v1/feedback"): (404, 408, 413, 422),
    ("get", "/v1/completions/{completion_id}/feedback"): (404,),
    ("get", "/v1/iterations/{id}"): (404,),
    ("get", "/v1/adapters/{version}"): (404,),
    ("get", "/v1/completions/{completion_id}"): (404,),
    ("get", "/v1/operator/intents/{id}"): (404,),
    ("post", "/v1/operator/{kind}"): (202, 404, 408, 413, 422),
    ("get", "/health"): (403, 503),
    ("get", "/healthz"): (403, 503),
    ("get", "/readyz"): (403, 503),
    ("get", "/metrics"): (401, 403, 429, 503),
}
#: Method and path -> media types of the answer, where it is not, or not only, JSON.
MEDIA: dict[tuple[str, str], tuple[str, ...]] = {
    ("post", "/v1/chat/completions"): ("application/json", "text/event-stream"),
    ("get", "/v1/events"): ("text/event-stream",),
    ("get", "/metrics"): ("text/plain",),
}
#: Where an answer's id leads: method, path -> name of the link -> method, path, parameters or body. What stands for a
#: part of the answer is a runtime expression of OpenAPI's.
LINKS: dict[tuple[str, str], dict[str, tuple[str, str, Row]]] = {
    ("post", "/v1/chat/completions"): {
        "completion": ("get", "/v1/completions/{completion_id}", {"completion_id": "$response.body#/id"}),
        "said": ("get", "/v1/completions/{completion_id}/feedback", {"completion_id": "$response.body#/id"}),
        "thumb": (
            "post",
            "/v1/feedback",
            {"completion_id": "$response.body#/id", "kind": "thumb", "value": True},
        ),
    },
    ("get", "/v1/models"): {"model": ("get", "/v1/models/{name}", {"name": "$response.body#/data/0/id"})},
    ("get", "/v1/adapters"): {
        "adapter": ("get", "/v1/adapters/{version}", {"version": "$response.body#/data/0/version"})
    },
    ("get", "/v1/iterations"): {
        "iteration": ("get", "/v1/iterations/{id}", {"id": "$response.body#/data/0/id"})
    },
    ("post", "/v1/operator/{kind}"): {
        "intent": ("get", "/v1/operator/intents/{id}", {"id": "$response.body#/id"})
    },
}
MEANING = {
    202: "taken; the loop does it, see `GET /v1/operator/intents/{id}`",
    400: "a field is not what is allowed; `param` names it",
    401: "no key, or none that is known",
    403: "the key's scopes, or the page it was sent from, do not allow it",
    404: "there is none of that name",
    408: "the body took longer than `api.body_seconds`",
    413: "the body is larger than `api.max_body_bytes`",
    422: "an idempotency key was used for something else, or a gate refuses",
    429: "the queue is full, or the key asks too often; `Retry-After` says when to come again",
    503: "not ready, or nothing can be stored; `Retry-After` says when to come again",
}


class Detail(BaseModel):
    """What is inside of every error under /v1."""

    message: str
    type: str
    param: str | None
    code: str


class Envelope(BaseModel):
    """Every error under /v1, in OpenAI's form."""

    error: Detail


def document(app: FastAPI) -> Row:
    """The OpenAPI document, made once."""
    if app.openapi_schema is None:
        made = get_openapi(title=app.title, version=app.version, routes=app.routes)
        schemas = made.setdefault("components", {}).setdefault("schemas", {})
        for name in ("HTTPValidationError", "ValidationError"):  # FastAPI's own; ours is the envelope
            schemas.pop(name, None)
        envelope = Envelope.model_json_schema(ref_template="#/components/schemas/{model}")
        schemas |= envelope.pop("$defs") | {"Envelope": envelope}
        names = {(method, path): row["operationId"] for method, path, row in operations(made)}
        for method, path, operation in operations(made):
            operation["responses"] = responses(method, path, operation["responses"])
            if (method, path) in LINKS:
                success = min(operation["responses"])
                operation["responses"][success]["links"] = links(method, path, names)
        app.openapi_schema = made
    return app.openapi_schema


def operations(made: Row) -> Iterator[tuple[str, str, Row]]:
    """Every (method, path, operation) of a document."""
    for path, methods in made["paths"].items():
        for method, operation in methods.items():
            yield method, path, operation


def responses(method: str, path: str, known: Row) -> Row:
    """What an operation may answer, by status."""
    more = MORE.get((method, path), ())
    statuses = {*more, *(ANY if path.startswith("/v1/") else ())}
    good = {status: row for status, row in known.items() if status != "422"}
    if 202 in statuses:
        good = {"202": {"description": MEANING[202], "content": {"application/json": {"schema": {}}}}}
    for media in MEDIA.get((method, path), ()):
        good["200"].setdefault("content", {}).setdefault(media, {"schema": {}})
    if (method, path) in MEDIA and "application/json" not in MEDIA[method, path]:
        good["200"]["content"].pop("application/json", None)
    bad = {str(status): refusal(status, path) for status in sorted(statuses) if status >= 400}
    return good | bad


def links(method: str, path: str, names: dict[tuple[str, str], str]) -> Row:
    """Links of an operation; `names` are the operations' ids."""
    found: Row = {}
    for name, (to_method, to_path, values) in LINKS[method, path].items():
        given = "requestBody" if to_method == "post" else "parameters"
        found[name] = {"operationId": names[to_method, to_path], given: values}
    return found


def refusal(status: int, path: str) -> Row:
    """One refusal: the envelope, and when to come again where that can be known."""
    told: Row = {
        "description": MEANING[status],
        "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Envelope"}}},
    }
    if status == 503 and not path.startswith("/v1/"):
        told["content"] = {"application/json": {"schema": {}}}  # a probe's own verdict
    elif status in (429, 503):
        told["headers"] = {"Retry-After": {"description": "seconds", "schema": {"type": "integer"}}}
    return told
