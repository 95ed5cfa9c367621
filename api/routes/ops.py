"""The operators' pages: what the loop does, what it did, and why. To change anything is `api.routes.steer`'s."""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeVar

from fastapi import APIRouter, Depends, Query, Request, Response

from api import alerts, auth, board, detail, history, sessions, views
from api.auth import Principal
from api.deps import Given, Operator, Services
from api.routes.operator import MOST, Number, status_of
from api.routes.pages import page
from store.records import FeedbackKind

router = APIRouter()

T = TypeVar("T")
#: Iterations on a page of the table, where nobody asks for more or fewer.
LINES = 100
#: Iterations that the plots go back.
PLOTTED = 200
Before = Annotated[int | None, Query(ge=1, le=MOST)]
Lines = Annotated[int, Query(ge=1, le=1000)]
Few = Annotated[int, Query(ge=1, le=200)]


@dataclass(frozen=True, slots=True)
class Desk:
    """A page being made: for whom, from what."""

    request: Request
    services: Services
    who: Principal

    def show(self, current: str, template: str, shown: Mapping[str, Any], *, status: int = 200) -> Response:
        """`current`: the entry of the navigation that the page belongs to."""
        cookie = self.request.cookies.get(sessions.COOKIE) if self.services.keys is not None else None
        by_cookie = cookie is not None and auth.token_of(self.request.headers) is None
        common = {
            "current": current,
            "who": self.who.name if self.services.keys is not None else None,
            "logged_in": by_cookie,
            "csrf": sessions.token(cookie if by_cookie else None, self.services.secret),
            "now": self.services.clock(),
        }
        return page(self.request, template, {**common, **shown}, status=status)

    async def read(self, work: Callable[[], T]) -> T:
        return await asyncio.to_thread(work)


async def _desk(request: Request, services: Given, who: Operator) -> Desk:
    return Desk(request, services, who)


AtDesk = Annotated[Desk, Depends(_desk)]


@router.get("/ops", include_in_schema=False)
async def now(desk: AtDesk) -> Response:
    store = desk.services.store
    status = await status_of(desk.services)
    shown = {
        "status": status,
        "alerts": await desk.read(lambda: alerts.latest(store)),
        "intents": await desk.read(lambda: [views.intent(one) for one in store.intents.recent(6)]),
        "judging": await desk.read(lambda: views.standing_of_all(store)),
    }
    return desk.show("now", "ops.html", shown)


@router.get("/ops/iterations", include_in_schema=False)
async def iterations(desk: AtDesk, limit: Lines = LINES, before: Before = None) -> Response:
    store = desk.services.store
    found = await desk.read(lambda: history.lines(store, limit=limit + 1, before=before))
    lines, more = found[:limit], len(found) > limit
    shown = {"lines": lines, "strips": history.strips(lines), "more": more, "limit": limit, "before": before}
    return desk.show("iterations", "ops_iterations.html", shown)


@router.get("/ops/iterations/{id}", include_in_schema=False)
async def iteration(desk: AtDesk, id: Number) -> Response:
    now_ = desk.services.clock()
    found = await desk.read(lambda: detail.read(desk.services.store, id, now=now_))
    return desk.show("iterations", "ops_iteration.html", {"one": found})


@router.get("/ops/adapters", include_in_schema=False)
async def adapters(desk: AtDesk, limit: Lines = LINES) -> Response:
    shown = await desk.read(lambda: board.adapters(desk.services.store, limit=limit))
    return desk.show("adapters", "ops_adapters.html", shown)


@router.get("/ops/adapters/{version}", include_in_schema=False)
async def adapter(desk: AtDesk, version: str) -> Response:
    shown = await desk.read(lambda: board.adapter(desk.services.store, version))
    return desk.show("adapters", "ops_adapter.html", shown)


@router.get("/ops/plots", include_in_schema=False)
async def plots(desk: AtDesk, limit: Lines = PLOTTED) -> Response:
    found = await desk.read(lambda: board.plots_of(desk.services.store, limit=limit))
    return desk.show("plots", "ops_plots.html", {"plots": found, "limit": limit})


@router.get("/ops/feedback", include_in_schema=False)
async def feedback(
    desk: AtDesk,
    limit: Few = 30,
    before: Annotated[str | None, Query(max_length=128)] = None,
    kind: Annotated[FeedbackKind | Literal[""], Query()] = "",
) -> Response:
    store = desk.services.store
    rows = await desk.read(lambda: board.stream(store, limit=limit + 1, before=before, kind=kind or None))
    shown = {
        "rows": rows[:limit],
        "more": len(rows) > limit,
        "kind": str(kind),
        "kinds": [one.value for one in FeedbackKind],
        "held": await desk.read(lambda: board.quarantine(store)),
    }
    return desk.show("feedback", "ops_feedback.html", shown)


@router.get("/ops/completions/{id}", include_in_schema=False)
async def completion(desk: AtDesk, id: str) -> Response:
    found = await desk.read(lambda: views.completion_in_full(desk.services.store, id))
    return desk.show("feedback", "ops_completion.html", {"one": found})


@router.get("/ops/queue", include_in_schema=False)
async def queue(desk: AtDesk) -> Response:
    count = await desk.read(desk.services.store.labels.count)
    return desk.show("queue", "ops_queue.html", {"labels": count})


@router.get("/ops/judges", include_in_schema=False)
async def judges(desk: AtDesk) -> Response:
    return desk.show("judges", "ops_judges.html", await desk.read(lambda: board.judges(desk.services.store)))


@router.get("/ops/audit", include_in_schema=False)
async def audit(desk: AtDesk, limit: Few = 100, before: Before = None) -> Response:
    store = desk.services.store
    rows = await desk.read(lambda: store.audit.list(limit + 1, before=before))
    pages = {one.id: path for one in rows if (path := alerts.page_of(one))}
    return desk.show(
        "audit", "ops_audit.html", {"rows": rows[:limit], "more": len(rows) > limit, "pages": pages}
    )


@router.get("/ops/intents/{id}", include_in_schema=False)
async def intent(desk: AtDesk, id: str) -> Response:
    found = await desk.read(lambda: views.intent(desk.services.store.intents.get(id)))
    return desk.show("", "ops_intent.html", {"one": found})
