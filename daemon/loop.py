"""The loop: on every tick it answers operators' intents, and starts an iteration when one is due.

It alone acts; HTTP, page and command line only write what they want. An iteration runs as a task beside it, so
rollback, pause and status work while one trains.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Any

from daemon import canary, forget, iteration, promote, quarantine, retention, schedule, watch
from daemon.live import PAUSED, Live
from daemon.runtime import Known, Runtime
from store.db import Store
from store.errors import HonedError, Invalid, RefusedByGate, StoreUnavailable
from store.judging import Label
from store.records import (
    SETTLED_STAGES,
    Choice,
    Completion,
    CompletionStatus,
    Intent,
    IntentKind,
    IntentStatus,
    Iteration,
    Message,
    Role,
    Sampling,
    Source,
    Stage,
)

log = logging.getLogger(__name__)

SCHEDULE = "schedule"
#: Labels written down in one tick at the most.
LABELS_A_TICK = 100
#: Seconds until an order to forget that something stood in the way of is taken up again.
FORGET_AGAIN = 30.0
#: Seconds between two looks at whether the day's retention is due.
EXPIRE_AGAIN = 600.0


class Loop:
    """One service's loop. `tick` is called by the scheduler, never concurrently with itself."""

    def __init__(self, runtime: Runtime) -> None:
        self.runtime = runtime
        self.task: asyncio.Task[Iteration] | None = None
        self.live = Live(runtime)
        self.actions: dict[IntentKind, Callable[[Intent], Awaitable[None]]] = {
            IntentKind.PROMOTE: self._promote,
            IntentKind.ROLLBACK: self._roll_back,
            IntentKind.PAUSE: self._pause,
            IntentKind.RESUME: self._resume,
            IntentKind.LABEL: self._label,
            IntentKind.RELEASE: self._release,
            IntentKind.FORGET: self._forget,
        }
        self._forget_again = self._expire_again = 0.0
        #: What the clock and the machine's uptime said at the start.
        self._began = (runtime.clock(), retention.uptime())
        #: What the last iteration broke of, until it is written down.
        self._broken: str | None = None

    async def tick(self) -> None:
        """Intents first, so that a pause given now stops what would start now.

        Where nothing can be stored, nothing is begun either: all of it waits until the disk is well again.
        """
        if await asyncio.to_thread(self.runtime.store.problem) is not None:
            return
        try:
            await self.reap()
            await self.answer_intents()
            await self.live.look()
            await self.expire()
            await self.start_if_due()
        except StoreUnavailable as error:
            log.warning("the loop waits: %s", error)

    async def reap(self) -> None:
        """Take note of an iteration that ended; one that broke unexpectedly is failed, loudly."""
        if self.task is not None:
            if not self.task.done():
                return
            task, self.task = self.task, None
            error = None if task.cancelled() else task.exception()
            if error is not None:
                log.error("iteration failed", exc_info=error)
                self._broken = f"{type(error).__name__}: {error}"
        # Without a task nothing is under way: a row that says otherwise was left by a failure, perhaps one that
        # also kept it from being marked then.
        running = await asyncio.to_thread(self.runtime.store.iterations.running)
        if running is not None:
            reason = self._broken or "nobody was working on it"
            await iteration.end(self.runtime, running, Stage.FAILED, reason)
        self._broken = None
        await self.close_train_intents()

    async def close_train_intents(self) -> None:
        """Tell whoever asked for an iteration how it ended."""
        store = self.runtime.store
        for intent in await asyncio.to_thread(store.intents.pending):
            number = intent.outcome.get("iteration")
            if intent.kind is not IntentKind.TRAIN or not isinstance(number, int):
                continue
            ended = await asyncio.to_thread(store.iterations.get, number)
            if ended.stage in SETTLED_STAGES:
                status = IntentStatus.FAILED if ended.stage is Stage.FAILED else IntentStatus.DONE
                outcome = {"iteration": number, "stage": ended.stage.value, "reason": ended.reason}
                await asyncio.to_thread(store.intents.update, intent.id, status, outcome)

    async def answer_intents(self) -> None:
        """Act on what operators asked for, oldest first; labels last, or a rollback would wait behind a file."""
        pending = await asyncio.to_thread(self.runtime.store.intents.pending)
        labels = [intent for intent in pending if intent.kind is IntentKind.LABEL]
        for intent in [intent for intent in pending if intent not in labels] + labels[:LABELS_A_TICK]:
            if intent.kind is IntentKind.TRAIN:
                if intent.status is IntentStatus.PENDING:
                    await self.train(intent)
                continue
            await self.act(intent)

    async def train(self, intent: Intent) -> None:
        """Start an iteration, or follow the one that runs: a second on what is left over helps nobody. Refused while
        a canary is under way.
        """
        store = self.runtime.store
        running = None if self.task is None else await asyncio.to_thread(store.iterations.running)
        if running is not None:
            outcome = {"iteration": running.id, "joined": True}
            await asyncio.to_thread(store.intents.update, intent.id, IntentStatus.RUNNING, outcome)
        elif (trial := await asyncio.to_thread(store.canaries.open)) is not None:
            refused = {"message": f"{schedule.under_way(trial.version)}; promote it or roll it back first"}
            await asyncio.to_thread(store.intents.update, intent.id, IntentStatus.REFUSED, refused)
        elif self.task is None:
            await self.start(f"manual: {intent.reason}", intent)

    async def act(self, intent: Intent) -> None:
        """Do it; an action that honed refuses is an outcome, not a crash of the loop.

        What succeeds closes its intent in its own transaction.
        """
        try:
            await self.actions[intent.kind](intent)
            return
        except (RefusedByGate, Invalid) as error:
            status, message = IntentStatus.REFUSED, str(error)
        except StoreUnavailable:
            raise  # the order stands, and is carried out when it can be written down
        except Exception as error:  # the loop must outlive any one order, or nobody could roll back any more
            log.exception("%s failed", intent.kind)
            message = str(error) if isinstance(error, HonedError) else f"{type(error).__name__}: {error}"
            status = IntentStatus.FAILED
        await asyncio.to_thread(self.runtime.store.intents.update, intent.id, status, {"message": message})

    async def start_if_due(self) -> None:
        """Ask the schedule; write its answer where status pages read it."""
        situation = await asyncio.to_thread(look, self.runtime, running=self.task is not None)
        plan = schedule.due(situation, self.runtime.config.daemon.schedule)
        if plan.trigger is not None and self.task is None:
            await self.start(plan.trigger, None)
            return
        shown = {
            "waiting_for": list(plan.waiting_for),
            "next_at": plan.next_at,
            "new_feedback": situation.new_feedback,
            "min_feedback": self.runtime.config.daemon.schedule.min_feedback,
        }
        if shown != await asyncio.to_thread(self.runtime.store.state.get, SCHEDULE):
            await asyncio.to_thread(self.runtime.store.state.set, SCHEDULE, shown)

    async def start(self, trigger: str, intent: Intent | None) -> None:
        """Begin an iteration; it and the intent that asked for it are recorded together."""
        # Whom nothing is kept of is nobody's business later, least of all when they are forgotten.
        config = self.runtime.config.model_dump(mode="json", exclude={"store": {"privacy": {"excluded"}}})

        def commit(tx: Store) -> Iteration:
            active = tx.adapters.active()
            begun = tx.iterations.begin(
                trigger=trigger, incumbent=active.version if active else None, config=config
            )
            if intent is not None:
                tx.intents.update(intent.id, IntentStatus.RUNNING, {"iteration": begun.id})
            actor = intent.principal if intent else "schedule"
            tx.audit.add(actor=actor, action="train", subject=f"iteration {begun.id}", reason=trigger)
            return begun

        begun = await asyncio.to_thread(self.runtime.store.atomic, commit)
        self.task = asyncio.create_task(iteration.run(self.runtime, begun), name=f"iteration {begun.id}")

    async def recover(self) -> None:
        """Take up the iteration a dead process left, unless it was taken up too often already."""
        left = await asyncio.to_thread(self.runtime.store.iterations.running)
        if left is None:
            return
        attempt = left.attempt + 1
        if attempt > self.runtime.config.daemon.schedule.max_attempts:
            reason = f"interrupted in {left.stage} on attempt {left.attempt}; not taken up again"
            await iteration.end(self.runtime, left, Stage.FAILED, reason)
            return
        note = f"taken up again after a restart (attempt {attempt})"
        resumed = await asyncio.to_thread(
            self.runtime.store.iterations.move, left.id, left.stage, note=note, changes={"attempt": attempt}
        )
        self.task = asyncio.create_task(iteration.run(self.runtime, resumed), name=f"iteration {left.id}")

    async def stop(self) -> None:
        """End the running iteration's task; its stage stays, so the next start takes it up again."""
        if self.task is None:
            return
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)

        def commit(tx: Store) -> None:
            # Read here: a transaction that the cancelled task had begun is written first, and may have settled it.
            left = tx.iterations.running()
            if left is not None:
                # A stop in good order is no crash and does not count against `max_attempts`.
                changes, note = {"attempt": left.attempt - 1}, "stopped with the service"
                tx.iterations.move(left.id, left.stage, note=note, changes=changes)

        await asyncio.to_thread(self.runtime.store.atomic, commit)

    async def _promote(self, intent: Intent) -> None:
        await promote.promote(self.runtime, str(intent.arguments["version"]), order(intent))

    async def _roll_back(self, intent: Intent) -> None:
        await promote.roll_back(self.runtime, intent.arguments.get("version"), order(intent))

    async def stop_iteration(self, reason: str) -> None:
        """End the running iteration for good; what people said stays unused, and the next one starts from it."""
        if self.task is not None:
            self.task.cancel()
            await asyncio.gather(self.task, return_exceptions=True)
            self.task = None
        left = await asyncio.to_thread(self.runtime.store.iterations.running)
        if left is not None:
            await iteration.end(self.runtime, left, Stage.ABORTED, reason)
        await self.close_train_intents()

    async def _forget(self, intent: Intent) -> None:
        """An order to forget never fails: what is in the way is logged, and it goes on where it was left."""
        if time.monotonic() < self._forget_again:
            return
        try:
            await forget.forget(self.runtime, intent, self.stop_iteration)
        except Exception:
            log.exception("forgetting was interrupted and goes on in %g s", FORGET_AGAIN)
            self._forget_again = time.monotonic() + FORGET_AGAIN

    async def expire(self) -> None:
        """Once a day, let go what is older than it may get; not beside a trainer, which reads its run directory."""
        runtime, now = self.runtime, self.runtime.clock()
        days, runs = runtime.config.store.privacy.keep_days, runtime.config.store.keep_runs_days
        if not (days or runs) or self.task is not None or time.monotonic() < self._expire_again:
            return
        self._expire_again = time.monotonic() + EXPIRE_AGAIN
        jumped = retention.jump(self._began, (now, retention.uptime()))
        if abs(jumped) > retention.JUMP:
            log.error(
                "the clock jumped by %.1f hours while honed ran: nothing is let go as old", jumped / 3600
            )
            return
        try:
            if await asyncio.to_thread(retention.due, runtime.store, now, max(days, runs)):
                await asyncio.to_thread(retention.prune, runtime.store, runtime.directory, now, runs)
                await asyncio.to_thread(retention.expire, runtime.store, runtime.directory, now, days)
        except Exception:
            log.exception("what is old could not be let go; tried again later")

    async def _pause(self, intent: Intent) -> None:
        await self._set_paused(intent, paused=True)

    async def _resume(self, intent: Intent) -> None:
        await self._set_paused(intent, paused=False)

    async def _label(self, intent: Intent) -> None:
        """Judges are measured against it from the next iteration on."""
        written, about = written_answers(intent)

        def commit(tx: Store) -> None:
            if written is not None:
                tx.completions.begin(written)
            tx.labels.add(Label(intent.id, intent.created_at, intent.principal, intent.reason, **about))
            tx.intents.update(intent.id, IntentStatus.DONE, {"label": intent.id})
            subject = f"answer {about['completion_id']}"
            tx.audit.add(actor=intent.principal, action="label", subject=subject, reason=intent.reason)

        await asyncio.to_thread(self.runtime.store.atomic, commit)

    async def _release(self, intent: Intent) -> None:
        """Feedback in quarantine may train again."""

        def commit(tx: Store) -> None:
            of = intent.arguments.get("iteration")
            count = quarantine.release(tx, of, actor=intent.principal, reason=intent.reason)
            tx.intents.update(intent.id, IntentStatus.DONE, {"released": count})

        await asyncio.to_thread(self.runtime.store.atomic, commit)

    async def _set_paused(self, intent: Intent, *, paused: bool) -> None:
        def commit(tx: Store) -> None:
            tx.state.set(PAUSED, paused)
            tx.intents.update(intent.id, IntentStatus.DONE, {"paused": paused})
            tx.audit.add(
                actor=intent.principal, action=intent.kind.value, subject="schedule", reason=intent.reason
            )

        await asyncio.to_thread(self.runtime.store.atomic, commit)


def order(intent: Intent) -> promote.Order:
    quarantined = intent.arguments.get("quarantine") is True
    return promote.Order(intent.principal, intent.reason, intent.id, quarantine=quarantined)


def written_answers(intent: Intent) -> tuple[Completion | None, dict[str, Any]]:
    """What a label is about; a comparison of texts written down in it becomes a recorded pair of answers."""
    about = dict(intent.arguments)
    if "prompt" not in about:
        return None, about
    answers = (Choice(0, about["better"], "stop"), Choice(1, about["worse"], "stop"))
    recorded = Completion(
        id=f"label-{intent.id}",
        created_at=intent.created_at,
        principal=intent.principal,
        source=Source.LABEL,
        messages=(Message(Role.USER, about["prompt"]),),
        sampling=Sampling(),
        adapter=None,
        engine="label",
        status=CompletionStatus.DONE,
        choices=answers,
        metadata={"label": intent.id},
    )
    return recorded, {"completion_id": recorded.id, "other_id": recorded.id, "other_index": 1}


def look(runtime: Known, *, running: bool) -> schedule.Situation:
    """Read what the schedule decides from."""
    store = runtime.store
    recent = store.iterations.list(limit=50)
    last = recent[0] if recent else None
    failures = next((n for n, item in enumerate(recent) if item.stage is not Stage.FAILED), len(recent))
    # What a failed iteration would have learned from still waits: the back-off decides when, not new votes.
    counted = recent[failures] if failures < len(recent) else None
    trial = store.canaries.open()
    now = runtime.clock()
    since = schedule.passed(counted.created_at if counted else None, now)
    return schedule.Situation(
        now=now,
        paused=bool(store.state.get(PAUSED, False)),
        running=running,
        new_feedback=store.feedback.count(since=since),
        last_start=last.created_at if last else None,
        last_end=last.finished_at if last else None,
        failures=failures,
        canary=trial.version if trial else None,
        cooldown_until=cooldown_until(store, runtime.config.daemon.watch.cooldown_minutes, now),
    )


def cooldown_until(store: Store, minutes: float, now: float) -> float | None:
    """When iterations may start by themselves again after the last rollback that nobody ordered."""
    last = store.audit.last("rollback", (watch.ACTOR, canary.ACTOR))
    at = schedule.passed(None if last is None else last.at, now)
    return None if at is None else at + 60 * minutes
