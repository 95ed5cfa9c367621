"""A page of findings as text for a terminal, or as Markdown for pasting. Pure: sections in, one string out."""

import re
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

#: Narrower than this, answers stand above each other.
SIDE_BY_SIDE = 100
#: The last column of a table is wrapped, but never narrower than this.
LEAST = 24
#: What a model wrote must not move the cursor or ring the bell.
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
#: What Markdown would not show as it is; an underscore inside a word it does.
MARKUP = re.compile(r"[\\|<`*\[\]]|(?<!\w)_|_(?!\w)")
#: The same at the beginning of a paragraph.
OPENING = re.compile(r"^(?=[#>+-])")


@dataclass(frozen=True, slots=True)
class Table:
    headings: Sequence[str]
    rows: Sequence[Sequence[Any]]


@dataclass(frozen=True, slots=True)
class Exchange:
    """One prompt with two answers, and who gave them."""

    asked: str
    left: tuple[str, str]
    right: tuple[str, str]


Block = str | Table | Exchange


@dataclass(frozen=True, slots=True)
class Section:
    title: str
    blocks: tuple[Block, ...]


@dataclass(frozen=True, slots=True)
class Page:
    title: str
    sections: tuple[Section, ...]


def cell(value: Any) -> str:
    """A number to three digits, nothing as a dash, text on one line."""
    if value is None:
        return "-"
    return f"{value:.3g}" if isinstance(value, float) else " ".join(printable(str(value)).split())


def counted(count: int, noun: str, plural: str | None = None) -> str:
    """A number of something in words."""
    return f"{count} {noun if count == 1 else plural or noun + 's'}"


def printable(text: str) -> str:
    """Text without control characters; tabs and line ends stay."""
    return CONTROL.sub("\ufffd", text.replace("\r\n", "\n"))


def wrapped(text: str, width: int) -> list[str]:
    """Lines of at most `width` characters; line ends of the text's own are kept."""
    lines: list[str] = []
    for line in printable(text).expandtabs(4).split("\n"):
        lines += textwrap.wrap(line, width, drop_whitespace=True, replace_whitespace=False) or [""]
    return lines


def columns(table: Table, width: int) -> list[str]:
    """Left-aligned columns, two spaces between; the last one wrapped where it would not fit."""
    cells = [list(table.headings), *[[cell(value) for value in row] for row in table.rows]]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    before = sum(widths[:-1]) + 2 * (len(widths) - 1)
    last = max(width - before, LEAST)
    lines = []
    for row in cells:
        first, *more = textwrap.wrap(row[-1], last) or [""]
        head = "".join(value.ljust(size) + "  " for value, size in zip(row[:-1], widths[:-1], strict=True))
        lines.append((head + first).rstrip())
        lines += [" " * before + rest for rest in more]
    return lines


def exchange(one: Exchange, width: int) -> list[str]:
    """Side by side where there is room, else above each other."""
    lines = wrapped(f"> {one.asked}", width)
    if width < SIDE_BY_SIDE:
        for name, text in (one.left, one.right):
            lines += [f"[{name}]", *(f"  {line}".rstrip() for line in wrapped(text, width - 2))]
        return lines
    half = (width - 3) // 2
    left, right = ([f"[{name}]", *wrapped(text, half)] for name, text in (one.left, one.right))
    height = max(len(left), len(right))
    left += [""] * (height - len(left))
    right += [""] * (height - len(right))
    return lines + [f"{a.ljust(half)} | {b}".rstrip() for a, b in zip(left, right, strict=True)]


def text(page: Page, width: int) -> str:
    """For a terminal of `width` characters."""
    lines = wrapped(page.title, width)
    for section in page.sections:
        lines += ["", section.title.upper()]
        for index, block in enumerate(section.blocks):
            if index and not isinstance(block, str):
                lines.append("")
            match block:
                case str():
                    lines += wrapped(block, width)
                case Table():
                    lines += columns(block, width)
                case Exchange():
                    lines += exchange(block, width)
    return "\n".join(lines)


def fenced(content: str) -> list[str]:
    """A code block whose fence the content cannot close."""
    longest = max((len(run) for run in re.findall(r"`{3,}", content)), default=2)
    fence = "`" * (longest + 1)
    return [f"{fence}text", *printable(content).split("\n"), fence]


def escaped(value: Any) -> str:
    """A cell, or text inside a line, that Markdown shows as it is."""
    return MARKUP.sub(r"\\\g<0>", cell(value))


def markdown(page: Page) -> str:
    """The same as Markdown. What people and models wrote is fenced or escaped: it stays text."""
    lines = [f"# {escaped(page.title)}"]
    for section in page.sections:
        lines += ["", f"## {section.title}"]
        for block in section.blocks:
            lines.append("")
            match block:
                case str():
                    lines.append(OPENING.sub(r"\\", escaped(block)))
                case Table():
                    lines.append("| " + " | ".join(map(escaped, block.headings)) + " |")
                    lines.append("|" + "---|" * len(block.headings))
                    lines += ["| " + " | ".join(map(escaped, row)) + " |" for row in block.rows]
                case Exchange():
                    lines += fenced(f"> {block.asked}")
                    for name, answer in (block.left, block.right):
                        lines += ["", f"{escaped(name)}:", "", *fenced(answer)]
    return "\n".join(lines)
