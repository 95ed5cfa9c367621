"""The files that forgetting reaches: run directories, retired weights, copies of the database, exports.

What lies in the state directory is looked at; a copy that somebody put elsewhere is theirs to delete.
"""

import contextlib
import json
import os
import re
import shutil
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from daemon.state_files import DATABASE, ITERATIONS, LOCK, MODELS, SECRET, SERVICE
from store.db import Store
from store.files import fsync_directory, write_durably
from store.quotes import Quotes
from store.scrubbing import WHO, Holdings

#: Files of the service itself, that hold nobody's words or are cleaned in another way.
OWN = frozenset({DATABASE, f"{DATABASE}-wal", f"{DATABASE}-shm", LOCK, SECRET, SERVICE})
#: What is looked into; other kinds (weights) hold no text.
TEXT = frozenset({".json", ".jsonl", ".csv", ".md", ".txt", ".log"})
#: Characters from which on a name with a figure in it is no word of the language.
LONG = 6


@dataclass(frozen=True)
class Traces:
    """What files are searched for: words, and a name (empty: none)."""

    quotes: Quotes
    name: str = ""

    @property
    def distinctive(self) -> bool:
        """Whether the name means nobody and nothing else: an application may call its people "user" or "1"."""
        name = self.name
        return ":" in name or "@" in name or (len(name) >= LONG and any(map(str.isdigit, name)))

    def in_json(self, value: Any) -> bool:
        return self.quotes.anywhere(value) or (bool(self.name) and self.named(value))

    def named(self, value: Any, *, under: str = "") -> bool:
        """Whether a JSON value has the name where it says who somebody is, or anywhere where it is no word."""
        if isinstance(value, str):
            return value == self.name and (self.distinctive or under in WHO)
        if isinstance(value, dict):
            keys = self.distinctive and self.name in value
            return keys or any(self.named(inner, under=key) for key, inner in value.items())
        return isinstance(value, list) and any(self.named(each, under=under) for each in value)

    def in_text(self, text: str) -> bool:
        names = self.quotes.ids | ({self.name} if self.distinctive else set())
        return self.quotes.within(text) or any(each in names for each in re.split(r"[\s,\"']+", text))


def erase(
    store: Store,
    directory: Path,
    held: Holdings,
    iterations: Collection[int],
    versions: Collection[str],
    name: str = "",
) -> int:
    """Delete what shows any of it. Returns how many files went or lost rows.

    Args:
        store: knows where adapters lie.
        directory: the state directory.
        held: what is forgotten.
        iterations: those known to have shown it; the runs of others are searched.
        versions: adapters whose weights learned from it.
        name: the person's, as exports may have it.
    """
    traces = Traces(held.quotes, name)
    # Of a run that came to no verdict nobody recorded an adapter, and none of it is kept.
    kept = {directory / one.path for one in store.adapters.list() if one.version not in versions}
    shown = [run for run in runs(directory) if number_of(run) in iterations or shows(run, traces)]
    count = sum(clear_run(run, kept) for run in shown)
    for version in versions:
        path = directory / store.adapters.get(version).path
        count += files_in(path)
        shutil.rmtree(path, ignore_errors=True)
        if path.exists():
            raise OSError(f"{path} cannot be deleted")
        if path.parent.is_dir():
            fsync_directory(path.parent)
    for copy in (*directory.glob(f"{DATABASE}.before-*"), *directory.glob(f".{DATABASE}*.tmp*")):
        copy.unlink(missing_ok=True)
        count += 1
    count += sum(clean(path, traces) for path in others(directory))
    fsync_directory(directory)
    return count


def runs(directory: Path) -> list[Path]:
    folder = directory / ITERATIONS
    return sorted(path for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []


def number_of(run: Path) -> int | None:
    """The iteration whose run it is."""
    found = re.match(r"(\d+)", run.name)
    return int(found[1]) if found else None


def files_in(path: Path) -> int:
    return sum(1 for each in path.rglob("*") if each.is_file()) if path.is_dir() else 0


def texts_in(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.rglob("*")):
        if path.suffix in TEXT and path.is_file() and not path.is_symlink():
            yield path


def shows(run: Path, traces: Traces) -> bool:
    return any(quoted_in(path, traces) for path in texts_in(run))


def quoted_in(path: Path, traces: Traces) -> bool:
    """Whether a file shows any of it: as JSON, row by row, else as text, line by line."""
    return any(tells(line, path.suffix, traces) for line in parts(path))


def parts(path: Path) -> list[str]:
    """Lines; a JSON file is one."""
    text = path.read_text(encoding="utf-8", errors="replace")
    return [text] if path.suffix == ".json" else text.split("\n")


def tells(text: str, suffix: str, traces: Traces) -> bool:
    value: Any = None
    if suffix in (".json", ".jsonl"):
        with contextlib.suppress(ValueError):
            value = json.loads(text)
            return traces.in_json(value)
    return traces.in_text(text)


def clear_run(run: Path, kept: Collection[Path]) -> int:
    """Delete everything of a run but an adapter among `kept`, which is believed by itself. Returns how many files."""
    count = 0
    for path in sorted(run.iterdir()):
        if path in kept:
            continue
        count += files_in(path) if path.is_dir() else 1
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()
    fsync_directory(run)
    return count


def others(directory: Path) -> Iterator[Path]:
    """Text files of the state directory that are no part of a run: exports, reports."""
    for base, folders, names in os.walk(directory):
        if Path(base) == directory:
            folders[:] = sorted(set(folders) - {ITERATIONS, MODELS})
            names = sorted(set(names) - OWN)
        for name in sorted(names):
            path = Path(base) / name
            if path.suffix in TEXT and not path.is_symlink():
                yield path


def clean(path: Path, traces: Traces) -> int:
    """Take the lines out that show any of it; a JSON file that does is deleted whole. 1 if there were any."""
    lines = parts(path)
    kept = [line for line in lines if not tells(line, path.suffix, traces)]
    if len(kept) == len(lines):
        return 0
    if path.suffix == ".json":
        path.unlink()
        fsync_directory(path.parent)
    else:
        write_durably(path, "\n".join(kept))
    return 1
