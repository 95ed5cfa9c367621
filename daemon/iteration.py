"""One iteration: evidence in, a settled verdict out. `run` is the table of contents.

Every stage leaves something that verifies (a sealed snapshot, a sealed run), so an iteration that a crash cut
short is simply run again: what is already there is not repeated.
"""

import asyncio
import math
import shutil
import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from daemon import gate, judging, ledger, quarantine, rebuild, replay, trainer, weighing
from daemon.attest import load_and_attest
from daemon.batteries import battery_of
from daemon.contest import contest
from daemon.gate import Decision, Outcome
from daemon.memory import require_free
from daemon.promote import Settlement, settle
from daemon.rebuild import Trained
from daemon.runtime import Known, Runtime, adapter_path
from daemon.snapshot import make_snapshot, probes, trainer_spec
from daemon.stages import PROGRESS_EVERY, move, to_its_end
from daemon.vetting import background_now, hold
from judge.background import Background
from judge.judged import TrainingPair
from judge.pairs import Preferences, build, shortage
from policies import spec
from store.db import Store
from store.errors import AdapterInvalid, AttestationFailed, TrainingFailed
from store.failpoints import failpoint
from store.records import Adapter, AdapterStatus, Completion, Evidence, Iteration, Stage

#: Stages before the snapshot is sealed. What was drawn and judged in them is in the store and is found again.
BEFORE_TRAINING = (Stage.QUEUED, Stage.COLLECTING, Stage.SAMPLING, Stage.JUDGING)


async def run(runtime: Runtime, iteration: Iteration) -> Iteration:
    """Take an iteration from wherever it stands to its end."""
    if iteration.stage in BEFORE_TRAINING:
        iteration = await collect(runtime, iteration)
    if iteration.stage is Stage.ABORTED:
        return iteration
    try:
        trained = await train_candidates(runtime, iteration)
        best, passed_over = rebuild.kept(trained, rebuild.due_of(iteration.counts))
        failpoint("iteration.gated")
    except TrainingFailed as error:
        return await end(runtime, iteration, Stage.FAILED, str(error))
    await until_ready(runtime, patience=runtime.config.daemon.engine_patience)
    async with runtime.swapping:
        decision = await prove(runtime, best)
        settlement = Settlement(
            iteration, best.candidate, best.report, decision, best.metrics, passed_over=passed_over
        )
        return await settle(runtime, settlement)


async def collect(runtime: Runtime, iteration: Iteration) -> Iteration:
    """Snapshot the feedback not yet used, what a licensed judge adds, and what is repeated of earlier feedback, as
    examples in a sealed run directory; in two, where a rebuild is due.
    """
    store = runtime.store
    iteration = await move(runtime, iteration, Stage.COLLECTING)
    failpoint("iteration.collecting")
    background = await asyncio.to_thread(background_now, runtime)
    held = await asyncio.to_thread(hold, store, iteration.id, background)
    evidence, others, preferences = await asyncio.to_thread(preferences_now, runtime, background)
    counts = {**preferences.counts(), **held, "events": len(evidence)}
    missing = shortage(preferences, runtime.config.feedback)
    if missing is not None:
        return await end(runtime, iteration, Stage.ABORTED, missing, counts=counts)
    judged = await judging.judge(runtime, iteration, preferences)
    active = await asyncio.to_thread(store.adapters.active)
    judged = judging.held_to(judged, active.version if active else None)
    past = await asyncio.to_thread(replay.look_back, runtime, evidence, others, background)
    due = await asyncio.to_thread(rebuild.due_now, runtime)
    runs = replay.runs(runtime, iteration, past, judged=len(judged.pairs), rebuild=due is not None)
    asked = await asyncio.to_thread(probes, runtime, iteration.id, preferences, list(others.values()))
    digest = await to_its_end(
        partial(seal_runs, runtime, iteration, runs, incumbent=active, judged=judged.pairs, asked=asked)
    )
    failpoint("iteration.snapshot.written")
    changes = {
        "candidate": runs[0].version,
        "snapshot_digest": digest,
        "counts": {**counts, **judged.counts, **replay.counts(runs[0].mix), **rebuild.counts(due)},
        "incumbent": active.version if active else None,
    }

    def commit(tx: Store) -> Iteration:
        learned = replay.lineage(iteration, runs)
        overtaken = quarantine.overtaken(tx, learned)
        if overtaken is not None:
            return tx.iterations.move(
                iteration.id, Stage.ABORTED, note=overtaken, changes={"reason": overtaken}
            )
        tx.iterations.add_examples(learned)
        tx.iterations.add_anchors(replay.anchor_lineage(iteration, runs))
        tx.judgements.set_pairs(iteration.id, judged.records)
        told = [judged.note, f"a second candidate is trained from base: {due.why}" if due else None]
        note = "; ".join(each for each in told if each) or None
        return tx.iterations.move(iteration.id, Stage.TRAINING, note=note, changes=changes)

    return await asyncio.to_thread(store.atomic, commit)


def seal_runs(
    runtime: Runtime,
    iteration: Iteration,
    runs: Sequence[replay.Run],
    *,
    incumbent: Adapter | None,
    judged: Sequence[TrainingPair],
    asked: Sequence[spec.Probe],
) -> str:
    """Seal the inputs of every candidate. Returns the first's digest."""
    battery = battery_of(runtime.config.daemon.gate.battery)
    digests = []
    for run in runs:
        told = trainer_spec(runtime, iteration, version=run.version, incumbent=incumbent, rebuilt=run.rebuilt)
        directory = runtime.run_directory(iteration.id, rebuilt=run.rebuilt)
        digests.append(seal(directory, make_snapshot(told, run.mix, judged, asked, battery)))
    return digests[0]


def seal(run_directory: Path, snapshot: spec.Snapshot) -> str:
    """Write the inputs of a run into a folder of their own.

    A folder of that name may be there: an earlier attempt's, or another database's with the same numbers. Its
    outputs must not pass for this run's.
    """
    if run_directory.exists():
        shutil.rmtree(run_directory)
    return spec.write_snapshot(run_directory, snapshot)


def preferences_now(
    runtime: Known, background: Background | None = None
) -> tuple[list[Evidence], Mapping[str, Completion], Preferences]:
    """What people have said up to now and no adapter has learned yet, held against the background.

    Never-train answers are never used up: every iteration is tested on the recent ones.
    """
    store, config = runtime.store, runtime.config.feedback
    now = runtime.clock()
    fresh = store.feedback.unused_answers(before=now)
    # Everything said about an answer that anything new was said about: a thumb that trained before still outranks
    # the retry that came after it.
    said = store.feedback.live(before=now, most=config.max_history)
    evidence = [item for item in said if target(item) in fresh]
    named = store.completions.get_all(e.feedback.value for e in evidence if isinstance(e.feedback.value, str))
    others = {key: completion for key, completion in named.items() if completion.stored}
    against = background_now(runtime) if background is None else background
    return evidence, others, build(evidence, others, config, against)


def target(item: Evidence) -> tuple[str, int]:
    """The answer an event is about."""
    return item.feedback.completion_id, item.feedback.choice_index


async def train_candidates(runtime: Runtime, iteration: Iteration) -> list[Trained]:
    """Train and judge the candidate, and the one rebuilt from base where one is due.

    Each leaves a sealed run, so an interrupted iteration repeats neither. One that cannot be trained does not take
    the other with it.

    Raises:
        TrainingFailed: none could be trained.
    """
    trained: list[Trained] = []
    failed: list[TrainingFailed] = []
    for rebuilt in (False, True) if rebuild.due_of(iteration.counts) else (False,):
        try:
            trained.append(await train_one(runtime, iteration, rebuilt=rebuilt))
        except TrainingFailed as error:
            failed.append(error)
    if not trained:
        raise failed[0]
    for one in failed:
        subject, add = f"iteration {iteration.id}", runtime.store.audit.add
        await asyncio.to_thread(
            add, actor="loop", action="one of two failed", subject=subject, reason=str(one)
        )
    return trained


async def train_one(runtime: Runtime, iteration: Iteration, *, rebuilt: bool) -> Trained:
    """One candidate, trained, measured and held against the gate."""
    if rebuilt:
        failpoint("rebuild.begun")
    report = await train(runtime, iteration, rebuilt=rebuilt)
    curve = trainer.curve(runtime.run_directory(iteration.id, rebuilt=rebuilt))
    save = runtime.store.iterations.save_report
    await asyncio.to_thread(save, iteration.id, {f"curve/{report.version}": curve})
    metrics = await asyncio.to_thread(measurements, runtime, iteration, report, rebuilt=rebuilt)
    await until_ready(runtime, patience=runtime.config.daemon.engine_patience)
    metrics |= await contest(runtime, iteration, report)
    canary = bool(runtime.config.daemon.canary.steps)
    decision = gate.decide(metrics, runtime.config.daemon.gate, canary=canary)
    return Trained(describe(runtime, iteration, report, rebuilt=rebuilt), report, metrics, decision, rebuilt)


async def train(runtime: Runtime, iteration: Iteration, *, rebuilt: bool) -> spec.Report:
    """Run the child (or take the report it left), moving to `evaluating` when it begins to."""
    loop = asyncio.get_running_loop()
    pending: set[asyncio.Task[Any]] = set()
    last_phase, last_write = "", 0.0

    def on_progress(progress: spec.Progress) -> None:
        nonlocal last_phase, last_write
        changed = progress.phase != last_phase
        if not changed and time.monotonic() - last_write < PROGRESS_EVERY:
            return
        last_write = time.monotonic()
        entered = changed and progress.phase == "evaluate"
        last_phase = progress.phase
        task = loop.create_task(note_progress(runtime, iteration, progress, entered=entered))
        pending.add(task)
        task.add_done_callback(pending.discard)

    failpoint("iteration.training")
    await runtime.engine.yield_compute()
    try:
        train = runtime.config.policies.train
        await require_free(train.free_memory_mb, processes=train.processes)
        report = await trainer.run(
            runtime.run_directory(iteration.id, rebuilt=rebuilt),
            on_progress=on_progress,
            stall_seconds=train.stall_seconds,
            processes=train.processes,
        )
    finally:
        await runtime.engine.reclaim_compute()
        await asyncio.gather(*pending)
    failpoint("iteration.evaluating")
    return report


async def note_progress(
    runtime: Runtime, iteration: Iteration, progress: spec.Progress, *, entered: bool
) -> None:
    """Copy a progress line to the store, where page, CLI and HTTP read it."""
    if entered:
        await move(runtime, iteration, Stage.EVALUATING)
    finite = {name: value for name, value in progress.metrics.items() if math.isfinite(value)}
    row = {**progress.model_dump(), "metrics": finite, "at": runtime.clock()}
    await asyncio.to_thread(runtime.store.iterations.set_progress, iteration.id, row)


def measurements(
    runtime: Runtime, iteration: Iteration, report: spec.Report, *, rebuilt: bool
) -> dict[str, float]:
    """What the gate and the history read: the report's metrics, the counts beside them, and the ledger's path."""
    told = spec.read_snapshot(runtime.run_directory(iteration.id, rebuilt=rebuilt)).spec
    return {
        **report.metrics,
        "train/steps": float(report.steps),
        "train/scale": report.scale,
        ledger.BETA: told.loss.beta,
        weighing.REBUILT: float(told.rebuilt),
        ledger.PATH: ledger.path_with(runtime.store, iteration.incumbent, report.metrics),
    }


def describe(runtime: Runtime, iteration: Iteration, report: spec.Report, *, rebuilt: bool) -> Adapter:
    """The candidate as it will be recorded."""
    return Adapter(
        version=report.version,
        parent=iteration.incumbent,
        iteration=iteration.id,
        path=adapter_path(iteration.id, rebuilt=rebuilt),
        digest=report.adapter_digest,
        status=AdapterStatus.CANDIDATE,
        scale=report.scale,
        created_at=runtime.clock(),
    )


async def until_ready(runtime: Runtime, *, patience: float) -> None:
    """Wait, for a while, until the engine answers: a server that fell while its neighbour trained takes minutes to
    come back, and what was trained is worth the wait. Nobody's rollback waits for this.
    """
    limit = time.monotonic() + patience
    while not (await runtime.engine.health()).ready and time.monotonic() < limit:
        await asyncio.sleep(min(1.0, patience / 10))


async def prove(runtime: Runtime, trained: Trained) -> Decision:
    """Load and attest what was not rejected; one the engine cannot reproduce is, whatever the gate said."""
    decision = trained.decision
    if decision.outcome is Outcome.REJECT:
        return decision
    try:
        await load_and_attest(runtime, trained.candidate, trained.report.attestation)
    except (AdapterInvalid, AttestationFailed) as error:
        return Decision(Outcome.REJECT, decision.checks, (str(error),))
    failpoint("iteration.attested")
    return decision


async def end(
    runtime: Runtime, iteration: Iteration, stage: Stage, reason: str, *, counts: dict[str, Any] | None = None
) -> Iteration:
    """End without a verdict. Its feedback stays unused."""
    changes: dict[str, Any] = {"reason": reason}
    if counts is not None:
        changes["counts"] = counts

    def commit(tx: Store) -> Iteration:
        tx.audit.add(actor="loop", action=stage.value, subject=f"iteration {iteration.id}", reason=reason)
        return tx.iterations.move(iteration.id, stage, note=reason, changes=changes)

    return await asyncio.to_thread(runtime.store.atomic, commit)
