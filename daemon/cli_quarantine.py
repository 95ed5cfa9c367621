"""`honed quarantine`: what rollbacks and vetting took out of training, and how it comes back."""

from typing import Annotated

import typer

from daemon.command import ConfigOption, JsonOption, ReasonOption, UrlOption, act, settings
from store.errors import Invalid

quarantined = typer.Typer(
    help="Feedback that rollbacks and vetting took out of training.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


@quarantined.command("list")
def list_(
    config: ConfigOption = None,
    released: Annotated[bool, typer.Option("--released", help="Show what was released, too.")] = False,
    json_: JsonOption = False,
) -> None:
    """What is held back, by what, and whose it is; reads the database only."""
    from daemon import views
    from daemon.read import open_store

    with open_store(settings(config)) as store:
        views.show(views.quarantine_rows(store, released=released), views.quarantine, as_json=json_)


@quarantined.command()
def release(
    iteration: Annotated[
        int | None, typer.Option(min=1, max=2**31 - 1, help="What this iteration learned from.")
    ] = None,
    all_: Annotated[bool, typer.Option("--all", help="Everything that is held.")] = False,
    config: ConfigOption = None,
    url: UrlOption = None,
    reason: ReasonOption = "released by hand",
    json_: JsonOption = False,
) -> None:
    """Let feedback train again; the next iteration learns from it as if it were new."""
    if all_ == (iteration is not None):
        raise Invalid("say one of --iteration N and --all", param="iteration")
    what = {"all": True} if all_ else {"iteration": iteration}
    act("release", config=config, url=url, json_=json_, reason=reason, **what)
