"""One iteration: evidence in, a settled verdict out. `run` is the table of contents.

Every stage leaves something that verifies (a sealed snapshot, a sealed run), so an iteration that a crash cut
short is simply run again: what is already there is not repeated.
"""

import asyncio
import math
import secrets
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from daemon import gate, judging, quarantine, trainer
from daemon.attest import load_and_attest
from daemon.gate import Decision, Outcome
from daemon.memory import require_free
from daemon.promote import Settlement, settle
from daemon.runtime import Runtime, adapter_path
from daemon.snapshot import make_snapshot, probes, trainer_spec
from daemon.stages import PROGRESS_EVERY, move
from judge.pairs import Preferences, build, shortage
from policies import spec
from store.db import Store
from store.errors import AdapterInvalid, AttestationFailed, TrainingFailed
from store.failpoints import failpoint
from store.records import Adapter, AdapterStatus, Completion, Evidence, Example, Iteration, Split, Stage

#: Stages before the snapshot is sealed. What was drawn and judged in them is in the store and is found again.
BEFORE_TRAINING = (Stage.QUEUED, Stage.COLLECTING, Stage.SAMPLING, Stage.JUDGING)


async def run(runtime: Runtime, iteration: Iteration) -> Iteration:
    """Take an iteration from wherever it stands to its end."""
    if iteration.stage in BEFORE_TRAINING:
        iteration = await collect(runtime, iteration)
    if iteration.stage is Stage.ABORTED:
        return iteration
    try:
        report = await train(runtime, iteration)
        candidate = describe(runtime, iteration, report)
        decision = gate.decide(measurements(report), runtime.config.daemon.gate)
        failpoint("iteration.gated")
    except TrainingFailed as error:
        return await end(runtime, iteration, Stage.FAILED, str(error))
    await until_ready(runtime, patience=runtime.config.daemon.engine_patience)
    async with runtime.swapping:
        if decision.outcome is not Outcome.REJECT:
            decision = await prove(runtime, candidate, report, decision)
        return await settle(runtime, Settlement(iteration, candidate, report, decision, measurements(report)))


async def collect(runtime: Runtime, iteration: Iteration) -> Iteration:
    """Snapshot the feedback not yet used, and what a licensed judge adds, as examples in a sealed run directory."""
    store = runtime.store
    iteration = await move(runtime, iteration, Stage.COLLECTING)
    failpoint("iteration.collecting")
    evidence, others, preferences = await asyncio.to_thread(preferences_now, runtime)
    counts = {**preferences.counts(), "events": len(evidence)}
    missing = shortage(preferences, runtime.config.feedback)
    if missing is not None:
        return await end(runtime, iteration, Stage.ABORTED, missing, counts=counts)
    judged = await judging.judge(runtime, iteration, preferences)
    version = f"it{iteration.id:04d}-{secrets.token_hex(4)}"
    active = await asyncio.to_thread(store.adapters.active)
    judged = judging.held_to(judged, active.version if active else None)
    told = trainer_spec(runtime, iteration, version=version, incumbent=active)
    asked = await asyncio.to_thread(probes, runtime, preferences, list(others.values()))
    snapshot = make_snapshot(told, preferences, judged.pairs, asked)
    digest = await asyncio.to_thread(seal, runtime.run_directory(iteration.id), snapshot)
    failpoint("iteration.snapshot.written")
    changes = {
        "candidate": version,
        "snapshot_digest": digest,
        "counts": {**counts, **judged.counts},
        "incumbent": active.version if active else None,
    }

    def commit(tx: Store) -> Iteration:
        learned = lineage(iteration.id, preferences)
        overtaken = quarantine.overtaken(tx, learned)
        if overtaken is not None:
            return tx.iterations.move(
                iteration.id, Stage.ABORTED, note=overtaken, changes={"reason": overtaken}
            )
        tx.iterations.add_examples(learned)
        tx.judgements.set_pairs(iteration.id, judged.records)
        return tx.iterations.move(iteration.id, Stage.TRAINING, note=judged.note, changes=changes)

    return await asyncio.to_thread(store.atomic, commit)


def seal(run_directory: Path, snapshot: spec.Snapshot) -> str:
    """Write the inputs of a run into a folder of their own.

    A folder of that name may be there: an earlier attempt's, or another database's with the same numbers. Its
    outputs must not pass for this run's.
    """
    if run_directory.exists():
        shutil.rmtree(run_directory)
    return spec.write_snapshot(run_directory, snapshot)


def preferences_now(
    runtime: Runtime,
) -> tuple[list[Evidence], Mapping[str, Completion], Preferences]:
    """What people have said up to now and no adapter has learned yet.

    Never-train answers are never used up: every iteration is tested on the recent ones.
    """
    store, config = runtime.store, runtime.config.feedback
    now = runtime.clock()
    fresh = {target(item) for item in store.feedback.unused(before=now)}
    # Everything said about an answer that anything new was said about: a thumb that trained before still outranks
    # the retry that came after it.
    evidence = [item for item in store.feedback.live(before=now) if target(item) in fresh]
    named = store.completions.get_all(e.feedback.value for e in evidence if isinstance(e.feedback.value, str))
    others = {key: completion for key, completion in named.items() if completion.stored}
    return evidence, others, build(evidence, others, config)


def target(item: Evidence) -> tuple[str, int]:
    """The answer an event is about."""
    return item.feedback.completion_id, item.feedback.choice_index


def lineage(iteration: int, preferences: Preferences) -> list[Example]:
    """Which event trained, or tested, what."""
    rows = [
        Example(iteration, event.id, event.completion_id, split, "kto", liking.label, liking.weight)
        for split, likings in ((Split.TRAIN, preferences.likings), (Split.NEVER_TRAIN, preferences.heldout))
        for liking in likings
        for event in liking.events
    ]
    rows += [
        Example(iteration, event.id, event.completion_id, Split.TRAIN, "dpo", None, pair.weight)
        for pair in preferences.pairs
        for event in pair.events
    ]
    return rows


async def train(runtime: Runtime, iteration: Iteration) -> spec.Report:
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
        await require_free(runtime.config.policies.train.free_memory_mb)
        report = await trainer.run(
            runtime.run_directory(iteration.id),
            on_progress=on_progress,
            stall_seconds=runtime.config.policies.train.stall_seconds,
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


def measurements(report: spec.Report) -> dict[str, float]:
    """What the gate and the history read: the report's metrics and the counts beside them."""
    return {**report.metrics, "train/steps": float(report.steps), "train/scale": report.scale}


def describe(runtime: Runtime, iteration: Iteration, report: spec.Report) -> Adapter:
    """The candidate as it will be recorded."""
    return Adapter(
        version=report.version,
        parent=iteration.incumbent,
        iteration=iteration.id,
        path=adapter_path(iteration.id),
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


async def prove(runtime: Runtime, candidate: Adapter, report: spec.Report, decision: Decision) -> Decision:
    """Load and attest; an adapter the engine cannot reproduce is rejected whatever the gate said."""
    try:
        await load_and_attest(runtime, candidate, report.attestation)
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
