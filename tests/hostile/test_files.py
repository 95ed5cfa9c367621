"""Whatever is in a file, its reader gives a value or says which file is wrong, in bounded time and space.

`HONED_FUZZ_FILES` is how many cases each reader is given; `make fuzz-files` gives many. A failure names the case: its
files are those of `hostile(case, folder, number)`.
"""

import json
import os
import resource
import shutil
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType

import pytest
from fastapi import FastAPI
from starlette.testclient import TestClient

from api import receipts, sessions
from api.auth import load_keys
from daemon import importing
from daemon.batteries import operator_probes
from daemon.config import load
from judge.evaluate import read_pairs
from policies import spec
from store.copying import holdings
from store.db import Store
from store.errors import HonedError
from tests.api.conftest import URL
from tests.hostile import cases, mutations
from tests.hostile.cases import Case, hostile, tried

COUNT = int(os.environ.get("HONED_FUZZ_FILES", "60"))
#: Seconds any one file may take, on a machine that does other things too.
LONGEST = 20.0
#: Bytes by which the process may grow, whatever it is given.
GROWTH = 400 * 2**20


class TooLong(BaseException):
    """Nothing that a reader catches."""


@pytest.fixture(autouse=True)
def bounded() -> Iterator[None]:
    """No file makes the process wait for ever, or grow without end."""

    def too_long(_: int, __: FrameType | None) -> None:
        raise TooLong("a file that hangs its reader")

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    old = signal.signal(signal.SIGALRM, too_long)
    yield
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, old)
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 < GROWTH


MADE: dict[str, Callable[[Path], Case]] = {
    "adapter": cases.adapter,
    "inputs": cases.inputs,
    "report": cases.report,
    "backup": cases.backups,
    "texts": cases.texts,
    "places": cases.places,
}


def run(case: Case, folder: Path) -> Counter[str]:
    """Every case of a reader. Returns how many were read, and how many refused."""
    ended: Counter[str] = Counter()
    began = time.monotonic()
    for number in range(COUNT):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        hostile(case, folder, number)
        signal.setitimer(signal.ITIMER_REAL, LONGEST)
        try:
            ended[tried(case, folder)] += 1
        except BaseException as error:
            raise AssertionError(f"hostile case {case.name!r}, number {number}: {error!r}") from error
    print(f"{case.name}: {COUNT} files, {dict(ended)}, {time.monotonic() - began:.0f} s")
    return ended


@pytest.mark.parametrize("name", MADE)
def test_any_file_is_read_or_refused_by_name(name: str, tmp_path: Path) -> None:
    made = tmp_path / "made"
    made.mkdir()
    ended = run(MADE[name](made), tmp_path / "hostile")
    # Neither all refused at the door nor all let through.
    assert ended["error"] > COUNT // 5 and ended["value"] > 0, ended


def test_any_file_is_imported_or_refused(tmp_path: Path, store: Store) -> None:
    ended = run(cases.imports(store)(tmp_path), tmp_path / "hostile")
    assert ended["value"] == COUNT
    assert len(store.completions.recent(limit=100)) > 1


@pytest.mark.parametrize("name", MADE)
def test_true_files_are_read(name: str, tmp_path: Path) -> None:
    (tmp_path / "made").mkdir()
    (tmp_path / "true").mkdir()
    case = MADE[name](tmp_path / "made")
    for file, (content, _) in case.files.items():
        (tmp_path / "true" / file).write_bytes(content)
    case.seal(tmp_path / "true")
    case.read(tmp_path / "true")


def endless(path: Path) -> None:
    path.touch()
    os.truncate(path, 2**40)


#: What may lie where a file should: each takes the path.
ODD: dict[str, Callable[[Path], object]] = {
    "a pipe": os.mkfifo,
    "a link to a device without end": lambda path: path.symlink_to("/dev/zero"),
    "a link in a circle": lambda path: path.symlink_to(path.name),
    "a folder": Path.mkdir,
    "a terabyte of nothing": endless,
    "nothing": lambda _: None,
}


@pytest.mark.parametrize("odd", ODD)
@pytest.mark.parametrize("name", MADE)
def test_what_is_no_plain_file_is_refused_and_never_waited_for(name: str, odd: str, tmp_path: Path) -> None:
    (tmp_path / "made").mkdir()
    case = MADE[name](tmp_path / "made")
    for file in case.files:
        folder = tmp_path / f"odd-{file}"
        folder.mkdir()
        for other, (content, _) in case.files.items():
            (folder / other).write_bytes(content)
        case.seal(folder)
        (folder / file).unlink()
        ODD[odd](folder / file)
        signal.setitimer(signal.ITIMER_REAL, LONGEST)
        try:
            case.read(folder)
        except HonedError:
            continue
        except OSError as error:
            raise AssertionError(f"{file}: {error!r}") from error
        assert file in ("honed-digest.json", "service.json", "manifest.json", "progress.jsonl"), file


def test_any_body_of_feedback_is_answered(app: FastAPI) -> None:
    body = (
        b'{"completion_id": "c1", "choice_index": 0, "kind": "thumb", "value": true, "metadata": {"a": "b"}}'
    )
    ended: Counter[int] = Counter()
    with TestClient(app, base_url=URL, raise_server_exceptions=False) as client:
        for number in range(COUNT):
            chance = mutations.random.Random(f"feedback {number}")
            content = chance.choice(
                (mutations.of_json, mutations.of_json, mutations.of_bytes, mutations.anything)
            )
            headers = {"content-type": "application/json"}
            answer = client.post("/v1/feedback", content=content(chance, body), headers=headers)
            assert answer.status_code < 500, (number, answer.text)
            assert answer.json()["error"]["message"], number
            ended[answer.status_code] += 1
    print(f"feedback: {COUNT} bodies, {dict(ended)}")
    assert ended[400] and ended[404]


def test_any_receipt_or_cookie_is_none_of_ours() -> None:
    secret = b"x" * 32
    true = receipts.sign(receipts.Receipt("c1", "ann", 2e9), secret)
    for number in range(10 * COUNT):
        chance = mutations.random.Random(f"receipt {number}")
        text = mutations.of_bytes(chance, true.encode()).decode("latin-1")
        if text != true:
            with pytest.raises(HonedError):
                receipts.verify(text, secret, now=1.0)
            with pytest.raises(HonedError):
                sessions.verify(text, (), secret, now=1.0)


def read(path: Path, content: bytes, reader: Callable[[Path], object]) -> None:
    path.write_bytes(content)
    reader(path)


PROBE = '{"prompt": "Hi", "must": [%s]}'


@pytest.mark.parametrize(
    ("reader", "content"),
    [
        (lambda path: load(path, {}), b"[api]\nport = " + b"1" * 5000),
        (lambda path: load(path, {}), b"a = " + b"[" * 50_000),
        (load_keys, b"key = " + b"1" * 5000),
        (load_keys, b"key = " + b"[" * 50_000),
        (operator_probes, (PROBE % '"a{99999999999999999999}"').encode()),
        (operator_probes, (PROBE % f'"{"(" * 50_000}"').encode()),
        (operator_probes, (PROBE % '"[[a]"').encode()),
        (read_pairs, b'{"prompt": ' + b"[" * 100_000),
        (
            lambda path: spec.read_progress(path.read_bytes(), path),
            b'{"phase": "a", "done": 1' + b"0" * 400 + b"}",
        ),
    ],
)
def test_what_once_broke_a_reader_is_refused(
    tmp_path: Path, reader: Callable[[Path], object], content: bytes
) -> None:
    with pytest.raises(HonedError) as error:
        read(tmp_path / "file", content, reader)
    assert len(str(error.value)) < 2000


def test_a_chat_whose_name_is_no_text_is_a_bad_row(tmp_path: Path) -> None:
    row = {**cases.RATED, "meta": {"message_id": "m2", "chat_id": "\ud800"}}
    (tmp_path / "rated.json").write_text(json.dumps([row, cases.RATED]))
    found = importing.read([tmp_path / "rated.json"])
    assert len(found.said) == 1 and "lone surrogate" in found.bad[0]


def test_a_database_whose_text_is_none_is_a_damaged_one(tmp_path: Path) -> None:
    (tmp_path / "made").mkdir()
    saved = cases.backups(tmp_path / "made").files["honed.db"][0]
    # The name of a column in the schema, which SQLite quotes when it complains of it.
    at = (
        saved.index(b"create table audit") if b"create table audit" in saved else saved.index(b"CREATE TABLE")
    )
    (tmp_path / "honed.db").write_bytes(saved[:at] + b'"\xef\x05' + saved[at + 3 :])
    with pytest.raises(HonedError, match=r"honed\.db"):
        holdings(tmp_path / "honed.db")
