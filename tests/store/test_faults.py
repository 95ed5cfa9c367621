"""A disk that cannot be written: who asks hears of it, it is logged once, and it passes."""

import logging
import sqlite3
from pathlib import Path

import pytest

from store.db import Store
from store.errors import HonedError, NotFound, StoreUnavailable
from store.faults import REMEDIES, fault, unavailable
from tests.store.conftest import completion, event
from tests.store.faulty import read_only


def raised(code: int) -> sqlite3.Error:
    error = sqlite3.OperationalError("said by SQLite")
    error.sqlite_errorcode = code
    return error


@pytest.mark.parametrize("code", REMEDIES)
@pytest.mark.parametrize("detail", [0, 4 << 8])
def test_a_fault_of_the_disk_is_told_with_what_sqlite_said(code: int, detail: int) -> None:
    error = raised(code | detail)
    told = unavailable(error)
    assert isinstance(told, StoreUnavailable) and told.__cause__ is error
    assert REMEDIES[code][0] in str(told) and "said by SQLite" in str(told)


@pytest.mark.parametrize(
    "error",
    [raised(sqlite3.SQLITE_CONSTRAINT), sqlite3.ProgrammingError("no"), NotFound("none"), OSError(5, "no")],
)
def test_every_other_error_stays_what_it_is(error: Exception) -> None:
    assert fault(error) is None
    assert unavailable(error) is error


def test_what_cannot_be_written_is_refused_and_goes_on_when_it_can(
    store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    store.completions.begin(completion("c1"))
    with caplog.at_level(logging.WARNING), read_only(store):
        for number in range(3):
            with pytest.raises(StoreUnavailable, match="read-only"):
                store.feedback.add(event(f"f{number}"))
        assert "mount it for writing" in (store.problem() or "")
        assert store.feedback.count() == 0, "what is there can be read"
    assert [record.levelname for record in caplog.records] == ["ERROR"], "told once"
    with caplog.at_level(logging.WARNING):
        assert store.problem() is None
    assert caplog.records[-1].message == "the database can be written again"
    assert store.feedback.add(event("f1")).id == "f1"


def test_a_stopped_writer_is_a_problem_that_stays(tmp_path: Path) -> None:
    store = Store.open(tmp_path / "honed.db")
    store.close()
    assert "restart" in (store.problem() or "")
    with pytest.raises(StoreUnavailable, match="closed"):
        store.state.set("a", 1)


def test_a_log_that_was_left_is_folded_into_the_database_before_anything_is_written(tmp_path: Path) -> None:
    source = tmp_path / "honed.db"
    store = Store.open(source)
    store.state.set("a", 1)
    left = tmp_path / "left"
    left.mkdir()
    for name in ("honed.db", "honed.db-wal"):
        (left / name).write_bytes((tmp_path / name).read_bytes())
    store.close()
    assert (left / "honed.db-wal").stat().st_size > 0
    with Store.open(left / "honed.db") as again:
        assert (left / "honed.db-wal").stat().st_size == 0
        assert again.state.get("a") == 1


@pytest.mark.parametrize("kept", [0.9, 0.5, 0.1])
def test_a_database_that_was_cut_short_is_refused_and_left_alone(tmp_path: Path, kept: float) -> None:
    path = tmp_path / "honed.db"
    with Store.open(path) as store:
        store.completions.begin(completion("c1"))
        for number in range(50):
            store.feedback.add(event(f"f{number}", principal=f"p{number}"))
    whole = path.read_bytes()
    cut = whole[: int(len(whole) / 4096 * kept) * 4096]
    path.write_bytes(cut)
    for open_ in (Store.open, Store.read_only):
        with pytest.raises(HonedError, match=r"damaged.*restore a backup"):
            open_(path)
    assert path.read_bytes() == cut


def test_a_header_that_was_overwritten_is_no_database(tmp_path: Path) -> None:
    path = tmp_path / "honed.db"
    with Store.open(path):
        pass
    content = bytearray(path.read_bytes())
    content[:16] = bytes(16)
    path.write_bytes(content)
    for open_ in (Store.open, Store.read_only):
        with pytest.raises(HonedError, match="no database"):
            open_(path)
    assert path.read_bytes() == content
