"""What the commands share: their options, their exit statuses, and how an order is given.

Nothing heavy is imported here: `honed --help` never loads torch.
"""

import shutil
from enum import IntEnum
from pathlib import Path
from typing import Annotated, Any

import typer

DEFAULT_CONFIG = Path("config.toml")

ConfigOption = Annotated[
    Path | None,
    typer.Option("--config", envvar="HONED_CONFIG", help="config.toml to read.", show_default=False),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]
UrlOption = Annotated[
    str | None,
    typer.Option("--url", envvar="HONED_URL", help="Service to act on; else the one running here."),
]
NumberArgument = Annotated[int, typer.Argument(metavar="ID", min=1, max=2**31 - 1, help="Iteration number.")]
ReasonOption = Annotated[str, typer.Option("--reason", "-m", help="Why; kept in the audit log.")]


class Exit(IntEnum):
    DONE = 0
    FAILED = 1
    USAGE = 2
    REFUSED = 3


def settings(path: Path | None) -> Any:
    """The configuration: the file named, else ./config.toml where there is one, else the defaults."""
    from daemon.config import load

    if path is None and DEFAULT_CONFIG.is_file():
        path = DEFAULT_CONFIG
    return load(path)


def width() -> int:
    """Characters in a line of the terminal; 100 where there is none."""
    return shutil.get_terminal_size((100, 24)).columns


def verdict_code(row: dict[str, Any]) -> Exit:
    """How an intent's end reads as an exit status."""
    if row["status"] == "refused":
        return Exit.REFUSED
    stage = row["outcome"].get("stage")
    if row["status"] == "failed" or stage in ("failed", "aborted"):
        return Exit.FAILED
    return Exit.REFUSED if stage in ("rejected", "held") else Exit.DONE


def act(kind: str, *, config: Path | None, url: str | None, json_: bool, **arguments: Any) -> None:
    """Write an intent, wait for the loop to answer it, show the answer."""
    from daemon import views
    from daemon.client import connect

    client = connect(settings(config).store.directory, url)
    row = client.wait(client.intend(kind, **arguments))
    views.show(row, views.outcome, as_json=json_)
    raise typer.Exit(verdict_code(row))
