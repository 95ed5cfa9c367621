"""Real processes and a tiny model: people like a promoted version less, and honed goes back by itself; a canary is
tried on some of them.
"""

import json
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from openai import OpenAI

from daemon.client import Client
from tests.integration.service import (
    Service,
    ask,
    finished_iteration,
    running,
    stored_votes,
    thumb,
    wait_until,
)
from tests.integration.test_loop import Chatting, honed

pytestmark = pytest.mark.slow


def opinions(client: Client, ups: int, downs: int, *, seed: int) -> list[str]:
    """Votes on so many answers, the downs among them evenly spread. Returns the ids of acknowledged ones."""
    votes = []
    for number in range(ups + downs):
        up = (number * ups) // (ups + downs) != ((number + 1) * ups) // (ups + downs)
        answer = ask(client, f"question {seed}/{number}", seed=1000 * seed + number, temperature=1.0)
        votes.append(thumb(client, answer["id"], up))
    return votes


def events(client: Client, count: int) -> list[dict[str, Any]]:
    """The first audit entries as `GET /v1/events` tells them."""
    found: list[dict[str, Any]] = []
    with urllib.request.urlopen(f"{client.url}/v1/events?after=0", timeout=30) as response:
        kind = ""
        for line in response:
            name, _, value = line.decode().rstrip("\n").partition(": ")
            kind = value if name == "event" else kind
            if name == "data" and kind == "audit":
                found.append(json.loads(value))
                if len(found) == count:
                    return found
    raise AssertionError(f"the stream ended after {len(found)} entries")


def train(client: Client, number: int, stage: str) -> str:
    """One iteration; returns its candidate, which must have come as far as `stage`."""
    client.intend("train", reason="test")
    rows = wait_until(
        lambda: [r for r in client.get("/v1/iterations")["data"] if r["stage"] in (stage, "failed")]
    )
    assert (rows[0]["id"], rows[0]["stage"]) == (number, stage), rows[0]
    return str(rows[0]["candidate"])


def test_votes_down_after_a_promotion_bring_the_old_version_back(tiny_model: Path, tmp_path: Path) -> None:
    # The schedule is on, for its cool-down is told, and waits for more votes than these.
    schedule = {"HONED_DAEMON__SCHEDULE__ENABLED": "true", "HONED_DAEMON__SCHEDULE__MIN_FEEDBACK": "1000"}
    with running(tmp_path / "state", tiny_model, **schedule) as service:
        client = service.wait_until_ready()
        assert client is not None, service.tail()
        liked = opinions(client, 24, 6, seed=1)
        version = train(client, 1, "active")
        with (
            OpenAI(base_url=f"{client.url}/v1", api_key="bob", max_retries=0) as person,
            Chatting(person) as chatting,
        ):
            wait_until(lambda: chatting.models and chatting.models[-1] == version)
            disliked = opinions(client, 0, 60, seed=2)
            ended = wait_until(lambda: iteration(client)["stage"] == "rolled_back" and iteration(client))
            wait_until(lambda: chatting.models[-1] == "base")
        assert chatting.failures == []
        assert set(liked + disliked) <= set(stored_votes(service.state))
        assert ask(client, "who answers now?")["model"] == "base"
        assert client.get(f"/v1/adapters/{version}")["status"] == "rolled_back"
        assert ended["reason"].startswith("thumbs")
        told = events(client, 3)[-1]
        assert (told["actor"], told["action"], told["subject"]) == ("watch", "rollback", "base")
        assert told["details"]["evidence"]["metrics"]["thumbs"]["harm_peak"] >= 25
        text = honed(service, "status").stdout
        assert "after an automatic rollback (daemon.watch.cooldown_minutes)" in text


def iteration(client: Client) -> dict[str, str]:
    row: dict[str, str] = client.get("/v1/iterations/1")
    return row


def speakers(client: Client) -> dict[str, str]:
    """Who is answered by what, of people told apart by their keys."""
    found = {}
    for number in range(12):
        person = Client(client.url, key=f"person-{number}")
        found[str(number)] = ask(person, "who are you?")["model"]
    return found


def test_a_canary_answers_its_people_outlives_a_restart_and_is_promoted_by_hand(
    tiny_model: Path, tmp_path: Path
) -> None:
    steps = {"HONED_DAEMON__CANARY__STEPS": "[0.5]"}
    state = tmp_path / "state"
    with running(state, tiny_model, **steps) as service:
        client = service.wait_until_ready()
        assert client is not None, service.tail()
        opinions(client, 10, 10, seed=1)
        version = train(client, 1, "canary")
        before = speakers(client)
        assert set(before.values()) == {"base", version}
        assert client.wait(client.intend("train", reason="more"))["status"] == "refused"
        text = honed(service, "status").stdout
        assert f"version: {version}" in text and "share: 0.5" in text and "thumbs: evidence of harm" in text
    with running(state, tiny_model, **steps) as service:
        client = service.wait_until_ready()
        assert client is not None, service.tail()
        assert speakers(client) == before
        ended = client.wait(client.intend("promote", version=version, reason="it looks well"))
        assert ended["status"] == "done"
        assert set(speakers(client).values()) == {version}
        assert finished_iteration(client, 1) is not None
        assert client.get("/v1/status")["canary"] is None


def damaged(service: Service) -> Path:
    (weights,) = service.state.glob("iterations/0001/adapter/adapter_model.safetensors")
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.chmod(0o644)
    weights.write_bytes(content)
    return weights


def test_a_damaged_canary_answers_nobody_after_a_restart(tiny_model: Path, tmp_path: Path) -> None:
    steps = {"HONED_DAEMON__CANARY__STEPS": "[0.5]"}
    with running(tmp_path / "state", tiny_model, **steps) as service:
        client = service.wait_until_ready()
        assert client is not None, service.tail()
        opinions(client, 10, 10, seed=1)
        version = train(client, 1, "canary")
        assert version in speakers(client).values()
    damaged(service)
    with running(tmp_path / "state", tiny_model, **steps) as service:
        client = service.wait_until_ready()
        assert client is not None, service.tail()
        assert set(speakers(client).values()) == {"base"}
        assert iteration(client)["stage"] == "rolled_back"
