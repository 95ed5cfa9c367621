"""Self-judging with the real processes: labels through the command line, a licence, candidates, pairs, SIGKILL."""

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from daemon.client import Client
from store.failpoints import FAILPOINTS
from tests.integration.liking import LENIENT, check_judged, to_the_liking_of
from tests.integration.service import (
    ROOT,
    Service,
    chat_and_vote,
    finished_iteration,
    running,
    stored_votes,
    wait_until,
)

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def labelled(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> tuple[Path, list[str]]:
    """A state directory with votes, and labels given by `honed judge label`; no iteration yet."""
    folder = tmp_path_factory.mktemp("labelled")
    state, pairs = folder / "state", folder / "pairs.jsonl"
    pairs.write_text("".join(json.dumps(row) + "\n" for row in to_the_liking_of(tiny_model)))
    with running(state, tiny_model, **LENIENT) as service:
        client = service.wait_until_ready()
        assert client is not None, service.tail()
        votes = chat_and_vote(client, 16)
        command = [sys.executable, "-m", "daemon", "judge", "label", str(pairs), "--url", client.url]
        told = subprocess.run([*command, "--json"], cwd=ROOT, capture_output=True, text=True, check=False)
        assert told.returncode == 0, told.stderr
        assert json.loads(told.stdout)["labels"] == 40
    return state, votes


@pytest.fixture
def state(labelled: tuple[Path, list[str]], tmp_path: Path) -> Iterator[Path]:
    yield Path(shutil.copytree(labelled[0], tmp_path / "state"))


def train(service: Service) -> tuple[Client, dict[str, Any]]:
    """Ask for an iteration and see it end."""
    client = service.wait_until_ready()
    assert client is not None, service.tail()
    client.intend("train", reason="test")
    row: dict[str, Any] = wait_until(lambda: finished_iteration(client, 1))
    return client, client.get(f"/v1/iterations/{row['id']}")


def test_a_licensed_judge_s_pairs_train_and_everything_can_be_looked_up(
    state: Path, tiny_model: Path
) -> None:
    with running(state, tiny_model, **LENIENT) as service:
        client, told = train(service)
        check_judged(client, told)
        stages = [entry["stage"] for entry in told["stages"]]
        assert stages[:5] == ["queued", "collecting", "sampling", "judging", "training"]
        rows = (state / "iterations" / "0001" / "examples.jsonl").read_text().splitlines()
        assert sum('"judge/' in row for row in rows) == told["counts"]["judged_pairs"]
        assert client.get("/v1/status")["judge"] == {"relevance": "licensed"}


def test_with_the_shipped_bounds_this_judge_is_refused_and_people_s_votes_train_alone(
    state: Path, tiny_model: Path
) -> None:
    strict = {"HONED_JUDGE__LICENCE__MIN_LABELS": "400"}
    with running(state, tiny_model, **strict) as service:
        client, told = train(service)
        (licence,) = told["judge"]["licences"]
        assert told["stage"] == "active" and not licence["licensed"]
        assert told["judge"]["candidates"] == [] and told["judge"]["pairs"] == []
        assert "too few human labels" in client.get("/v1/status")["judge"]["relevance"]


@pytest.mark.parametrize("point", [name for name in FAILPOINTS if name.startswith(("judge.", "contest."))])
def test_killed_while_judging_it_goes_on_where_it_was(
    point: str, state: Path, labelled: tuple[Path, list[str]], tiny_model: Path
) -> None:
    with running(state, tiny_model, HONED_FAILPOINT=point, **LENIENT) as service:
        client = service.wait_until_ready()
        assert client is not None, service.tail()
        client.intend("train", reason="test")
        wait_until(lambda: service.process.poll() is not None)
        assert service.process.returncode == -9
    with running(state, tiny_model, **LENIENT) as service:
        client = service.wait_until_ready()
        assert client is not None, service.tail()
        wait_until(lambda: finished_iteration(client, 1))
        check_judged(client, client.get("/v1/iterations/1"))
        kept = stored_votes(state)
        assert len(kept) == len(set(kept)) and set(labelled[1]) <= set(kept)
