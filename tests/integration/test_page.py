"""The chat page in a real browser, served by a real service: chat, vote, reload, retry."""

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Locator, Page, expect

from tests.integration.browser import opened
from tests.integration.service import Service, running

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def service(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with running(tmp_path_factory.mktemp("page") / "state", tiny_model) as running_service:
        assert running_service.wait_until_ready() is not None, running_service.tail()
        yield running_service


@pytest.fixture
def page(service: Service) -> Iterator[Page]:
    with opened() as fresh:
        yield fresh


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
