"""The chat page for its tests: a service that says what it is told, and a Chromium to look at it."""

import asyncio
import re
import threading
from collections.abc import AsyncIterator, Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, Locator, Page, expect, sync_playwright

from api.app import create_app
from api.config import ApiConfig
from policies.engine import Delta, Usage
from policies.fake_engine import FakeEngine, FakeLimits
from store.db import Store
from store.records import Feedback, FeedbackKind, Message
from tests.integration.browser import FLAGS, chromium
from tests.integration.service import wait_until
from tests.listening import listening


class Parrot(FakeEngine):
    """Says what it was told last, so that a test chooses what the page has to show; asked again, it says so."""

    def __init__(self) -> None:
        super().__init__(FakeLimits(token_delay=0.005))
        self.asked: list[list[Message]] = []

    def full(self, so: bool) -> None:
        """Have no room for anybody, or for everybody again."""
        self._limits = replace(self._limits, max_batch=0 if so else 8, max_queue=0 if so else 64)

    async def _answer(self, request: Any) -> None:
        takes = self.asked.count(list(request.messages))
        self.asked.append(list(request.messages))
        text = request.messages[-1].content + (f"\n\n*take {takes + 1}*" if takes else "")
        async for delta in self._said(re.findall(r"\s*\S+", text)):
            if delta.finish_reason:
                self._leave(request)
            request.stream.put(delta)

    async def _said(self, words: list[str]) -> AsyncIterator[Delta]:
        for word in words:
            await asyncio.sleep(self._limits.token_delay)
            yield Delta(word)
        yield Delta("", finish_reason="stop", usage=Usage(1, len(words)))


def settle(work: Coroutine[Any, Any, None]) -> None:
    """Run to the end on a thread of its own: the browser's driver keeps a loop in this one."""
    thread = threading.Thread(target=asyncio.run, args=(work,))
    thread.start()
    thread.join(20)
    assert not thread.is_alive()


class Served:
    """A service on a port of its own: the app, the parrot and a database in memory."""

    def __init__(self, store: Store, engine: Parrot, url: str) -> None:
        self.store, self.engine, self.url = store, engine, url

    def events(self, kind: FeedbackKind) -> list[Feedback]:
        """All of a kind, on any answer, oldest first."""
        rows = self.store.completions.recent(limit=1000)
        events = [event for row in rows for event in self.store.feedback.events(row.id)]
        return sorted((e for e in events if e.kind is kind), key=lambda event: event.created_at)

    def last(self, kind: FeedbackKind, count: int = 1) -> Feedback:
        """The latest of a kind, once there are so many more than when the test began."""
        return wait_until(lambda: found[-1] if len(found := self.events(kind)) >= count else None, seconds=20)


@contextmanager
def serving(keys: Path | None = None) -> Iterator[Served]:
    with Store.memory() as store:
        engine = Parrot()
        settle(engine.start())
        app = create_app(store=store, engine=engine, settings=ApiConfig(max_tokens=500, keys_file=keys))
        with listening(app) as url:
            yield Served(store, engine, url)


@contextmanager
def launched() -> Iterator[Browser]:
    path = chromium()
    with sync_playwright() as playwright:
        yield playwright.chromium.launch(executable_path=path, args=list(FLAGS))


@contextmanager
def chatting(browser: Browser, served: Served, *, width: int = 1280, **context: Any) -> Iterator[Page]:
    """The chat page in a fresh profile. A console error fails, but for the browser's own on a refused request."""
    troubles: list[str] = []
    own = browser.new_context(viewport={"width": width, "height": 800}, **context)
    page = own.new_page()
    page.on(
        "console",
        lambda message: (
            troubles.append(message.text)
            if message.type == "error" and not message.text.startswith("Failed to load resource")
            else None
        ),
    )
    page.on("pageerror", lambda error: troubles.append(str(error)))
    page.goto(served.url)
    yield page
    own.close()
    assert troubles == []


def ask(page: Page, words: str) -> Locator:
    """Ask, wait for the end of the answer, return its turn."""
    page.get_by_label("Message").fill(words)
    page.get_by_label("Message").press("Enter")
    expect(page.get_by_role("button", name="Send")).to_be_visible(timeout=30_000)
    return page.locator("article.assistant").last


def press(turn: Locator, name: str) -> None:
    turn.get_by_role("button", name=name, exact=True).click()


def button(turn: Locator, name: str) -> Locator:
    return turn.get_by_role("button", name=name, exact=True)
