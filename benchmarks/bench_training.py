"""honed's trainer against TRL's: the same model, tokens, LoRA, rate, epochs and batches, taking turns in one run.

Both sides learn the demonstration's taste `list` from the embedded model's own answers (`training_data`): votes for
KTO, comparisons for DPO. TRL gets the settings its documentation advises for speed: the reference computed before
training, no gradient checkpointing, whole batches. Each side is a process of its own with the same number of threads
and does one optimiser step a turn, so that what else the machine does falls on both; the median of the ratios of the
pairs of turns is reported. CPU seconds are given beside wall seconds: neighbours change them less.

TRL may then go over the same data by itself with other settings (`--also`), since what is best for it need not be
what honed ships. The adapters of every epoch are held against votes on questions nobody trained on, and draw answers
to them: what share people would like, and after how many seconds, reference included, honed and the fastest of
TRL's runs had reached the same share. The arithmetic of honed's steps (by formula, `training_work`) is held against
the fastest float32 matrix product measured in the same run. Prints a table, writes benchmarks/results/training.json,
and ends with status 1 where a ratio is missed.

    python -m benchmarks.bench_training
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.training_data import NOISE, answers, comparisons, thumbs
from policies.config import EngineConfig
from policies.engines import resolve_base
from policies.spec import KlSpec, LoraSpec, LossSpec, OptimSpec, Snapshot, Spec, write_snapshot

RESULTS = Path(__file__).parent / "results" / "training.json"
ROOT = Path(__file__).parents[1]
#: Ratios that must hold, of honed to TRL; memory at the most, the others at least.
SPEED, MEMORY, ARITHMETIC, SATISFACTION = 1.8, 0.6, 0.5, 4.0
#: Budgets nobody reaches: both sides do every step.
NO_STOP = KlSpec(step_soft=99, step_hard=99, base_soft=99, base_hard=99)


@dataclass
class Side:
    """A child and what it told."""

    name: str
    process: "subprocess.Popen[str]"
    waiting: str | None = None
    told: dict[str, Any] = field(default_factory=dict)
    pieces: dict[str, list[dict[str, float]]] = field(default_factory=dict)

    def listen(self) -> None:
        """Read until the next piece is ready, or the end."""
        assert self.process.stdout is not None
        self.waiting = None
        for text in self.process.stdout:
            if not text.startswith('{"'):
                continue  # a library's word
            line = json.loads(text)
            if "ready" in line:
                self.waiting = line["ready"]
                return
            if "piece" in line:
                self.pieces.setdefault(line["piece"], []).append(line)
                print(
                    f"{self.name}: {line['piece']}, {line['wall']:.1f} s, {line['cpu']:.1f} of CPU",
                    file=sys.stderr,
                )
            else:
                self.told |= line
        if self.process.wait() != 0:
            raise SystemExit(f"{self.name} ended with status {self.process.returncode}")

    def go(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        self.listen()

    def seconds(self, piece: str, clock: str) -> float:
        return sum(line[clock] for line in self.pieces.get(piece, []))

    def until(self, share: float, clock: str) -> float:
        """Seconds up to this share of the steps, reference included."""
        steps = self.pieces["train"][: round(share * len(self.pieces["train"]))]
        return self.seconds("reference", clock) + sum(line[clock] for line in steps)


def start(kind: str, run_dir: Path, threads: int, *more: str, name: str) -> Side:
    command = [sys.executable, "-m", "benchmarks.training_sides", kind, str(run_dir), "--name", name, *more]
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": str(threads),
        "HF_HUB_OFFLINE": "1",
        "HF_DATASETS_CACHE": str(run_dir / "cache"),
        "TQDM_DISABLE": "1",
    }
    child = subprocess.Popen(
        command, cwd=ROOT, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    side = Side(name, child)
    side.listen()
    return side


def start_trl(name: str, run_dir: Path, settings: dict[str, Any], options: argparse.Namespace) -> Side:
    told = ("--settings", json.dumps(settings), "--layers", str(options.trl_layers))
    return start("trl", run_dir, options.threads, *told, name=name)


def take_turns(sides: list[Side]) -> None:
    """A piece of the same kind each until all have ended; who waits for a later kind waits for the others."""
    queue = deque(sides)
    while any(side.waiting for side in sides):
        kinds = {side.waiting for side in sides if side.waiting}
        kind = "reference" if "reference" in kinds else "train"
        for _ in sides:
            if queue[0].waiting == kind:
                queue[0].go()
            queue.rotate(-1)


def snapshot(kind: str, model: Path, digest: str, options: argparse.Namespace) -> Snapshot:
    asked = answers("asked")
    examples: list[Any]
    if kind == "kto":
        examples = list(thumbs(asked, noise=NOISE, seed=options.seed)[: options.answers])
    else:
        examples = list(comparisons(asked, seed=options.seed)[: options.answers // 2])
    spec = Spec(
        iteration=1,
        version="it0001-bench",
        model=str(model),
        base_digest=digest,
        incumbent=None,
        incumbent_digest=None,
        lora=LoraSpec(top_layers=options.layers or None),
        loss=LossSpec(dpo_nll=0.0),
        optim=OptimSpec(learning_rate=options.rate, epochs=options.epochs),
        kl=NO_STOP,
        threads=options.threads,
        seed=options.seed,
    )
    heldout = thumbs(answers("never_asked"), noise=0.0, seed=options.seed)
    return Snapshot(spec=spec, examples=examples, heldout=heldout, probes=[])


def paired(ours: Side, theirs: Side, clock: str) -> float:
    """Median over turns of TRL's seconds a step against honed's, steps of the same size."""
    steps = zip(ours.pieces["train"], theirs.pieces["train"], strict=True)
    return statistics.median(their[clock] / our[clock] for our, their in steps)


def compare(kind: str, folder: Path, model: Path, digest: str, options: argparse.Namespace) -> dict[str, Any]:
    """Both sides on one kind of example."""
    run_dir = folder / kind
    held = snapshot(kind, model, digest, options)
    write_snapshot(run_dir, held)
    sides = [
        start("honed", run_dir, options.threads, name="honed"),
        start_trl("trl", run_dir, options.settings, options),
    ]
    take_turns(sides)
    ours, theirs = sides
    others = []
    for number, settings in enumerate(options.also, start=1):
        others.append(start_trl(f"trl{number}", run_dir, options.settings | settings, options))
        take_turns(others[-1:])
    row: dict[str, Any] = {
        "examples": len(held.examples),
        "epochs": options.epochs,
        "layers": options.layers or "all",
        "threads": options.threads,
        "trl_settings": options.settings,
        "trl_layers": options.trl_layers or "all",
        "step_ratio": {clock: paired(ours, theirs, clock) for clock in ("wall", "cpu")},
    }
    for side in sides:
        row[side.name] = told(side, len(held.examples) * options.epochs)
    for side, settings in zip(others, options.also, strict=True):
        epochs = settings.get("num_train_epochs", options.epochs)
        row[side.name] = {"settings": settings, **told(side, len(held.examples) * epochs)}
    row["ratio"] = {
        name: row["honed"][name] / row["trl"][name]
        for name in ("per_second", "per_cpu_second", "per_second_whole", "per_cpu_second_whole")
    }
    row["memory_ratio"] = row["honed"]["peak_mb"] / row["trl"]["peak_mb"]
    row["memory_ratio_above_model"] = row["honed"]["above_model_mb"] / row["trl"]["above_model_mb"]
    judge = subprocess.run(
        [sys.executable, "-m", "benchmarks.training_sides", "judge", str(run_dir)],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": str(options.threads)},
        capture_output=True,
        text=True,
        check=True,
    )
    found = [json.loads(text) for text in judge.stdout.splitlines() if text.startswith('{"')]
    for side in (*sides, *others):
        row[side.name]["heldout"] = [each for each in found if each["side"] == side.name]
    row["base_satisfied"] = next(each["satisfied"] for each in found if each["side"] == "base")
    row["same_satisfaction"] = same_satisfaction(ours, [theirs, *others], row)
    return row


def same_satisfaction(ours: Side, theirs: Sequence[Side], row: dict[str, Any]) -> dict[str, Any]:
    """Seconds until honed, and the fastest of TRL's runs that did, had reached what the better of TRL's reached at
    all, or honed where that is less; at the end of an epoch.
    """
    shares = {
        side.name: [each["satisfied"] for each in row[side.name]["heldout"]] for side in (ours, *theirs)
    }
    target = min(max(shares[ours.name]), max(max(shares[side.name]) for side in theirs))
    found: dict[str, Any] = {"target": target}
    for clock in ("wall", "cpu"):
        seconds = {
            side.name: side.until(first(reached, target) / len(reached), clock)
            for side in (ours, *theirs)
            if max(reached := shares[side.name]) >= target
        }
        fastest = min((side.name for side in theirs if side.name in seconds), key=seconds.__getitem__)
        mine, other = seconds[ours.name], seconds[fastest]
        found[clock] = {"honed": mine, "trl": other, "of": fastest, "ratio": other / mine}
    return found


def first(reached: Sequence[float], target: float) -> int:
    """Number of the epoch, from 1, that first reached the target."""
    return 1 + next(index for index, share in enumerate(reached) if share >= target)


def told(side: Side, count: int) -> dict[str, Any]:
    """Rates and memory of one side. `count`: examples seen, over all epochs."""
    train, reference = side.seconds("train", "wall"), side.seconds("reference", "wall")
    found: dict[str, Any] = {
        "per_second": count / train,
        "per_cpu_second": count / side.seconds("train", "cpu"),
        "per_second_whole": count / (train + reference),
        "per_cpu_second_whole": count / (side.seconds("train", "cpu") + side.seconds("reference", "cpu")),
        "train_s": train,
        "train_cpu_s": side.seconds("train", "cpu"),
        "reference_s": reference,
        "reference_cpu_s": side.seconds("reference", "cpu"),
        "steps": side.told["finished"],
        "loaded_mb": side.told["loaded_mb"],
        "peak_mb": max(side.told["peak_mb"], side.told["loading_peak_mb"]),
        "above_model_mb": side.told["peak_mb"] - side.told["loaded_mb"],
    }
    for phase in ("train", "reference"):
        if f"{phase}_gflop" in side.told:
            found[f"{phase}_gflop"] = side.told[f"{phase}_gflop"]
            found[f"{phase}_gflop_per_cpu_second"] = side.told[f"{phase}_gflop"] / found[f"{phase}_cpu_s"]
    return found


def peak(threads: int) -> dict[str, float]:
    code = "import json, torch, benchmarks.training_work as w; print(json.dumps(w.matmul_peak()))"
    out = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": str(threads)},
        capture_output=True,
        text=True,
        check=True,
    )
    found: dict[str, float] = json.loads(out.stdout)
    return found


def missed(row: dict[str, Any]) -> list[str]:
    """Names of the ratios of one kind that do not hold."""
    held = {
        "speed": row["ratio"]["per_second"] >= SPEED,
        "memory": row["memory_ratio"] <= MEMORY,
        "arithmetic": row["arithmetic"] >= ARITHMETIC,
        "time to the same satisfaction": row["same_satisfaction"]["wall"]["ratio"] >= SATISFACTION,
    }
    return [name for name, holds in held.items() if not holds]


def report(results: dict[str, Any]) -> None:
    """The table."""
    best = results["peak_gflops"]["best"]
    print(f"fastest float32 matrix product: {best:.0f} GFLOP/s, {results['threads']} thread(s)")
    for kind, row in ((kind, results[kind]) for kind in ("kto", "dpo") if kind in results):
        for name, side in row.items():
            if not isinstance(side, dict) or "heldout" not in side:
                continue
            held = side["heldout"][-1]
            print(
                f"{kind} {name:5}  {side['per_second']:.2f}/s, {side['per_cpu_second']:.2f} a CPU second, "
                f"reference {side['reference_cpu_s']:.0f} CPU s, peak {side['peak_mb']:.0f} MB "
                f"({side['above_model_mb']:.0f} over the model), held-out AUC {held['heldout/auc']:.2f} "
                f"[{held['heldout/auc_low']:.2f}, {held['heldout/auc_high']:.2f}], satisfied after each epoch "
                + " ".join(f"{each['satisfied']:.0%}" for each in side["heldout"])
                + "".join(
                    f", KL {each['kl']:.2f} nats/token" for each in side["heldout"][-1:] if "kl" in each
                )
                + (f", with {json.dumps(side['settings'])}" if "settings" in side else "")
            )
        same = row["same_satisfaction"]
        print(
            f"{kind} {same['target']:.0%} satisfied (base {row['base_satisfied']:.0%}) after "
            f"{same['wall']['honed']:.0f} and {same['wall']['trl']:.0f} s, "
            f"ratio {same['wall']['ratio']:.2f} (CPU {same['cpu']['ratio']:.2f})"
        )
        print(
            f"{kind} ratios  a step {row['step_ratio']['wall']:.2f} (CPU {row['step_ratio']['cpu']:.2f}), with the "
            f"reference {row['ratio']['per_cpu_second_whole']:.2f}; memory {row['memory_ratio']:.2f}; "
            f"arithmetic {row['arithmetic']:.0%} of the peak; missed: {', '.join(missed(row)) or 'nothing'}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kinds", nargs="+", default=["kto", "dpo"], choices=["kto", "dpo"])
    parser.add_argument("--answers", type=int, default=96, help="votes, or answers in pairs of two")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--rate", type=float, default=7e-4)
    parser.add_argument(
        "--layers", type=int, default=10, help="adapted blocks from the top; 0 is all of them"
    )
    parser.add_argument("--trl-layers", type=int, help="the same of TRL; by default as many")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--settings", type=json.loads, default={}, help="further arguments of TRL's trainers, JSON"
    )
    parser.add_argument(
        "--also",
        type=json.loads,
        default=[],
        help="settings of further runs of TRL's, a JSON list of objects",
    )
    parser.add_argument("--output", type=Path, default=RESULTS)
    options = parser.parse_args()
    if options.trl_layers is None:
        options.trl_layers = options.layers
    model, digest = resolve_base(EngineConfig(), Path("var"))
    speeds = peak(options.threads)
    # The kind that is not measured now stays as it was.
    results: dict[str, Any] = json.loads(options.output.read_text()) if options.output.exists() else {}
    results |= {"threads": options.threads, "peak_gflops": {**speeds, "best": max(speeds.values())}}
    with tempfile.TemporaryDirectory(prefix="honed-bench-") as folder:
        for kind in options.kinds:
            results[kind] = compare(kind, Path(folder), model, digest, options)
            results[kind]["arithmetic"] = (
                results[kind]["honed"]["train_gflop_per_cpu_second"]
                / results["peak_gflops"]["best"]
                * options.threads
            )
            options.output.write_text(json.dumps(results, indent=2) + "\n")
    report({name: value for name, value in results.items() if name not in {"kto", "dpo"} - {*options.kinds}})
    raise SystemExit(1 if any(missed(results[kind]) for kind in options.kinds) else 0)


if __name__ == "__main__":
    main()
