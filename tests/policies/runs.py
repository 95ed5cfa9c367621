"""Run directories on the tiny model, and the trainer child run on them."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from policies.battery import BatteryItem, Choice, Flip, Passage, Pattern
from policies.spec import (
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
