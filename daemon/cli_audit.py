"""`honed audit`."""

from typing import Annotated

import typer

from daemon.command import ConfigOption, Exit, JsonOption, settings


def audit(
    verify: Annotated[
        bool, typer.Option("--verify", help="Hold every entry against the hash chain instead of listing.")
    ] = False,
    noted: Annotated[
        str | None,
        typer.Option(
            "--head",
            metavar="DIGEST",
            help="With --verify: a head digest noted earlier, which must still be in the log.",
        ),
    ] = None,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="How many entries, newest first.")] = 20,
    before: Annotated[
        int | None, typer.Option(min=1, max=2**63 - 1, help="Only entries before this.")
    ] = None,
    config: ConfigOption = None,
    json_: JsonOption = False,
) -> None:
    """Who did what, and why; or, with --verify, whether the log is what was written. Reads the database only."""
    from daemon import audit as log
    from daemon import views
    from daemon.read import open_store
    from store.errors import Invalid

    if noted is not None and not verify:
        raise Invalid("--head is for --verify", param="head")
    with open_store(settings(config)) as store:
        if not verify:
            views.show(log.rows(store, limit, before), log.text, as_json=json_)
            return
        row = log.verified(store, noted)
    views.show(row, log.verified_text, as_json=json_)
    raise typer.Exit(Exit.DONE if row["ok"] else Exit.FAILED)
