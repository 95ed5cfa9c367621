"""A disk that may lose, at any instant, everything it was not made to keep.

The model is POSIX's promise and no more: a file's content is lasting once its own fsync returned, a name (also a
renamed, a removed one) once the fsync of its folder returned. Of the rest a power cut may keep any part: each page of
4096 bytes by itself in any of its states since the last sync, the size apart from the content, each change of a name
by itself. Real file systems keep more. A page whose sync failed is clean afterwards and not on the disk, as Linux has
it: later syncs succeed and do not write it.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

PAGE = 4096
#: States of one page that are remembered between two syncs.
KEPT = 8


@dataclass(eq=False)
class Content:
    """A file: what everybody reads, what is on the disk, and what came in between, page by page."""

    cache: bytearray = field(default_factory=bytearray)
    disk: dict[int, bytes] = field(default_factory=dict)
    sizes: list[int] = field(default_factory=lambda: [0])
    """The size on the disk, then every size since."""
    dirty: dict[int, list[bytes]] = field(default_factory=dict)

    def write(self, offset: int, data: bytes) -> None:
        begin, end = min(offset, len(self.cache)), offset + len(data)
        if end > len(self.cache):
            self.cache.extend(bytes(end - len(self.cache)))
            self.sizes.append(end)
        else:
            begin = offset
        self.cache[offset:end] = data
        self._touch(begin, end)

    def truncate(self, size: int) -> None:
        before = len(self.cache)
        self.sizes.append(size)
        if size > before:
            self.cache.extend(bytes(size - before))
            self._touch(before, size)
        else:  # whole pages beyond are out of reach; nobody writes nulls over what is on the disk
            del self.cache[size:]
            self._touch(size, -(-size // PAGE) * PAGE)

    def _touch(self, begin: int, end: int) -> None:
        for page in range(begin // PAGE, -(-end // PAGE)):
            states = self.dirty.setdefault(page, [])
            states.append(bytes(self.cache[page * PAGE : (page + 1) * PAGE]).ljust(PAGE, b"\0"))
            del states[:-KEPT]

    def begin_sync(self) -> dict[int, bytes]:
        return {page: states[-1] for page, states in self.dirty.items()}

    def end_sync(self, taken: dict[int, bytes], size: int) -> None:
        for page, state in taken.items():
            self.disk[page] = state
            self._forget(page, state)
        self.sizes = [size, *self.sizes[_after(self.sizes, size) :]]
        if len(self.sizes) == 1:
            for page in [page for page in self.disk if page * PAGE >= size]:
                del self.disk[page]

    def fail_sync(self, taken: dict[int, bytes]) -> None:
        for page, state in taken.items():
            self._forget(page, state)

    def _forget(self, page: int, state: bytes) -> None:
        states = self.dirty.get(page, [])
        later = states[_after(states, state) :]
        if later:
            self.dirty[page] = later
        else:
            self.dirty.pop(page, None)


def _after(values: list[Any], last: Any) -> int:
    """Where what came after a value begins."""
    return len(values) - values[::-1].index(last) if last in values else 0


@dataclass(eq=False)
class Folder:
    """Names, on the disk and as everybody sees them, and the changes in between, in order."""

    disk: "dict[bytes, Node]" = field(default_factory=dict)
    cache: "dict[bytes, Node]" = field(default_factory=dict)
    changes: "list[Change]" = field(default_factory=list)

    def change(self, change: "Change") -> None:
        change.apply(self.cache)
        self.changes.append(change)

    def end_sync(self, taken: "list[Change]") -> None:
        for change in taken:
            if change in self.changes:
                change.apply(self.disk)
                self.changes.remove(change)


Node = Content | Folder


@dataclass(frozen=True, eq=False, slots=True)
class Change:
    """One change of a folder's names: `node` gets the name `to`, the name `gone` goes."""

    node: Node | None
    to: bytes | None
    gone: bytes | None

    def apply(self, names: dict[bytes, Node]) -> None:
        if self.gone is not None:
            names.pop(self.gone, None)
        if self.to is not None and self.node is not None:
            names[self.to] = self.node


@dataclass(frozen=True, slots=True)
class Cut:
    """What one power cut keeps of what is not lasting yet."""

    name: str
    pages: Callable[[int], int]
    """Of so many states of a page (the first is the disk's) the one that is there afterwards."""
    sizes: Callable[[int], int]
    changes: Callable[[int], bool]
    """Whether a change of a name is there, by its number."""


def last(count: int) -> int:
    return count - 1


def first(_: int) -> int:
    return 0


LOST = Cut("all lost", first, first, lambda _: False)
KEPT_ALL = Cut("all kept", last, last, lambda _: True)
NAMES_ONLY = Cut("names and sizes without contents", first, last, lambda _: True)
CONTENTS_ONLY = Cut("contents without names", last, last, lambda _: False)


def some(seed: int) -> Cut:
    """Any part of it."""
    draw = random.Random(seed)
    share = draw.random()
    return Cut(f"a part (seed {seed})", draw.randrange, draw.randrange, lambda _: draw.random() < share)


def load(path: Path) -> Folder:
    """A folder as it lies there, all of it lasting."""
    folder = Folder()
    for entry in sorted(path.iterdir()):
        node: Node
        if entry.is_dir():
            node = load(entry)
        else:
            node = Content()
            node.write(0, entry.read_bytes())
            node.end_sync(node.begin_sync(), len(node.cache))
        name = entry.name.encode()
        folder.disk[name] = folder.cache[name] = node
    return folder


def write(folder: Folder, cut: Cut, target: Path) -> None:
    names = dict(folder.disk)
    for number, change in enumerate(folder.changes):
        if cut.changes(number):
            change.apply(names)
    for name, node in names.items():
        path = target / name.decode()
        if isinstance(node, Folder):
            path.mkdir()
            write(node, cut, path)
        else:
            path.write_bytes(content(node, cut))


def content(node: Content, cut: Cut) -> bytes:
    size = node.sizes[cut.sizes(len(node.sizes))]
    found = bytearray(size)
    for page in sorted(node.disk.keys() | node.dirty.keys()):
        states = [node.disk.get(page, bytes(PAGE)), *node.dirty.get(page, ())]
        state = states[cut.pages(len(states))]
        found[page * PAGE : (page + 1) * PAGE] = state[: max(0, size - page * PAGE)]
    return bytes(found[:size])
