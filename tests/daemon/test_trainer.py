"""What the service makes of what the trainer child left."""

import asyncio
import contextlib
import json
import os
import signal
from pathlib import Path

import pytest

from daemon import trainer
from daemon.trainer import curve, last_words, log_of, why
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


@pytest.mark.parametrize(
    ("statuses", "words", "told"),
    [
        ([0], [""], None),
        ([0, 0], ["", ""], None),
        ([None, 0], ["", ""], None),
        (
            [1],
            ["TrainingFailed: nothing to train on"],
            "the trainer ended with status 1: TrainingFailed: nothing",
        ),
        ([None, -9], ["", ""], "process 1 of the trainer's 2 ended with status -9: it wrote nothing"),
        ([1, -9], ["ProcessLost: another is gone", ""], "process 1 of the trainer's 2 ended with status -9"),
        (
            [1, 1],
            ["TrainingFailed: loss nan", "ProcessLost: x"],
            "process 0 of the trainer's 2 ended with status 1: ",
        ),
        ([74, 1], ["", "ProcessLost: x"], "status 74: its files could not be written or read"),
    ],
)
def test_the_process_that_failed_first_is_named(
    tmp_path: Path, statuses: list[int | None], words: list[str], told: str | None
) -> None:
    for rank, said in enumerate(words):
        if said:
            log_of(tmp_path, rank).write_text(said + "\n")
    found = why(tmp_path, statuses)
    assert found is None if told is None else found is not None and told in found


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
def test_what_one_process_cannot_do_is_told(tiny_model: Path, tmp_path: Path) -> None:
    run_dir = make_crew_run(tmp_path / "run", tiny_model)
    (run_dir / "examples.jsonl").write_text("{}\n")
    with pytest.raises(TrainingFailed, match=r"process \d of the trainer's 2 .*differs from what"):
        asyncio.run(train(run_dir, 2))
    assert not trainers(run_dir)
