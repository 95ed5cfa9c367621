"""The drill: a backup taken under load is restored into a fresh directory and serves."""

import threading
from pathlib import Path

import pytest
from typer.testing import CliRunner

from daemon.cli import app
from tests.integration.service import (
    ask,
    chat_and_vote,
    finished_iteration,
    running,
    stored_votes,
    thumb,
    wait_until,
)

pytestmark = pytest.mark.slow


def honed(*words: str, state: Path, tmp_path: Path) -> None:
    file = tmp_path / "honed.toml"
    file.write_text(f'[store]\ndirectory = "{state}"\n')
    ran = CliRunner().invoke(app, [*words, "--config", str(file)], catch_exceptions=False)
    assert ran.exit_code == 0, ran.output


def test_a_backup_under_load_restores_to_a_service_with_every_vote(tiny_model: Path, tmp_path: Path) -> None:
    state, saved, fresh = tmp_path / "state", tmp_path / "saved", tmp_path / "fresh"
    with running(state, tiny_model) as service:
        client = service.wait_until_ready()
        assert client is not None, service.tail()
        votes = chat_and_vote(client, 16)
        client.intend("train", reason="test")
        ended = wait_until(lambda: finished_iteration(client, 1))
        assert ended["stage"] == "active", (ended, service.tail())
        voting, done = threading.Event(), threading.Event()
        late: list[str] = []

        def crowd() -> None:
            while not done.is_set():
                late.append(thumb(client, ask(client, "and now?")["id"], True))
                voting.set()

        thread = threading.Thread(target=crowd)
        thread.start()
        try:
            assert voting.wait(60)
            before = [*votes, *late]
            honed("backup", str(saved), state=state, tmp_path=tmp_path)
        finally:
            done.set()
            thread.join()
        # The one that was saved goes on, with what came after.
        assert set(stored_votes(state)) == {*votes, *late}
    honed("restore", str(saved), state=fresh, tmp_path=tmp_path)
    with running(fresh, tiny_model) as service:
        client = service.wait_until_ready()
        assert client is not None, service.tail()
        assert set(before) <= set(stored_votes(fresh)) <= {*votes, *late}
        answer = ask(client, "are you there?")
        assert answer["model"] == ended["candidate"]
        assert thumb(client, answer["id"], True) in stored_votes(fresh)
