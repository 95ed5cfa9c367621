"""`honed top`: a live view in the terminal."""

from typing import Annotated

import typer

from daemon.command import ConfigOption, Exit, JsonOption, UrlOption, settings, width


def top(
    config: ConfigOption = None,
    url: UrlOption = None,
    interval: Annotated[float, typer.Option(min=0.2, max=60, help="Seconds between two looks.")] = 2.0,
    json_: JsonOption = False,
) -> None:
    """What the service does right now, drawn again and again; once, where there is no terminal."""
    import shutil
    import signal
    import sys
    import time
    from dataclasses import asdict

    from daemon import views
    from daemon.client import connect
    from daemon.top import HALTED, look, page, shown
    from store.errors import EngineUnavailable, HonedError

    client = connect(settings(config).store.directory, url)
    now = look(client)
    if json_ or not sys.stdout.isatty():
        views.show(asdict(now), lambda _: shown(page(now, None), width()), as_json=json_)
        return
    from rich.live import Live
    from rich.text import Text

    # Ctrl-C ends it wherever it was started: a shell's background jobs begin with interrupts ignored.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    before, halted = None, False
    with Live(screen=True, auto_refresh=False) as live:
        try:
            while True:
                size = shutil.get_terminal_size((100, 40))
                # As text: what a model or a person wrote must not be read as markup.
                told = HALTED if halted else shown(page(now, before), size.columns, size.lines)
                live.update(Text(told), refresh=True)
                time.sleep(interval)
                try:
                    before, now, halted = now, look(client), False
                except HonedError as error:
                    halted = isinstance(error, EngineUnavailable)  # else: too often, say; look later
        except KeyboardInterrupt:
            raise typer.Exit(Exit.DONE) from None
