"""What the model of a disk keeps, and what a recording is read as."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.power import medium, needed, trace
from tests.power.disk import Disk
from tests.power.medium import PAGE, Content, Cut

WAYS = (medium.LOST, medium.KEPT_ALL, medium.NAMES_ONLY, medium.CONTENTS_ONLY)


def page(letter: bytes) -> bytes:
    return letter * PAGE


def test_what_was_synced_stays_and_what_was_not_may_be_there_page_by_page() -> None:
    file = Content()
    file.write(0, page(b"a") + page(b"b"))
    file.end_sync(file.begin_sync(), len(file.cache))
    file.write(0, page(b"A") + page(b"B") + page(b"C"))
    found = {medium.content(file, medium.some(seed)) for seed in range(200)}
    assert page(b"a") + page(b"b") in found
    assert page(b"A") + page(b"b") + page(b"C") in found
    assert page(b"a") + page(b"B") + bytes(PAGE) in found
    assert medium.content(file, medium.LOST) == page(b"a") + page(b"b")
    assert medium.content(file, medium.KEPT_ALL) == page(b"A") + page(b"B") + page(b"C")


def test_what_is_written_while_a_sync_runs_is_not_kept_by_it() -> None:
    file = Content()
    file.write(0, b"one")
    taken, size = file.begin_sync(), len(file.cache)
    file.write(0, b"two and more")
    file.end_sync(taken, size)
    assert medium.content(file, medium.LOST) == b"one"
    assert medium.content(file, medium.KEPT_ALL) == b"two and more"


def test_after_a_failed_sync_a_page_is_lost_until_it_is_written_again() -> None:
    file = Content()
    file.write(0, b"old")
    file.end_sync(file.begin_sync(), 3)
    file.write(0, b"new")
    file.fail_sync(file.begin_sync())
    file.end_sync(file.begin_sync(), 3)
    assert bytes(file.cache) == b"new", "everybody still reads it"
    assert {medium.content(file, way) for way in WAYS} == {b"old"}
    file.write(0, b"New")
    file.end_sync(file.begin_sync(), 3)
    assert medium.content(file, medium.LOST) == b"New"


def test_a_lost_truncation_leaves_the_old_content_and_a_regrown_file_reads_as_nulls() -> None:
    file = Content()
    file.write(0, page(b"a") * 2)
    file.end_sync(file.begin_sync(), 2 * PAGE)
    file.truncate(0)
    assert {medium.content(file, medium.some(seed)) for seed in range(50)} == {page(b"a") * 2, b""}
    file.end_sync(file.begin_sync(), 0)
    file.truncate(PAGE)
    assert medium.content(file, medium.KEPT_ALL) == bytes(PAGE)


SYNC = """
    with open(at + "new", "wb") as file:
        file.write(b"content")
        file.flush()
        os.fsync(file.fileno())
"""
NAMED = """
    fd = os.open(at, os.O_RDONLY)
    os.fsync(fd)
"""
RENAMED = '    os.rename(at + "new", at + "final")\n'


@pytest.fixture(scope="module")
def recorder() -> Callable[[Path, str], Disk]:
    needed.strace()

    def play(work: Path, code: str) -> Disk:
        for name in ("root", "before"):
            (work / name).mkdir()
        script = f"import os\nif True:\n    at = {str(work / 'root') + '/'!r}\n{code}"
        subprocess.run(
            [*trace.command(work / "calls"), sys.executable, "-S", "-E", "-c", script],
            check=True,
            env={**os.environ},
        )
        trace.wait_for(work / "calls")
        files = Disk.of(work / "before", work / "root")
        for call in trace.calls(work / "calls"):
            files.play(call)
        return files

    return play


def names_after(files: Disk, cut: Cut, target: Path) -> dict[str, bytes]:
    target.mkdir()
    files.image(cut, target)
    return {path.name: path.read_bytes() for path in target.iterdir()}


@pytest.mark.parametrize(
    ("code", "lost", "named"),
    [
        (SYNC, {}, {"new": b"content"}),
        (SYNC + NAMED, {"new": b"content"}, {"new": b"content"}),
        (SYNC + NAMED + RENAMED, {"new": b"content"}, {"final": b"content"}),
        (SYNC + RENAMED + NAMED, {"final": b"content"}, {"final": b"content"}),
        (SYNC.replace("os.fsync(file.fileno())", "pass") + NAMED, {"new": b""}, {"new": bytes(7)}),
        (SYNC + NAMED + '    os.unlink(at + "new")\n', {"new": b"content"}, {}),
        (SYNC + NAMED + '    os.unlink(at + "new")\n' + NAMED, {}, {}),
        (
            SYNC + NAMED + '    with open(at + "new", "ab") as file: file.write(b"!")\n',
            {"new": b"content"},
            {"new": b"content\0"},
        ),
    ],
)
def test_a_file_is_there_when_content_and_name_were_synced(
    recorder: Callable[[Path, str], Disk], tmp_path: Path, code: str, lost: object, named: object
) -> None:
    files = recorder(tmp_path, code)
    assert names_after(files, medium.LOST, tmp_path / "lost") == lost
    assert names_after(files, medium.NAMES_ONLY, tmp_path / "named") == named


def test_everything_kept_is_what_lies_there(recorder: Callable[[Path, str], Disk], tmp_path: Path) -> None:
    files = recorder(
        tmp_path,
        """
    import shutil, sqlite3
    os.makedirs(at + "a/b")
    db = sqlite3.connect(at + "a/b/c.db", isolation_level=None)
    db.execute("pragma journal_mode=wal")
    db.execute("create table t (x)")
    for number in range(50):
        db.execute("insert into t values (zeroblob(3000))")
    with open(at + "a/log", "a") as log:
        print("one", file=log)
    with open(at + "a/log", "a") as log:
        print("two", file=log)
    shutil.copyfile(at + "a/log", at + "a/copy")
    shutil.copytree(at + "a", at + "d", ignore=shutil.ignore_patterns("*-shm"))
    shutil.rmtree(at + "a/b")
    os.rename(at + "d", at + "e")
""",
    )
    there = {
        p.relative_to(tmp_path / "root"): p.read_bytes()
        for p in (tmp_path / "root").rglob("*")
        if p.is_file()
    }
    (tmp_path / "image").mkdir()
    files.image(medium.KEPT_ALL, tmp_path / "image")
    found = {
        p.relative_to(tmp_path / "image"): p.read_bytes()
        for p in (tmp_path / "image").rglob("*")
        if p.is_file()
    }
    assert len(there) == 6
    assert found == there


def test_what_is_not_modelled_is_an_error_and_not_passed_over(
    recorder: Callable[[Path, str], Disk], tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match="link"):
        recorder(tmp_path, SYNC + '    os.link(at + "new", at + "other")\n')
