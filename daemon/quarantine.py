"""Quarantine with a rollback: what the adapters being left learned from is held back in the same transaction."""

from collections.abc import Iterable, Mapping
from typing import Any

from store.db import Store
from store.errors import Invalid
from store.records import Adapter, Example, Split


def lineage_of(version: str | None, parents: Mapping[str, str | None]) -> tuple[str, ...]:
    """A version and everything it was trained from, nearest first; nothing for None, the base."""
    chain: list[str] = []
    while version is not None and version not in chain:
        chain.append(version)
        version = parents.get(version)
    return tuple(chain)


def left_behind(
    active: str | None, target: str | None, parents: Mapping[str, str | None]
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Versions that a move from `active` to `target` leaves, and those that stay in what is served.

    Args:
        active: the version served until now; None is the base.
        target: the version served from now on; None is the base.
        parents: every version's parent; None is the base.
    """
    kept = lineage_of(target, parents)
    return tuple(version for version in lineage_of(active, parents) if version not in kept), kept


def hold(tx: Store, *, left: Adapter | None, to: str | None, actor: str, reason: str) -> dict[str, Any]:
    """Hold back what trained the adapters between `left` and `to`, but for what trained those that stay too.

    Returns what audit log and intent tell of it.
    """
    known = {one.version: one for one in tx.adapters.list()}
    parents = {version: one.parent for version, one in known.items()}
    gone, kept = left_behind(left.version if left else None, to, parents)

    def iterations(versions: tuple[str, ...]) -> list[int]:
        found = (known[version].iteration for version in versions if version in known)
        return sorted(number for number in found if number is not None)

    count = tx.quarantine.hold(iterations(gone), kept=iterations(kept), actor=actor, reason=reason)
    return {"quarantined": count, "iterations": iterations(gone)}


def overtaken(tx: Store, examples: Iterable[Example]) -> str | None:
    """Why these cannot train although they were collected to: some were put into quarantine since, while judges
    worked. None where nothing was.
    """
    held = tx.quarantine.among(one.feedback_id for one in examples if one.split is Split.TRAIN)
    if not held:
        return None
    return f"{len(held)} of the events collected were put into quarantine meanwhile; the others wait"


def release(tx: Store, iteration: int | None, *, actor: str, reason: str) -> int:
    """Let go what is held, of one iteration or all, and write down who did. Returns how many events.

    Raises:
        Invalid: nothing is held there.
    """
    count = tx.quarantine.release(iteration=iteration, actor=actor, reason=reason)
    subject = "everything" if iteration is None else f"iteration {iteration}"
    if not count:
        of = "" if iteration is None else f" of iteration {iteration}"
        raise Invalid(f"nothing{of} is in quarantine", param="all" if iteration is None else "iteration")
    tx.audit.add(actor=actor, action="release", subject=subject, reason=reason, details={"released": count})
    return count
