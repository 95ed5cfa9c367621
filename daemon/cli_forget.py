"""`honed forget`: take out what somebody said, and what was learned from it."""

import contextlib
import time
import uuid
from typing import Annotated, Any

import typer

from daemon.command import ConfigOption, Exit, JsonOption, ReasonOption, UrlOption, act, settings


def forget(
    user: Annotated[
        str,
        typer.Argument(
            metavar="USER",
            help='Whom: a principal ("key:ann", or "ann"), or the `user` that an application sends.',
        ),
    ],
    config: ConfigOption = None,
    url: UrlOption = None,
    reason: ReasonOption = "they asked for it",
    json_: JsonOption = False,
) -> None:
    """Scrub all that somebody said, retire every adapter that learned from it, and print a receipt.

    With a service running it is the service that does it; with none the database is cleaned here and now.
    """
    from daemon import views
    from store.errors import AlreadyRunning

    try:
        if url is None:
            row = offline(settings(config), user, reason)
            views.show(row, views.outcome, as_json=json_)
            raise typer.Exit(Exit.DONE)
    except AlreadyRunning:
        pass  # then it is the service's to do
    act("forget", config=config, url=url, json_=json_, user=user, reason=reason)


def offline(config: Any, user: str, reason: str) -> dict[str, Any]:
    """The order given and carried out on the state directory itself, after those that were interrupted.

    Raises:
        AlreadyRunning: a service holds the directory.
        NotFound: there is no database, or nothing of that person in it.
    """
    from api.views import intent as shown
    from daemon.forget import forget_offline
    from daemon.read import open_store
    from daemon.state_files import DATABASE, LOCK
    from store.db import StateLock, Store
    from store.records import Intent, IntentKind, IntentStatus

    directory = config.store.directory
    if not (directory / DATABASE).is_file():
        with open_store(config):
            pass  # says what is missing; a lock file must not be the first thing in a directory
    with StateLock(directory / LOCK), contextlib.closing(Store.open(directory / DATABASE)) as store:
        for left in store.intents.pending():
            if left.kind is IntentKind.FORGET:
                forget_offline(store, directory, left, time.time)
        arguments, now = {"user": store.forgetting.name_of(user)}, time.time()
        name = f"in-{uuid.uuid4().hex}"
        order = Intent(name, now, IntentKind.FORGET, "local", reason, arguments, IntentStatus.PENDING)
        store.intents.add(order)
        forget_offline(store, directory, order, time.time)
        return shown(store.intents.get(order.id))
