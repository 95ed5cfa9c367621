"""The operators' pages in a real browser: an iteration watched live, a rollback with its reason, and more."""

import asyncio
import hashlib
import re
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page, expect

from api.app import create_app
from api.config import ApiConfig
from policies.engine import AdapterRef
from policies.fake_engine import FakeEngine, FakeLimits
from store.db import Store
from store.records import Stage
from tests.api.past import live_through, version_of
from tests.clock import Clock
from tests.integration.browser import opened
from tests.integration.service import Service, chat_and_vote, finished_iteration, running, wait_until
from tests.listening import listening

pytestmark = pytest.mark.slow

PAGES = (
    "/ops",
    "/ops/iterations",
    "/ops/iterations/7",
    "/ops/adapters",
    f"/ops/adapters/{version_of(7)}",
    "/ops/rollback",
    "/ops/plots",
    "/ops/feedback",
    "/ops/completions/c7",
    "/ops/release",
    "/ops/queue",
    "/ops/judges",
    "/ops/audit",
)


@contextmanager
def served(store: Store, clock: Clock, keys: Path | None = None) -> Iterator[str]:
    """The app on a port of its own, with the fake engine; yields where."""
    engine = FakeEngine(FakeLimits(verify=False))
    asyncio.run(engine.start())
    active = store.adapters.active()
    if active is not None:
        asyncio.run(engine.load(AdapterRef(active.version, active.path, active.digest)))
    settings = ApiConfig(events_poll_s=0.05, keys_file=keys)
    app = create_app(store=store, engine=engine, settings=settings, clock=clock)
    with listening(app) as address:
        yield address


@pytest.fixture(scope="module")
def past() -> Iterator[str]:
    """A service with nine iterations behind it and something in quarantine."""
    clock = Clock(1_800_000_000.0)
    with Store.memory(clock=clock) as store:
        live_through(store, clock, 9)
        store.quarantine.hold([7, 8], kept=[], actor="ann", reason="it rambles")
        with served(store, clock) as url:
            yield url


@pytest.mark.parametrize(("scheme", "width"), [("light", 1280), ("dark", 390)])
def test_no_page_has_a_serious_accessibility_violation(past: str, scheme: str, width: int) -> None:
    axe = Axe()
    with opened(width=width, color_scheme=scheme) as page:
        for path in PAGES:
            page.goto(past + path, wait_until="load")
            for details in page.locator("details").all():
                details.evaluate("one => { one.open = true }")
            found = axe.run(page).response["violations"]
            serious = [one for one in found if one["impact"] in ("serious", "critical")]
            told = [(one["id"], [node["html"][:120] for node in one["nodes"][:3]]) for one in serious]
            assert told == [], (path, told)


def test_nothing_is_wider_than_a_phone_and_everything_is_reached_by_keys(past: str) -> None:
    with opened(width=390) as page:
        for path in PAGES:
            page.goto(past + path, wait_until="load")
            assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth"), path
        page.goto(past + "/ops/rollback")
        expect(page.get_by_label("Reason, for the audit log")).to_be_focused()
        page.keyboard.type("from the keyboard")
        page.keyboard.press("Enter")
        expect(page.locator("h1")).to_contain_text("Rollback: pending")
        page.get_by_role("link", name="Iterations").focus()
        page.keyboard.press("Enter")
        expect(page.locator("h1")).to_have_text("Iterations")


def test_every_plot_has_its_numbers_beside_it(past: str) -> None:
    with opened(width=1280) as page:
        page.goto(past + "/ops/plots")
        charts = page.locator(".plot:has(svg.chart)")
        assert charts.count() >= 5
        for plot in charts.all():
            plot.locator("summary").click()
            assert plot.locator("tbody tr").count() > 0
            assert plot.get_by_role("img").first.get_attribute("aria-labelledby")


def test_five_hundred_iterations_stay_quick() -> None:
    clock = Clock(1_800_000_000.0)
    with Store.memory(clock=clock) as store:
        live_through(store, clock, 500)
        with served(store, clock) as url, opened(width=1280) as page:
            began = time.monotonic()
            page.goto(url + "/ops/iterations?limit=500", wait_until="load")
            assert page.locator("#iterations tbody tr").count() == 500
            assert time.monotonic() - began < 10, "about half a second where nothing else runs"
            page.goto(url + "/ops/plots", wait_until="load")
            assert page.locator("svg.chart").count() >= 5


def test_the_page_follows_what_happens_without_being_loaded_again() -> None:
    clock = Clock(1_800_000_000.0)
    with Store.memory(clock=clock) as store, served(store, clock) as url, opened() as page:
        page.goto(url + "/ops")
        expect(page.locator("#now")).to_contain_text("Not planned yet")
        page.evaluate("window.sameDocument = true")
        begun = store.iterations.begin(trigger="manual", incumbent=None, config={})
        store.iterations.move(begun.id, Stage.TRAINING)
        for done, at in ((1, 10.0), (4, 40.0)):
            told = {"phase": "train", "done": done, "total": 10, "at": clock.now + at}
            store.iterations.set_progress(begun.id, told)
        words = page.locator(f'[data-progress="{begun.id}"] [data-words]')
        expect(words).to_have_text("train: 4 of 10, about 1 min left")
        expect(page.locator("progress")).to_have_js_property("value", 4)
        store.audit.add(actor="watch", action="rollback", subject="base", reason="people found it worse")
        expect(page.locator("#alerts")).to_contain_text("people found it worse")
        page.get_by_label("Reason, for the audit log").fill("being typed")
        store.iterations.move(begun.id, Stage.REJECTED, changes={"reason": "KL"})
        expect(page.locator("#now")).to_contain_text("rejected")
        expect(page.get_by_label("Reason, for the audit log")).to_have_value("being typed")
        assert page.evaluate("window.sameDocument")


def test_an_operator_logs_in_acts_and_logs_out(tmp_path: Path) -> None:
    keys = tmp_path / "keys.toml"
    digest = hashlib.sha256(b"op-key").hexdigest()
    keys.write_text(f'[[key]]\nname = "op"\nsha256 = "{digest}"\nscopes = ["operate"]\n')
    clock = Clock(1_800_000_000.0)
    with Store.memory(clock=clock) as store, served(store, clock, keys) as url, opened() as page:
        live_through(store, clock, 2)
        page.goto(url + "/ops/iterations")
        page.get_by_label("Key").fill("op-key")
        page.get_by_role("button", name="Log in").click()
        expect(page.locator("h1")).to_have_text("Iterations")
        assert page.evaluate("document.cookie") == "", "scripts do not see the session"
        page.goto(url + "/ops")
        page.get_by_label("Reason, for the audit log").fill("a talk is on")
        page.get_by_role("button", name="Pause").click()
        expect(page.locator("h1")).to_contain_text("Pause: pending")
        expect(page.locator("#intent")).to_contain_text("key:op")
        page.get_by_role("button", name="Log out").click()
        expect(page.get_by_label("Key")).to_be_visible()
        page.goto(url + "/ops/audit")
        expect(page.get_by_label("Key")).to_be_visible()


@pytest.fixture(scope="module")
def service(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with running(tmp_path_factory.mktemp("ops") / "state", tiny_model) as running_service:
        assert running_service.wait_until_ready() is not None, running_service.tail()
        yield running_service


def url_of(service: Service) -> str:
    assert service.client is not None
    return service.client.url


def test_an_operator_compares_two_answers_side_by_side(service: Service) -> None:
    client = service.client
    assert client is not None
    for number in range(3):
        body = {"model": "honed", "n": 2, "temperature": 1.5, "max_tokens": 12,
                "messages": [{"role": "user", "content": f"pair {number}"}]}  # fmt: skip
        client.post("/v1/chat/completions", body)
    offered = client.get("/v1/operator/queue?limit=50")["data"]
    assert len(offered) >= 3
    with opened() as page:
        page.goto(url_of(service) + "/ops/queue")
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


def ask_and_read(page: Page, service: Service, words: str) -> str:
    """Ask on the chat page; the version that answered."""
    page.goto(url_of(service))
    page.get_by_label("Message", exact=True).fill(words)
    with page.expect_response("**/v1/chat/completions", timeout=30_000) as told:
        page.get_by_role("button", name="Send", exact=True).click()
    version = told.value.headers["x-honed-adapter"]
    expect(page.locator("body")).to_contain_text(version, timeout=30_000)
    return version


def test_an_iteration_is_watched_to_its_promotion_and_rolled_back_with_a_reason(service: Service) -> None:
    client = service.client
    assert client is not None
    chat_and_vote(client, 16)
    with opened() as page:
        page.goto(url_of(service) + "/ops")
        expect(page.locator("#serving")).to_have_text("base")
        page.get_by_role("button", name="Train now").click()
        # The page of the order leads to the iteration as soon as there is one, and that page follows it to its end.
        page.get_by_role("link", name=re.compile("Iteration 1|^1$")).first.click(timeout=60_000)
        expect(page.locator("h1")).to_contain_text("Iteration 1")
        expect(page.locator("h1 .stage")).to_have_text("active", timeout=180_000)
        expect(page.locator("#stages")).to_contain_text("evaluating")
        ended = wait_until(lambda: finished_iteration(client, 1))
        page.reload()
        expect(page.locator("#gates")).to_contain_text("kl/step_token")
        expect(page.locator("#ledger svg.bullet").first).to_be_visible()
        expect(page.locator("#plot-loss svg.chart")).to_be_visible()
        version = ended["candidate"]
        assert ask_and_read(page, service, "who answers?") == version

        page.goto(url_of(service) + "/ops/adapters")
        expect(page.locator('.chain [aria-current="true"]')).to_contain_text(version)
        page.get_by_role("link", name="Roll back one step").click()
        expect(page.locator("#happens")).to_contain_text("The untouched base model answers everybody again")
        page.get_by_role("checkbox").check()
        page.get_by_label("Reason, for the audit log").fill("worse on cooking")
        page.get_by_role("button", name="Roll back").click()
        expect(page.locator("#status")).to_have_text("done", timeout=30_000)
        assert client.get("/v1/status")["serving"]["version"] == "base"
        held = client.get("/v1/status")["quarantined"]
        examples = client.get("/v1/iterations/1")["examples"]
        assert held == len({row["feedback_id"] for row in examples if row["split"] == "train"}) > 0
        page.goto(url_of(service) + "/ops/audit")
        expect(page.locator("#audit")).to_contain_text("worse on cooking")
        assert ask_and_read(page, service, "and now?") == "base"

        page.goto(url_of(service) + "/ops/feedback")
        expect(page.locator("#held")).to_contain_text("worse on cooking")
        page.get_by_role("link", name="Release all").click()
        page.get_by_label("Reason, for the audit log").fill("the votes were fine")
        page.get_by_role("button", name="Release").click()
        expect(page.locator("#status")).to_have_text("done", timeout=30_000)
        assert client.get("/v1/status")["quarantined"] == 0
