"""Backups of a state directory: complete or not there, verified both ways, damaged ones refused."""

import json
import os
import shutil
import sqlite3
import stat
from pathlib import Path

import pytest
from typer.testing import CliRunner

from daemon.backup import ATTEMPTS, INDEX, backup, files_of, remove, restore, verify
from daemon.cli import app
from daemon.state_files import DATABASE, LOCK, SECRET
from policies.spec import MANIFEST, SNAPSHOT, SPEC, write_manifest
from store.copying import copy_database
from store.db import StateLock, Store
from store.errors import AlreadyRunning, HonedError, Invalid, NotFound
from store.files import sha256_file, write_durably
from store.records import Adapter, AdapterStatus
from tests.store.conftest import completion, event

RUN = "iterations/0001"


@pytest.fixture
def state(tmp_path: Path) -> Path:
    """Five answers with a vote each, a finished run whose adapter is served, and one that trains."""
    state = tmp_path / "state"
    folder = state / RUN / "adapter"
    folder.mkdir(parents=True)
    (folder / "adapter_model.safetensors").write_bytes(os.urandom(5000))
    write_manifest(folder, ["adapter_model.safetensors"])
    (state / RUN / "report.json").write_text("{}")
    (state / RUN / "lock").touch()
    write_manifest(state / RUN, ["report.json"])
    training = state / "iterations" / "0002"
    (training / "adapter").mkdir(parents=True)
    for name in (SPEC, SNAPSHOT, "progress.jsonl", "adapter/adapter_model.safetensors"):
        (training / name).write_text(name)
    write_durably(state / SECRET, os.urandom(32), mode=0o600)
    with Store.open(state / DATABASE) as store:
        for number in range(5):
            store.completions.begin(completion(f"c{number}"))
            store.feedback.add(event(f"f{number}", f"c{number}"))
        begun = store.iterations.begin(trigger="test", incumbent=None, config={})
        store.adapters.add(
            Adapter(
                version="it0001-abc",
                parent=None,
                iteration=begun.id,
                path=Path(RUN) / "adapter",
                digest=sha256_file(folder / MANIFEST),
                status=AdapterStatus.CANDIDATE,
                scale=1.0,
                created_at=1.0,
            )
        )
        store.adapters.activate("it0001-abc", actor="test", reason="test")
    return state


def content(folder: Path, *, but: tuple[str, ...] = ()) -> dict[str, bytes]:
    names = (path for path in folder.rglob("*") if path.is_file() and path.name not in but)
    return {str(path.relative_to(folder)): path.read_bytes() for path in names}


def test_what_is_saved_beside_a_writer_is_there_again_after_a_restore(state: Path, tmp_path: Path) -> None:
    with StateLock(state / LOCK), Store.open(state / DATABASE) as store:
        store.feedback.add(event("late", "c0", False, principal="bob"))  # in the write-ahead log only
        row = backup(state, tmp_path / "saved", at=1_800_000_000.0)
    assert row["rows"] == {"completions": 5, "feedback": 6, "iterations": 1, "adapters": 1}
    assert (row["active"], row["missing"]) == ("it0001-abc", [])
    fresh = tmp_path / "fresh"
    restore(tmp_path / "saved", fresh)
    # Of the run that trains only its inputs; of the finished one all but its lock.
    assert sorted(content(fresh, but=(LOCK,))) == sorted(
        [
            DATABASE,
            SECRET,
            f"{RUN}/report.json",
            f"{RUN}/{MANIFEST}",
            f"{RUN}/adapter/{MANIFEST}",
            f"{RUN}/adapter/adapter_model.safetensors",
            f"iterations/0002/{SPEC}",
            f"iterations/0002/{SNAPSHOT}",
        ]
    )
    assert (fresh / SECRET).read_bytes() == (state / SECRET).read_bytes()
    with Store.open(fresh / DATABASE) as store:
        assert {item.feedback.id for item in store.feedback.live()} == {f"f{n}" for n in range(5)} | {"late"}
        active = store.adapters.active()
        assert active is not None
        assert sha256_file(fresh / active.path / MANIFEST) == active.digest


def test_nobody_else_can_read_a_backup(state: Path, tmp_path: Path) -> None:
    backup(state, tmp_path / "saved", at=1.0)
    assert stat.S_IMODE((tmp_path / "saved").stat().st_mode) == 0o700
    assert stat.S_IMODE((tmp_path / "saved" / SECRET).stat().st_mode) == 0o600


@pytest.mark.parametrize("where", ["saved", "state/saved"])
def test_a_backup_is_a_new_folder_outside_what_it_saves(state: Path, tmp_path: Path, where: str) -> None:
    target = tmp_path / where
    if where == "saved":
        target.mkdir()
        (target / "mine").write_text("keep")
    before = content(tmp_path)
    with pytest.raises(Invalid, match="directory|folder"):
        backup(state, target, at=1.0)
    assert content(tmp_path) == before


def test_a_damaged_database_gives_no_backup(state: Path, tmp_path: Path) -> None:
    raw = bytearray((state / DATABASE).read_bytes())
    raw[4096 * 3 : 4096 * 5] = os.urandom(4096 * 2)
    (state / DATABASE).write_bytes(raw)
    with pytest.raises(HonedError, match=str(state / DATABASE) + "|damaged"):
        backup(state, tmp_path / "saved", at=1.0)
    assert not list(tmp_path.glob("*saved*")) and not list(tmp_path.glob(".*saved*"))


def test_what_is_served_must_be_in_it(state: Path, tmp_path: Path) -> None:
    shutil.rmtree(state / RUN)
    with pytest.raises(HonedError, match="it0001-abc, which is served"):
        backup(state, tmp_path / "saved", at=1.0)
    assert not (tmp_path / "saved").exists()


@pytest.mark.parametrize("times", [1, ATTEMPTS - 1, ATTEMPTS])
@pytest.mark.parametrize("gone", [f"{RUN}/adapter", f"{RUN}/report.json"])
def test_files_that_go_after_the_database_was_copied_are_no_failure(
    state: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, times: int, gone: str
) -> None:
    """As when somebody is forgotten whom the served adapter learned from."""
    shutil.copytree(state / RUN, tmp_path / "kept")
    begun = []

    def copied_too_early(source: Path, target: Path) -> None:
        shutil.copytree(tmp_path / "kept", state / RUN, dirs_exist_ok=True)
        copy_database(source, target)
        begun.append(target)
        if len(begun) <= times:
            remove(state / gone)

    listed = files_of

    def lists_what_was_there(directory: Path) -> list[str]:
        """The list as it was before the file went, where one file goes; a folder goes before the list is made."""
        names = list(listed(directory))
        return [*names, gone] if len(begun) <= times and gone.endswith(".json") else names

    monkeypatch.setattr("daemon.backup.copy_database", copied_too_early)
    monkeypatch.setattr("daemon.backup.files_of", lists_what_was_there)
    if times == ATTEMPTS:
        with pytest.raises(HonedError, match=r"it0001-abc, which is served|report\.json"):
            backup(state, tmp_path / "saved", at=1.0)
        assert not list(tmp_path.glob("*saved*"))
    else:
        assert backup(state, tmp_path / "saved", at=1.0)["missing"] == []
        assert verify(tmp_path / "saved")["active"] == "it0001-abc"
    assert len(begun) == min(times + 1, ATTEMPTS)


def test_a_changed_adapter_is_noticed_before_it_is_saved(state: Path, tmp_path: Path) -> None:
    (state / RUN / "adapter" / MANIFEST).write_text("{}")
    with pytest.raises(HonedError, match="not the adapter that the database knows"):
        backup(state, tmp_path / "saved", at=1.0)


def flip(path: Path) -> None:
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 1
    path.write_bytes(raw)


def other_path(index: Path) -> None:
    row = json.loads(index.read_text())
    row["files"]["../outside"] = row["files"][SECRET]
    index.write_text(json.dumps(row))


DAMAGE = {
    "a bit of an adapter": (lambda saved: flip(saved / RUN / "adapter/adapter_model.safetensors"), "differs"),
    "a bit of the database": (lambda saved: flip(saved / DATABASE), "differs"),
    "a file less": (lambda saved: (saved / SECRET).unlink(), "missing"),
    "an index that leads outside": (lambda saved: other_path(saved / INDEX), "not a plain file inside"),
    "an index that is none": (lambda saved: (saved / INDEX).write_text("[]"), INDEX),
    "no index": (lambda saved: (saved / INDEX).unlink(), "never finished"),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_a_damaged_backup_is_not_restored(state: Path, tmp_path: Path, name: str) -> None:
    saved, fresh = tmp_path / "saved", tmp_path / "fresh"
    backup(state, saved, at=1.0)
    harm, said = DAMAGE[name]
    harm(saved)
    with pytest.raises(HonedError, match=said):
        restore(saved, fresh)
    assert not fresh.exists()


def test_a_database_that_is_there_is_never_replaced(state: Path, tmp_path: Path) -> None:
    backup(state, tmp_path / "saved", at=1.0)
    before = content(state)
    with pytest.raises(Invalid, match="has a database already"):
        restore(tmp_path / "saved", state)
    assert content(state, but=(LOCK,)) == {name: raw for name, raw in before.items() if name != LOCK}
    with StateLock(tmp_path / "state" / LOCK), pytest.raises(AlreadyRunning):
        restore(tmp_path / "saved", state)


def test_a_restore_that_was_cut_short_is_begun_again(state: Path, tmp_path: Path) -> None:
    saved, fresh = tmp_path / "saved", tmp_path / "fresh"
    backup(state, saved, at=1.0)
    half = fresh / "iterations" / "0009"
    half.mkdir(parents=True)
    (half / "half").write_text("of another")
    (fresh / f".{DATABASE}.tmp").write_text("half")
    restore(saved, fresh)
    assert not half.exists()
    with sqlite3.connect(fresh / DATABASE) as db:
        assert db.execute("select count(*) from feedback").fetchone() == (5,)
    assert verify(saved)["files"] == len(content(fresh, but=(LOCK,)))


def test_nothing_to_save_says_so(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="nothing has been served"):
        backup(tmp_path, tmp_path / "saved", at=1.0)


def test_the_commands_tell_what_they_did(state: Path, tmp_path: Path) -> None:
    def run(*words: str, directory: Path) -> tuple[int, str]:
        file = tmp_path / "config.toml"
        file.write_text(f'[store]\ndirectory = "{directory}"\n')
        ran = CliRunner().invoke(app, [*words, "--config", str(file)])
        return ran.exit_code, ran.output

    code, said = run("backup", str(tmp_path / "saved"), directory=state)
    assert code == 0
    assert "5 answers, 5 events of feedback, 1 iterations, serving it0001-abc" in said
    code, said = run("restore", str(tmp_path / "saved"), directory=tmp_path / "fresh")
    assert code == 0
    assert "run `honed forget` for them once more" in said
    code, said = run("restore", str(tmp_path / "saved"), "--json", directory=tmp_path / "another")
    assert json.loads(said)["restored"] == str(tmp_path / "another")
