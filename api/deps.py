"""What every route is given: the services of this app, and who is asking."""

from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass, field
from typing import Annotated

from fastapi import Depends, Request

from api import auth, receipts, sessions
from api.auth import Key, Principal, Scope
from api.config import ApiConfig
from api.errors import TooMany
from api.limits import Limiter
from api.meters import Meters
from api.privacy import Privacy
from api.spans import NoSpans, Spans
from policies.engine import Engine
from store.config import PrivacyConfig
from store.db import Store
from store.judging import Queue
from store.records import Completion


def no_queue(_: int) -> Queue:
    """What an app offers that was given no queue."""
    return Queue((), "this service compares no answers")


@dataclass(frozen=True, slots=True)
class Services:
    """`keys` None is open mode; `secret` signs receipts. `attested`: versions that were seen to compute what their
    trainer measured; one that the engine holds but is not among them answers nobody. None: whatever it holds.
    `queue`: the next so many pairs for operators to compare.
    """

    store: Store
    engine: Engine
    settings: ApiConfig
    clock: Callable[[], float]
    secret: bytes
    keys: tuple[Key, ...] | None
    meters: Meters = field(default_factory=Meters)
    attested: Collection[str] | None = None
    privacy: Privacy = field(default_factory=lambda: Privacy.of(PrivacyConfig()))

    queue: Callable[[int], Queue] = no_queue
    limiter: Limiter = field(default_factory=Limiter)
    spans: Spans = field(default_factory=NoSpans)

    async def open_versions(self) -> frozenset[str]:
        """Versions that may answer now."""
        resident = frozenset(await self.engine.resident())
        return resident if self.attested is None else resident & frozenset(self.attested)

    def admit(self, principal: Principal) -> None:
        """Count a request.

        Raises:
            TooMany: somebody asks more often than they may.
        """
        own = next(
            (key.requests_per_minute for key in self.keys or () if principal.name == f"key:{key.name}"), None
        )
        allowed = self.settings.requests_per_minute if own is None else own
        wait = self.limiter.wait(principal.name, per_minute=allowed, now=self.clock())
        if wait:
            raise TooMany(f"{principal.name} may make {allowed} requests a minute", retry_after=wait)

    def receipt(self, completion: Completion) -> str:
        expires = completion.created_at + self.settings.receipt_days * 86_400
        return receipts.sign(receipts.Receipt(completion.id, completion.principal, expires), self.secret)


def services_of(request: Request) -> Services:
    services = request.app.state.services
    if not isinstance(services, Services):
        raise TypeError("the app was not made by create_app")
    return services


# Dependencies are coroutines although they wait for nothing: plain functions would go through the threadpool one by
# one, which costs a vote more than its commit does.
async def _given(request: Request) -> Services:
    return services_of(request)


Given = Annotated[Services, Depends(_given)]


def identify(request: Request, *, token: str | None = None) -> Principal:
    """Who asks: by a key, or by the session of the operators' pages, whose writes carry its token.

    `token`: from a form; scripts send it in a header.

    Raises:
        Unauthorised: neither, where there are keys.
        Forbidden: a session writes without its token.
    """
    services = services_of(request)
    if services.keys is None or auth.token_of(request.headers) is not None:
        return auth.identify(request.headers, services.keys)
    text = request.cookies.get(sessions.COOKIE)
    if text is None:
        return auth.identify(request.headers, services.keys)
    key = sessions.verify(text, services.keys, services.secret, now=services.clock())
    if request.method not in sessions.SAFE:
        sessions.require_token(token or request.headers.get(sessions.HEADER), text, services.secret)
    return Principal(f"key:{key.name}", key.scopes)


def _with_scope(scope: Scope) -> Callable[[Request], Awaitable[Principal]]:
    async def principal(request: Request) -> Principal:
        found = identify(request)
        found.require(scope)
        services_of(request).admit(found)
        return found

    return principal


Chatter = Annotated[Principal, Depends(_with_scope("chat"))]
Operator = Annotated[Principal, Depends(_with_scope("operate"))]


@dataclass(frozen=True, slots=True)
class Voter:
    """Who gives feedback; `only` is the one completion a receipt speaks for, None for a key."""

    principal: Principal
    only: str | None = None


async def _voter(request: Request) -> Voter:
    services = services_of(request)
    text = request.headers.get("x-honed-receipt")
    if text is None:
        principal = auth.identify(request.headers, services.keys)
        principal.require("feedback")
        services.admit(principal)
        return Voter(principal)
    receipt = receipts.verify(text, services.secret, now=services.clock())
    holder = Principal(receipt.principal, frozenset({"feedback"}))
    services.admit(holder)
    return Voter(holder, receipt.completion_id)


Votes = Annotated[Voter, Depends(_voter)]
