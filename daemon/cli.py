"""`honed`: the command line.

Reading goes straight to the database (read-only), so an operator can look even when the service is down.
Acting goes through the service's HTTP API as an intent, the same door as for the page and everyone else.
Nothing heavy is imported here: `honed --help` never loads torch.
"""

import errno
import sys
from pathlib import Path
from typing import Annotated

import typer

from daemon.cli_audit import audit
from daemon.cli_backup import backup, restore
from daemon.cli_forget import forget
from daemon.cli_key import key
from daemon.cli_quarantine import quarantined
from daemon.cli_top import top
from daemon.command import (
    ConfigOption,
    Exit,
    JsonOption,
    NumberArgument,
    ReasonOption,
    UrlOption,
    act,
    settings,
    verdict_code,
    width,
)
from store.errors import ConfigError, HonedError, Invalid, RefusedByGate

#: What a disk says that is full, read-only or failing; no fault of honed's that a traceback would help to find.
DISK = frozenset((errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO))

#: Turns of waiting before a thread of libgomp sleeps: some tenths of a millisecond.
SPINS = "20000"

app = typer.Typer(
    name="honed",
    help="Serve a chat model and make it better from what people think of its answers.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

judges = typer.Typer(help="What the judges are worth.", no_args_is_help=True, rich_markup_mode=None)
app.add_typer(judges, name="judge")
app.add_typer(quarantined, name="quarantine")
for command in (audit, forget, backup, restore, key, top):
    app.command()(command)


@app.command()
def serve(
    config: ConfigOption = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on.")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on; 0 takes a free one.")] = None,
    json_: JsonOption = False,
) -> None:
    """Run the service: chat, feedback, and the loop that learns from it."""
    import asyncio
    import os

    # Before torch loads: OpenMP threads that spin for long starve whoever is beside them; those that never do wake up
    # too late for products of a tenth of a millisecond.
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", SPINS)

    from daemon.heap import spare_memory

    spare_memory()

    from daemon.config import with_api
    from daemon.logs import configure
    from daemon.serve import serve as run

    chosen = with_api(settings(config), host=host, port=port)
    configure(json_lines=json_)
    asyncio.run(run(chosen))


@app.command()
def status(config: ConfigOption = None, url: UrlOption = None, json_: JsonOption = False) -> None:
    """What is being served, what the loop is doing, and why it is not training yet."""
    from daemon import views
    from daemon.client import connect

    row = connect(settings(config).store.directory, url).get("/v1/status")
    views.show(row, views.status, as_json=json_)


@app.command()
def train(
    config: ConfigOption = None,
    url: UrlOption = None,
    reason: ReasonOption = "asked for by hand",
    wait: Annotated[bool, typer.Option(help="Wait for the verdict.")] = True,
    json_: JsonOption = False,
) -> None:
    """Start an iteration now, and by default wait for its verdict."""
    from daemon import views
    from daemon.client import connect

    client = connect(settings(config).store.directory, url)
    intent = client.intend("train", reason=reason)
    if not wait:
        views.show({"intent": intent}, lambda row: f"asked for: intent {row['intent']}", as_json=json_)
        return
    with views.Progress(quiet=json_) as progress:
        row = client.wait(intent, lambda row: progress.follow(client, row))
    views.show(row, views.verdict, as_json=json_)
    raise typer.Exit(verdict_code(row))


@app.command()
def promote(
    version: Annotated[str, typer.Argument(help="Adapter version.")],
    config: ConfigOption = None,
    url: UrlOption = None,
    reason: ReasonOption = "promoted by hand",
    json_: JsonOption = False,
) -> None:
    """Serve a held, or an earlier, adapter."""
    act("promote", config=config, url=url, json_=json_, version=version, reason=reason)


@app.command()
def rollback(
    version: Annotated[str | None, typer.Argument(help='Version to go back to, or "base".')] = None,
    config: ConfigOption = None,
    url: UrlOption = None,
    reason: ReasonOption = "rolled back by hand",
    quarantine: Annotated[
        bool,
        typer.Option(
            "--quarantine", help="Also take what the adapters left behind learned from out of training."
        ),
    ] = False,
    json_: JsonOption = False,
) -> None:
    """Serve the adapter the active one was trained from (or the one named) again, at once."""
    held = {"quarantine": True} if quarantine else {}
    act("rollback", config=config, url=url, json_=json_, version=version, reason=reason, **held)


@app.command()
def pause(
    config: ConfigOption = None,
    url: UrlOption = None,
    reason: ReasonOption = "paused by hand",
    json_: JsonOption = False,
) -> None:
    """Start no iteration by itself until `honed resume`."""
    act("pause", config=config, url=url, json_=json_, reason=reason)


@app.command()
def resume(
    config: ConfigOption = None,
    url: UrlOption = None,
    reason: ReasonOption = "resumed by hand",
    json_: JsonOption = False,
) -> None:
    """Let iterations start by themselves again."""
    act("resume", config=config, url=url, json_=json_, reason=reason)


@app.command()
def iterations(
    config: ConfigOption = None,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="How many, newest first.")] = 20,
    json_: JsonOption = False,
) -> None:
    """The history of iterations."""
    from daemon import views
    from daemon.read import open_store

    with open_store(settings(config)) as store:
        views.show(views.iteration_rows(store, limit), views.iterations, as_json=json_)


@app.command()
def iteration(
    number: NumberArgument,
    config: ConfigOption = None,
    json_: JsonOption = False,
) -> None:
    """One iteration: stages, data, measurements, limits and verdicts."""
    from daemon import views
    from daemon.read import open_store

    with open_store(settings(config)) as store:
        views.show(views.iteration_row(store, number), views.iteration, as_json=json_)


@app.command()
def report(
    number: NumberArgument,
    config: ConfigOption = None,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print Markdown, for pasting.")] = False,
    json_: JsonOption = False,
) -> None:
    """One page: thumbs per version, KL, gates, behaviour, before and after on real prompts. Is it learning?"""
    from daemon import page, views
    from daemon.read import open_store
    from daemon.report import page as page_of

    if markdown and json_:
        raise Invalid("say one of --markdown and --json", param="markdown")
    with open_store(settings(config)) as store:
        row = views.report_row(store, number)
    views.show(
        row,
        lambda row: page.markdown(page_of(row)) if markdown else page.text(page_of(row), width()),
        as_json=json_,
    )


@app.command()
def plan(config: ConfigOption = None, json_: JsonOption = False) -> None:
    """What an iteration would do if it started now: examples, people, time, evidence. Writes nothing."""
    import time

    from daemon import page, views
    from daemon.plan import Reader, plan_now
    from daemon.plan import page as page_of
    from daemon.read import open_store

    chosen = settings(config)
    with open_store(chosen) as store:
        row = plan_now(Reader(chosen, store, time.time))
    views.show(row, lambda row: page.text(page_of(row), width()), as_json=json_)


@app.command()
def adapters(config: ConfigOption = None, json_: JsonOption = False) -> None:
    """Every adapter: parent, status, size of step."""
    from daemon import views
    from daemon.read import open_store

    with open_store(settings(config)) as store:
        views.show(views.adapter_rows(store), views.adapters, as_json=json_)


@app.command()
def export(
    directory: Annotated[Path, typer.Argument(help="Folder to write kto.jsonl and preferences.jsonl into.")],
    config: ConfigOption = None,
    json_: JsonOption = False,
) -> None:
    """Write thumbs as KTO rows and pairs as preference rows, in the form TRL reads."""
    from daemon import views
    from daemon.export import export as write
    from daemon.read import open_store

    chosen = settings(config)
    with open_store(chosen) as store:
        counts = write(store, chosen.feedback, directory)
    views.show(
        counts, lambda row: "\n".join(f"{name}: {count} rows" for name, count in row.items()), as_json=json_
    )


@app.command("import")
def import_(
    path: Annotated[
        Path,
        typer.Argument(help="JSON or JSON Lines file, or a folder of them such as `honed export` writes."),
    ],
    config: ConfigOption = None,
    skip_bad: Annotated[
        bool, typer.Option("--skip-bad", help="Import the other rows where some cannot be.")
    ] = False,
    json_: JsonOption = False,
) -> None:
    """Read KTO rows, preference rows or Open WebUI's feedback export into the log; the service must not run."""
    import time

    from api.privacy import Privacy
    from daemon import views
    from daemon.importing import import_files

    chosen = settings(config).store
    privacy = Privacy.of(chosen.privacy)
    row = import_files(chosen.directory, path, privacy, skip_bad=skip_bad, at=time.time())
    views.show(row, views.imported, as_json=json_)


@app.command()
def doctor(config: ConfigOption = None, json_: JsonOption = False) -> None:
    """Find what is wrong with this installation, and say what to do."""
    from daemon import views
    from daemon.doctor import examine

    findings = examine(settings(config))
    views.show(findings, views.findings, as_json=json_)
    raise typer.Exit(Exit.DONE if all(finding["ok"] for finding in findings) else Exit.FAILED)


@app.command()
def simulate(
    taste: Annotated[str, typer.Option(help="Hidden taste: list, short-first or brief.")] = "list",
    thumbs: Annotated[int, typer.Option(min=8, help="Votes per iteration.")] = 100,
    rounds: Annotated[int, typer.Option(min=1, max=10, help="Iterations.")] = 2,
    output: Annotated[Path | None, typer.Option(help="JSON file to write the figures to.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the simulated people.")] = 0,
    json_: JsonOption = False,
) -> None:
    """Simulated people with a hidden taste chat and vote; measure whether the model learns it."""
    from daemon import views
    from daemon.simulate import Plan
    from daemon.simulate import simulate as run

    if output is not None:
        views.write(output, {})  # now, not after a quarter of an hour, is the time to learn that it cannot be
    figures = run(Plan(taste=taste, thumbs=thumbs, rounds=rounds, seed=seed), quiet=json_)
    if output is not None:
        views.write(output, figures)
    views.show(figures, views.simulation, as_json=json_)
    raise typer.Exit(Exit.DONE if figures["passed"] else Exit.FAILED)


@judges.command("eval")
def judge_eval(
    pairs: Annotated[Path, typer.Argument(metavar="PAIRS.jsonl", help="Rows of prompt, better, worse.")],
    scorer: Annotated[
        list[str] | None,
        typer.Option(
            help="relevance, rubric, pairwise, principles or external; again for more. Default: all."
        ),
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="The first so many pairs only.")] = None,
    output: Annotated[Path | None, typer.Option(help="JSON file to write the figures to.")] = None,
    config: ConfigOption = None,
    json_: JsonOption = False,
) -> None:
    """Hold the scorers against a file of answer pairs, on the configured model; the service need not run."""
    from daemon import judge_eval, views
    from judge.evaluate import read_pairs

    chosen = settings(config)
    judge = judge_eval.chosen(chosen.judge, scorer or ())
    judged = read_pairs(pairs, limit=limit)
    if output is not None:
        judge_eval.save(output, [])  # now, not after half an hour, is the time to learn that it cannot be
    rows = judge_eval.judge_pairs(chosen, judge, judged, quiet=json_)
    if output is not None:
        judge_eval.save(output, rows)
    views.show(rows, judge_eval.text, as_json=json_)
    raise typer.Exit(Exit.DONE if all(row["labels"] for row in rows) else Exit.FAILED)


@judges.command("label")
def judge_label(
    pairs: Annotated[Path, typer.Argument(metavar="PAIRS.jsonl", help="Rows of prompt, better, worse.")],
    config: ConfigOption = None,
    url: UrlOption = None,
    reason: ReasonOption = "labelled from a file",
    json_: JsonOption = False,
) -> None:
    """Tell the running service which of two answers is better, pair by pair: judges are measured by it."""
    from daemon import judge_label, views
    from daemon.client import connect
    from judge.evaluate import read_pairs

    written = judge_label.labels(read_pairs(pairs), str(pairs))
    client = connect(settings(config).store.directory, url)
    row = judge_label.send(client, written, reason=reason, quiet=json_)
    views.show(row, lambda row: f"{row['labels']} labels given", as_json=json_)


def main() -> None:
    """Run; honed's own errors become one line and an exit status."""
    try:
        app(standalone_mode=True)
    except (ConfigError, Invalid) as error:
        print(f"honed: {error}", file=sys.stderr)
        sys.exit(Exit.USAGE)
    except RefusedByGate as error:
        print(f"honed: {error}", file=sys.stderr)
        sys.exit(Exit.REFUSED)
    except HonedError as error:
        print(f"honed: {error}", file=sys.stderr)
        sys.exit(Exit.FAILED)
    except OSError as error:
        if error.errno not in DISK:
            raise
        print(f"honed: {error.filename or 'the disk'}: {error.strerror}", file=sys.stderr)
        sys.exit(Exit.FAILED)
