"""`honed quarantine` on a database alone."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from daemon.cli import app
from daemon.state_files import DATABASE
from store.db import Store
from store.errors import EngineUnavailable, Invalid
from store.records import Example, Split, Stage
from tests.clock import Clock
from tests.store.conftest import completion, event


@pytest.fixture
def config(tmp_path: Path) -> str:
    """A state directory in which iterations 1 and 2 were left with quarantine and 1 was released."""
    with Store.open(tmp_path / DATABASE, clock=Clock(1_800_000_000.0)) as store:
        for number, person in ((1, "ann"), (2, "ann"), (3, "bob")):
            store.completions.begin(completion(f"c{number}"))
            store.feedback.add(event(f"f{number}", f"c{number}", principal=person))
        for iteration, votes in ((1, (1,)), (2, (2, 3))):
            store.iterations.begin(trigger="test", incumbent=None, config={})
            rows = [Example(iteration, f"f{n}", f"c{n}", Split.TRAIN, "kto", True, 1.0) for n in votes]
            store.iterations.add_examples(rows)
            store.iterations.move(iteration, Stage.ROLLED_BACK)
        store.quarantine.hold([1, 2], kept=(), actor="ann", reason="it lies")
        store.quarantine.release(iteration=1, actor="bob", reason="it did not")
    file = tmp_path / "config.toml"
    file.write_text(f'[store]\ndirectory = "{tmp_path}"\n')
    return str(file)


def test_what_is_held_is_listed_by_rollback(config: str) -> None:
    ran = CliRunner().invoke(app, ["quarantine", "list", "--config", config])
    assert ran.exit_code == 0
    heading, line, *_ = ran.output.splitlines()
    assert heading.split("  ")[0] == "ITERATION"
    assert line.split() == ["2", "2", "2", "2027-01-15", "08:00:00", "ann", "-", "it", "lies"]
    assert "honed quarantine release --iteration N" in ran.output


def test_json_tells_every_event_and_what_was_released_only_when_asked(config: str) -> None:
    def rows(*more: str) -> list[dict[str, object]]:
        ran = CliRunner().invoke(app, ["quarantine", "list", "--config", config, "--json", *more])
        return list(json.loads(ran.output))

    assert [row["feedback_id"] for row in rows()] == ["f2", "f3"]
    first = rows("--released")[0]
    assert (first["feedback_id"], first["released_by"], first["released_because"]) == (
        "f1",
        "bob",
        "it did not",
    )
    assert (first["principal"], first["kind"], first["value"]) == ("ann", "thumb", True)


def test_an_empty_quarantine_says_so(tmp_path: Path, config: str) -> None:
    with Store.open(tmp_path / DATABASE) as store:
        store.quarantine.release(actor="bob", reason="all fine")
    ran = CliRunner().invoke(app, ["quarantine", "list", "--config", config])
    assert ran.output == "nothing is in quarantine\n"


@pytest.mark.parametrize("arguments", [[], ["--all", "--iteration", "2"]])
def test_a_release_says_which(config: str, arguments: list[str]) -> None:
    ran = CliRunner().invoke(app, ["quarantine", "release", "--config", config, *arguments])
    assert isinstance(ran.exception, Invalid) and "one of --iteration N and --all" in str(ran.exception)


@pytest.mark.parametrize("arguments", [["quarantine", "release", "--all"], ["rollback", "--quarantine"]])
def test_acting_needs_the_service(config: str, arguments: list[str]) -> None:
    ran = CliRunner().invoke(app, [*arguments, "--config", config])
    assert isinstance(ran.exception, EngineUnavailable)
