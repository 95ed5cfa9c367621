"""A recording replayed onto a disk, with the power cut at every instant that could make a difference."""

import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.power import medium
from tests.power.disk import Disk
from tests.power.medium import Cut
from tests.power.trace import Call, calls

#: What looks at the state directory after a cut: path, and what had been acknowledged.
Check = Callable[[Path, Mapping[str, str]], Iterator[str]]
FIXED = (medium.LOST, medium.KEPT_ALL, medium.NAMES_ONLY, medium.CONTENTS_ONLY)
#: Calls whose effect is made lasting or becomes visible at once: a cut is tried before and after each.
EDGES = {
    *("fsync", "fdatasync", "rename", "renameat", "renameat2", "unlink", "unlinkat", "rmdir"),
    *("mkdir", "mkdirat", "ftruncate"),
}
SHOWN = 20
END = "at the end"


@dataclass
class Found:
    """What a replay found. `violations`: the first so many, in words."""

    calls: Counter[str] = field(default_factory=Counter)
    instants: int = 0
    images: int = 0
    cuts: Counter[str] = field(default_factory=Counter)
    bad: int = 0
    violations: list[str] = field(default_factory=list)
    acknowledged: int = 0

    def row(self) -> dict[str, Any]:
        counted = {"calls": dict(self.calls.most_common()), "cuts": dict(self.cuts)}
        return {name: counted.get(name, getattr(self, name)) for name in self.__dataclass_fields__}


@dataclass(frozen=True, slots=True)
class Recording:
    """What was recorded: the folder as it was before, the calls, and the ids that clients were told of by kind."""

    before: Path
    calls: Path
    root: Path
    """Where the folder lay while it was recorded."""
    told: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Instant:
    """When the power goes: between which calls, and what had been acknowledged."""

    where: str
    told: Mapping[str, str]


def replay(
    recording: Recording,
    check: Check,
    work: Path,
    *,
    drawn: int,
    every: int = 1,
    unheard: Callable[[Call], bool] = lambda _: False,
) -> Found:
    """Cut the power at every `every`-th instant, in each fixed way and `drawn` random ones; check what is left.

    Args:
        work: a folder for the images, best in memory.
        unheard: calls that do nothing, to see what they are good for.
    """
    found = Found()
    files = Disk.of(recording.before, recording.root)
    for number, instant in enumerate(instants(recording, files, found, unheard)):
        if (number + 1) % every == 0 or instant.where == END:
            ways = [*FIXED, *(medium.some(1000 * number + each) for each in range(drawn))]
            try_cuts(files, found, instant, check, work, ways)
    return found


def instants(
    recording: Recording, files: Disk, found: Found, unheard: Callable[[Call], bool]
) -> Iterator[Instant]:
    """Play a recording, and stop before and after every edge and at the end.

    Raises:
        ValueError: something was acknowledged without anybody being told of it, so the ids are not what was sent.
    """
    told: dict[str, str] = {}
    waiting = {name.encode(): name for name in recording.told}
    changed = True
    for call in calls(recording.calls):
        for name in said(call, waiting, files):
            told[waiting[name]] = recording.told[waiting[name]]
            del waiting[name]
            found.acknowledged += 1
            changed = True
        if unheard(call):
            continue
        edge = call.name in EDGES and files.concerns(call)
        if edge and changed:
            yield Instant(f"before {shown(call)}", told)
            changed = False
        if files.play(call):
            found.calls[call.name] += 1
            if edge:
                yield Instant(f"after {shown(call)}", told)
            changed = not edge
    if waiting:
        raise ValueError(f"nobody was told of {len(waiting)} ids, such as {next(iter(waiting.values()))!r}")
    yield Instant(END, told)


def said(call: Call, waiting: Mapping[bytes, str], files: Disk) -> list[bytes]:
    """Ids that this call tells somebody outside: a socket, a pipe."""
    if not call.begins or call.name not in ("sendto", "sendmsg", "write", "writev") or not call.texts:
        return []
    if call.files and files.holds(call.files[0].path):
        return []
    text = b"".join(call.texts)
    return [name for name in waiting if name in text]


def shown(call: Call) -> str:
    paths = [file.path for file in call.files if file.path] + list(call.texts)
    return f"{call.name} {paths[-1].decode(errors='replace')}" if paths else call.name


def try_cuts(
    files: Disk, found: Found, instant: Instant, check: Check, work: Path, ways: Sequence[Cut]
) -> None:
    found.instants += 1
    target = work / "image"
    for cut in ways:
        shutil.rmtree(target, ignore_errors=True)
        target.mkdir(parents=True)
        files.image(cut, target)
        problems = list(check(target, instant.told))
        found.images += 1
        found.cuts[cut.name.split(" (")[0]] += 1
        found.bad += bool(problems)
        room = max(0, SHOWN - len(found.violations))
        found.violations += [f"{instant.where}, {cut.name}: {problem}" for problem in problems[:room]]
    shutil.rmtree(target, ignore_errors=True)
