"""What the service makes of what the trainer child left."""

import asyncio
import contextlib
import json
import os
import signal
from pathlib import Path

import pytest

from daemon import trainer
from daemon.trainer import curve, last_words, why
from policies.spec import MANIFEST, Progress
from store.errors import TrainingFailed
from tests.policies.runs import assert_same_run, make_crew_run


def told(phase: str, done: int, **metrics: float) -> str:
    return json.dumps({"phase": phase, "done": done, "total": 3, "metrics": metrics})


def test_the_curve_is_what_was_told_of_optimiser_steps(tmp_path: Path) -> None:
    lines = [
        told("load", 0),
        told("train", 0),
        told("train", 1, **{"train/loss": 0.7}),
        told("train", 2, **{"train/loss": 0.6, "train/kl_watched": float("nan")}),
        told("evaluate", 1),
    ]
    (tmp_path / "progress.jsonl").write_text("\n".join(lines) + "\n")
    assert curve(tmp_path) == [{"step": 1.0, "train/loss": 0.7}, {"step": 2.0, "train/loss": 0.6}]


def test_without_any_word_of_the_child_there_is_no_curve(tmp_path: Path) -> None:
    assert curve(tmp_path) == []


def test_a_trainer_that_found_no_room_for_its_last_words_is_understood(tmp_path: Path) -> None:
    log = tmp_path / "trainer.log"
    assert last_words(log) == "it wrote nothing"
    assert "could not be written" in last_words(log, disk_failed=True)
    log.write_text("...\nOSError: [Errno 28] No space left on device\n")
    assert last_words(log, disk_failed=True).startswith("OSError")


def test_a_warning_behind_the_reason_and_words_of_an_earlier_attempt_are_no_reason(tmp_path: Path) -> None:
    log = tmp_path / "trainer.log"
    log.write_text(
        "TrainingFailed: step 3: loss nan\n[rank0]:[W12 c10d] WARNING: destroy_process_group() was not called\n"
    )
    assert last_words(log) == "TrainingFailed: step 3: loss nan"
    assert last_words(log, begun=log.stat().st_size) == "it wrote nothing"


@pytest.mark.parametrize(
    ("ends", "told"),
    [
        ([(0, "")], None),
        ([(None, ""), (0, "")], None),
        ([(1, "TrainingFailed: nothing")], "the trainer ended with status 1: TrainingFailed: nothing"),
        (
            [(None, ""), (-9, "it wrote nothing")],
            "process 1 of the trainer's 2 ended with status -9: it wrote",
        ),
        (
            [(1, "ProcessLost: x"), (-9, "ProcessLost: old")],
            "process 1 of the trainer's 2 ended with status -9",
        ),
        (
            [(1, "TrainingFailed: nan"), (1, "ProcessLost: x")],
            "process 0 of the trainer's 2 ended with status 1: T",
        ),
        (
            [(1, "ProcessLost: x"), (None, "")],
            "process 0 of the trainer's 2 ended with status 1: ProcessLost: x",
        ),
    ],
)
def test_the_process_that_failed_first_is_named(ends: list[tuple[int | None, str]], told: str | None) -> None:
    found = why(ends)
    assert found is None if told is None else found is not None and found.startswith(told)


@pytest.fixture(scope="module")
def alone(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run_dir = make_crew_run(tmp_path_factory.mktemp("alone") / "run", tiny_model)
    asyncio.run(train(run_dir))
    return run_dir


async def train(run_dir: Path, processes: int = 1, on_progress: trainer.OnProgress = lambda _: None) -> None:
    await trainer.run(run_dir, on_progress=on_progress, stall_seconds=120, processes=processes)


def trainers(run_dir: Path) -> list[tuple[int, int]]:
    """Rank and process id of those that train a run."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                line = (entry / "cmdline").read_bytes().decode().split("\0")
                if str(run_dir) in line and "--rank" in line:
                    found.append((int(line[line.index("--rank") + 1]), int(entry.name)))
    return sorted(found)


@pytest.mark.slow
@pytest.mark.parametrize("processes", [2, 3])
def test_several_processes_train_the_adapter_of_one(
    alone: Path, tiny_model: Path, tmp_path: Path, processes: int
) -> None:
    run_dir = make_crew_run(tmp_path / "run", tiny_model)
    seen: list[int] = []
    asyncio.run(train(run_dir, processes, lambda _: seen.append(len(trainers(run_dir)))))
    assert_same_run(run_dir, alone)
    assert max(seen) == processes
    assert not trainers(run_dir) and not list(run_dir.glob("crew-*"))


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
def test_the_loss_of_one_process_ends_them_all(tiny_model: Path, tmp_path: Path, rank: int) -> None:
    run_dir = make_crew_run(tmp_path / "run", tiny_model, epochs=50)
    killed: list[int] = []

    def kill(progress: Progress) -> None:
        if progress.phase == "train" and progress.done > 2 and not killed:
            killed.append(dict(trainers(run_dir))[rank])
            os.kill(killed[0], signal.SIGKILL)

    with pytest.raises(TrainingFailed, match=f"process {rank} of the trainer's 2 ended with status -9"):
        asyncio.run(train(run_dir, 2, kill))
    assert not trainers(run_dir) and not list(run_dir.glob("crew-*"))
    assert not (run_dir / MANIFEST).exists()


@pytest.mark.slow
def test_after_training_the_others_do_not_matter(tiny_model: Path, tmp_path: Path) -> None:
    """The first one evaluates alone; the end of another, however bad, changes nothing."""
    run_dir = make_crew_run(tmp_path / "run", tiny_model)
    (run_dir / "crew-0").write_text("left by a service that was killed")
    killed: list[int] = []

    def kill(progress: Progress) -> None:
        if progress.phase == "evaluate" and not killed:
            killed.append(0)
            for rank, number in trainers(run_dir):
                if rank:
                    os.kill(number, signal.SIGKILL)

    asyncio.run(train(run_dir, 2, kill))
    assert killed and (run_dir / MANIFEST).exists()
    assert not trainers(run_dir) and not list(run_dir.glob("crew-*"))


@pytest.mark.slow
def test_what_one_process_cannot_do_is_told(tiny_model: Path, tmp_path: Path) -> None:
    run_dir = make_crew_run(tmp_path / "run", tiny_model)
    (run_dir / "examples.jsonl").write_text("{}\n")
    with pytest.raises(TrainingFailed, match=r"process \d of the trainer's 2 .*differs from what"):
        asyncio.run(train(run_dir, 2))
    assert not trainers(run_dir)
