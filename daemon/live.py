"""What people say decides: the acting edge of canaries and of the live watch.

`look` is called on every tick and looks at the store every few seconds; what `daemon.canary` and `daemon.watch` make
of it is carried out by the same paths that operators use, under the same lock.
"""

import asyncio
import logging
import time
from dataclasses import replace
from typing import Any

from daemon import canary, evidence, watch
from daemon.canary import Action, Verdict
from daemon.evidence import Arm
from daemon.promote import Order, end_canary, make_ready, swap_back, swap_to
from daemon.runtime import Runtime
from store.db import Store
from store.errors import AdapterInvalid, AttestationFailed, HonedError
from store.records import BASE, Canary, CanaryOutcome, Stage

log = logging.getLogger(__name__)

#: Seconds between two looks: votes do not come faster than decisions are worth.
LOOK_EVERY = 2.0
#: Looks may take one part in so many of the time, where there is much to look at; but so that a canary's clock, which
#: counts no silence longer than `canary.LONGEST_GAP`, does not stand still.
LOOK_SHARE, LONGEST_WAIT = 20.0, canary.LONGEST_GAP / 2
#: Where the loop keeps whether an operator paused it.
PAUSED = "paused"


class Live:
    """One service's canary and watch. Holds nothing but what the store would tell again."""

    def __init__(self, runtime: Runtime) -> None:
        self.runtime = runtime
        self._next = 0.0
        self._history: tuple[int, Arm] | None = None

    async def look(self) -> None:
        """Every few seconds, `step`."""
        began = time.monotonic()
        if began < self._next:
            return
        await self.step()
        now = time.monotonic()
        self._next = now + wait(now - began)

    async def step(self) -> None:
        """Look at canary and watch, and act. A failure is logged and tried again: the tick has other work."""
        for work in (self._canary, self._watch):
            try:
                await work()
            except HonedError:
                log.exception("looking at people's votes failed")

    async def _canary(self) -> None:
        store, config = self.runtime.store, self.runtime.config.daemon.canary
        trial = await asyncio.to_thread(store.canaries.open)
        if trial is None:
            await show(store, canary.STATE, None)
            return
        found = await asyncio.to_thread(canary.findings, store, trial, config)
        paused = bool(await asyncio.to_thread(store.state.get, PAUSED, False))
        now = self.runtime.clock()
        hours = await asyncio.to_thread(canary.hours, store, trial, now, paused=paused)
        verdict = canary.decide(trial, found, hours, config, paused=paused)
        await show(store, canary.STATE, canary.shown(trial, found, verdict))
        if verdict.action is Action.WAIT:
            return
        async with self.runtime.swapping:
            # An operator may have ended it while the lock was waited for.
            if await asyncio.to_thread(store.canaries.open) == trial:
                await carry_out(self.runtime, trial, verdict, late=hours >= config.max_hours)

    async def _watch(self) -> None:
        store, config = self.runtime.store, self.runtime.config.daemon.watch
        one = await asyncio.to_thread(watch.watched, store)
        if one is None or watch.over(one, self.runtime.clock(), config):
            await show(store, watch.STATE, None)
            return
        found = await asyncio.to_thread(watch.findings, store, one, await self._before(one), config)
        told = watch.shown(one, found, config)
        await show(store, watch.STATE, told)
        harmed = evidence.harms(found)
        if not harmed:
            return
        async with self.runtime.swapping:
            if await asyncio.to_thread(watch.watched, store) == one:
                await go_back(self.runtime, one, Order(watch.ACTOR, "; ".join(harmed), evidence=told))

    async def _before(self, one: watch.Watched) -> Arm:
        """The history of a watch, read once: it does not change."""
        if self._history is None or self._history[0] != one.id:
            config = self.runtime.config.daemon.watch
            self._history = one.id, await asyncio.to_thread(watch.history, self.runtime.store, one, config)
        return self._history[1]


def wait(took: float) -> float:
    """Seconds until the next look, after one that took so many."""
    return min(max(LOOK_EVERY, LOOK_SHARE * took), LONGEST_WAIT)


async def show(store: Store, key: str, told: dict[str, Any] | None) -> None:
    """Leave for status pages what was seen, if it is news."""
    if told != await asyncio.to_thread(store.state.get, key):
        await asyncio.to_thread(store.state.set, key, told)


async def carry_out(runtime: Runtime, trial: Canary, verdict: Verdict, *, late: bool) -> None:
    """Do what was decided about a canary. `late`: it has had the time there is for a step."""
    told = await asyncio.to_thread(runtime.store.state.get, canary.STATE)
    order = Order(canary.ACTOR, verdict.reason, evidence=told)
    log.warning("canary %s: %s: %s", trial.version, verdict.action, verdict.reason)
    if verdict.action is Action.PROMOTE:
        await finish(runtime, trial, order, late=late)
    elif verdict.action is Action.WIDEN and verdict.share is not None:
        await asyncio.to_thread(widen, runtime.store, trial, verdict.share, order)
    elif verdict.action is Action.ROLL_BACK:
        await end_canary(runtime, trial, CanaryOutcome.ROLLED_BACK, order)
    elif verdict.action is Action.HOLD:
        await end_canary(runtime, trial, CanaryOutcome.HELD, order)


async def finish(runtime: Runtime, trial: Canary, order: Order, *, late: bool) -> None:
    """Serve a canary that passed to everybody. One that cannot be proved is rolled back; anything else in the way is
    tried again until it is `late`, and then a person decides.
    """
    try:
        await swap_to(runtime, trial.version, order)
        return
    except HonedError as error:
        unproved = isinstance(error, (AdapterInvalid, AttestationFailed))
        if not unproved and not late:
            raise
        outcome = CanaryOutcome.ROLLED_BACK if unproved else CanaryOutcome.HELD
        reason = f"it passed, and cannot be served: {error}"
    log.error("canary %s ends: %s", trial.version, reason)
    await end_canary(runtime, trial, outcome, replace(order, reason=reason))


def widen(store: Store, trial: Canary, share: float, order: Order) -> None:
    """The next step, with what the last one showed."""

    def commit(tx: Store) -> None:
        tx.canaries.widen(trial.id, share)
        if trial.iteration is not None:
            tx.iterations.move(trial.iteration, Stage.CANARY, note=f"{share:.0%} of people: {order.reason}")
        details = {"canary": trial.id, "share": share, "evidence": order.evidence}
        tx.audit.add(
            actor=order.actor, action="widen", subject=trial.version, reason=order.reason, details=details
        )

    store.atomic(commit)


async def go_back(runtime: Runtime, one: watch.Watched, order: Order) -> None:
    """Serve the version before again; the base, which nothing has to be loaded for, where that fails."""
    log.warning("%s is rolled back: %s", one.version, order.reason)
    target = await asyncio.to_thread(watch.way_back, runtime.store, one)
    try:
        await swap_back(runtime, target, order)
    except HonedError as error:
        log.error("%s cannot be served again: %s", target, error)
        await swap_back(runtime, BASE, order)


async def restore_canary(runtime: Runtime) -> None:
    """Make an open canary ready after a restart, before anybody is routed to it; end it where that fails.

    Damaged or unproved it is rolled back. Anything else (the engine has no room, the incumbent had to go) says
    nothing about what people think of it: then a person decides.
    """
    store = runtime.store
    trial = await asyncio.to_thread(store.canaries.open)
    if trial is None:
        return
    active = await asyncio.to_thread(store.adapters.active)
    outcome, reason = CanaryOutcome.HELD, ""
    if (active and active.version) != trial.incumbent:
        reason = f"{trial.incumbent or BASE}, which it was compared with, is no longer served"
    else:
        try:
            await make_ready(runtime, await asyncio.to_thread(store.adapters.get, trial.version))
            return
        except (AdapterInvalid, AttestationFailed) as error:
            outcome, reason = CanaryOutcome.ROLLED_BACK, str(error)
        except HonedError as error:
            reason = str(error)
    log.error("canary %s ends: %s", trial.version, reason)
    await end_canary(runtime, trial, outcome, Order("start", f"at start: {reason}"))
