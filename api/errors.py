"""Every error under /v1 as OpenAI's envelope, from one table: error class -> status, type, code.

openai-python retries 408, 409, 429 and 5xx, so nothing permanent is answered with one of those: a conflict over
an idempotency key is 422.
"""

import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from store import errors

log = logging.getLogger(__name__)


class Unauthorised(errors.HonedError):
    """No key, an unknown key, or a receipt that does not verify; `scheme` is the way in that is offered."""

    def __init__(self, message: str, *, scheme: str = "Bearer") -> None:
        super().__init__(message)
        self.scheme = scheme


class TooMany(errors.HonedError):
    """A key asks more often than it may; `retry_after` in seconds."""

    def __init__(self, message: str, *, retry_after: float) -> None:
        super().__init__(message)
        self.retry_after = retry_after


@dataclass(frozen=True, slots=True)
class Answer:
    """How an error class is told to a client."""

    status: int
    type: str
    code: str


#: Looked up along the class's ancestry, nearest first.
ANSWERS: dict[type[Exception], Answer] = {
    errors.Invalid: Answer(400, "invalid_request_error", "invalid_value"),
    Unauthorised: Answer(401, "authentication_error", "invalid_api_key"),
    errors.Forbidden: Answer(403, "permission_error", "forbidden"),
    errors.NotFound: Answer(404, "invalid_request_error", "not_found"),
    errors.Conflict: Answer(422, "invalid_request_error", "idempotency_conflict"),
    errors.RefusedByGate: Answer(422, "invalid_request_error", "refused_by_gate"),
    TooMany: Answer(429, "rate_limit_error", "rate_limit_exceeded"),
    errors.EngineBusy: Answer(429, "rate_limit_error", "engine_busy"),
    errors.EngineUnavailable: Answer(503, "service_unavailable_error", "engine_unavailable"),
    errors.StoreUnavailable: Answer(503, "service_unavailable_error", "store_unavailable"),
    errors.EngineError: Answer(500, "server_error", "engine_error"),
    Exception: Answer(500, "server_error", "internal_error"),
}

#: For statuses the framework itself produces.
STATUSES: dict[int, Answer] = {
    400: Answer(400, "invalid_request_error", "bad_request"),
    404: Answer(404, "invalid_request_error", "unknown_route"),
    405: Answer(405, "invalid_request_error", "method_not_allowed"),
    408: Answer(408, "invalid_request_error", "request_timeout"),
    413: Answer(413, "invalid_request_error", "body_too_large"),
}


def answer_for(error: Exception) -> Answer:
    """The nearest ancestor's row; an unknown model has the code OpenAI's clients know."""
    answer = next(ANSWERS[kind] for kind in type(error).__mro__ if kind in ANSWERS)
    if isinstance(error, errors.NotFound) and error.param == "model":
        return Answer(answer.status, answer.type, "model_not_found")
    return answer


def envelope(message: str, answer: Answer, param: str | None = None) -> dict[str, Any]:
    return {"error": {"message": message, "type": answer.type, "param": param, "code": answer.code}}


def payload(error: Exception) -> dict[str, Any]:
    """The envelope of an error. What was not raised on purpose keeps its message to the log."""
    on_purpose = isinstance(error, errors.HonedError)
    message = str(error) if on_purpose else "honed failed to answer this; its log has the request id"
    return envelope(message, answer_for(error), getattr(error, "param", None) if on_purpose else None)


def response(error: Exception) -> JSONResponse:
    headers: dict[str, str] = {}
    if isinstance(error, (TooMany, errors.EngineBusy, errors.EngineUnavailable, errors.StoreUnavailable)):
        headers["retry-after"] = str(max(1, math.ceil(error.retry_after)))
        headers["retry-after-ms"] = str(math.ceil(error.retry_after * 1000))
    if isinstance(error, Unauthorised):
        headers["www-authenticate"] = f'{error.scheme} realm="honed"'
    return JSONResponse(payload(error), answer_for(error).status, headers)


def field_path(location: tuple[int | str, ...]) -> str | None:
    """("body", "messages", 0, "role") -> "messages[0].role"; None for the body as a whole."""
    path = ""
    for part in location[1:]:
        path += f"[{part}]" if isinstance(part, int) else f".{part}" if path else part
    return path or None


def describe(problem: Mapping[str, Any]) -> tuple[str, str | None]:
    """One pydantic problem as (message, param)."""
    if problem["type"] == "json_invalid":
        return f"the body is not JSON: {problem['ctx']['error']} at character {problem['loc'][-1]}", None
    param = field_path(tuple(problem["loc"]))
    if param is None:
        return "the body must be a JSON object, sent with content-type: application/json", None
    if problem["type"] == "missing":
        return f"{param} is required", param
    text = str(problem["msg"]).removeprefix("Value error, ")
    return f"{param}: {text}", param


async def _http(_: Request, error: Exception) -> JSONResponse:
    if not isinstance(error, HTTPException):
        raise error
    answer = STATUSES.get(error.status_code)
    if answer is None:
        kind = "server_error" if error.status_code >= 500 else "invalid_request_error"
        answer = Answer(error.status_code, kind, HTTPStatus(error.status_code).name.lower())
    return JSONResponse(envelope(str(error.detail), answer), answer.status, error.headers)


def install(app: FastAPI) -> None:
    """Give an app the envelope for what the framework itself refuses; our own errors are told by `routes.pages`.

    What no handler takes ends in `middleware.RequestContext`, as a 500.
    """
    app.add_exception_handler(HTTPException, _http)
