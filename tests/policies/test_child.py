import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from policies.child import PARENT, die_with_parent, owning, sweep
from policies.spec import MANIFEST, PROGRESS, OptimSpec
from store.errors import TrainingFailed
from tests.policies.runs import ROOT, make_run, make_spec, train_child


def test_two_trainers_never_share_a_directory(tiny_model: Path, tmp_path: Path) -> None:
    run_dir = make_run(tmp_path, make_spec(tiny_model))
    with owning(run_dir):
        child = train_child(run_dir)
    assert child.returncode == 1
    assert "another trainer" in child.stderr
    assert not (run_dir / "progress.jsonl").exists()


def test_a_directory_is_free_again_after_use(tmp_path: Path) -> None:
    for _ in range(2):
        with owning(tmp_path):
            pass


def test_a_directory_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TrainingFailed, match="not a directory"), owning(tmp_path / "none"):
        pass


def test_a_trainer_whose_service_is_gone_does_not_start(tiny_model: Path, tmp_path: Path) -> None:
    child = train_child(make_run(tmp_path, make_spec(tiny_model)), **{PARENT: "1"})
    assert child.returncode == 1
    assert "is gone" in child.stderr


def test_a_trainer_of_a_living_service_starts(tiny_model: Path, tmp_path: Path) -> None:
    run_dir = make_run(tmp_path, make_spec(tiny_model), [])
    child = train_child(run_dir, **{PARENT: str(os.getpid())})
    assert "nothing to train on" in child.stderr  # it got as far as its examples


def test_a_trainer_run_by_hand_asks_for_no_parent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(PARENT, raising=False)
    die_with_parent()


def test_sweeping_removes_results_and_keeps_inputs(tmp_path: Path) -> None:
    make_run(tmp_path, make_spec(tmp_path))
    inputs = set(tmp_path.iterdir())
    for name in ("report.json", "progress.jsonl", "manifest.json", ".report.json.123.tmp"):
        (tmp_path / name).write_text("old")
    for name in ("adapter", ".adapter.tmp"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "adapter_model.safetensors").write_text("old")
    sweep(tmp_path)
    assert set(tmp_path.iterdir()) == inputs


SERVICE = """
import os, subprocess, sys, time
from pathlib import Path
run_dir, parent, progress = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
subprocess.Popen([sys.executable, "-m", "policies.train", str(run_dir)], env={**os.environ, parent: str(os.getpid())})
while "train/loss" not in ((run_dir / progress).read_text() if (run_dir / progress).exists() else ""):
    time.sleep(0.05)
os._exit(0)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a process that its parent died")
def test_a_trainer_dies_with_its_service(tiny_model: Path, tmp_path: Path) -> None:
    endless = OptimSpec(epochs=50, batch_size=2, learning_rate=1e-6)
    run_dir = make_run(tmp_path, make_spec(tiny_model, optim=endless))
    arguments = [sys.executable, "-c", SERVICE, str(run_dir), PARENT, PROGRESS]
    subprocess.run(arguments, cwd=ROOT, timeout=120, check=True, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 5
    while not is_free(run_dir) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert is_free(run_dir)
    assert not (run_dir / MANIFEST).exists()


def is_free(run_dir: Path) -> bool:
    try:
        with owning(run_dir):
            return True
    except TrainingFailed:
        return False


def test_what_cannot_be_written_is_one_line_and_a_status_of_its_own(tmp_path: Path) -> None:
    (tmp_path / MANIFEST).mkdir()
    child = train_child(tmp_path)
    assert child.returncode == os.EX_IOERR
    assert "manifest.json" in child.stderr and "Traceback" not in child.stderr
