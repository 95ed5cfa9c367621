"""Two pages: `/` to chat and vote, `/ops` to see what the loop does and to ask it for something.

Everything they need is served from here: no other host, no inline script, and a policy that says so.
"""

import asyncio
import time
from pathlib import Path
from typing import Any

from fastapi import APIRouter, Request, Response
from starlette.templating import Jinja2Templates

from api import auth, views
from api.auth import Scope
from api.deps import Given, Services
from api.errors import Unauthorised
from api.routes.operator import status_of

router = APIRouter()

WEB = Path(__file__).parent.parent / "web"
HEADERS = {
    "content-security-policy": "default-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-store",
}


def moment(seconds: float | None) -> str:
    """Seconds since the epoch as UTC, to the minute."""
    return "" if seconds is None else time.strftime("%Y-%m-%d %H:%M", time.gmtime(seconds))


def fixed(value: float | None, digits: int = 2) -> str:
    """A number to so many digits; nothing where nothing was measured."""
    return "" if value is None else f"{value:.{digits}f}"


def templates() -> Jinja2Templates:
    made = Jinja2Templates(WEB / "templates")
    made.env.filters["moment"] = moment
    made.env.filters["fixed"] = fixed
    return made


def page(request: Request, name: str, shown: dict[str, Any]) -> Response:
    made: Jinja2Templates = request.app.state.templates
    return made.TemplateResponse(request, name, shown, headers=HEADERS)


def require(request: Request, services: Services, scope: Scope) -> None:
    """As for the API, but a missing key makes the browser ask for one."""
    try:
        auth.identify(request.headers, services.keys).require(scope)
    except Unauthorised as error:
        raise Unauthorised(str(error), scheme="Basic") from error


def operations(services: Services) -> dict[str, Any]:
    """What the tables of `/ops` show."""
    store = services.store
    iterations = []
    for one in store.iterations.list(limit=25):
        gates = store.iterations.gates(one.id)
        kl = store.metrics.get(one.id).get("kl/step_token")
        iterations.append({**views.iteration(one), "kl": kl, "gates": gates})
    return {
        "iterations": iterations,
        "adapters": [views.adapter(one) for one in store.adapters.list()],
        "judges": views.judges(store),
        "judging": store.state.get(views.JUDGING, True),
        "intents": [views.intent(one) for one in store.intents.recent(8)],
    }


@router.get("/", include_in_schema=False)
async def chat_page(request: Request, services: Given) -> Response:
    require(request, services, "chat")
    return page(request, "chat.html", {})


@router.get("/ops", include_in_schema=False)
async def operations_page(request: Request, services: Given) -> Response:
    require(request, services, "operate")
    tables = await asyncio.to_thread(operations, services)
    shown = {"status": await status_of(services), **tables}
    return page(request, "ops.html", shown)
