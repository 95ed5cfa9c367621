"""Forgetting a person: what they said goes, and with it every adapter that learned from it.

`forget` is the table of contents; `forget_offline` is the same without a service. An order to forget is carried out
in steps that may each be repeated: whatever kills the process, the next one starts over and finds what is left. Words
are scrubbed last, for files and adapters are found by them.
"""

import asyncio
import hashlib
import json
import logging
import secrets
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from daemon import canary, forget_files, lineage, rebuild
from daemon.promote import make_ready, unload_surplus
from daemon.quarantine import learned_by, trained_from_base
from daemon.runtime import Runtime
from store.db import Store
from store.descent import lineage_of
from store.errors import HonedError
from store.failpoints import failpoint
from store.records import (
    BASE,
    Adapter,
    AdapterStatus,
    CanaryOutcome,
    Intent,
    IntentStatus,
    Stage,
)
from store.scrubbing import Holdings, Person

log = logging.getLogger(__name__)

#: What a name becomes that vanishes; a digest with a salt that is thrown away follows.
ALIAS = "forgotten:"
#: Key of the outcome of an order whose words are gone, while the files are still to be compacted.
SCRUBBED = "scrubbed"
#: What is told of adapters, votes and iterations that have to go: nothing about whom.
REASON = "it learned from somebody who is forgotten"
ABORTED = "somebody is forgotten; it starts again without them"


@dataclass(frozen=True)
class Reach:
    """How far what is forgotten went. `versions`: adapters that learned from it, oldest first."""

    held: Holdings
    iterations: frozenset[int]
    versions: tuple[str, ...]


def alias_of(name: str) -> str:
    """A name for somebody who has none any more. The salt is thrown away, so that nobody can try names on it."""
    return ALIAS + hashlib.sha256(secrets.token_bytes(16) + name.encode()).hexdigest()[:16]


def tainted(
    adapters: Collection[Adapter], learned: Collection[tuple[int, str | None]], from_base: Collection[str]
) -> set[str]:
    """Versions that were trained on it, and those trained on from one of them.

    Args:
        adapters: every one there is.
        learned: (iteration, version) of what was trained on it; version None is all of the iteration's.
        from_base: versions that were trained from base while another was served.
    """
    parents = {one.version: one.parent for one in adapters}
    taught = {
        one.version
        for one in adapters
        if one.iteration is not None and {(one.iteration, None), (one.iteration, one.version)} & set(learned)
    }
    # What an iteration's metrics say of starting from base is said of the candidate that it kept.
    cut = {one.version for one in adapters if one.status is not AdapterStatus.REJECTED} & set(from_base)
    return {version for version in parents if taught & set(learned_by(version, parents, cut))}


def unproved(store: Store, adapters: Iterable[Adapter], held: Holdings) -> set[str]:
    """Versions of which no log-probabilities would be left that an engine could be held against."""
    found = set()
    for one in adapters:
        rows = (store.iterations.report(one.iteration or 0) or {}).get("attestation", [])
        if rows and all(held.quotes.mentioned(row) for row in rows):
            found.add(one.version)
    return found


def reach(store: Store, held: Holdings) -> Reach:
    """What has to go with what is forgotten."""
    adapters = store.adapters.list()
    known = {one.version: one for one in adapters}
    gone = tainted(adapters, store.forgetting.learned(held), trained_from_base(store, known, known))
    gone |= unproved(store, adapters, held)
    versions = tuple(one.version for one in reversed(adapters) if one.version in gone)
    return Reach(held, frozenset(store.forgetting.iterations(held)), versions)


def way_out(store: Store, gone: Collection[str]) -> str | None:
    """What is served in place of one that goes: the nearest before it that was served and stays; None is base."""
    active = store.adapters.active()
    known = {one.version: one for one in store.adapters.list()}
    parents = {version: one.parent for version, one in known.items()}
    line = lineage_of(active.version if active else None, parents)[1:]
    clean = (v for v in line if v not in gone and known[v].status is AdapterStatus.SUPERSEDED)
    return next(clean, None)


def leave(tx: Store, versions: Collection[str], to: str | None, *, actor: str, now: float) -> None:
    """Serve none of these versions, now or ever: pointer, canary, statuses, and what else they learned from is new
    again, for the people who said it were not forgotten.
    """
    known = {one.version: one for one in tx.adapters.list()}
    parents = {version: one.parent for version, one in known.items()}
    fresh = [v for v in versions if known[v].status is not AdapterStatus.RETIRED]
    if not fresh:
        return
    active, trial = tx.adapters.active(), tx.canaries.open()
    moves = active is not None and active.version in versions
    if trial is not None and (moves or trial.version in versions):
        outcome = CanaryOutcome.ROLLED_BACK if trial.version in versions else CanaryOutcome.HELD
        canary.end(tx, trial, outcome, actor=actor, reason=REASON)
    if active is not None and moves:
        tx.adapters.activate(to, actor=actor, reason=REASON, retire_as=AdapterStatus.RETIRED)
        lineage.leave(tx, active, to=to, reason=REASON)
        lineage.take_up(tx, to, reason=REASON)
        details = {"from": active.version}
        tx.audit.add(actor=actor, action="rollback", subject=to or BASE, reason=REASON, details=details)
    serving = tx.adapters.active()
    line = lineage_of(serving.version if serving else None, parents)
    kept = learned_by(serving.version if serving else None, parents, trained_from_base(tx, known, line))
    numbers = [sorted({known[v].iteration or 0 for v in some if v in known}) for some in (fresh, kept)]
    tx.quarantine.renew(numbers[0], kept=numbers[1], actor=actor, reason=REASON)
    for version in fresh:
        tx.adapters.mark(version, AdapterStatus.RETIRED)
        tx.audit.add(actor=actor, action="retire", subject=version, reason=REASON)
    rebuild.request(tx, "what was learned from somebody who is forgotten is gone", at=now)


def begin(store: Store, intent: Intent) -> Person:
    """Take the order up: the name they will have is written down before anything is done under it."""
    name, alias = str(intent.arguments["user"]), intent.arguments.get("alias")
    if alias is None:
        alias = alias_of(name)
        store.intents.take_up(intent.id, {**intent.arguments, "alias": alias})
        failpoint("forget.begun")
    return Person(name, alias)


def scrub(store: Store, intent: Intent, person: Person, done: Reach, *, files: int) -> None:
    """Take the words and the name out of the database, in one transaction that also says so.

    Args:
        store: where they are.
        intent: the order.
        person: whose.
        done: what was left behind and whose files were cleaned.
        files: how many those were.

    Raises:
        HonedError: what was said since reaches further than that; the order is to be started over.
    """

    def commit(tx: Store) -> None:
        # Read again here: what was said since the files were looked through goes too.
        found = reach(tx, tx.forgetting.of(person))
        if not (set(found.versions) <= set(done.versions) and found.iterations <= done.iterations):
            raise HonedError("more was said meanwhile than what was looked for; it is looked through again")
        counts = tx.forgetting.scrub(found.held, found.iterations, person=person)
        serving = tx.adapters.active()
        receipt = {
            "person": person.alias,
            **counts,
            "files": files,
            "iterations": sorted(found.iterations),
            "retired": list(found.versions),
            "serving": serving.version if serving else BASE,
        }
        tx.intents.update(intent.id, IntentStatus.RUNNING, {SCRUBBED: receipt})
        failpoint("forget.before_commit")

    store.atomic(commit)
    failpoint("forget.scrubbed")


def finish(store: Store, intent: Intent, now: float) -> dict[str, Any]:
    """Empty the database's files of what was scrubbed, then close the order with a receipt."""
    store.compact()
    failpoint("forget.compacted")
    # Read anew: the name is out of reason and principal by now.
    order = store.intents.get(intent.id)
    receipt = signed({**order.outcome[SCRUBBED], "at": now})

    def commit(tx: Store) -> None:
        tx.intents.update(order.id, IntentStatus.DONE, receipt)
        tx.audit.add(
            actor=order.principal,
            action="forget",
            subject=str(receipt["person"]),
            reason=order.reason,
            details=receipt,
        )

    store.atomic(commit)
    return receipt


def signed(receipt: Mapping[str, Any]) -> dict[str, Any]:
    """A receipt with the digest of what it says: the audit log's copy and a printed one can be compared."""
    said = json.dumps(receipt, sort_keys=True).encode()
    return {**receipt, "digest": hashlib.sha256(said).hexdigest()}


def scrubbed(intent: Intent) -> bool:
    return SCRUBBED in intent.outcome


async def forget(
    runtime: Runtime, intent: Intent, stop_iteration: Callable[[str], Awaitable[None]]
) -> dict[str, Any]:
    """Carry the order out, or on from where it was left."""
    store = runtime.store
    if not scrubbed(intent):
        person = await asyncio.to_thread(begin, store, intent)
        # First: what runs may hold anything, and what it writes would come after everything else was cleaned.
        await stop_iteration(ABORTED)
        async with runtime.swapping:
            found = await asyncio.to_thread(reach, store, store.forgetting.of(person))
            await swap_out(runtime, found.versions)
        failpoint("forget.moved")
        files = await asyncio.to_thread(
            forget_files.erase,
            store,
            runtime.directory,
            found.held,
            found.iterations,
            found.versions,
            person.name,
        )
        failpoint("forget.files")
        await asyncio.to_thread(scrub, store, intent, person, found, files=files)
    return await asyncio.to_thread(finish, store, intent, runtime.clock())


async def swap_out(runtime: Runtime, versions: Collection[str]) -> None:
    """Serve something else, proved before the pointer moves; base, which needs no loading, where that fails.

    Called under the lock.
    """
    store = runtime.store
    active = await asyncio.to_thread(store.adapters.active)
    to = await asyncio.to_thread(way_out, store, versions)
    if to is not None and active is not None and active.version in versions:
        try:
            await make_ready(runtime, await asyncio.to_thread(store.adapters.get, to))
        except HonedError as error:
            log.error("%s cannot be served again: %s", to, error)
            to = None
    now = runtime.clock()
    await asyncio.to_thread(store.atomic, lambda tx: leave(tx, versions, to, actor="forget", now=now))
    await unload_surplus(runtime)


def forget_offline(
    store: Store, directory: Path, intent: Intent, clock: Callable[[], float]
) -> dict[str, Any]:
    """The same on a store that no service holds. What is served from now on is proved at the next start."""
    if not scrubbed(intent):
        person = begin(store, intent)
        running = store.iterations.running()
        if running is not None:
            store.iterations.move(running.id, Stage.ABORTED, note=ABORTED, changes={"reason": ABORTED})
        found = reach(store, store.forgetting.of(person))
        to = way_out(store, found.versions)
        store.atomic(lambda tx: leave(tx, found.versions, to, actor="forget", now=clock()))
        files = forget_files.erase(
            store, directory, found.held, found.iterations, found.versions, person.name
        )
        scrub(store, intent, person, found, files=files)
    return finish(store, intent, clock())
