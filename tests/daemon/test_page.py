"""Pages as terminal text and as Markdown: nothing is lost, nothing runs over, nothing a model wrote takes effect."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from daemon.page import (
    Exchange,
    Page,
    Section,
    Table,
    columns,
    counted,
    escaped,
    exchange,
    fenced,
    markdown,
    text,
)

TABLE = Table(
    ("A", "LONG", "WHY"), [(1, None, "short"), ("wide", 0.12345, "a sentence that goes on and on and on")]
)


def test_tables_line_up_and_the_last_column_wraps() -> None:
    assert columns(TABLE, 40) == [
        "A     LONG   WHY",
        "1     -      short",
        "wide  0.123  a sentence that goes on and",
        "             on and on",
    ]


def test_a_narrow_terminal_still_leaves_the_last_column_readable() -> None:
    assert columns(TABLE, 5) == columns(TABLE, 13 + 24)


@pytest.mark.parametrize("width", [60, 140])
def test_answers_stand_side_by_side_only_where_there_is_room(width: int) -> None:
    lines = exchange(Exchange("Why?", ("before", "One.\nTwo."), ("after", "Three.")), width)
    assert lines[0] == "> Why?"
    beside = any("One." in line and "Three." in line for line in lines)
    assert beside is (width == 140)
    assert [word for line in lines for word in line.split() if word in ("One.", "Two.", "Three.")].count(
        "Two."
    ) == 1


@settings(deadline=None)
@given(st.text(max_size=300), st.text(max_size=300), st.integers(40, 160))
def test_no_line_of_an_exchange_is_wider_than_the_terminal(left: str, right: str, width: int) -> None:
    for line in exchange(Exchange("?", ("a", left), ("b", right)), width):
        assert len(line) <= width
        assert not any(ord(character) < 32 or 127 <= ord(character) < 160 for character in line)


def test_nothing_a_model_wrote_reaches_the_terminal_as_a_command() -> None:
    page = Page("t", (Section("s", (Exchange("?", ("a", "\x1b[2Jgone\x07"), ("b", "fine")),)),))
    assert "\x1b" not in text(page, 80) and "\x07" not in text(page, 80) and "\x1b" not in markdown(page)
    assert "[2Jgone" in text(page, 80)


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        ("a|b", "a\\|b"),
        ("<b>", "\\<b>"),
        ("`x` *y*", "\\`x\\` \\*y\\*"),
        ("kl/step_token", "kl/step_token"),
        ("_x_", "\\_x\\_"),
        (-0.5, "-0.5"),
        ("two\nlines", "two lines"),
        (0.12345, "0.123"),
        (None, "-"),
    ],
)
def test_markdown_shows_what_was_said_as_it_was_said(said: object, shown: str) -> None:
    assert escaped(said) == shown


@settings(deadline=None)
@given(st.text(alphabet="`a\n ", max_size=60))
def test_an_answer_cannot_leave_its_code_block(answer: str) -> None:
    opening, *inside, closing = fenced(answer)
    assert opening == f"{closing}text" and set(closing) == {"`"} and len(closing) >= 3
    assert all(closing not in line for line in inside)
    assert "\n".join(inside) == answer


@pytest.mark.parametrize("said", ["# no heading", "- no list", "> no quotation", "+ no list"])
def test_a_paragraph_begins_nothing_else(said: str) -> None:
    assert markdown(Page("t", (Section("s", (said,)),))).endswith(f"\n\\{said}")


@pytest.mark.parametrize(("count", "said"), [(0, "0 votes"), (1, "1 vote"), (2, "2 votes")])
def test_one_of_something_is_singular(count: int, said: str) -> None:
    assert counted(count, "vote") == said
    assert counted(count, "person", "people").startswith(str(count))


def test_markdown_has_every_part() -> None:
    page = Page("iteration 1", (Section("Gates", ("Some | words.", TABLE)),))
    assert markdown(page).split("\n") == [
        "# iteration 1",
        "",
        "## Gates",
        "",
        "Some \\| words.",
        "",
        "| A | LONG | WHY |",
        "|---|---|---|",
        "| 1 | - | short |",
        "| wide | 0.123 | a sentence that goes on and on and on |",
    ]
    assert text(page, 80).split("\n")[:5] == ["iteration 1", "", "GATES", "Some | words.", ""]
