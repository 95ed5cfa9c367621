"""What the service makes of what the trainer child left."""

import json
from pathlib import Path

from daemon.trainer import curve, last_words


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
    assert last_words(tmp_path, disk_failed=False) == "it wrote nothing"
    assert "could not be written" in last_words(tmp_path, disk_failed=True)
    (tmp_path / "trainer.log").write_text("...\nOSError: [Errno 28] No space left on device\n")
    assert last_words(tmp_path, disk_failed=True).startswith("OSError")
