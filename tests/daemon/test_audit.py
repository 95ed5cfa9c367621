"""`honed audit`, and what doctor, status and backups say of the log."""

import json
import sqlite3
from pathlib import Path

import pytest
from typer.testing import CliRunner

from api import views
from daemon import doctor_state
from daemon.backup import backup, restore
from daemon.cli import app
from daemon.state_files import DATABASE
from store.chain import GENESIS
from store.db import Store
from store.errors import HonedError


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A state directory whose log has three entries."""
    monkeypatch.setenv("HONED_STORE__DIRECTORY", str(tmp_path / "state"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "state").mkdir()
    with Store.open(tmp_path / "state" / DATABASE) as store:
        for number in range(3):
            store.audit.add(actor="ann", action="note", subject=f"s{number}", reason=f"why {number}")
    return tmp_path / "state"


def break_second(state: Path) -> None:
    """What somebody who can write into the file would do."""
    with sqlite3.connect(state / DATABASE) as db:
        db.execute("drop trigger audit_refuses_update")
        db.execute("update audit set reason = 'another' where id = 2")
    db.close()


def head(state: Path) -> str:
    with Store.read_only(state / DATABASE) as store:
        return store.audit.head()[1]


def test_the_log_is_read_and_paged(state: Path) -> None:
    done = CliRunner().invoke(app, ["audit", "--limit", "2"])
    assert done.exit_code == 0, done.output
    assert "why 2" in done.output and "why 1" in done.output and "why 0" not in done.output
    rows = json.loads(CliRunner().invoke(app, ["audit", "--before", "2", "--json"]).output)
    assert [(row["id"], row["reason"]) for row in rows] == [(1, "why 0")]


def test_verify_says_that_it_holds_or_where_it_breaks(state: Path) -> None:
    noted = head(state)
    done = CliRunner().invoke(app, ["audit", "--verify", "--head", noted])
    assert done.exit_code == 0, done.output
    assert f"3 entries hold, head {noted}" in done.output and "entry 3 has the digest" in done.output
    other = CliRunner().invoke(app, ["audit", "--verify", "--head", "0" * 64])
    assert other.exit_code == 1 and "taken off the end" in other.output
    assert CliRunner().invoke(app, ["audit", "--head", noted]).exit_code != 0
    break_second(state)
    done = CliRunner().invoke(app, ["audit", "--verify", "--json"])
    row = json.loads(done.output)
    assert (done.exit_code, row["ok"], row["broken"], row["entries"]) == (1, False, 2, 3)
    assert "broken at entry 2 of 3" in CliRunner().invoke(app, ["audit", "--verify"]).output


def test_the_doctor_looks_through_the_log(state: Path) -> None:
    found = {one["name"]: one for one in doctor_state.database(state)}["audit log"]
    assert found["ok"] and found["detail"] == f"3 entries hold, head {head(state)}"
    break_second(state)
    found = {one["name"]: one for one in doctor_state.database(state)}["audit log"]
    assert not found["ok"] and "broken at entry 2" in found["detail"] and "backup" in found["remedy"]


def test_status_tells_the_head(state: Path) -> None:
    with Store.open(state / DATABASE) as store:
        assert views.audit(store) == {"entries": 3, "head": head(state)}
    with Store.memory() as store:
        assert views.audit(store) == {"entries": 0, "head": GENESIS}


def test_backups_tell_the_head_and_a_broken_log_is_restored_only_on_purpose(
    state: Path, tmp_path: Path
) -> None:
    row = backup(state, tmp_path / "whole", at=1.0)
    assert row["audit"] == {"entries": 3, "head": head(state), "broken": None, "why": ""}
    assert restore(tmp_path / "whole", tmp_path / "fresh")["audit"] == row["audit"]
    break_second(state)
    # People's feedback is saved all the same.
    done = CliRunner().invoke(app, ["backup", str(tmp_path / "broken")])
    assert done.exit_code == 0 and "AUDIT LOG BROKEN at entry 2" in done.output
    with pytest.raises(HonedError, match="broken at entry 2"):
        restore(tmp_path / "broken", tmp_path / "other")
    assert not (tmp_path / "other").exists()
    restore(tmp_path / "broken", tmp_path / "other", broken_audit=True)
    assert (tmp_path / "other" / DATABASE).is_file()
