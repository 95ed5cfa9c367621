"""The judge's texts: the constitution and the rubrics, as versioned values.

They are files, because whoever runs the service may well disagree with ours: `[judge] constitution` and `rubrics`
name others. A score's version holds their digests, so an edit starts new scores and never relabels old ones.
"""

import hashlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path

from store.errors import ConfigError, HonedError
from store.reading import read_bytes

#: Characters of one text at the most: a scorer reads it, and small models have small contexts.
LONGEST_RUBRIC = 6000
LONGEST_CONSTITUTION = 50_000
#: The marks of a rubric are 0..CRITERIA, one point per criterion.
CRITERIA = 5

PRINCIPLE = re.compile(r"[-*]\s+(?:\*\*)?(?P<id>[a-z0-9][a-z0-9-]*)(?:\*\*)?:(?:\*\*)?\s*(?P<text>.*)")
LIST_ITEM = re.compile(r"[-*]\s")
CRITERION = re.compile(r"^\s*(\d+)[.)]\s+\S", re.MULTILINE)


def digest(*parts: str) -> str:
    """Twelve hex digits for a list of texts; where one ends and the next begins matters."""
    joined = "".join(f"{len(part)}:{part}" for part in parts)
    return hashlib.sha256(joined.encode()).hexdigest()[:12]


@dataclass(frozen=True, slots=True)
class Principle:
    """One rule of the constitution. `id` is how judgements name it."""

    id: str
    text: str


@dataclass(frozen=True, slots=True)
class Rubric:
    """How an answer earns its marks, 0 to 5. `name` is the file's without its ending."""

    name: str
    text: str


@dataclass(frozen=True, slots=True)
class Texts:
    """Everything scorers read."""

    constitution: str
    principles: tuple[Principle, ...]
    rubrics: tuple[Rubric, ...]

    def digests(self) -> Mapping[str, str]:
        """Name to digest: "constitution", and each rubric as "rubrics/NAME"."""
        rubrics = {f"rubrics/{rubric.name}": digest(rubric.text) for rubric in self.rubrics}
        return {"constitution": digest(self.constitution), **rubrics}


def read_texts(constitution: Path | None = None, rubrics: Path | None = None) -> Texts:
    """The operator's texts where paths are given, the shipped ones elsewhere.

    Raises:
        ConfigError: a file is missing, empty, too long or not understood (`param` names the key).
    """
    shipped = files("judge")
    own = constitution or shipped / "constitution.md"
    text = _read(own, "judge.constitution", LONGEST_CONSTITUTION)
    folder = rubrics or shipped / "rubrics"
    return Texts(text, parse_principles(text, str(own)), _read_rubrics(folder))


def parse_principles(text: str, source: str = "constitution") -> tuple[Principle, ...]:
    """The principles of a Markdown list whose items read `- **id**: what an answer should do`.

    Lines that belong to no item (headings, paragraphs) are for people and are skipped.

    Raises:
        ConfigError: no principle, one without text or without an id, or an id used twice.
    """
    found: dict[str, str] = {}
    for item in _list_items(text):
        match = PRINCIPLE.fullmatch(item)
        if match is None:
            raise _wrong(
                "judge.constitution", source, f'"{item[:60]}" is not of the form "- **some-id**: text"'
            )
        if not match["text"]:
            raise _wrong("judge.constitution", source, f"principle {match['id']} says nothing")
        if match["id"] in found:
            raise _wrong("judge.constitution", source, f"two principles are called {match['id']}")
        found[match["id"]] = match["text"]
    if not found:
        raise _wrong(
            "judge.constitution", source, 'it has no principle; each is a line "- **some-id**: text"'
        )
    return tuple(Principle(name, words) for name, words in found.items())


def _list_items(text: str) -> Iterator[str]:
    """Top-level list items with their indented lines joined, in order."""
    item: list[str] = []
    for line in [*text.splitlines(), ""]:
        if item and line[:1].isspace() and line.strip():
            item.append(line.strip())
            continue
        if item:
            yield " ".join(item)
            item = []
        if LIST_ITEM.match(line):
            item = [line.strip()]


def _read_rubrics(folder: Path | Traversable) -> tuple[Rubric, ...]:
    if not folder.is_dir():
        raise ConfigError(
            f"judge.rubrics: {folder} is not a folder; give one with *.md files", param="judge.rubrics"
        )
    entries = sorted(
        (entry for entry in folder.iterdir() if entry.name.endswith(".md")), key=lambda e: e.name
    )
    if not entries:
        raise ConfigError(f"judge.rubrics: {folder} holds no *.md file", param="judge.rubrics")
    return tuple(_read_rubric(entry) for entry in entries)


def _read_rubric(entry: Path | Traversable) -> Rubric:
    text = _read(entry, "judge.rubrics", LONGEST_RUBRIC)
    numbers = [int(number) for number in CRITERION.findall(text)]
    # The score is an expectation over the marks 0 to 5: other criteria would mean something else by them.
    if numbers != list(range(1, CRITERIA + 1)):
        raise _wrong(
            "judge.rubrics",
            str(entry),
            f'it needs the criteria "1." to "{CRITERIA}.", one line each, in that order',
        )
    return Rubric(entry.name.removesuffix(".md"), text)


def _read(file: Path | Traversable, key: str, longest: int) -> str:
    try:
        content = read_bytes(file) if isinstance(file, Path) else file.read_bytes()
        text = content.decode().strip()
    except (HonedError, OSError, UnicodeDecodeError) as error:
        raise _wrong(key, str(file), f"it cannot be read as UTF-8 text ({error})") from error
    if not text:
        raise _wrong(key, str(file), "it is empty")
    if len(text) > longest:
        raise _wrong(key, str(file), f"it has {len(text)} characters, at most {longest} are read")
    return text


def _wrong(key: str, source: str, reason: str) -> ConfigError:
    return ConfigError(f"{key}: {source}: {reason}", param=key)
