"""Which iterations stand behind what is served, after the pointer moved.

Votes of an iteration that is `active` are replayed into later candidates, those of one that is `rolled_back` are not.
So a move settles the whole line, not only its two ends: a rollback over several versions leaves all of them, and a
version served again brings back all that is in its weights.
"""

from collections.abc import Iterable

from daemon.quarantine import learned_by, trained_from_base
from store.db import Store
from store.descent import left_behind, lineage_of
from store.records import Adapter, Stage


def leave(tx: Store, left: Adapter | None, *, to: str | None, reason: str) -> None:
    """Write down that a rollback from `left` to `to` leaves every version between them. None: the base."""
    known = {one.version: one for one in tx.adapters.list()}
    parents = {version: one.parent for version, one in known.items()}
    gone = left_behind([left.version if left else None], to, parents)
    told = f"left with {left.version}: {reason}" if left else reason
    for version in gone:
        own = left is not None and version == left.version
        stages: Iterable[Stage] = set(Stage) if own else {Stage.ACTIVE}
        restage(tx, known.get(version), stages, Stage.ROLLED_BACK, reason if own else told)


def take_up(tx: Store, to: str | None, *, reason: str) -> None:
    """Write down that `to` is served, with all that is in its weights: its line since it was last trained from base.

    Whatever the target's own iteration was, it is active now; of the others only those that were rolled back change.
    """
    known = {one.version: one for one in tx.adapters.list()}
    parents = {version: one.parent for version, one in known.items()}
    line = lineage_of(to, parents)
    for version in learned_by(to, parents, trained_from_base(tx, known, line)):
        own = version == to
        stages: Iterable[Stage] = set(Stage) - {Stage.ACTIVE} if own else {Stage.ROLLED_BACK}
        note = reason if own else f"served again with {to}: {reason}"
        restage(tx, known.get(version), stages, Stage.ACTIVE, note)


def restage(tx: Store, adapter: Adapter | None, stages: Iterable[Stage], stage: Stage, note: str) -> None:
    """Move an adapter's iteration if it is in one of `stages`."""
    if adapter is None or adapter.iteration is None:
        return
    if tx.iterations.get(adapter.iteration).stage in stages:
        tx.iterations.move(adapter.iteration, stage, note=note, changes={"reason": note})
