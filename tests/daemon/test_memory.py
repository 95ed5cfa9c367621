"""How much is free: asked of nvidia-smi where there is a GPU, and never guessed."""

import asyncio
import time
from pathlib import Path

import pytest

from daemon import memory
from store.errors import TrainingFailed

ENOUGH = 1


@pytest.fixture
def smi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where a test puts its own nvidia-smi, and its own /dev in `dev`."""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(memory, "DEV", tmp_path / "dev")
    monkeypatch.setattr(memory, "SMI_TIMEOUT", 0.5)
    (tmp_path / "dev").mkdir()
    return tmp_path / "nvidia-smi"


def program(path: Path, script: str) -> None:
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


@pytest.mark.parametrize(("said", "free"), [("1024\n2048\n", 2**30), ("[N/A]", None), ("", None)])
def test_free_gpu_memory_is_read_from_nvidia_smi(said: str, free: int | None) -> None:
    assert memory.parse_free(said) == free


def test_too_little_free_memory_stops_a_training_before_it_begins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    asyncio.run(memory.require_free(1))
    with pytest.raises(TrainingFailed, match="policies.train.free_memory_mb"):
        asyncio.run(memory.require_free(2**40))
    asyncio.run(memory.require_free(0))


def test_each_of_several_processes_needs_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setattr(memory, "free_ram", lambda: 1000 * 2**20)
    asyncio.run(memory.require_free(500, processes=2))
    with pytest.raises(TrainingFailed, match="only 333 MiB of main memory for each of 3 processes are free"):
        asyncio.run(memory.require_free(500, processes=3))


def test_the_gpu_is_asked_where_there_is_one(smi: Path) -> None:
    program(smi, "echo 100")
    asyncio.run(memory.require_free(100))
    with pytest.raises(TrainingFailed, match="only 100 MiB on the GPU"):
        asyncio.run(memory.require_free(101))


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        ("exit 9", "status 9"),
        ("exec /bin/sleep 60", "no answer in 0.5 s"),
        ("echo '[Unknown Error]'", "Unknown Error"),
        (None, "No such file"),
    ],
)
def test_a_gpu_that_cannot_be_asked_stops_a_training(smi: Path, script: str | None, reason: str) -> None:
    if script is not None:
        program(smi, script)
    (smi.parent / "dev" / "nvidia0").touch()
    began = time.monotonic()
    with pytest.raises(TrainingFailed, match=f"policies.train.free_memory_mb.*{reason}"):
        asyncio.run(memory.require_free(ENOUGH))
    assert time.monotonic() - began < 20
    asyncio.run(memory.require_free(0))


def test_a_gpu_that_shares_the_main_memory_is_counted_there(smi: Path) -> None:
    program(smi, "echo '[N/A]'")
    (smi.parent / "dev" / "nvidia0").touch()
    with pytest.raises(TrainingFailed, match="of main memory"):
        asyncio.run(memory.require_free(2**40))


@pytest.mark.parametrize("script", ["exit 9", "exec /bin/sleep 60", None])
def test_without_a_gpu_main_memory_counts(smi: Path, script: str | None) -> None:
    if script is not None:
        program(smi, script)
    (smi.parent / "dev" / "nvidiactl").touch()  # the driver is there, a GPU is not
    asyncio.run(memory.require_free(ENOUGH))
    with pytest.raises(TrainingFailed, match="of main memory"):
        asyncio.run(memory.require_free(2**40))
