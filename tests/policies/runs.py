"""Run directories on the tiny model, and the trainer child run on them."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from policies.adapters import read_tensors
from policies.battery import BatteryItem, Choice, Flip, Passage, Pattern
from policies.spec import (
    ADAPTER,
    AnchorExample,
    DpoExample,
    EvalSpec,
    KlSpec,
    KtoExample,
    LoraSpec,
    OptimSpec,
    Probe,
    Snapshot,
    Spec,
    TrainingExample,
    Turn,
    read_report,
    write_snapshot,
)

ROOT = Path(__file__).resolve().parents[2]
WIDE = KlSpec(step_soft=50, step_hard=50, base_soft=50, base_hard=50)


def prompt(text: str) -> list[Turn]:
    return [Turn(role="user", content=text)]


def thumb(number: int) -> KtoExample:
    """Even answers are lists and liked, odd ones are not."""
    up = number % 2 == 0
    answer = f"- yes {number}" if up else f"no way {number}"
    return KtoExample(id=f"k{number}", prompt=prompt(f"question {number}"), completion=answer, label=up)


def pair(number: int) -> DpoExample:
    return DpoExample(
        id=f"d{number}", prompt=prompt(f"ask {number}"), chosen=f"- so {number}", rejected=f"nah {number}"
    )


def anchor(number: int) -> AnchorExample:
    """Something base might have said."""
    answer = f"plain words {number}"
    return AnchorExample(id=f"a{number}", prompt=prompt(f"say {number}"), completion=answer)


BATTERY: list[BatteryItem] = [
    Choice(id="c0", group="capability", prompt=prompt("which?"), options=["- yes", "no way"]),
    Flip(id="f0", prompt=prompt("is it?"), options=["- yes", "no way"], challenge="Sure?"),
    Pattern(id="p0", group="operator", prompt=prompt("say it"), must_not=["sorry"], tokens=8),
    Passage(id="t0", text="Some plain words."),
]


def make_spec(model: Path, **changes: Any) -> Spec:
    values: dict[str, Any] = {
        "iteration": 1,
        "version": "it0001-00000000",
        "model": str(model),
        "base_digest": "tiny",
        "incumbent": None,
        "incumbent_digest": None,
        "lora": LoraSpec(rank=4, alpha=8, top_layers=2),
        "optim": OptimSpec(epochs=3, batch_size=8, learning_rate=1e-2),
        "evaluation": EvalSpec(probe_tokens=8),
        "kl": WIDE,
    }
    return Spec(**{**values, **changes})


def make_snapshot(spec: Spec, examples: list[TrainingExample] | None = None) -> Snapshot:
    return Snapshot(
        spec=spec,
        examples=[*map(thumb, range(14)), *map(pair, range(2))] if examples is None else examples,
        heldout=[thumb(number) for number in range(20, 26)],
        probes=[
            Probe(id=f"p{number}", prompt=prompt(f"hello {number}"), cluster="hello") for number in range(3)
        ],
        battery=BATTERY,
    )


def make_run(run_dir: Path, spec: Spec, examples: list[TrainingExample] | None = None) -> Path:
    write_snapshot(run_dir, make_snapshot(spec, examples))
    return run_dir


def train_child(run_dir: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """The trainer as the service starts it: a fresh process, one thread."""
    return subprocess.run(
        [sys.executable, "-m", "policies.train", str(run_dir)],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
        capture_output=True,
        text=True,
        timeout=180,
    )


def make_crew_run(run_dir: Path, model: Path, *, epochs: int = 3) -> Path:
    """A run of steps with every form of example in them, for one process or several."""
    spec = make_spec(model, optim=OptimSpec(epochs=epochs, batch_size=6, learning_rate=1e-2), max_length=128)
    return make_run(run_dir, spec, [*map(thumb, range(11)), *map(pair, range(5)), *map(anchor, range(4))])


def assert_same_run(found: Path, wanted: Path) -> None:
    """The adapter and what was told of its training, up to the order of sums."""
    ours, theirs = read_tensors(found / ADAPTER), read_tensors(wanted / ADAPTER)
    largest = max(float(tensor.abs().max()) for tensor in theirs.values())
    assert ours.keys() == theirs.keys()
    for name, tensor in theirs.items():
        torch.testing.assert_close(ours[name], tensor, atol=1e-3 * largest, rtol=0)
    one, other = read_report(found), read_report(wanted)
    for name in ("loss_first", "loss_last", "grad_norm", "anchor_nll", "kto_baseline", "kl_watched"):
        told, expected = (report.metrics[f"train/{name}"] for report in (one, other))
        assert told == pytest.approx(expected, rel=1e-2, abs=1e-4)
    assert one.steps == other.steps
