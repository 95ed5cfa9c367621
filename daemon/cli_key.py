"""`honed key`: make an API key. It is shown once; the file keeps its digest."""

from typing import Annotated

import typer

from daemon.command import ConfigOption, JsonOption, settings


def key(
    name: Annotated[str, typer.Argument(help="Who will hold it; recorded with all they ask and say.")],
    scope: Annotated[
        list[str] | None,
        typer.Option(help="chat, feedback or operate; again for more. Default: chat and feedback."),
    ] = None,
    requests_per_minute: Annotated[
        int | None, typer.Option(min=0, help="Instead of api.requests_per_minute; 0: any number.")
    ] = None,
    config: ConfigOption = None,
    json_: JsonOption = False,
) -> None:
    """Make a key, print it once, and add its digest to [api] keys_file, which the service reads when it starts."""
    from api.auth import add_key
    from daemon import views
    from store.errors import Invalid

    file = settings(config).api.keys_file
    if file is None:
        raise Invalid("set [api] keys_file first: the file that keys are kept in", param="api.keys_file")
    made = add_key(file, name, scope or ["chat", "feedback"], requests_per_minute=requests_per_minute)
    row = {"name": name, "key": made, "file": str(file)}
    views.show(
        row,
        lambda row: (
            f"{row['key']}\nkept in {row['file']} by its digest only: write it down now, then restart the service"
        ),
        as_json=json_,
    )
