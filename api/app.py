"""The app, as a value: give it a store, an engine and settings, and it speaks HTTP for them."""

import asyncio
import contextlib
import secrets
import time
from collections.abc import AsyncIterator, Callable, Collection
from typing import Any

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.staticfiles import StaticFiles

from api import auth, errors, openapi
from api.config import ApiConfig
from api.deps import Services, no_queue
from api.middleware import BodyLimit, RequestContext
from api.privacy import Privacy
from api.routes import chat, feedback, health, login, models, operator, ops, pages, steer
from api.spans import spans_to
from policies.engine import Engine
from store.config import PrivacyConfig
from store.db import Store
from store.errors import HonedError
from store.judging import Queue


@contextlib.asynccontextmanager
async def telling(app: FastAPI) -> AsyncIterator[None]:
    """Spans that wait are sent before the app ends."""
    yield
    await asyncio.to_thread(app.state.services.spans.close)


class Documented(FastAPI):
    """An app whose OpenAPI document names every refusal."""

    def openapi(self) -> dict[str, Any]:
        return openapi.document(self)


def create_app(  # noqa: PLR0913 - what an app is made of, by name
    *,
    store: Store,
    engine: Engine,
    settings: ApiConfig,
    clock: Callable[[], float] = time.time,
    secret: bytes | None = None,
    attested: Collection[str] | None = None,
    privacy: PrivacyConfig | None = None,
    queue: Callable[[int], Queue] | None = None,
) -> FastAPI:
    """Build the app. Starting and closing store and engine stays with the caller.

    `secret` signs receipts; without one they hold until the process ends. `attested`, `queue`: as in `Services`.
    `privacy`: what is not kept; the defaults where nothing is said.

    Raises:
        ConfigError: the keys file is not what it should be, or spans are wanted and cannot be sent.
    """
    keys = None if settings.keys_file is None else auth.load_keys(settings.keys_file)
    services = Services(
        store,
        engine,
        settings,
        clock,
        secret or secrets.token_bytes(32),
        keys,
        attested=attested,
        privacy=Privacy.of(privacy or PrivacyConfig()),
        queue=queue or no_queue,
        spans=spans_to(settings.otlp_endpoint),
    )
    # No interactive docs: theirs come from another host. docs/http-api.md and /openapi.json say the same.
    app = Documented(title="honed", docs_url=None, redoc_url=None, redirect_slashes=False, lifespan=telling)
    app.state.services = services
    app.state.templates = pages.templates()
    errors.install(app)
    app.add_exception_handler(HonedError, pages.told)
    app.add_exception_handler(RequestValidationError, pages.told_invalid)
    for room in (chat, models, feedback, operator, health, pages, login, ops, steer):
        app.include_router(room.router)
    app.mount("/static", StaticFiles(directory=pages.WEB / "static"), name="static")
    app.add_middleware(BodyLimit, limit=settings.max_body_bytes, seconds=settings.body_seconds)
    # Added last, so outermost: it names the request before anything can fail.
    app.add_middleware(RequestContext, services=services)
    return app
