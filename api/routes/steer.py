"""The forms of the operators' pages: first what would happen, then, with a reason and the form's token, an intent."""

from typing import Annotated

from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import RedirectResponse
from pydantic import ValidationError

from api import auth, moves, sessions
from api.deps import Services, identify, services_of
from api.errors import describe
from api.moves import Move, Standing
from api.routes.login import fields_of
from api.routes.operator import NEEDS_REASON, kind_of, write_intent
from api.routes.ops import AtDesk, Desk
from api.routes.pages import HEADERS
from api.schemas import OperatorRequest
from store.errors import Forbidden, Invalid
from store.records import Intent, IntentKind

router = APIRouter()

Version = Annotated[str | None, Query(max_length=64)]
#: What the pages offer; forgetting a person and labels have their own ways.
OFFERED = frozenset(
    {
        IntentKind.TRAIN,
        IntentKind.PAUSE,
        IntentKind.RESUME,
        IntentKind.PROMOTE,
        IntentKind.ROLLBACK,
        IntentKind.RELEASE,
    }
)


def standing(services: Services) -> Standing:
    store = services.store
    return Standing(store.adapters.known(), store.adapters.active(), store.canaries.open())


@router.get("/ops/rollback", include_in_schema=False)
async def confirm_rollback(desk: AtDesk, version: Version = None) -> Response:
    move = await desk.read(lambda: moves.rollback(standing(desk.services), version))
    return confirm(desk, move)


@router.get("/ops/promote", include_in_schema=False)
async def confirm_promotion(desk: AtDesk, version: Annotated[str, Query(max_length=64)]) -> Response:
    move = await desk.read(lambda: moves.promote(standing(desk.services), version))
    return confirm(desk, move)


@router.get("/ops/release", include_in_schema=False)
async def confirm_release(
    desk: AtDesk, iteration: Annotated[int | None, Query(ge=1, le=2**63 - 1)] = None
) -> Response:
    held = await desk.read(desk.services.store.quarantine.held)
    among = [one for one in held if iteration is None or one.iteration == iteration]
    if not among:
        raise Invalid("nothing of that is in quarantine", param="iteration")
    shown = {"iteration": iteration, "count": len(among), "reasons": sorted({one.reason for one in among})}
    return desk.show("feedback", "ops_release.html", shown)


def confirm(desk: Desk, move: Move, *, wrong: str = "") -> Response:
    shown = {"move": move, "wrong": wrong}
    return desk.show("adapters", "ops_confirm.html", shown, status=400 if wrong else 200)


def own_session(request: Request, services: Services, token: str | None) -> None:
    """A form carries its session's token; one sent with a key in its headers is no browser's page.

    Raises:
        Forbidden: it does not.
    """
    by_key = services.keys is not None and auth.token_of(request.headers) is not None
    cookie = None if services.keys is None or by_key else request.cookies.get(sessions.COOKIE)
    sessions.require_token(token, cookie, services.secret)


def request_of(kind: IntentKind, fields: dict[str, str]) -> OperatorRequest:
    """The form as the API's own body, so that both doors ask the same.

    Raises:
        Invalid: a field is not what it should be.
    """
    given: dict[str, object] = {"reason": fields.get("reason", "").strip() or None}
    if fields.get("version"):
        given["version"] = fields["version"]
    if kind is IntentKind.ROLLBACK and fields.get("quarantine"):
        given["quarantine"] = True
    if kind is IntentKind.RELEASE:
        number = fields.get("iteration", "")
        if number and not (number.isascii() and number.isdigit()):
            raise Invalid(f"iteration {number!r} is no number", param="iteration")
        given |= {"iteration": int(number)} if number else {"all": True}
    try:
        return OperatorRequest.model_validate(given)
    except ValidationError as error:
        problem = error.errors()[0]
        message, param = describe({**problem, "loc": ("body", *problem["loc"])})
        raise Invalid(message, param=param) from error


def still(kind: IntentKind, fields: dict[str, str], services: Services) -> None:
    """What was shown still holds.

    Raises:
        Forbidden: something else is served by now.
    """
    if kind not in (IntentKind.PROMOTE, IntentKind.ROLLBACK):
        return
    now = standing(services).serving
    if fields.get("serving") != now:
        raise Forbidden(
            f"{now} is being served by now, not {fields.get('serving')}: go back and look at what would happen"
        )


@router.post("/ops/act/{kind}", include_in_schema=False)
async def act(kind: str, request: Request) -> Response:
    services = services_of(request)
    fields = await fields_of(request)
    # The form's token stands in for the header that scripts send.
    who = identify(request, token=fields.get("csrf"))
    who.require("operate")
    services.admit(who)
    own_session(request, services, fields.get("csrf"))
    wanted = kind_of(kind)
    if wanted not in OFFERED:
        raise Invalid(f"{kind} is not asked for here", param="kind")
    desk = Desk(request, services, who)

    def ask() -> Intent:
        still(wanted, fields, services)
        return write_intent(wanted, request_of(wanted, fields), who, services)

    if wanted in NEEDS_REASON and not fields.get("reason", "").strip():
        raise Invalid("A reason is required: a sentence for the audit log.", param="reason")
    intent = await desk.read(ask)
    return RedirectResponse(f"/ops/intents/{intent.id}", 303, HEADERS)
