"""Promotion and rollback: load, prove, and only then move the pointer.

The active adapter is one row. Every path here makes the target answer correctly in the engine first and moves
the row last, so a crash between the two serves what was served before.
"""

import asyncio
import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from pydantic import ValidationError

from daemon import quarantine
from daemon.attest import load_and_attest
from daemon.gate import Decision, Outcome
from daemon.runtime import Runtime
from policies.spec import Report
from store.db import Store
from store.errors import AttestationFailed, HonedError, Invalid, RefusedByGate
from store.failpoints import failpoint
from store.records import BASE, SERVABLE, Adapter, AdapterStatus, IntentStatus, Iteration, Stage

log = logging.getLogger(__name__)

STAGES = {Outcome.PROMOTE: Stage.ACTIVE, Outcome.HOLD: Stage.HELD, Outcome.REJECT: Stage.REJECTED}
STATUSES = {
    Outcome.PROMOTE: AdapterStatus.ACTIVE,
    Outcome.HOLD: AdapterStatus.HELD,
    Outcome.REJECT: AdapterStatus.REJECTED,
}


@dataclass(frozen=True, slots=True)
class Settlement:
    """Everything an iteration ends with."""

    iteration: Iteration
    candidate: Adapter
    report: Report
    decision: Decision
    metrics: dict[str, float]


def record(tx: Store, settlement: Settlement) -> None:
    """Write what was measured and decided. Once; a repeated settlement replaces nothing."""
    iteration, report, decision = settlement.iteration, settlement.report, settlement.decision
    outcome = decision.outcome
    # Promotion itself is `activate`'s to write, so that pointer and status move together.
    status = AdapterStatus.CANDIDATE if outcome is Outcome.PROMOTE else STATUSES[outcome]
    tx.adapters.add(replace(settlement.candidate, status=status))
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

    def close(self, tx: Store, serving: str, told: Mapping[str, Any] | None = None) -> None:
        if self.intent is not None:
            tx.intents.update(self.intent, IntentStatus.DONE, {"serving": serving, **(told or {})})


async def settle(runtime: Runtime, settlement: Settlement) -> Iteration:
    """End an iteration in one transaction: verdict, numbers, adapter, and the pointer if it is promoted.

    An operator may have moved the pointer while training ran; the candidate was measured against another
    incumbent then, so it is held for a person instead of promoted.
    """

    def commit(tx: Store) -> Iteration:
        active = tx.adapters.active()
        final = settlement
        if (
            settlement.decision.outcome is Outcome.PROMOTE
            and (active and active.version) != settlement.iteration.incumbent
        ):
            reason = "the active adapter was changed while this one trained; it was measured against another"
            final = replace(
                settlement, decision=Decision(Outcome.HOLD, settlement.decision.checks, (reason,))
            )
        record(tx, final)
        if final.decision.outcome is Outcome.PROMOTE:
            tx.adapters.activate(final.candidate.version, actor="gate", reason=final.decision.reason)
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
    """The last `count` versions served, the active one first."""
    active = store.adapters.active()
    kept = [active.version] if active else []
    for activation in store.adapters.activations():
        for version in (activation.version, activation.previous):
            if version is None or version in kept or len(kept) >= count:
                continue
            if store.adapters.get(version).status in SERVABLE:
                kept.append(version)
    return tuple(kept)


def rollback_target(store: Store, version: str | None) -> Adapter | None:
    """The adapter a rollback goes to, None for base: the one named, else the active one's parent.

    Raises:
        NotFound: no such version.
        Invalid: nothing to roll back.
        RefusedByGate: the version never passed a gate.
    """
    active = store.adapters.active()
    if version is None:
        if active is None:
            raise Invalid("the base model is being served: there is nothing to roll back", param="version")
        version = active.parent or BASE
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


async def make_ready(runtime: Runtime, adapter: Adapter) -> None:
    """Load a recorded adapter and prove it against the numbers its iteration stored."""
    saved = await asyncio.to_thread(runtime.store.iterations.report, adapter.iteration or 0)
    try:
        rows = Report.model_validate(saved).attestation if saved else []
    except ValidationError as error:
        raise AttestationFailed(f"{adapter.version}: its report cannot be read: {error}") from error
    await load_and_attest(runtime, adapter, rows)


async def roll_back(runtime: Runtime, version: str | None, order: Order) -> str:
    """Serve an earlier version (or base) again. Returns what is served now. No gate: it passed one before."""
    async with runtime.swapping:
        return await swap_back(runtime, version, order)


async def swap_back(runtime: Runtime, version: str | None, order: Order) -> str:
    store = runtime.store
    target = await asyncio.to_thread(rollback_target, store, version)
    if target is not None:
        await make_ready(runtime, target)
    to = target.version if target else None

    def commit(tx: Store) -> None:
        left = tx.adapters.active()
        tx.adapters.activate(to, actor=order.actor, reason=order.reason, retire_as=AdapterStatus.ROLLED_BACK)
        if left is not None and left.iteration is not None:
            tx.iterations.move(
                left.iteration, Stage.ROLLED_BACK, note=order.reason, changes={"reason": order.reason}
            )
        held = {}
        if order.quarantine:
            held = quarantine.hold(tx, left=left, to=to, actor=order.actor, reason=order.reason)
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
    if adapter.status not in SERVABLE | {AdapterStatus.HELD}:
        raise RefusedByGate(
            f"{version} is {adapter.status}: only held or earlier served adapters can be promoted"
        )
    await make_ready(runtime, adapter)

    def commit(tx: Store) -> None:
        left = tx.adapters.active()
        tx.adapters.activate(version, actor=order.actor, reason=order.reason)
        if adapter.iteration is not None:
            tx.iterations.move(
                adapter.iteration, Stage.ACTIVE, note=order.reason, changes={"reason": order.reason}
            )
        record_move(tx, "promote", order, to=version, left=left)

    await asyncio.to_thread(store.atomic, commit)
    await unload_surplus(runtime)
    return version


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
    tx.audit.add(actor=order.actor, action=action, subject=to, reason=order.reason, details=details)
    order.close(tx, to, told)
