"""The chat page in a real browser: every gesture ends in the database as the feedback it is."""

import hashlib
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, expect

from store.records import CompletionStatus, FeedbackKind
from tests.integration.chat.chatting import Served, ask, button, chatting, press, serving, settle
from tests.integration.service import wait_until

pytestmark = pytest.mark.slow


def test_a_vote_fills_survives_a_reload_and_is_taken_back(page: Page, served: Served) -> None:
    answer = ask(page, "hello **there**")
    expect(answer.locator(".words strong")).to_have_text("there")
    expect(answer.locator(".version")).to_have_text("base")
    expect(button(answer, "Good answer")).to_have_attribute("aria-pressed", "false")
    before = len(served.events(FeedbackKind.THUMB))
    press(answer, "Good answer")
    expect(button(answer, "Good answer")).to_have_attribute("aria-pressed", "true")
    assert served.last(FeedbackKind.THUMB, before + 1).value is True
    page.reload()
    answer = page.locator("article.assistant").last
    expect(answer.locator(".words")).to_have_text("hello there")
    expect(button(answer, "Good answer")).to_have_attribute("aria-pressed", "true")
    press(answer, "Good answer")
    expect(button(answer, "Good answer")).to_have_attribute("aria-pressed", "false")
    taken_back = served.last(FeedbackKind.THUMB, before + 2)
    assert taken_back.value is None
    [counts] = served.store.feedback.latest(taken_back.completion_id)
    assert counts.id == taken_back.id
    # What is said elsewhere, under the same name, shows here after a reload.
    elsewhere = replace(taken_back, id="elsewhere", value=False)
    served.store.feedback.add(elsewhere)
    page.reload()
    expect(button(page.locator("article.assistant"), "Bad answer")).to_have_attribute("aria-pressed", "true")


def test_a_vote_whose_word_was_lost_is_a_new_one_once_another_came_between(
    page: Page, served: Served
) -> None:
    answer = ask(page, "how deep is the sea")
    before = len(served.events(FeedbackKind.THUMB))
    page.route(
        "**/v1/feedback", lambda route: (route.fetch(), route.abort())
    )  # taken, and nobody hears of it
    press(answer, "Good answer")
    served.last(FeedbackKind.THUMB, before + 1)
    expect(button(answer, "Good answer")).to_have_attribute("aria-pressed", "false")
    page.unroute("**/v1/feedback")
    press(answer, "Bad answer")
    expect(button(answer, "Bad answer")).to_have_attribute("aria-pressed", "true")
    press(answer, "Good answer")
    expect(button(answer, "Good answer")).to_have_attribute("aria-pressed", "true")
    last = served.last(FeedbackKind.THUMB, before + 3)
    [counts] = served.store.feedback.latest(last.completion_id)
    assert (counts.id, counts.value) == (last.id, True)


def test_only_what_the_service_acknowledged_is_shown_as_voted(page: Page, served: Served) -> None:
    answer = ask(page, "how tall is a tree")
    before = len(served.events(FeedbackKind.THUMB))
    page.context.set_offline(True)
    press(answer, "Good answer")
    expect(answer.locator(".trouble")).to_have_text("Your vote was not taken. The server cannot be reached.")
    expect(button(answer, "Good answer")).to_have_attribute("aria-pressed", "false")
    page.context.set_offline(False)
    press(answer, "Good answer")
    expect(button(answer, "Good answer")).to_have_attribute("aria-pressed", "true")
    expect(answer.locator(".trouble")).to_have_count(0)
    assert len(served.events(FeedbackKind.THUMB)) == before + 1


def test_a_thumb_down_may_say_why(page: Page, served: Served) -> None:
    answer = ask(page, "the moon is made of cheese")
    before = len(served.events(FeedbackKind.THUMB))
    press(answer, "Bad answer")
    answer.get_by_role("radio", name="Not true").check()
    answer.get_by_label("Comment").fill("It is rock.")
    press(answer, "Send")
    expect(answer).to_contain_text("Thank you for saying why.")
    expect(button(answer, "Bad answer")).to_have_attribute("aria-pressed", "true")
    plain, why = served.events(FeedbackKind.THUMB)[before:]
    assert (plain.value, plain.reason, plain.comment) == (False, None, None)
    assert (why.value, why.reason, why.comment) == (False, "Not true", "It is rock.")
    [counts] = served.store.feedback.latest(why.completion_id)
    assert counts.id == why.id


def test_answers_are_kept_side_by_side_and_one_is_picked(page: Page, served: Served) -> None:
    answer = ask(page, "a poem")
    before = len(served.events(FeedbackKind.REGENERATE)), len(served.events(FeedbackKind.PREFERENCE))
    press(answer, "Answer again")
    expect(answer.locator(".words")).to_contain_text("take 2")
    expect(answer).to_contain_text("2/2")
    retried = served.last(FeedbackKind.REGENERATE, before[0] + 1)
    press(answer, "Earlier answer")
    expect(answer.locator(".words")).to_have_text("a poem")
    press(answer, "Compare")
    expect(answer.locator(".sides .words")).to_have_count(2)
    press(answer, "Answer 1 is better")
    expect(answer).to_contain_text("Your choice.")
    picked = served.last(FeedbackKind.PREFERENCE, before[1] + 1)
    assert (picked.completion_id, picked.value) == (retried.completion_id, retried.value)
    expect(answer.locator(".words")).to_have_text("a poem")
    press(answer, "Compare")
    expect(button(answer, "Answer 2 is better")).to_have_attribute("aria-disabled", "true")
    page.keyboard.press("Escape")
    expect(answer.locator(".sides")).to_have_count(0)


def test_a_correction_becomes_an_edit_and_the_conversation_goes_on_from_it(
    page: Page, served: Served
) -> None:
    answer = ask(page, "two and two is five")
    before = len(served.events(FeedbackKind.EDIT))
    press(answer, "Correct this answer")
    expect(answer.get_by_label("Corrected answer")).to_be_focused()
    answer.get_by_label("Corrected answer").fill("Two and two is four.")
    press(answer, "Save correction")
    expect(answer.locator(".words")).to_have_text("Two and two is four.")
    expect(answer).to_contain_text("Corrected by you.")
    assert served.last(FeedbackKind.EDIT, before + 1).value == "Two and two is four."
    ask(page, "and three?")
    assert [turn.content for turn in served.engine.asked[-1]][1] == "Two and two is four."


def test_copying_an_answer_and_its_code(browser: Browser, served: Served) -> None:
    rights = ["clipboard-read", "clipboard-write"]
    with chatting(browser, served, permissions=rights) as page:
        answer = ask(page, "Do:\n```python\nprint('<b>')\n```")
        before = len(served.events(FeedbackKind.CLICK))
        press(answer, "Copy")
        expect(answer).to_contain_text("Copied.")
        assert served.last(FeedbackKind.CLICK, before + 1).value == "copy"
        assert page.evaluate("navigator.clipboard.readText()") == "Do:\n```python\nprint('<b>')\n```"
        press(answer, "Copy this python")
        served.last(FeedbackKind.CLICK, before + 2)
        assert page.evaluate("navigator.clipboard.readText()") == "print('<b>')"


@pytest.mark.parametrize("by", ["button", "Escape", "reload"])
def test_stopping_keeps_what_was_said(page: Page, served: Served, by: str) -> None:
    page.get_by_label("Message").fill("word " * 450)
    page.get_by_label("Message").press("Enter")
    answer = page.locator("article.assistant").last
    expect(answer.locator(".words")).to_contain_text("word word word")
    if by == "button":
        page.get_by_role("button", name="Stop").click()
    elif by == "Escape":
        page.keyboard.press("Escape")
    else:
        page.reload()
        expect(answer.locator(".words")).to_contain_text("word word word")
    expect(answer).to_contain_text("Stopped.")
    expect(button(answer, "Good answer")).to_be_visible()
    expect(page.get_by_label("Message")).to_be_focused()

    def cancelled() -> bool:
        return served.store.completions.recent()[0].status is CompletionStatus.CANCELLED

    wait_until(cancelled, seconds=20)


@pytest.mark.parametrize(
    ("why", "said"), [("closed", "The model is not available just now: "), ("full", "The server is busy: ")]
)
def test_a_refusal_is_said_plainly_and_tried_again(page: Page, served: Served, why: str, said: str) -> None:
    if why == "closed":
        settle(served.engine.close())
    else:
        served.engine.full(True)
    answer = ask(page, f"are you {why}?")
    expect(answer.locator(".trouble")).to_contain_text(said)
    again = answer.get_by_role("button", name=re.compile("Try again"))
    if why == "closed":
        settle(served.engine.start())
    else:
        served.engine.full(False)
    expect(again).to_have_text("Try again", timeout=20_000)
    again.click()
    expect(answer.locator(".words")).to_have_text(f"are you {why}?")
    expect(answer.locator(".trouble")).to_have_count(0)
    expect(answer.locator(".bar")).not_to_contain_text("1/2")


def test_with_keys_the_browser_asks_for_one_and_votes_with_it(browser: Browser, tmp_path: Path) -> None:
    digest = hashlib.sha256(b"her key").hexdigest()
    keys = tmp_path / "keys.toml"
    keys.write_text(f'[[key]]\nname = "ann"\nsha256 = "{digest}"\nscopes = ["chat", "feedback"]\n')
    own = {"username": "", "password": "her key"}
    with serving(keys) as closed, chatting(browser, closed, http_credentials=own) as page:
        answer = ask(page, "who am I")
        press(answer, "Good answer")
        expect(button(answer, "Good answer")).to_have_attribute("aria-pressed", "true")
        assert closed.last(FeedbackKind.THUMB).principal == "key:ann"


def test_conversations_are_listed_renamed_and_deleted(page: Page, served: Served) -> None:
    ask(page, "about eggs")
    page.get_by_role("button", name="New chat").click()
    expect(page.locator("article")).to_have_count(0)
    ask(page, "about tides")
    titles = page.locator("#conversations .title")
    expect(titles).to_have_text(["about tides", "about eggs"])
    page.get_by_role("button", name="Rename about tides").click()
    page.get_by_label("New name").fill("The sea")
    page.get_by_label("New name").press("Enter")
    page.reload()
    expect(titles).to_have_text(["The sea", "about eggs"])
    expect(page.locator("[aria-current]")).to_have_text("The sea")
    titles.nth(1).click()
    expect(page.locator("article.user")).to_have_text("about eggs")
    page.on("dialog", lambda dialog: dialog.accept())
    page.get_by_role("button", name="Delete about eggs").click()
    expect(titles).to_have_text(["The sea"])
    expect(page.locator("article.user")).to_have_text("about tides")


def test_an_answer_goes_on_while_another_conversation_is_looked_at(page: Page, served: Served) -> None:
    ask(page, "first")
    page.get_by_role("button", name="New chat").click()
    page.get_by_label("Message").fill("slow " * 100)
    page.get_by_label("Message").press("Enter")
    expect(page.get_by_role("button", name="Stop")).to_be_visible()
    page.locator("#conversations .title", has_text="first").click()
    expect(page.get_by_role("button", name="Send")).to_be_visible()
    expect(page.locator("article.assistant .words")).to_have_text("first")
    page.locator("#conversations .title", has_text="slow").click()
    expect(page.get_by_role("button", name="Send")).to_be_visible(timeout=20_000)
    expect(page.locator("article.assistant .words")).to_have_text(("slow " * 100).strip())


WIDE = (
    "# A title\n\nSome text with `code` and a " + "long" * 40 + " word.\n\n"
    "```python\n" + "x = 1  # " + "wide " * 40 + "\n```\n\n"
    "|" + " column |" * 12 + "\n|" + "---|" * 12 + "\n|" + " cell |" * 12 + "\n\n- one\n- two"
)


@pytest.mark.parametrize(("width", "scheme"), [(390, "light"), (1280, "dark")])
def test_it_fits_a_phone_and_everybody(browser: Browser, served: Served, width: int, scheme: Any) -> None:
    axe = Axe()

    def fine(when: str) -> None:
        assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth"), when
        assert page.evaluate(
            "document.querySelector('#log').scrollWidth <= document.querySelector('#log').clientWidth"
        )
        found = [
            one for one in axe.run(page).response["violations"] if one["impact"] in ("serious", "critical")
        ]
        assert found == [], (
            when,
            [(one["id"], [node["html"][:150] for node in one["nodes"]]) for one in found],
        )

    with chatting(browser, served, width=width, color_scheme=scheme) as page:
        fine("empty")
        answer = ask(page, WIDE)
        fine("answered")
        press(answer, "Bad answer")
        expect(answer.get_by_text("Not true")).to_be_visible()
        fine("reasons")
        press(answer, "Not now")
        press(answer, "Answer again")
        expect(answer).to_contain_text("2/2")
        press(answer, "Compare")
        fine("compared")
        if width < 800:
            page.get_by_role("button", name="Conversations").click()
            expect(page.locator("#conversations .title").first).to_be_focused()
            fine("list")
            page.keyboard.press("Escape")
            expect(page.locator("#side")).to_be_hidden()


def test_the_keyboard_alone_is_enough(page: Page, served: Served) -> None:
    expect(page.get_by_label("Message")).to_be_focused()
    page.keyboard.type("one")
    page.keyboard.press("Shift+Enter")
    page.keyboard.type("two")
    page.keyboard.press("Enter")
    answer = page.locator("article.assistant").last
    expect(answer.locator(".words")).to_have_text("onetwo")
    expect(page.get_by_role("button", name="Send")).to_be_visible()
    assert served.engine.asked[-1][-1].content == "one\ntwo"
    expect(page.locator("#told")).to_have_text(re.compile("^Answer: one"))
    before = len(served.events(FeedbackKind.THUMB))
    names = []
    for _ in range(4):
        page.keyboard.press("Shift+Tab")
        names.append(page.evaluate("document.activeElement.getAttribute('aria-label')"))
    assert names == ["Answer again", "Correct this answer", "Copy", "Bad answer"]
    page.keyboard.press("Enter")
    expect(answer.get_by_label("Not true")).to_be_focused()
    assert served.last(FeedbackKind.THUMB, before + 1).value is False
    page.keyboard.press("Escape")
    expect(answer.get_by_label("Comment")).to_have_count(0)
    expect(button(answer, "Bad answer")).to_be_focused()


def test_the_conversation_of_an_older_page_is_carried_over(page: Page) -> None:
    turns = [
        {"role": "user", "text": "an old question"},
        {
            "role": "assistant",
            "shown": 0,
            "answers": [{"id": "chatcmpl-gone", "text": "an old answer", "thumb": True}],
        },
    ]
    page.evaluate(
        "kept => { localStorage.setItem('honed.conversation.1', kept); sessionStorage.clear(); }",
        json.dumps(turns),
    )
    page.evaluate("localStorage.setItem('honed.chat.broken', '{\"id\": 7')")
    page.reload()
    expect(page.locator("article.assistant .words")).to_have_text("an old answer")
    expect(button(page.locator("article.assistant"), "Good answer")).to_have_attribute("aria-pressed", "true")
    expect(page.locator("#conversations .title")).to_have_text(["an old question"])
    assert page.evaluate("localStorage.getItem('honed.conversation.1')") is None
