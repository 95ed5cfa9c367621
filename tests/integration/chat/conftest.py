"""One service and one browser for a module of the chat page's tests, a fresh profile for each test."""

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Page

from tests.integration.chat.chatting import Served, chatting, launched, serving


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    with serving() as made:
        yield made


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with launched() as made:
        yield made


@pytest.fixture
def page(browser: Browser, served: Served) -> Iterator[Page]:
    with chatting(browser, served) as opened:
        yield opened
