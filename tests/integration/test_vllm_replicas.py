"""Two vLLM servers behind one honed, and what happens when they fail at bad moments."""

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from daemon.client import Client
from tests.integration.crowd import Crowd
from tests.integration.service import (
    Service,
    ask,
    chat_and_vote,
    finished_iteration,
    running,
    stored_votes,
    wait_until,
)
from tests.tiny import make_servable_model
from tests.vllm_cpu import Server, needs_vllm, servers, using

pytestmark = [pytest.mark.slow, *needs_vllm]

#: Seconds; the trainer lets answers go first, and two servers answer all the while.
TRAINING = 500.0
QUESTIONS = [f"question {number}" for number in range(4)]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_servable_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def pair(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Server]]:
    """Two servers; tests that kill one leave another in its place."""
    with servers(model, tmp_path_factory.mktemp("servers"), 2) as both:
        yield both


def in_rotation(service: Service, server: Server, adapters: int) -> bool:
    return f"{server.url} is in rotation with {adapters} adapters" in service.log_text()


def settings(pair: list[Server], **more: str) -> dict[str, str]:
    # A few votes on a random model: whether it learned well is not what these tests ask.
    passing = {
        "HONED_DAEMON__GATE__WINNER_DLOGP_SOFT": "-50",
        "HONED_DAEMON__GATE__WINNER_DLOGP_HARD": "-100",
    }
    return {**using(*(server.url for server in pair)), **passing, **more}


def stage(client: Client) -> str:
    rows = client.get("/v1/iterations")["data"]
    return str(rows[0]["stage"]) if rows else "none"


def begin_training(client: Client) -> None:
    client.intend("train", reason="test")
    wait_until(lambda: stage(client) in ("training", "evaluating"))


def test_a_server_killed_during_activation_leaves_and_the_other_serves_the_adapter(
    model: Path, pair: list[Server], tmp_path: Path
) -> None:
    with running(tmp_path / "state", model, **settings(pair)) as service:
        client = service.wait_until_ready()
        assert client is not None, service.tail()
        wait_until(lambda: all(in_rotation(service, server, 0) for server in pair))
        votes = chat_and_vote(client, 16)
        with Crowd(client.url, QUESTIONS, tokens=8) as crowd:
            begin_training(client)
            # Stopped first: the load reaches it and gets no answer, so that the kill falls into the activation.
            wait_until(lambda: stage(client) == "evaluating", seconds=TRAINING)
            os.killpg(pair[0].process.pid, signal.SIGSTOP)
            time.sleep(4)
            pair[0].kill()
            ended: Any = wait_until(lambda: finished_iteration(client, 1), seconds=TRAINING)
            assert ended["stage"] == "active", (ended, service.tail())
            wait_until(lambda: ended["candidate"] in crowd.models())
        assert f"{pair[0].url} is out of rotation" in service.log_text()
        # Answers that had begun on the killed server end with an error; everybody else is served.
        assert len(crowd.failures) <= len(QUESTIONS)
        assert ask(client, "and now?")["model"] == ended["candidate"]
        assert set(votes) == set(stored_votes(service.state))
        # A new server in its place comes back with the adapter.
        pair[0] = Server(model, pair[0].log, port=pair[0].port).wait()
        wait_until(lambda: in_rotation(service, pair[0], 1))
        pair[1].kill()
        answer = ask(client, "still?")
        assert answer["model"] == ended["candidate"]
        pair[1] = Server(model, pair[1].log, port=pair[1].port).wait()


def test_a_server_that_answers_too_late_leaves_the_rotation_and_comes_back(
    model: Path, pair: list[Server], tmp_path: Path
) -> None:
    with running(
        tmp_path / "state", model, **settings(pair, HONED_POLICIES__ENGINE__LOAD_TIMEOUT="8")
    ) as service:
        client = service.wait_until_ready()
        assert client is not None, service.tail()
        wait_until(lambda: all(in_rotation(service, server, 0) for server in pair))
        chat_and_vote(client, 16)
        begin_training(client)
        os.killpg(pair[1].process.pid, signal.SIGSTOP)
        try:
            ended: Any = wait_until(lambda: finished_iteration(client, 1), seconds=TRAINING)
            assert ended["stage"] == "active", (ended, service.tail())
            assert ask(client, "and now?")["model"] == ended["candidate"]
            assert f"{pair[1].url} is out of rotation" in service.log_text()
        finally:
            os.killpg(pair[1].process.pid, signal.SIGCONT)
        wait_until(lambda: in_rotation(service, pair[1], 1))


def test_with_every_server_gone_activation_is_refused_and_the_votes_wait(
    model: Path, pair: list[Server], tmp_path: Path
) -> None:
    soon = {"HONED_POLICIES__ENGINE__LOAD_TIMEOUT": "8", "HONED_DAEMON__ENGINE_PATIENCE": "5"}
    with running(tmp_path / "state", model, **settings(pair, **soon)) as service:
        client = service.wait_until_ready()
        assert client is not None, service.tail()
        votes = chat_and_vote(client, 16)
        begin_training(client)
        for server in pair:
            server.kill()
        ended: Any = wait_until(lambda: finished_iteration(client, 1), seconds=TRAINING)
        assert ended["stage"] == "failed"
        assert "no model server answers" in ended["reason"]
        assert set(votes) == set(stored_votes(service.state))
        status = client.get("/v1/status")
        assert status["serving"]["version"] == "base"
