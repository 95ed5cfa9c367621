"""`honed backup` and `honed restore`."""

from pathlib import Path
from typing import Annotated

import typer

from daemon.command import ConfigOption, JsonOption, settings


def backup(
    directory: Annotated[Path, typer.Argument(help="Folder to make.")],
    config: ConfigOption = None,
    json_: JsonOption = False,
) -> None:
    """Save database, adapters and receipt key into a new folder, whether or not the service runs."""
    import time

    from daemon import views
    from daemon.backup import backup as save

    row = save(settings(config).store.directory, directory, at=time.time())
    views.show(row, views.backed_up, as_json=json_)


def restore(
    backup: Annotated[Path, typer.Argument(metavar="BACKUP", help="Folder that `honed backup` made.")],
    broken_audit: Annotated[
        bool, typer.Option("--broken-audit", help="Even where its audit log is not what was written.")
    ] = False,
    config: ConfigOption = None,
    json_: JsonOption = False,
) -> None:
    """Put a verified backup into the configured state directory, which has no database yet."""
    from daemon import views
    from daemon.backup import restore as put_back

    row = put_back(backup, settings(config).store.directory, broken_audit=broken_audit)
    views.show(row, views.restored, as_json=json_)
