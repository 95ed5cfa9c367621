"""Self-judging with the real processes: labels through the command line, a licence, candidates, pairs, SIGKILL."""

import asyncio
import json
import random
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from daemon.client import Client
from judge.relevance import RelevanceScorer
from judge.scorer import Question
from judge.slots import Judge
from store.failpoints import FAILPOINTS
from store.records import Message
from tests.integration.service import (
    ROOT,
    Service,
    chat_and_vote,
    finished_iteration,
    running,
    stored_votes,
    wait_until,
)
from tests.policies.serving import make_engine

pytestmark = pytest.mark.slow

#: A model of random weights has no judgement; labels made to its liking stand in for people who agree with it.
LENIENT = {
    "HONED_JUDGE__LICENCE__MIN_AUC_LOWER": "0.5",
    "HONED_JUDGE__LICENCE__MAX_LENGTH_CORRELATION": "1.0",
    "HONED_JUDGE__LICENCE__MAX_INJECTION": "1.0",
    "HONED_JUDGE__PROMPTS": "6",
    "HONED_JUDGE__CANDIDATES": "3",
    "HONED_JUDGE__MAX_TOKENS": "16",
    "HONED_JUDGE__REVISIONS": "1",
    "HONED_JUDGE__PAIRS__MIN_Q": "0.51",
    "HONED_JUDGE__PAIRS__MAX_LENGTH_RATIO": "100",
}
WORDS = [
    "river",
    "stone",
    "quick",
    "lantern",
    "under",
    "apple",
    "cold",
    "seven",
    "window",
    "music",
    "grey",
    "paper",
    "salt",
]


def sentence(chance: random.Random) -> str:
    return " ".join(chance.choices(WORDS, k=8))


def to_the_liking_of(model: Path) -> list[dict[str, str]]:
    """Forty pairs, the better answer being the one this model's relevance scorer prefers."""
    chance = random.Random(7)
    asked = [f"Say something about {sentence(chance)}" for _ in range(40)]
    questions = [Question((Message("user", text),), (sentence(chance), sentence(chance))) for text in asked]

    async def judge() -> list[Any]:
        engine = make_engine("hf", model)
        await engine.start()
        try:
            return await RelevanceScorer(Judge(engine)).score(questions)
        finally:
            await engine.close()

    rows = []
    for question, (one, other) in zip(questions, asyncio.run(judge()), strict=True):
        first, second = question.answers
        better, worse = (first, second) if one.value > other.value else (second, first)
        rows.append({"prompt": question.prompt[0].content, "better": better, "worse": worse})
    return rows


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


def check(client: Client, told: dict[str, Any]) -> None:
    """A licensed iteration: everything of it is there once."""
    assert told["stage"] == "active", told["reason"]
    (licence,) = told["judge"]["licences"]
    assert licence["scorer"] == "relevance" and licence["licensed"], licence["reasons"]
    assert licence["measures"]["labels"] >= 80 and licence["measures"]["auc"] > 0.6
    drawn = [one for one in told["judge"]["candidates"] if one["purpose"] == "candidates"]
    assert len(drawn) == len({one["completion_id"] for one in drawn}) == 6
    assert {one["choices"] for one in drawn} == {3}
    judgements = told["judge"]["judgements"]
    assert len({(one["answer"], one["version"]) for one in judgements}) == len(judgements)
    pairs = told["judge"]["pairs"]
    trained = [pair for pair in pairs if pair["dropped"] is None]
    assert trained and told["counts"]["judged_pairs"] == len(trained)
    chosen = client.get(f"/v1/completions/{trained[0]['chosen'][0]}")
    assert told["id"] in [one["id"] for one in chosen["iterations"]], "the answer tells what it trained"
    assert chosen["source"] == "sample" and chosen["judgements"]
    rows = told["contest"]
    assert len(rows) == len({row["id"] for row in rows}) == len(told["samples"])
    assert sum(sample["replay"] for sample in told["samples"]) > 0, "people's own prompts are replayed"
    assert {(row["against"], *row["judges"]) for row in rows} == {("base", "relevance")}
    assert told["metrics"]["contest/independent"] == 0, "its own pairs trained the candidate"
    assert 0 <= told["metrics"]["contest/win_low"] <= told["metrics"]["contest/win_high"] <= 1


def test_a_licensed_judge_s_pairs_train_and_everything_can_be_looked_up(
    state: Path, tiny_model: Path
) -> None:
    with running(state, tiny_model, **LENIENT) as service:
        client, told = train(service)
        check(client, told)
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
        check(client, client.get("/v1/iterations/1"))
        kept = stored_votes(state)
        assert len(kept) == len(set(kept)) and set(labelled[1]) <= set(kept)
