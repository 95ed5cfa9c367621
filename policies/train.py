"""The trainer: `python -m policies.train RUN_DIR`. It reads files, writes files, and may be killed at any instant.

It never opens the database and knows no service. `run` is its table of contents.
"""

import argparse
import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from safetensors import SafetensorError
from transformers.utils.logging import disable_progress_bar

from policies.adapters import CONFIG, WEIGHTS, read_tensors, save_adapter
from policies.anchor import Watch
from policies.askable import answerable, refusal
from policies.batches import Encoder, Item, Row
from policies.chat import load_tokenizer
from policies.child import die_with_parent, owning, sweep, yield_cpu
from policies.crew import Place, use_gpu
from policies.evaluate import Evaluation, attest, evaluate
from policies.learn import OnStep, Outcome, learn
from policies.learner import Learner, load_learner
from policies.objective import prepare
from policies.spec import (
    ADAPTER,
    BATTERY,
    EXAMPLES,
    HELDOUT,
    MANIFEST,
    PROBES,
    PROGRESS,
    REPORT,
    SNAPSHOT,
    SPEC,
    AttestationRow,
    Progress,
    Report,
    Snapshot,
    Spec,
    read_snapshot,
    write_manifest,
)
from store.errors import HonedError, TrainingFailed
from store.failpoints import failpoint
from store.files import fsync_file, write_json

#: What the run's manifest covers: the sealed inputs (a snapshot older than the battery has none), report and adapter.
SEALED = (
    *(SPEC, EXAMPLES, HELDOUT, PROBES, BATTERY, SNAPSHOT, REPORT),
    *(f"{ADAPTER}/{name}" for name in (WEIGHTS, CONFIG, MANIFEST)),
)


@dataclass(frozen=True, slots=True)
class Journal:
    """progress.jsonl, each line readable as soon as it is written; and the wall time of each phase."""

    path: Path
    seconds: dict[str, float]

    def write(self, phase: str, done: int, total: int, metrics: dict[str, float]) -> None:
        line = Progress(phase=phase, done=done, total=total, metrics=metrics)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(line.model_dump_json() + "\n")

    def steps_of(self, phase: str) -> OnStep:
        """What a phase calls after each of its steps."""

        def on_step(done: int, total: int, metrics: dict[str, float]) -> None:
            self.write(phase, done, total, metrics)

        return on_step

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        self.write(name, 0, 1, {})
        began = time.monotonic()
        yield
        self.seconds[name] = round(time.monotonic() - began, 3)


def run(run_dir: Path, where: Place) -> None:
    """Train, evaluate and publish what a sealed run directory asks for, as the first process or the only one.

    Raises:
        HonedError: the inputs, the incumbent or the optimisation are no good; no manifest was written.
    """
    snapshot = read_snapshot(run_dir)
    spec = snapshot.spec
    journal = Journal(run_dir / PROGRESS, {})
    with journal.phase("load"):
        encoder, snapshot, items, untaken = _encoded(snapshot)
        learner = _loaded(spec, where)
        failpoint("trainer.loaded")
        learner.crew.join(where)
    with journal.phase("reference"):
        lesson = prepare(learner, items, spec)
        watch = Watch(learner, _watched(snapshot, encoder, items))
    with journal.phase("train"):
        outcome = learn(learner, lesson, spec, watch=watch, on_step=_stepping(journal))
        learner.crew.part_ways()
        failpoint("trainer.trained")
    with journal.phase("evaluate"):
        evaluation = evaluate(learner, snapshot, encoder, on_step=journal.steps_of("evaluate"))
    with journal.phase("save"):
        digest = _publish(learner, run_dir / ADAPTER, base=spec.model)
        attestation = attest(learner, snapshot, encoder, evaluation.samples)
    report = _report(spec, outcome, evaluation, attestation)
    metrics = {**report.metrics, "train/refused": float(untaken)} if untaken else report.metrics
    report = report.model_copy(
        update={"adapter_digest": digest, "seconds": journal.seconds, "metrics": metrics}
    )
    fsync_file(run_dir / PROGRESS)  # read again where a restart takes the finished run up
    write_json(run_dir / REPORT, report.model_dump(mode="json"))
    write_manifest(run_dir, [name for name in SEALED if name != BATTERY or (run_dir / name).is_file()])
    failpoint("trainer.manifest.written")


def help_run(run_dir: Path, where: Place) -> None:
    """What the others of several processes do: the same as `run` up to the trained adapter, and write nothing."""
    snapshot = read_snapshot(run_dir)
    _, _, items, _ = _encoded(snapshot)
    learner = _loaded(snapshot.spec, where)
    learner.crew.join(where)
    lesson = prepare(learner, items, snapshot.spec)
    # The first one watches for all.
    learn(learner, lesson, snapshot.spec, watch=Watch(learner, []), on_step=lambda *_: None)
    learner.crew.part_ways()


def _encoded(snapshot: Snapshot) -> tuple[Encoder, Snapshot, list[Item], int]:
    """The tokenizer, what of the snapshot the model can be asked, the items to train on, and the number left out."""
    spec = snapshot.spec
    encoder = Encoder(load_tokenizer(Path(spec.model)), spec.max_length)
    if refused := refusal(snapshot.battery, encoder.tokenizer):
        raise TrainingFailed(refused)
    snapshot, untaken = answerable(snapshot, encoder.tokenizer)
    return encoder, snapshot, encoder.items(snapshot.examples), untaken


def _loaded(spec: Spec, where: Place) -> Learner:
    if spec.threads is not None:
        torch.set_num_threads(spec.threads)
    use_gpu(where)
    return load_learner(spec)


def _stepping(journal: Journal) -> OnStep:
    write = journal.steps_of("train")

    def on_step(done: int, total: int, metrics: dict[str, float]) -> None:
        write(done, total, metrics)
        failpoint("trainer.step")

    return on_step


def _watched(snapshot: Snapshot, encoder: Encoder, items: Sequence[Item]) -> list[Row]:
    """Answers the early stop watches: held-out ones first, which training does not push directly."""
    held = [encoder.thumb(example).row for example in snapshot.heldout]
    return held + [row for item in items for row in item.rows]


def _publish(learner: Learner, directory: Path, *, base: str) -> str:
    """Write the adapter with its scale in alpha, and go on with what was written. Returns its digest."""
    shape = replace(learner.shape, alpha=learner.shape.alpha * learner.scale)
    digest = save_adapter(learner.tensors(), directory, shape=shape, base=base)
    failpoint("trainer.adapter.written")
    learner.read(read_tensors(directory))
    return digest


def _report(
    spec: Spec, outcome: Outcome, evaluation: Evaluation, attestation: list[AttestationRow]
) -> Report:
    """Everything measured; digest and seconds are added last."""
    return Report(
        version=spec.version,
        scale=evaluation.scale,
        steps=outcome.steps,
        stopped_early=outcome.stopped_early,
        metrics=outcome.metrics | evaluation.metrics | {"train/from_base": float(spec.from_base)},
        scales=evaluation.scales,
        attestation=attestation,
        samples=evaluation.samples,
        heldout=evaluation.heldout,
        battery=evaluation.battery,
        seconds={},
        adapter_digest="",
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code 0 with a manifest, or another with one line on stderr: `EX_IOERR` where files could not be written or
    read, 1 for all else. A traceback is a bug.
    """
    parser = argparse.ArgumentParser(prog="python -m policies.train", description=run.__doc__)
    parser.add_argument("run_dir", type=Path)
    parser.add_argument("--rank", type=int, default=0, help="of several processes, which this one is")
    parser.add_argument("--size", type=int, default=1, help="how many processes there are")
    parser.add_argument("--meeting", type=Path, help="a file through which they find each other")
    arguments = parser.parse_args(argv)
    run_dir: Path = arguments.run_dir
    disable_progress_bar()  # stderr is for the one line that says why a run failed
    try:
        die_with_parent()
        yield_cpu()
        where = Place.of(arguments.rank, arguments.size, arguments.meeting)
        if where.rank:
            help_run(run_dir, where)
            return 0
        with owning(run_dir):
            sweep(run_dir)
            run(run_dir, where)
    except HonedError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 1
    except (OSError, SafetensorError) as error:
        with suppress(OSError):  # where the disk is full, the log may not take it
            print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
        # Libraries raise OSError for a model that is none, too; the system's errors have a number.
        return 1 if isinstance(error, OSError) and error.errno is None else os.EX_IOERR
    return 0


if __name__ == "__main__":
    sys.exit(main())
