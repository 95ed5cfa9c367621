"""What happens around every request: its id, its size, its origin, its count, and the last catch."""

import asyncio
import logging
import re
import uuid

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api import errors
from api.auth import LOOPBACK, refuse_strangers
from api.deps import Services
from store.errors import HonedError

log = logging.getLogger(__name__)

METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})

SAFE_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")


def request_id(headers: Headers) -> str:
    """The client's own id when it is harmless, so that its log and ours can be joined; else a new one."""
    given = headers.get("x-request-id", "")
    return given if SAFE_ID.fullmatch(given) else f"req_{uuid.uuid4().hex}"


#: A proxy in front may go by the other one and see another request begin where this one ends; RFC 9112, 6.3.
two_lengths = JSONResponse(
    errors.envelope("content-length beside transfer-encoding: a body has one length", errors.STATUSES[400]),
    400,
    {"connection": "close"},
)


class RequestContext:
    """Names and counts each request, and turns what nobody caught into a logged 500."""

    def __init__(self, app: ASGIApp, *, services: Services) -> None:
        self.app = app
        self.services = services
        # An open service bound to loopback is nobody else's; bound wider, the daemon has insisted on it.
        self.loopback_only = services.keys is None and services.settings.host in LOOPBACK

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        name = request_id(headers)
        status = 0

        async def named(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)["x-request-id"] = name
            await send(message)

        try:
            if "content-length" in headers and "transfer-encoding" in headers:
                await two_lengths(scope, receive, named)
                return
            refuse_strangers(headers, method=scope["method"], loopback_only=self.loopback_only)
            await self.app(scope, receive, named)
        except Exception as error:
            if not isinstance(error, HonedError):
                log.exception("request %s: %s %s failed", name, scope["method"], scope["path"])
            if status:
                raise  # half an answer is out; only cutting the connection tells the client
            await errors.response(error)(scope, receive, named)
        finally:
            route = getattr(scope.get("route"), "path", "unmatched")
            # A client may invent methods; each would be a time series of its own for ever.
            method = scope["method"] if scope["method"] in METHODS else "OTHER"
            self.services.meters.requests.labels(route, method, str(status or 499)).inc()


class BodyLimit:
    """Counts the bytes of a body as they come, whatever content-length claims, and the seconds until its end."""

    def __init__(self, app: ASGIApp, *, limit: int, seconds: float) -> None:
        self.app = app
        self.limit, self.seconds = limit, seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        counted, ended = 0, False
        began = asyncio.get_running_loop().time()

        async def limited() -> Message:
            nonlocal counted, ended
            # After the body comes only the news that the client has left, perhaps much later.
            until = None if ended else began + self.seconds
            try:
                async with asyncio.timeout_at(until):
                    message = await receive()
            except TimeoutError as error:
                # Without closing, the rest would be taken for the next request.
                headers = {"connection": "close"}
                late = f"the body took longer than {self.seconds:g} s"
                raise HTTPException(408, late, headers) from error
            ended = not message.get("more_body", False)
            counted += len(message.get("body", b""))
            if counted > self.limit:
                # Starlette's own type, the only one the body parser lets through as it is.
                raise HTTPException(413, f"the body is larger than {self.limit} bytes")
            return message

        await self.app(scope, limited, send)
