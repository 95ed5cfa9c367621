"""The page's Markdown in a real browser: what it makes of text, and what it makes nothing of."""

from typing import Any

import pytest
from playwright.sync_api import Page, expect

from tests.integration.chat.chatting import ask

pytestmark = pytest.mark.slow


MARKDOWN = {
    "a **b** *c* `d` ~~e~~": "<p>a <strong>b</strong> <em>c</em> <code>d</code> <del>e</del></p>",
    "***x*** **a *b***": "<p><em><strong>x</strong></em> <strong>a <em>b</em></strong></p>",
    "snake_case_name 2*3*4 * 5": "<p>snake_case_name 2<em>3</em>4 * 5</p>",
    r"\*not\* **open": "<p>*not* **open</p>",
    "one\ntwo\n\nthree": "<p>one<br>two</p><p>three</p>",
    "# T #\ntext\n---": "<h3>T</h3><p>text</p><hr>",
    "> q\n> **r**": "<blockquote><p>q<br><strong>r</strong></p></blockquote>",
    "- a\n- b\n  - c\n- d": "<ul><li>a</li><li>b<ul><li>c</li></ul></li><li>d</li></ul>",
    "3. a\n\n4. b": '<ol start="3"><li><p>a</p></li><li><p>b</p></li></ol>',
    "Text:\n1. a\n2. b\nend": "<p>Text:</p><ol><li>a</li><li>b<br>end</li></ol>",
    "* * *": "<hr>",
    "`` a`b ``": "<p><code>a`b</code></p>",
    "<b>x</b> &amp; <!-- y -->": "<p>&lt;b&gt;x&lt;/b&gt; &amp;amp; &lt;!-- y --&gt;</p>",
    "<img src=x onerror=alert(1)>": "<p>&lt;img src=x onerror=alert(1)&gt;</p>",
    "[x](javascript:alert(1))": "<p>[x](javascript:alert(1))</p>",
    "[x](JAVA\tSCRIPT:a) [y](data:text/html,z)": "<p>[x](JAVA    SCRIPT:a) [y](data:text/html,z)</p>",
    "[x](/ops) [y](//evil)": "<p>[x](/ops) [y](//evil)</p>",
}


def rendered(page: Page, wanted: str, texts: list[str]) -> list[Any]:
    """What each text becomes: an expression over `box`, which holds its nodes, and the `seconds` it took."""
    script = """async (texts) => {
      const { render } = await import("/static/markdown.js");
      return texts.map((text) => {
        const box = document.createElement("div");
        const began = performance.now();
        const nodes = render(text);
        const seconds = (performance.now() - began) / 1000;
        for (const node of nodes) box.append(node);
        return WANTED;
      });
    }"""
    return list(page.evaluate(script.replace("WANTED", wanted), texts))


def test_markdown_becomes_nodes_and_markup_stays_text(page: Page) -> None:
    shown = rendered(page, "box.innerHTML", list(MARKDOWN))
    assert dict(zip(MARKDOWN, shown, strict=True)) == MARKDOWN


LINKS = {
    "[a](https://x.org/y?z=1)": ("a", "https://x.org/y?z=1"),
    "[a](<https://x.org/> 'title')": None,
    "[a](https://x.org/ 'title')": ("a", "https://x.org/"),
    "see https://x.org/a_(b).": ("https://x.org/a_(b)", "https://x.org/a_(b)"),
    "(https://x.org/a)": ("https://x.org/a", "https://x.org/a"),
    "<mailto:a@b.org>": ("mailto:a@b.org", "mailto:a@b.org"),
    "![pic](https://x.org/i.png)": ("pic", "https://x.org/i.png"),
    "[https://bank.org](https://evil.org/)": ("https://bank.org", "https://evil.org/"),
}


def test_links_lead_where_they_say_and_open_elsewhere(page: Page) -> None:
    wanted = {text: link or ("a", "https://x.org/") for text, link in LINKS.items()}
    found = "[...box.querySelectorAll('a, img')].map((a) => [a.textContent, a.href, a.rel, a.title])"
    shown = rendered(page, found, list(wanted))
    safe = "noopener noreferrer nofollow"
    assert shown == [[[words, address, safe, address]] for words, address in wanted.values()]


def test_tables_and_code(page: Page) -> None:
    answer = ask(
        page, "| a | b \\| c |\n|---|--:|\n| `x|y` | 2 |\n| only |\n\n~~~js\nlet a = `<i>`;\n~~~\nafter"
    )
    expect(answer.locator("th")).to_have_text(["a", "b | c"])
    expect(answer.locator("td")).to_have_text(["x|y", "2", "only", ""])
    expect(answer.locator("td.right").first).to_have_text("2")
    expect(answer.locator("pre code")).to_have_text("let a = `<i>`;")
    expect(answer.locator(".words > p")).to_have_text("after")


def test_hostile_and_endless_answers_do_nothing(page: Page) -> None:
    hostile = '<img src=x onerror="window.hit=1"> [c](javascript:window.hit=1) <script>window.hit=1</script>'
    answer = ask(page, hostile)
    expect(answer.locator(".words")).to_have_text(hostile)
    assert answer.locator("img, a, script").count() == 0
    assert page.evaluate("window.hit") is None
    long = ["*a " * 30_000, "[" * 30_000, "`" * 30_000, "> " * 30_000, "- " * 30_000, "_" * 30_000, "a\n" * 30_000,
            "# a" + " " * 60_000 + "b", "|-" * 30_000, "http://" + "." * 60_000 + "x", "\n" * 60_000 + "x",
            "- a\n" + "\n" * 60_000 + "x", "**a `b " * 10_000, "[a](" * 10_000]  # fmt: skip
    seconds = rendered(page, "seconds", long)
    assert max(seconds) < 5, list(zip([text[:8] for text in long], seconds, strict=True))
