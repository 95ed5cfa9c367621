"""What every page has in common: templates, headers, errors as pages. And the chat page at `/`.

Everything pages need is served from here: no other host, no inline script, and a policy that says so.
"""

import time
from http import HTTPStatus
from pathlib import Path
from typing import Any
from urllib.parse import quote

from fastapi import APIRouter, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import RedirectResponse
from starlette.templating import Jinja2Templates

from api import auth, errors, sessions
from api.auth import Scope
from api.deps import Given, Services
from api.errors import Unauthorised
from store.errors import Invalid

router = APIRouter()

WEB = Path(__file__).parent.parent / "web"
HEADERS = {
    "content-security-policy": "default-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    # Not no-referrer: forms would be sent with `Origin: null`, which is refused like any other site's.
    "referrer-policy": "same-origin",
    "cache-control": "no-store",
}
OPERATIONS, LOGIN = "/ops", "/ops/login"


def moment(seconds: float | None) -> str:
    """Seconds since the epoch as UTC, to the minute."""
    return "" if seconds is None else time.strftime("%Y-%m-%d %H:%M", time.gmtime(seconds))


def fixed(value: float | None, digits: int = 2) -> str:
    """A number to so many digits; nothing where nothing was measured."""
    return "" if value is None else f"{value:.{digits}f}"


def brief(value: Any, digits: int = 3) -> str:
    """A number to so many significant digits, anything else as it is; nothing where nothing was measured."""
    if isinstance(value, float):
        return f"{value:.{digits}g}"
    return "" if value is None else str(value)


def percent(share: float | None) -> str:
    return "" if share is None else f"{100 * share:.0f}%"


def lasting(seconds: float | None) -> str:
    """Seconds as people say them: 41 s, 3 min 20 s, 2 h 5 min, 4 d 2 h."""
    if seconds is None:
        return ""
    whole = round(seconds)
    for unit, size, below, smaller in (("d", 86_400, "h", 3600), ("h", 3600, "min", 60), ("min", 60, "s", 1)):
        if whole >= size:
            rest = whole % size // smaller
            return f"{whole // size} {unit}" + (f" {rest} {below}" if rest else "")
    return f"{whole} s" if whole else "under 1 s"


def templates() -> Jinja2Templates:
    made = Jinja2Templates(WEB / "templates")
    for filter_ in (moment, fixed, brief, percent, lasting):
        made.env.filters[filter_.__name__] = filter_
    return made


def page(request: Request, name: str, shown: dict[str, Any], *, status: int = 200) -> Response:
    made: Jinja2Templates = request.app.state.templates
    return made.TemplateResponse(request, name, shown, headers=HEADERS, status_code=status)


def require(request: Request, services: Services, scope: Scope) -> None:
    """As for the API, but a missing key makes the browser ask for one."""
    try:
        auth.identify(request.headers, services.keys).require(scope)
    except Unauthorised as error:
        raise Unauthorised(str(error), scheme="Basic") from error


async def told(request: Request, error: Exception) -> Response:
    """An error as people read it under `/ops`, and as OpenAI's envelope elsewhere. No session: to the login."""
    path = request.url.path
    if path != OPERATIONS and not path.startswith(f"{OPERATIONS}/"):
        return errors.response(error)
    if isinstance(error, Unauthorised) and auth.token_of(request.headers) is None:
        asked = path + (f"?{request.url.query}" if request.url.query else "")
        after = "" if path == OPERATIONS or request.method != "GET" else f"?next={quote(asked, safe='/')}"
        answer = RedirectResponse(LOGIN + after, 303, HEADERS)
        if sessions.COOKIE in request.cookies:
            answer.delete_cookie(sessions.COOKIE, path="/")
        return answer
    status = errors.answer_for(error).status
    shown = {"status": HTTPStatus(status).phrase, "message": str(error), "current": "", "who": None}
    answer_ = page(request, "ops_refused.html", shown, status=status)
    if isinstance(error, Unauthorised):
        answer_.headers["www-authenticate"] = f'{error.scheme} realm="honed"'
    return answer_


async def told_invalid(request: Request, error: Exception) -> Response:
    """The same for a path or a query that cannot be read."""
    if not isinstance(error, RequestValidationError):
        raise error
    message, param = errors.describe(error.errors()[0])
    return await told(request, Invalid(message, param=param))


@router.get("/", include_in_schema=False)
async def chat_page(request: Request, services: Given) -> Response:
    require(request, services, "chat")
    return page(request, "chat.html", {})
