"""`GET /v1/models`: what the `model` field of a chat may say."""

import asyncio
from typing import Any

from fastapi import APIRouter

from api.deps import Chatter, Given, Services
from store.errors import NotFound
from store.records import ACTIVE_ALIAS, BASE, SERVABLE

router = APIRouter()


async def models(services: Services) -> list[dict[str, Any]]:
    """The alias, the base, then every adapter that would be answered, newest first."""
    adapters = await asyncio.to_thread(services.store.adapters.list)
    active = await asyncio.to_thread(services.store.adapters.active)
    resident = await services.open_versions()
    oldest = min((int(one.created_at) for one in adapters), default=0)

    def model(name: str, created: int, *, root: str, parent: str | None) -> dict[str, Any]:
        shared = {"id": name, "object": "model", "created": created, "owned_by": "honed"}
        return {**shared, "root": root, "parent": parent}

    alias_created = int(active.created_at) if active else oldest
    return [
        model(ACTIVE_ALIAS, alias_created, root=active.version if active else BASE, parent=None),
        model(BASE, oldest, root=BASE, parent=None),
        *(
            model(one.version, int(one.created_at), root=BASE, parent=one.parent or BASE)
            for one in adapters
            if one.status in SERVABLE and one.version in resident
        ),
    ]


@router.get("/v1/models")
async def list_models(services: Given, _: Chatter) -> dict[str, Any]:
    return {"object": "list", "data": await models(services)}


@router.get("/v1/models/{name}")
async def one_model(name: str, services: Given, _: Chatter) -> dict[str, Any]:
    for model in await models(services):
        if model["id"] == name:
            return model
    raise NotFound(f"the model {name!r} does not exist", param="model")
