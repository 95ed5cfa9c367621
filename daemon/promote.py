"""Promotion and rollback: load, prove, and only then move the pointer.

The active adapter is one row. Every path here makes the target answer correctly in the engine first and moves
the row last, so a crash between the two serves what was served before.
"""

import asyncio
import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from pydantic import TypeAdapter, ValidationError

from daemon import canary, lineage, quarantine
from daemon.attest import load_and_attest
from daemon.gate import Decision, Outcome
from daemon.runtime import Runtime
from policies.spec import AttestationRow, Report
from store.db import Store
from store.descent import way_back
from store.errors import AttestationFailed, HonedError, Invalid, RefusedByGate
from store.failpoints import failpoint
from store.records import (
    BASE,
    SERVABLE,
    Adapter,
    AdapterStatus,
    Canary,
    CanaryOutcome,
    IntentStatus,
    Iteration,
    Stage,
)

log = logging.getLogger(__name__)

STAGES = {
    Outcome.PROMOTE: Stage.ACTIVE,
    Outcome.CANARY: Stage.CANARY,
    Outcome.HOLD: Stage.HELD,
    Outcome.REJECT: Stage.REJECTED,
}
STATUSES = {
    Outcome.CANARY: AdapterStatus.CANARY,
    Outcome.PROMOTE: AdapterStatus.ACTIVE,
    Outcome.HOLD: AdapterStatus.HELD,
    Outcome.REJECT: AdapterStatus.REJECTED,
}


@dataclass(frozen=True, slots=True)
class PassedOver:
    """A second candidate that an iteration trained and did not keep."""

    candidate: Adapter
    reason: str


@dataclass(frozen=True, slots=True)
class Settlement:
    """Everything an iteration ends with."""

    iteration: Iteration
    candidate: Adapter
    report: Report
    decision: Decision
    metrics: dict[str, float]
    passed_over: tuple[PassedOver, ...] = ()


def record(tx: Store, settlement: Settlement) -> None:
    """Write what was measured and decided. Once; a repeated settlement replaces nothing."""
    iteration, report, decision = settlement.iteration, settlement.report, settlement.decision
    outcome = decision.outcome
    # Promotion itself is `activate`'s to write, so that pointer and status move together.
    status = AdapterStatus.CANDIDATE if outcome is Outcome.PROMOTE else STATUSES[outcome]
    tx.adapters.add(replace(settlement.candidate, status=status))
    for other in settlement.passed_over:
        tx.adapters.add(replace(other.candidate, status=AdapterStatus.REJECTED))
        told = {"iteration": iteration.id, "kept": settlement.candidate.version}
        subject = other.candidate.version
        tx.audit.add(actor="gate", action="pass over", subject=subject, reason=other.reason, details=told)
    tx.metrics.add(iteration.id, settlement.metrics)
    tx.iterations.add_gates([check.result(iteration.id) for check in decision.checks])
    tx.iterations.save_report(iteration.id, report.model_dump(mode="json"))
    changes = {"candidate": settlement.candidate.version, "reason": decision.reason}
    tx.iterations.move(iteration.id, STAGES[outcome], note=decision.reason, changes=changes)
    tx.audit.add(
        actor="gate",
        action=outcome.value,
        subject=settlement.candidate.version,
        reason=decision.reason,
        details={"iteration": iteration.id, "scale": report.scale},
    )


@dataclass(frozen=True, slots=True)
class Order:
    """Who wants it, why, and the intent it answers.

    The intent is closed in the transaction that carries it out: closed later, a crash in between would make
    the restarted loop carry it out twice, and two rollbacks go one version too far.
    """

    actor: str
    reason: str
    intent: str | None = None
    quarantine: bool = False
    """A rollback holds back what the adapters it leaves learned from."""
    evidence: Mapping[str, Any] | None = None
    """What an automatic move rests on, for the audit log."""

    def close(self, tx: Store, serving: str, told: Mapping[str, Any] | None = None) -> None:
        if self.intent is not None:
            tx.intents.update(self.intent, IntentStatus.DONE, {"serving": serving, **(told or {})})


def final_decision(
    tx: Store, decision: Decision, *, incumbent: str | None, shares: tuple[float, ...]
) -> Decision:
    """What becomes of the gate's verdict now.

    An operator may have moved the pointer while training ran; the candidate was measured against another
    incumbent then, so it is held for a person. Where there are shares, what would be promoted is a canary first.
    """
    if decision.outcome not in (Outcome.PROMOTE, Outcome.CANARY):
        return decision
    active = tx.adapters.active()
    held = None
    if (active and active.version) != incumbent:
        held = "the active adapter was changed while this one trained; it was measured against another"
    elif tx.canaries.open() is not None:
        held = "another canary is under way"
    elif decision.outcome is Outcome.CANARY and not shares:
        held = "a canary would decide, and daemon.canary.steps has none"
    if held is not None:
        return replace(decision, outcome=Outcome.HOLD, reasons=(held, *decision.reasons))
    return replace(decision, outcome=Outcome.CANARY) if shares else decision


async def settle(runtime: Runtime, settlement: Settlement) -> Iteration:
    """End an iteration in one transaction: verdict, numbers, adapter, and the pointer if it is promoted, or the
    canary's row if it is tried on some people first.
    """
    shares = runtime.config.daemon.canary.steps

    def commit(tx: Store) -> Iteration:
        incumbent = settlement.iteration.incumbent
        decision = final_decision(tx, settlement.decision, incumbent=incumbent, shares=shares)
        final = replace(settlement, decision=decision)
        record(tx, final)
        version, number = final.candidate.version, final.iteration.id
        if decision.outcome is Outcome.PROMOTE:
            tx.adapters.activate(version, actor="gate", reason=decision.reason)
        elif decision.outcome is Outcome.CANARY:
            canary.begin(tx, version, incumbent=incumbent, iteration=number, share=shares[0])
        failpoint("settle.before_commit")
        return tx.iterations.get(settlement.iteration.id)

    settled = await asyncio.to_thread(runtime.store.atomic, commit)
    failpoint("settle.after_commit")
    await unload_surplus(runtime)
    return settled


async def unload_surplus(runtime: Runtime) -> None:
    """Keep the active adapter and those served just before it; let the others go when their requests end.

    Runs after the commit: whatever fails here must not make what is done look undone.
    """
    try:
        keep = await asyncio.to_thread(kept_versions, runtime.store, runtime.config.daemon.keep_loaded)
        for version in await runtime.engine.resident():
            if version not in keep:
                runtime.attested.discard(version)
                await runtime.engine.unload(version)
    except HonedError:
        log.exception("surplus adapters stay loaded")


def kept_versions(store: Store, count: int) -> tuple[str, ...]:
    """The last `count` versions served, the active one first, and the canary."""
    active = store.adapters.active()
    kept = [active.version] if active else []
    for activation in store.adapters.activations():
        for version in (activation.version, activation.previous):
            if version is None or version in kept or len(kept) >= count:
                continue
            if store.adapters.get(version).status in SERVABLE:
                kept.append(version)
    trial = store.canaries.open()
    if trial is not None and trial.version not in kept:
        kept.append(trial.version)
    return tuple(kept)


def rollback_target(store: Store, version: str | None) -> Adapter | None:
    """The adapter a rollback goes to, None for base: the one named, else where the active one's line leads back to.

    Raises:
        NotFound: no such version.
        Invalid: nothing to roll back.
        RefusedByGate: the version never passed a gate.
    """
    active = store.adapters.active()
    if version is None:
        if active is None:
            raise Invalid("the base model is being served: there is nothing to roll back", param="version")
        version = way_back(active, store.adapters.known()) or BASE
    if version == (active.version if active else BASE):
        raise Invalid(f"{version} is already being served", param="version")
    if version == BASE:
        return None
    target = store.adapters.get(version)
    if target.status not in SERVABLE:
        raise RefusedByGate(
            f"{version} is {target.status}: only adapters that were served and not retired can be rolled back to"
        )
    return target


def attested_rows(saved: Mapping[str, Any]) -> list[AttestationRow]:
    """What a stored report holds to attest by. The rest of it may be of another release's making, or the judges'.

    Raises:
        ValidationError: the rows are not what they should be.
    """
    return TypeAdapter(list[AttestationRow]).validate_python(saved.get("attestation", []))


async def make_ready(runtime: Runtime, adapter: Adapter) -> None:
    """Load a recorded adapter and prove it against the numbers its iteration stored."""
    saved = await asyncio.to_thread(runtime.store.iterations.report, adapter.iteration or 0)
    try:
        rows = attested_rows(saved or {})
    except ValidationError as error:
        raise AttestationFailed(f"{adapter.version}: its report cannot be read: {error}") from error
    await load_and_attest(runtime, adapter, rows)


async def roll_back(runtime: Runtime, version: str | None, order: Order) -> str:
    """Serve an earlier version (or base) again. Returns what is served now. No gate: it passed one before.

    While a canary runs, a rollback that names no other version ends it and leaves the pointer alone.
    """
    async with runtime.swapping:
        return await swap_back(runtime, version, order)


async def swap_back(runtime: Runtime, version: str | None, order: Order) -> str:
    store = runtime.store
    trial = await asyncio.to_thread(store.canaries.open)
    if trial is not None and version in (None, trial.version, trial.incumbent or BASE):
        return await end_canary(runtime, trial, CanaryOutcome.ROLLED_BACK, order)
    target = await asyncio.to_thread(rollback_target, store, version)
    if target is not None:
        await make_ready(runtime, target)
    to = target.version if target else None

    def commit(tx: Store) -> None:
        left = tx.adapters.active()
        tx.adapters.activate(to, actor=order.actor, reason=order.reason, retire_as=AdapterStatus.ROLLED_BACK)
        lineage.leave(tx, left, to=to, reason=order.reason)
        lineage.take_up(tx, to, reason=order.reason)
        held = {}
        if order.quarantine:
            held = quarantine.hold(tx, left=left, to=to, actor=order.actor, reason=order.reason)
        outcome = CanaryOutcome.ROLLED_BACK
        canary.end_with_move(tx, to, outcome, actor=order.actor, reason=order.reason)
        record_move(tx, "rollback", order, to=to or BASE, left=left, told=held)
        failpoint("rollback.before_commit")

    await asyncio.to_thread(store.atomic, commit)
    failpoint("rollback.after_commit")
    await unload_surplus(runtime)
    return to or BASE


async def promote(runtime: Runtime, version: str, order: Order) -> str:
    """Serve a version because a person says so: a held one, or one that was served before.

    Raises:
        RefusedByGate: a gate rejected it.
        Invalid: it is already served.
    """
    async with runtime.swapping:
        return await swap_to(runtime, version, order)


async def swap_to(runtime: Runtime, version: str, order: Order) -> str:
    store = runtime.store
    adapter = await asyncio.to_thread(store.adapters.get, version)
    if adapter.status is AdapterStatus.ACTIVE:
        raise Invalid(f"{version} is already being served", param="version")
    if adapter.status not in SERVABLE | {AdapterStatus.HELD, AdapterStatus.CANARY}:
        raise RefusedByGate(
            f"{version} is {adapter.status}: only held, canary or earlier served adapters can be promoted"
        )
    await make_ready(runtime, adapter)

    def commit(tx: Store) -> None:
        left = tx.adapters.active()
        tx.adapters.activate(version, actor=order.actor, reason=order.reason)
        lineage.take_up(tx, version, reason=order.reason)
        outcome = CanaryOutcome.HELD
        ended = canary.end_with_move(tx, version, outcome, actor=order.actor, reason=order.reason)
        record_move(tx, "promote", order, to=version, left=left)
        if ended:
            failpoint("canary.before_commit")

    await asyncio.to_thread(store.atomic, commit)
    await unload_surplus(runtime)
    return version


async def end_canary(runtime: Runtime, trial: Canary, outcome: CanaryOutcome, order: Order) -> str:
    """End a canary without promoting it. Returns what is served now, by everybody's incumbent."""

    def commit(tx: Store) -> str:
        held: dict[str, Any] = {}
        if order.quarantine:
            left = tx.adapters.get(trial.version)
            held = quarantine.hold(tx, left=left, to=trial.incumbent, actor=order.actor, reason=order.reason)
        canary.end(tx, trial, outcome, actor=order.actor, reason=order.reason)
        active = tx.adapters.active()
        serving = active.version if active else BASE
        order.close(tx, serving, {"canary": trial.version, **held})
        failpoint("canary.before_commit")
        return serving

    serving = await asyncio.to_thread(runtime.store.atomic, commit)
    failpoint("canary.after_commit")
    await unload_surplus(runtime)
    return serving


def record_move(
    tx: Store,
    action: str,
    order: Order,
    *,
    to: str,
    left: Adapter | None,
    told: Mapping[str, Any] | None = None,
) -> None:
    """The audit row of a moved pointer, and the end of the intent that asked for it. `told`: what else was done."""
    details = {"from": left.version if left else BASE, **(told or {})}
    if order.evidence is not None:
        details["evidence"] = order.evidence
    tx.audit.add(actor=order.actor, action=action, subject=to, reason=order.reason, details=details)
    order.close(tx, to, told)
