"""Failpoints: on both sides of everything that lasts, spelt as documented, and deadly where they are armed."""

import ast
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from store.db import Store
from store.failpoints import ARMED, FAILPOINTS, PARENT, TRACE, around, failpoint, parse
from tests.test_layout import ROOT, SOURCES

#: Folds what was written into something that lasts.
COMMITS = re.compile(r"(commit|vacuum|pragma wal_checkpoint)\b", re.IGNORECASE)
#: Says what an iteration, an adapter, a canary, an answer, an order or held feedback is now.
CHANGES = re.compile(
    r"\s*(insert into (iterations|adapters|canaries|completions|intents|quarantine|quarantine_releases) |"
    r"insert or replace into service_state |update active set |"
    r"update \w+ set [^=]*(status|stage|step|ended_at|outcome) = )"
)
#: Past what a service does: another schema's text, and a person's words that go while no status changes.
NO_STATUS = {"migrations.py", "scrubbing.py"}


def primitive(call: ast.Call) -> str | None:
    """Which primitive a call is, in whatever way it may be written."""
    name = call.func.attr if isinstance(call.func, ast.Attribute) else ""
    texts = [
        each.value for each in call.args if isinstance(each, ast.Constant) and isinstance(each.value, str)
    ]
    if name in ("fsync", "fdatasync", "sync"):
        return "fsync"
    if (
        name in ("rename", "renames", "link", "symlink_to", "hardlink_to")
        or ast.unparse(call.func) == "shutil.move"
    ):
        return "rename"
    if name == "replace" and len(call.args) == 1 and not call.keywords:
        return "rename"  # `str.replace` has two arguments, `dataclasses.replace` keywords
    if name == "commit" or (name == "apply" and ast.unparse(call.func).startswith("MIGRATIONS")):
        return "commit"
    return "commit" if any(COMMITS.match(text) for text in texts) else None


def guards(node: ast.AST) -> Iterator[str]:
    """The primitives whose points a `with` has on both sides."""
    for item in node.items if isinstance(node, ast.With) else ():
        call = item.context_expr
        if isinstance(call, ast.Call) and ast.unparse(call.func) == "around":
            assert isinstance(call.args[0], ast.Constant)
            yield str(call.args[0].value)


def unguarded(node: ast.AST, within: tuple[str, ...] = ()) -> Iterator[tuple[int, str]]:
    """Calls of primitives (line, primitive) that no `with around(...)` encloses."""
    if isinstance(node, ast.Call):
        found = primitive(node)
        if found is not None and found not in within:
            yield node.lineno, found
    for child in ast.iter_child_nodes(node):
        yield from unguarded(child, (*within, *guards(node)))


def test_every_fsync_rename_and_commit_lies_between_two_failpoints() -> None:
    found = {str(file): list(unguarded(ast.parse(file.read_text()))) for file in SOURCES}
    assert {name: calls for name, calls in found.items() if calls} == {}


def test_every_change_of_a_status_lies_between_two_failpoints() -> None:
    open_, changes = [], 0
    for file in (each for each in SOURCES if each.parent.name == "store" and each.name not in NO_STATUS):
        for node in ast.walk(ast.parse(file.read_text())):
            if not isinstance(node, ast.FunctionDef) or not writes_status(node):
                continue
            changes += 1
            calls = [ast.unparse(each.func) for each in ast.walk(node) if isinstance(each, ast.Call)]
            guarded = "status" in [name for each in ast.walk(node) for name in guards(each)]
            if not guarded and not {"self._change", "changed"} & set(calls):
                open_.append(f"{file.name}:{node.name}")
    assert open_ == []
    assert changes >= 15


def writes_status(function: ast.FunctionDef) -> bool:
    """Whether the function has such SQL, an inner function's that it hands out included."""
    texts = (
        "".join(part.value for part in node.values if isinstance(part, ast.Constant))
        if isinstance(node, ast.JoinedStr)
        else node.value
        for node in ast.walk(function)
        if isinstance(node, ast.JoinedStr | ast.Constant)
    )
    return any(isinstance(text, str) and CHANGES.match(text) for text in texts)


@pytest.mark.parametrize(
    "source",
    [
        "import os\nos.fsync(3)",
        "path.rename(other)",
        "path.replace(other)",
        "shutil.move(one, other)",
        "db.commit()",
        "db.execute('COMMIT')",
        "db.execute('vacuum')",
        "with around('fsync'):\n    path.replace(other)",
    ],
)
def test_the_search_finds_what_it_is_for(source: str) -> None:
    assert list(unguarded(ast.parse(source)))


def test_the_search_leaves_other_things_alone() -> None:
    harmless = (
        "text.replace('a', 'b')\nreplace(row, a=1)\nat.replace(tzinfo=UTC)\ntx.iterations.move(1, stage)\n"
    )
    assert list(unguarded(ast.parse(harmless + "with around('rename'):\n    path.replace(other)"))) == []


@pytest.mark.parametrize(
    ("armed", "expected"),
    [
        ("iteration.gated", (None, "iteration.gated", None, 1)),
        ("commit.before#17", (None, "commit.before", None, 17)),
        ("trainer:rename.after(0001/a (1).json)#2", ("trainer", "rename.after", "0001/a (1).json", 2)),
        ("main:status.after(iteration, active)", ("main", "status.after", "iteration, active", 1)),
    ],
)
def test_what_is_armed_is_read(armed: str, expected: tuple[str | None, str, str | None, int]) -> None:
    assert parse(armed) == expected


@pytest.mark.parametrize(
    "armed", ["nowhere", "commit", "commit.before#0", "child:fsync.after", "fsync.after(x"]
)
def test_what_is_no_point_is_refused(armed: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ARMED, armed)
    with pytest.raises(ValueError, match=re.escape(repr(armed))):
        failpoint("iteration.gated")


def test_a_point_nobody_declared_is_an_error_even_unarmed() -> None:
    with pytest.raises(KeyError):
        failpoint("iteration.somewhere")


def test_unarmed_nobody_is_asked_what_a_point_is_about(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(ARMED, raising=False)

    def asked() -> str:
        raise AssertionError

    with around("rename", asked):
        pass
    monkeypatch.setenv(ARMED, "")
    with pytest.raises(AssertionError):
        failpoint("rename.before", asked)


def write_until(armed: str, folder: Path, *, parent: bool = False) -> int:
    """A process that writes twice over what `folder/a` says, and its exit status."""
    code = (
        "import sys; from pathlib import Path; from store.files import write_durably\n"
        "for text in ('one', 'two'): write_durably(Path(sys.argv[1]) / 'a', text)"
    )
    environment = {**os.environ, ARMED: armed, **({PARENT: "1"} if parent else {})}
    (folder / "a").write_text("old")
    return subprocess.run(
        [sys.executable, "-c", code, folder], cwd=ROOT, env=environment, check=False
    ).returncode


@pytest.mark.parametrize(
    ("armed", "left"),
    [
        ("fsync.before", "old"),
        ("fsync.after", "old"),
        ("rename.before", "old"),
        ("rename.after", "one"),
        ("main:rename.before(written/a)#2", "one"),
        ("rename.after(written/a)#2", "two"),
    ],
)
def test_killed_anywhere_a_file_is_the_old_or_the_new(armed: str, left: str, tmp_path: Path) -> None:
    (tmp_path / "written").mkdir()
    assert write_until(armed, tmp_path / "written") == -signal.SIGKILL
    assert (tmp_path / "written" / "a").read_text() == left


def test_points_of_another_process_or_another_file_do_not_kill(tmp_path: Path) -> None:
    for armed in ("trainer:fsync.before", "fsync.before(written/b)", "fsync.before#100"):
        assert write_until(armed, tmp_path) == 0
    assert write_until("trainer:fsync.before", tmp_path, parent=True) == -signal.SIGKILL


def test_a_record_tells_every_passing_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ARMED, "")
    monkeypatch.setenv(TRACE, str(tmp_path / "trace"))
    with Store.open(tmp_path / "honed.db") as store:
        store.atomic(lambda tx: tx.state.set("one", 1))
    rows = [json.loads(line) for line in (tmp_path / "trace").read_text().splitlines()]
    assert {row["process"] for row in rows} == {"main"} and {row["pid"] for row in rows} == {os.getpid()}
    assert {row["point"] for row in rows} <= set(FAILPOINTS)
    opening = ("migrate, ", "checkpoint, open")
    told = [(row["point"], row["about"]) for row in rows if not row["about"].startswith(opening)]
    own = "test_a_record_tells_every_passing_in_order"
    assert told == [
        ("status.before", "state, one"),
        ("status.after", "state, one"),
        ("commit.before", own),
        ("commit.after", own),
        ("commit.before", "checkpoint, close"),
        ("commit.after", "checkpoint, close"),
    ]
    assert "migrate, m001_answers_and_feedback" in {row["about"] for row in rows}
