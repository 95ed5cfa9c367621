"""Instants at which a test may kill the process, to prove that a crash there loses nothing.

There are two kinds. Named points lie where the order of things is decided ("iteration.gated"). Primitive points
lie on both sides of every fsync, rename, commit and change of a status, and are told apart by what they are about:
a file, the writes that a commit carries, what changes to which status.

`HONED_FAILPOINT` in the environment arms one point: `[PROCESS:]POINT[(ABOUT)][#N]`, as in `iteration.gated`,
`commit.before(Intents.add)`, `trainer:rename.after(0001/report.json)#2`. The process dies of SIGKILL the Nth time it
gets there (the first, if N is not given), so no handler, no `finally` and no buffer flush can tidy up. PROCESS is
`trainer` for the service's child and `main` for everything else; without it, either dies.

With `HONED_FAILPOINT` set, and be it to nothing, `HONED_FAILPOINT_TRACE` names a file to which every passing is
appended; from such a record the crash matrix is made. Unarmed, a point costs one dict look-up.
"""

import itertools
import json
import os
import re
import signal
from collections import defaultdict
from collections.abc import Callable, Iterator
from functools import lru_cache
from types import TracebackType

ARMED, TRACE = "HONED_FAILPOINT", "HONED_FAILPOINT_TRACE"
#: In the environment of a service's child, and of nothing else.
PARENT = "HONED_PARENT_PID"

#: In the order an iteration passes them.
NAMED = (
    "iteration.collecting",
    "judge.licensed",
    "judge.sampled",
    "judge.scored",
    "judge.paired",
    "iteration.snapshot.written",
    "iteration.training",
    "trainer.loaded",
    "trainer.step",
    "trainer.trained",
    "trainer.adapter.written",
    "trainer.manifest.written",
    "iteration.evaluating",
    "rebuild.begun",
    "contest.scored",
    "iteration.gated",
    "iteration.loaded",
    "iteration.attested",
    "settle.before_commit",
    "settle.after_commit",
    "feedback.before_commit",
    "feedback.after_commit",
    "canary.before_commit",
    "canary.after_commit",
    "rollback.before_commit",
    "rollback.after_commit",
    "forget.begun",
    "forget.moved",
    "forget.files",
    "forget.before_commit",
    "forget.scrubbed",
    "forget.compacted",
)
#: What lasting changes are made of. A status changes inside a transaction, so nothing of it is there before a commit.
PRIMITIVES = ("fsync", "rename", "commit", "status")
#: Every point.
FAILPOINTS = (*NAMED, *(f"{each}.{side}" for each in PRIMITIVES for side in ("before", "after")))

#: What a point is about, or how to find out: asked only where something is armed.
About = str | Callable[[], str]
#: Between the things that one point is about, such as the writes of one commit.
AND = " + "

_KNOWN = frozenset(FAILPOINTS)
_SPELLING = re.compile(
    r"(?:(?P<process>main|trainer):)?(?P<point>[a-z_.]+)(?:\((?P<about>.*)\))?(?:#(?P<nth>[1-9]\d*))?"
)
#: How often this process passed what is armed: armed -> the numbers to come.
_passings: defaultdict[str, Iterator[int]] = defaultdict(lambda: itertools.count(1))


def failpoint(name: str, about: About = "") -> None:
    """Die here if the environment says so.

    Raises:
        KeyError: the point is not in `FAILPOINTS`.
        ValueError: what the environment arms is none of them.
    """
    if name not in _KNOWN:
        raise KeyError(name)
    armed = os.environ.get(ARMED)
    if armed is not None:
        _pass(name, about if isinstance(about, str) else about(), armed)


class around:
    """The two points of a primitive. What fails has not come to its second one."""

    __slots__ = ("_about", "_primitive")

    def __init__(self, primitive: str, about: About = "") -> None:
        self._primitive, self._about = primitive, about

    def __enter__(self) -> None:
        failpoint(f"{self._primitive}.before", self._about)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            failpoint(f"{self._primitive}.after", self._about)


def process() -> str:
    """Which kind of process this is."""
    return "trainer" if PARENT in os.environ else "main"


@lru_cache(maxsize=8)
def parse(armed: str) -> tuple[str | None, str, str | None, int]:
    """What is armed, as process (None: either), point, about (None: whatever), number.

    Raises:
        ValueError: that is not how a point is spelt, or there is none of that name.
    """
    found = _SPELLING.fullmatch(armed)
    if found is None or found["point"] not in _KNOWN:
        raise ValueError(
            f"{ARMED} = {armed!r}: expected [main:|trainer:]POINT[(ABOUT)][#N], with a known POINT"
        )
    return found["process"], found["point"], found["about"], int(found["nth"] or 1)


def _pass(name: str, about: str, armed: str) -> None:
    path = os.environ.get(TRACE)
    if path is not None:
        _record(path, name, about)
    if not armed:
        return
    who, point, what, nth = parse(armed)
    if name != point or who not in (None, process()) or (what is not None and what not in about.split(AND)):
        return
    if next(_passings[armed]) == nth:
        os.kill(os.getpid(), signal.SIGKILL)


def _record(path: str, name: str, about: str) -> None:
    line = json.dumps({"process": process(), "pid": os.getpid(), "point": name, "about": about}) + "\n"
    fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(fd, line.encode())  # in one piece, so that lines of two processes do not mix
    finally:
        os.close(fd)
