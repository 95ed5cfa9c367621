"""The pages in a real browser, served by a real service: chat, vote, reload, retry, roll back."""

import shutil
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Locator, Page, expect, sync_playwright

from tests.integration.service import Service, chat_and_vote, finished_iteration, running, wait_until

pytestmark = pytest.mark.slow

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
#: Headless, and without the connections a browser makes for itself.
FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


@pytest.fixture(scope="module")
def service(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with running(tmp_path_factory.mktemp("page") / "state", tiny_model) as running_service:
        assert running_service.wait_until_ready() is not None, running_service.tail()
        yield running_service


@pytest.fixture
def page(service: Service) -> Iterator[Page]:
    """A fresh browser profile; any console error or failed script fails the test that caused it."""
    if CHROMIUM is None:
        # Where there is no browser the other tests still tell something; CI installs one.
        pytest.skip(
            "no Chromium on this machine: install it (Debian: apt-get install chromium) to test the pages"
        )
    troubles: list[str] = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=list(FLAGS))
        opened = browser.new_page(viewport={"width": 390, "height": 800})
        opened.on(
            "console", lambda message: troubles.append(message.text) if message.type == "error" else None
        )
        opened.on("pageerror", lambda error: troubles.append(str(error)))
        yield opened
        browser.close()
    assert troubles == []


def url(service: Service) -> str:
    assert service.client is not None
    return service.client.url


def ask(page: Page, words: str) -> None:
    page.get_by_label("Message").fill(words)
    page.get_by_role("button", name="Send").click()
    expect(page.get_by_role("button", name="Send")).to_be_visible(timeout=30_000)


def press(page: Page, thumb: Locator) -> None:
    """Click a thumb and wait until the service has it: the button fills before that."""
    with page.expect_response("**/v1/feedback", timeout=30_000) as told:
        thumb.click()
    assert told.value.status == 201


def test_chat_streams_a_vote_fills_and_survives_a_reload_and_clears(service: Service, page: Page) -> None:
    page.goto(url(service))
    ask(page, "hello there")
    answer = page.locator("article.assistant").last
    expect(answer.locator(".version")).to_have_text("base")
    up = answer.get_by_role("button", name="Good answer")
    expect(up).to_have_attribute("aria-pressed", "false")
    press(page, up)
    expect(up).to_have_attribute("aria-pressed", "true")
    page.reload()
    up = page.locator("article.assistant").last.get_by_role("button", name="Good answer")
    expect(up).to_have_attribute("aria-pressed", "true")
    press(page, up)
    expect(up).to_have_attribute("aria-pressed", "false")
    assert service.client is not None
    assert service.client.get("/v1/status")["feedback"]["total"] == 2


def test_a_retry_keeps_the_earlier_answer_and_tells_the_service(service: Service, page: Page) -> None:
    page.goto(url(service))
    ask(page, "once more")
    answer = page.locator("article.assistant").last
    # The page tells the service once both answers exist: after the new one has ended.
    with page.expect_response("**/v1/feedback", timeout=30_000) as told:
        answer.get_by_role("button", name="Answer again").click()
    assert told.value.status == 201
    expect(answer.get_by_role("button", name="Earlier answer")).to_be_enabled()
    with sqlite3.connect(service.state / "honed.db") as connection:
        rows = connection.execute("select value from feedback where kind = 'regenerate'").fetchall()
    connection.close()
    (value,) = rows[-1]
    assert value.startswith('"chatcmpl-'), "the retry names the new answer"


def test_nothing_is_wider_than_a_phone(service: Service, page: Page) -> None:
    for path in ("/", "/ops"):
        page.goto(url(service) + path)
        assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")


def test_an_operator_compares_two_answers_side_by_side(service: Service, page: Page) -> None:
    client = service.client
    assert client is not None
    for number in range(3):
        body = {"model": "honed", "n": 2, "temperature": 1.5, "max_tokens": 12,
                "messages": [{"role": "user", "content": f"pair {number}"}]}  # fmt: skip
        client.post("/v1/chat/completions", body)
    offered = client.get("/v1/operator/queue?limit=50")["data"]
    assert len(offered) >= 3
    page.goto(url(service) + "/ops")
    page.get_by_role("button", name="Compare answers").click()
    expect(page.locator("#left")).to_have_text(offered[0]["left"]["text"])
    expect(page.locator("#right")).to_have_text(offered[0]["right"]["text"])
    for number, side in enumerate(("Left", "Right", "Same"), start=1):
        page.get_by_role("button", name=side, exact=True).click()
        expect(page.locator("#compared")).to_contain_text(f"{number} given.")
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")

    def written() -> list[tuple[str, str, int, int]]:
        with sqlite3.connect(service.state / "honed.db") as connection:
            rows = connection.execute(
                "select completion_id, other_id, choice_index, same from labels"
            ).fetchall()
        connection.close()
        return rows

    labels = wait_until(lambda: rows if len(rows := written()) == 3 else None)
    first = next(row for row in labels if row[0] == offered[0]["left"]["completion_id"])
    assert (first[2], first[3]) == (offered[0]["left"]["choice_index"], 0)
    assert sum(row[3] for row in labels) == 1
    assert offered[0]["id"] not in {item["id"] for item in client.get("/v1/operator/queue?limit=50")["data"]}


def test_an_operator_trains_and_rolls_back_from_the_page(service: Service, page: Page) -> None:
    client = service.client
    assert client is not None
    chat_and_vote(client, 16)
    page.on("dialog", lambda dialog: dialog.accept("from the page"))
    page.goto(url(service) + "/ops")
    expect(page.locator("#serving")).to_have_text("base")
    page.get_by_role("button", name="Train now").click()
    ended = wait_until(lambda: finished_iteration(client, 1))
    assert ended["stage"] == "active", ended
    page.goto(url(service) + "/ops")
    expect(page.locator("#serving")).to_have_text(ended["candidate"])
    page.goto(url(service))
    ask(page, "who answers?")
    expect(page.locator("article.assistant .version").last).to_have_text(ended["candidate"])
    page.goto(url(service) + "/ops")
    expect(page.locator("#quarantined")).to_have_text("empty")
    page.get_by_role("checkbox", name="quarantine").check()
    page.get_by_role("button", name="Roll back", exact=True).click()
    wait_until(lambda: client.get("/v1/status")["serving"]["version"] == "base")
    held = client.get("/v1/status")["quarantined"]
    examples = client.get("/v1/iterations/1")["examples"]
    assert held == len({row["feedback_id"] for row in examples if row["split"] == "train"}) > 0
    page.goto(url(service) + "/ops")
    expect(page.locator("#quarantined")).to_contain_text(f"{held} events")
    page.get_by_role("button", name="Release all").click()
    wait_until(lambda: client.get("/v1/status")["quarantined"] == 0)
    page.goto(url(service))
    ask(page, "and now?")
    expect(page.locator("article.assistant .version").last).to_have_text("base")
