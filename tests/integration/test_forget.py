"""Forgetting with real processes and a tiny model: no byte of the person is left, nothing served learned from it."""

import json
import os
import shutil
import sqlite3
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from daemon.client import Client
from store.errors import NotFound
from store.failpoints import FAILPOINTS
from tests.integration.service import (
    ROOT,
    ask,
    chat_and_vote,
    finished_iteration,
    running,
    stored_votes,
    wait_until,
)

pytestmark = pytest.mark.slow

FORGET = [name for name in FAILPOINTS if name.startswith("forget.")]
#: Only ann says these, each in another place.
PLACES = ("prompt", "system", "edit", "comment", "reason", "metadata", "stop", "event", "retry", "key")
MARKS = {place: f"Zq{place}{number}Wx" for number, place in enumerate(PLACES, 71)}


def principal(key: str) -> str:
    import hashlib

    return "key:" + hashlib.sha256(key.encode()).hexdigest()[:12]


ANN = principal("ann")


def files_with(state: Path, needle: str) -> list[str]:
    """Every file under the state directory that has it, in whatever case and however JSON would spell it."""
    spelt = {needle.lower().encode(), json.dumps(needle)[1:-1].lower().encode()}
    found = []
    for path in sorted(state.rglob("*")):
        if path.is_file():
            content = path.read_bytes().lower()
            if any(each in content for each in spelt):
                found.append(str(path.relative_to(state)))
    return found


def speak(client: Client, key: str) -> list[str]:
    """Ann chats, votes, edits and comments; returns what she was told, where there is enough of it to look for."""
    ann = Client(client.url, key=key)
    told = []
    for number in range(12):
        text = f"{MARKS['prompt']} tell me more about the garden {MARKS['prompt']} {number}"
        messages = [{"role": "system", "content": MARKS["system"]}, {"role": "user", "content": text}]
        more = {"metadata": {"where": MARKS["metadata"]}, "stop": [MARKS["stop"]]}
        answer = ask(ann, "", messages=messages, seed=number, temperature=1.0, max_tokens=24, **more)
        told.append(answer["choices"][0]["message"]["content"])
        if not told[-1].strip():
            continue
        vote = {"completion_id": answer["id"], "kind": "thumb", "value": number % 2 == 0}
        ann.post(
            "/v1/feedback", {**vote, "id": f"{MARKS['event']}-{key}-{number}", "reason": MARKS["reason"]}
        )
        body = {"completion_id": answer["id"], "metadata": {"note": MARKS["metadata"]}}
        ann.post("/v1/feedback", {**body, "kind": "comment", "value": f"{MARKS['comment']} it says {number}"})
        if number % 3 == 0:
            ann.post("/v1/feedback", {**body, "kind": "edit", "value": f"{MARKS['edit']} better so {number}"})
    return [text for text in told if len(text) >= 16]


@pytest.fixture(scope="module")
def learned(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """A state directory where an adapter that learned from ann and bob is served; and what ann was told."""
    state = tmp_path_factory.mktemp("learned") / "state"
    with running(state, tiny_model) as service:
        client = service.wait_until_ready()
        assert client is not None, service.tail()
        told = speak(client, "ann")
        chat_and_vote(Client(client.url, key="bob"), 16)
        client.intend("train", reason="with ann")
        ended = wait_until(lambda: finished_iteration(client, 1))
        assert ended["stage"] == "active", (ended, service.tail())
        honed(state, "export", str(state / "exports"))
    copy_database(state / "honed.db", state / "honed.db.before-m999_next")
    return state, told


def copy_database(source: Path, to: Path) -> None:
    with sqlite3.connect(source) as one, sqlite3.connect(to) as other:
        one.backup(other)
    one.close()
    other.close()


def honed(state: Path, *arguments: str) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-m", "daemon", *arguments, "--json"],
        cwd=ROOT,
        env={**os.environ, "HONED_STORE__DIRECTORY": str(state)},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    row: dict[str, Any] = json.loads(done.stdout)
    return row


def check_forgotten(state: Path, told: list[str]) -> None:
    for needle in (*MARKS.values(), *told, ANN):
        assert files_with(state, needle) == [], needle


def check_chain(client: Client, version: str) -> None:
    """Retired, without weights, not to be had by name; what is served is base."""
    assert client.get(f"/v1/adapters/{version}")["status"] == "retired"
    assert ask(Client(client.url, key="bob"), "hello")["model"] == "base"
    with pytest.raises(NotFound):
        ask(client, "hello", model=version)
    assert version not in {row["id"] for row in client.get("/v1/models")["data"]}


def adapter_of(state: Path) -> str:
    with sqlite3.connect(state / "honed.db") as db:
        (version,) = db.execute("select version from adapters").fetchone()
    db.close()
    return str(version)


def closed(client: Client, intent: str) -> dict[str, Any]:
    row: dict[str, Any] = wait_until(
        lambda: (
            found
            if (found := client.get(f"/v1/operator/intents/{intent}"))["status"] not in ("pending", "running")
            else None
        )
    )
    return row


def test_before_it_ann_is_everywhere(learned: tuple[Path, list[str]]) -> None:
    state, told = learned
    assert told
    assert {
        "honed.db",
        "honed.db.before-m999_next",
        "exports/kto.jsonl",
        "iterations/0001/examples.jsonl",
    } <= set(files_with(state, MARKS["prompt"]))
    assert "iterations/0001/report.json" in files_with(state, MARKS["prompt"])
    for place in set(PLACES) - {"retry", "key"}:
        assert files_with(state, MARKS[place]), place


@pytest.mark.parametrize("point", [None, *FORGET])
def test_no_byte_of_a_forgotten_person_is_left_even_if_killed_in_the_middle(
    point: str | None, learned: tuple[Path, list[str]], tiny_model: Path, tmp_path: Path
) -> None:
    state = Path(shutil.copytree(learned[0], tmp_path / "state"))
    version = adapter_of(state)
    with running(state, tiny_model, **({"HONED_FAILPOINT": point} if point else {})) as service:
        client = service.wait_until_ready()
        assert client is not None, service.tail()
        intent = client.intend("forget", user=ANN, reason=f"{ANN} asked")
        if point is not None:
            wait_until(lambda: service.process.poll() is not None)
            assert service.process.returncode == -9
        else:
            check_done(client, intent, version)
            check_forgotten(state, learned[1])
    with running(state, tiny_model) as service:
        client = service.wait_until_ready()
        assert client is not None, service.tail()
        check_done(client, intent, version)
        check_forgotten(state, learned[1])
        check_chain(client, version)
        assert (state / "exports" / "kto.jsonl").read_text().count("\n") >= 8
    check_forgotten(state, learned[1])


def check_done(client: Client, intent: str, version: str) -> None:
    row = closed(client, intent)
    assert row["status"] == "done", row
    receipt = row["outcome"]
    assert receipt["retired"] == [version]
    assert receipt["iterations"] == [1]
    assert receipt["serving"] == "base"
    assert receipt["answers"] >= 12
    assert len(receipt["digest"]) == 64
    assert row["arguments"]["user"] == receipt["person"]


def test_without_a_service_the_command_line_forgets(
    learned: tuple[Path, list[str]], tiny_model: Path, tmp_path: Path
) -> None:
    state = Path(shutil.copytree(learned[0], tmp_path / "state"))
    version = adapter_of(state)
    receipt = honed(state, "forget", ANN)["outcome"]
    assert receipt["retired"] == [version]
    check_forgotten(state, learned[1])
    with running(state, tiny_model) as service:
        client = service.wait_until_ready()
        assert client is not None, service.tail()
        check_chain(client, version)


def test_a_running_iteration_is_ended_first_and_the_next_learns_from_the_others_alone(
    learned: tuple[Path, list[str]], tiny_model: Path, tmp_path: Path
) -> None:
    state = Path(shutil.copytree(learned[0], tmp_path / "state"))
    with running(state, tiny_model, HONED_POLICIES__TRAIN__EPOCHS="50") as service:
        client = service.wait_until_ready()
        assert client is not None, service.tail()
        told = speak(client, "ann2")
        chat_and_vote(Client(client.url, key="bob"), 8, seed=5)
        client.intend("train", reason="with ann again")
        progress = state / "iterations" / "0002" / "progress.jsonl"
        wait_until(lambda: progress.is_file() and progress.read_text().count('"train"') > 2)
        receipts = [
            closed(client, client.intend("forget", user=principal(key), reason="both"))
            for key in ("ann", "ann2")
        ]
        assert [row["status"] for row in receipts] == ["done", "done"]
        assert client.get("/v1/iterations/2")["stage"] == "aborted"
        check_forgotten(state, [*learned[1], *told])
        assert files_with(state, principal("ann2")) == []
    with running(state, tiny_model) as service:
        client = service.wait_until_ready()
        assert client is not None, service.tail()
        client.intend("train", reason="without ann")
        ended = wait_until(lambda: finished_iteration(client, 3), seconds=180)
        # Bob's votes that the retired adapter had learned from are new again.
        assert ended["stage"] == "active", ended
        assert ended["counts"]["examples"] > 8 if "examples" in ended["counts"] else True
        check_forgotten(state, [*learned[1], *told])
        with sqlite3.connect(state / "honed.db") as db:
            learned_from = db.execute(
                "select distinct c.principal from learned_examples e join completions c on c.id = e.completion_id "
                "where e.iteration = 3"
            ).fetchall()
        db.close()
        assert learned_from == [(principal("bob"),)]


def test_an_answer_under_way_leaves_no_text(
    learned: tuple[Path, list[str]], tiny_model: Path, tmp_path: Path
) -> None:
    import threading

    state = Path(shutil.copytree(learned[0], tmp_path / "state"))
    with running(state, tiny_model) as service:
        client = service.wait_until_ready()
        assert client is not None, service.tail()
        ann = Client(client.url, key="ann")
        answers: list[dict[str, Any]] = []
        talk = threading.Thread(
            target=lambda: answers.append(ask(ann, MARKS["retry"], max_tokens=200, temperature=1.0))
        )
        talk.start()
        wait_until(lambda: files_with(state, MARKS["retry"]))
        row = closed(client, client.intend("forget", user=ANN, reason="now"))
        talk.join()
        assert row["status"] == "done"
        time.sleep(0.5)
        check_forgotten(state, [*learned[1], answers[0]["choices"][0]["message"]["content"]])


def test_nobody_of_that_name_is_said_so(
    learned: tuple[Path, list[str]], tiny_model: Path, tmp_path: Path
) -> None:
    state = Path(shutil.copytree(learned[0], tmp_path / "state"))
    with running(state, tiny_model) as service:
        client = service.wait_until_ready()
        assert client is not None, service.tail()
        with pytest.raises(NotFound, match="nothing is held of 'nobody'"):
            client.intend("forget", user="nobody", reason="test")
        assert stored_votes(state)
