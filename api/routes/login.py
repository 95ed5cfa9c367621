"""Logging in to the operators' pages with a key of scope `operate`, and out again."""

import logging
from typing import Annotated
from urllib.parse import parse_qs

from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import RedirectResponse

from api import auth, sessions
from api.deps import Given
from api.errors import TooMany
from api.routes.pages import HEADERS, LOGIN, OPERATIONS, page
from store.errors import Invalid

log = logging.getLogger(__name__)

router = APIRouter()

FORM = "application/x-www-form-urlencoded"
#: Of a form; what people type into ours is far shorter.
MOST_FIELDS = 20
#: Logins that one address may try in a minute, a sixth of them at once.
ATTEMPTS = 30


async def fields_of(request: Request) -> dict[str, str]:
    """A form's fields; of a repeated one the last.

    Raises:
        Invalid: it is no form.
    """
    if request.headers.get("content-type", "").partition(";")[0].strip() != FORM:
        raise Invalid(f"send {FORM}", param="content-type")
    try:
        text = (await request.body()).decode()
        found = parse_qs(text, keep_blank_values=True, max_num_fields=MOST_FIELDS, strict_parsing=bool(text))
    except ValueError as error:
        raise Invalid(f"the form cannot be read: {error}", param="body") from error
    return {name: values[-1] for name, values in found.items()}


def inside(path: str | None) -> str:
    """Where to go after the login: a page of ours, never another host's."""
    if path and (path == OPERATIONS or path.startswith((f"{OPERATIONS}/", f"{OPERATIONS}?"))):
        return path if path.isascii() and path.isprintable() and "\\" not in path else OPERATIONS
    return OPERATIONS


def form(request: Request, after: str, *, wrong: str = "") -> Response:
    shown = {"next": after, "wrong": wrong, "current": "", "who": None}
    return page(request, "ops_login.html", shown, status=401 if wrong else 200)


@router.get(LOGIN, include_in_schema=False)
async def login_page(
    request: Request, services: Given, next: Annotated[str, Query()] = OPERATIONS
) -> Response:
    if services.keys is None:
        return RedirectResponse(OPERATIONS, 303, HEADERS)
    return form(request, inside(next))


@router.post(LOGIN, include_in_schema=False)
async def login(request: Request, services: Given) -> Response:
    fields = await fields_of(request)
    after = inside(fields.get("next"))
    if services.keys is None:
        return RedirectResponse(OPERATIONS, 303, HEADERS)
    peer = request.client.host if request.client else "unknown"
    wait = services.limiter.wait(f"login from {peer}", per_minute=ATTEMPTS, now=services.clock())
    if wait:
        raise TooMany("too many attempts to log in", retry_after=wait)
    key = auth.find_key(services.keys, fields.get("key", "").strip())
    if key is None or "operate" not in key.scopes:
        log.warning("a login to %s was refused: %s", OPERATIONS, "no such key" if key is None else key.name)
        wrong = "This key is not known." if key is None else "This key may not operate: it has no such scope."
        return form(request, after, wrong=wrong)
    lasts = services.settings.session_hours * 3600
    answer = RedirectResponse(after, 303, HEADERS)
    answer.set_cookie(
        sessions.COOKIE,
        sessions.begin(key, services.secret, until=services.clock() + lasts),
        max_age=int(lasts),
        path="/",
        httponly=True,
        samesite="strict",
        secure=request.url.scheme == "https",
    )
    return answer


@router.post("/ops/logout", include_in_schema=False)
async def logout(request: Request, services: Given) -> Response:
    """Also of a session that has ended; its token is made from the cookie all the same."""
    fields = await fields_of(request)
    sessions.require_token(fields.get("csrf"), request.cookies.get(sessions.COOKIE), services.secret)
    answer = RedirectResponse(LOGIN, 303, HEADERS)
    answer.delete_cookie(sessions.COOKIE, path="/", httponly=True, samesite="strict")
    return answer
