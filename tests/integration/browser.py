"""A real Chromium for the tests of pages: headless, without the connections a browser makes for itself."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from playwright.sync_api import Page, sync_playwright

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


def chromium() -> str:
    """Where it is. Without a browser the other tests still tell something; CI installs one."""
    if CHROMIUM is None:
        pytest.skip(
            "no Chromium on this machine: install it (Debian: apt-get install chromium) to test the pages"
        )
    return CHROMIUM


@contextmanager
def opened(*, width: int = 390, height: int = 800, **context: Any) -> Iterator[Page]:
    """A page in a fresh profile; any console error or failed script fails the test that caused it."""
    path = chromium()
    troubles: list[str] = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=list(FLAGS))
        page = browser.new_page(viewport={"width": width, "height": height}, **context)
        page.on("console", lambda message: troubles.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: troubles.append(str(error)))
        yield page
        browser.close()
    assert troubles == []
