"""Open WebUI, unmodified, in front of honed: its page chats and rates in a real Chromium, and its export comes in."""

import asyncio
import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from playwright.sync_api import Page, expect

from api.app import create_app
from api.config import ApiConfig
from daemon.state_files import DATABASE
from policies.fake_engine import FakeEngine, FakeLimits
from store.db import Store
from store.records import Completion, Evidence, Message, Source
from tests.integration.browser import opened
from tests.integration.service import ROOT, wait_until
from tests.listening import listening

PROGRAM = ROOT / ".venv-open-webui" / "bin" / "open-webui"
#: What docs/http-api.md tells people to set.
TOLD = {
    "ENABLE_FORWARD_USER_INFO_HEADERS": "true",
    "OPENAI_API_CONFIGS": '{"0": {"headers": {"X-OpenWebUI-Task": "{{TASK}}"}}}',
    "DEFAULT_MODEL_METADATA": '{"capabilities": {"builtin_tools": false}}',
}
#: Nothing from outside, and none of the models that it would run itself.
ALONE = {
    "USE_SLIM_DOCKER": "true",
    "OFFLINE_MODE": "true",
    "ENABLE_OLLAMA_API": "false",
    "WEBUI_SECRET_KEY": "a secret of this test's, long enough",
}

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not PROGRAM.exists(), reason="Open WebUI has an environment of its own: make open-webui"
    ),
]


@dataclass(frozen=True, slots=True)
class Front:
    """An Open WebUI, and who signed up there."""

    url: str
    user: str
    token: str
    honed: Store

    def client(self) -> httpx.Client:
        return httpx.Client(
            base_url=self.url, headers={"Authorization": f"Bearer {self.token}"}, timeout=60, trust_env=False
        )

    def rows(self, source: Source) -> list[Completion]:
        """What honed logged of one kind, oldest first."""
        return [row for row in self.honed.completions.recent()[::-1] if row.source is source]

    def export(self) -> list[dict[str, Any]]:
        with self.client() as client:
            answer = client.get("/api/v1/evaluations/feedbacks/all/export")
        rows: list[dict[str, Any]] = answer.raise_for_status().json()
        return rows


def free_port() -> int:
    with socket.socket() as asked:
        asked.bind(("127.0.0.1", 0))
        port: int = asked.getsockname()[1]
        return port


@contextmanager
def open_webui(folder: Path, honed: str) -> Iterator[str]:
    """Its server for the length of a block; yields the address."""
    port = free_port()
    environment = {
        **os.environ,
        **ALONE,
        **TOLD,
        "DATA_DIR": str(folder),
        "OPENAI_API_BASE_URL": f"{honed}/v1",
        "OPENAI_API_KEY": "any",
    }
    url, log = f"http://127.0.0.1:{port}", folder / "log"
    with log.open("wb") as output:
        command = [PROGRAM, "serve", "--host", "127.0.0.1", "--port", str(port)]
        process = subprocess.Popen(command, cwd=folder, env=environment, stdout=output, stderr=output)
        try:
            wait_until(lambda: answers(process, url, log), seconds=240)
            yield url
        finally:
            process.terminate()
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(30)


def answers(process: subprocess.Popen[bytes], url: str, log: Path) -> bool:
    assert process.poll() is None, log.read_text(errors="replace")[-3000:]
    try:
        return httpx.get(f"{url}/health", trust_env=False).is_success
    except httpx.TransportError:
        return False


@pytest.fixture(scope="module")
def front(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Front]:
    engine = FakeEngine(FakeLimits(token_delay=0.02))
    asyncio.run(engine.start())
    ann = {"name": "Ann", "email": "ann@example.org", "password": "correct horse"}
    with (
        Store.memory() as store,
        listening(create_app(store=store, engine=engine, settings=ApiConfig())) as honed,
        open_webui(tmp_path_factory.mktemp("open-webui"), honed) as url,
    ):
        told = httpx.post(f"{url}/api/v1/auths/signup", json=ann, timeout=60, trust_env=False)
        row = told.raise_for_status().json()
        yield Front(url, row["id"], row["token"], store)


def test_it_lists_the_models_and_streams_an_answer(front: Front) -> None:
    body = {"model": "honed", "stream": True, "messages": [{"role": "user", "content": "Hello"}]}
    with front.client() as client:
        assert [row["id"] for row in client.get("/api/models").json()["data"]] == ["honed", "base"]
        with client.stream("POST", "/api/chat/completions", json=body) as answer:
            assert answer.headers["content-type"].startswith("text/event-stream")
            lines = [line.removeprefix("data: ") for line in answer.iter_lines() if line.startswith("data: ")]
    assert lines[-1] == "[DONE]"
    chunks = [json.loads(line) for line in lines[:-1]]
    pieces = [choice["delta"].get("content") or "" for chunk in chunks for choice in chunk["choices"]]
    assert sum(map(bool, pieces)) > 1, "piece by piece"
    row = front.rows(Source.CHAT)[-1]
    assert {chunk["id"] for chunk in chunks} == {row.id}
    assert row.messages == (Message("user", "Hello"),)
    assert row.choices[0].text == "".join(pieces)
    assert row.principal == f"owui:{front.user}"


def ask(page: Page, words: str) -> None:
    # By attribute: the thumbs of earlier answers are in the page, but hidden until pointed at.
    ended = page.locator("button[aria-label='Good Response']")
    before = ended.count()
    page.locator("#chat-input").click()
    page.keyboard.type(words)
    page.keyboard.press("Enter")
    expect(ended).to_have_count(before + 1, timeout=60_000)


def rate(page: Page, thumb: str, *, stars: int, reason: str, comment: str) -> None:
    """As people do: the thumb of the last answer, then how much, why, and a word about it."""
    # A rating is made, then written again with the tags that the model was asked for.
    with page.expect_response("**/api/v1/evaluations/feedback/*", timeout=60_000) as told:
        page.get_by_role("button", name=thumb).last.click()
    assert told.value.ok
    form = page.locator("[id^='message-feedback-']").last
    form.get_by_role("button", name=f"Rate {stars} out of 10", exact=True).click()
    form.get_by_role("button", name=reason).click()
    form.get_by_role("textbox").fill(comment)
    with page.expect_response("**/api/v1/evaluations/feedback/*", timeout=60_000) as told:
        form.get_by_role("button", name="Save").click()
    assert told.value.ok


def imported(state: Path, rows: list[dict[str, Any]]) -> list[Evidence]:
    """What honed knows after `honed import` of them into a state directory that was empty."""
    file = state.parent / "feedback-history-export.json"
    file.write_text(json.dumps(rows))
    ran = subprocess.run(
        [sys.executable, "-m", "daemon", "import", str(file)],
        cwd=ROOT,
        env={**os.environ, "HONED_STORE__DIRECTORY": str(state)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    with Store.read_only(state / DATABASE) as store:
        return store.feedback.live()


def test_its_page_chats_and_rates_and_its_export_is_what_was_said(front: Front, tmp_path: Path) -> None:
    with opened(width=1280, height=900) as page:
        page.add_init_script(f"localStorage.token = {json.dumps(front.token)}")
        page.goto(f"{front.url}/?model=honed")
        page.get_by_role("button", name="Okay, Let's Go!").click(timeout=60_000)
        ask(page, "Hello out there")
        rate(page, "Good Response", stars=9, reason="Accurate information", comment="Just so.")
        ask(page, "And further?")
        rate(page, "Bad Response", stars=2, reason="Too verbose", comment="No.")

    first, second = front.rows(Source.CHAT)[-2:]
    assert second.messages == (
        Message("user", "Hello out there"),
        Message("assistant", first.choices[0].text),
        Message("user", "And further?"),
    )
    jobs = front.rows(Source.TASK)
    assert jobs and all(row.messages[0].content.startswith("### Task:") for row in jobs), "titles and tags"

    live = imported(tmp_path / "state", front.export())
    # The words and the person are those of the live requests: imported ratings train as if they were given here.
    for item, row in zip(live, (first, second), strict=True):
        assert item.completion.messages == row.messages
        assert item.completion.choices[0].text == row.choices[0].text
        assert item.feedback.principal == row.principal == f"owui:{front.user}"
    said = [(item.feedback.value, item.feedback.reason, item.feedback.comment) for item in live]
    assert said == [(True, "accurate_information", "Just so."), (False, "too_verbose", "No.")]
    assert [item.feedback.metadata["stars_of_ten"] for item in live] == [9, 2]
