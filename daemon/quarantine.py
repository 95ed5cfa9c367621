"""Quarantine with a rollback: what the adapters being left learned from is held back in the same transaction."""

from collections.abc import Container, Iterable, Mapping
from typing import Any

from daemon.ledger import FROM_BASE
from store.db import Store
from store.descent import left_behind, lineage_of
from store.errors import Invalid
from store.records import Adapter, Example, Split


def learned_by(
    target: str | None, parents: Mapping[str, str | None], from_base: Container[str]
) -> tuple[str, ...]:
    """Versions whose training is in the target's weights: its line, up to the last that was trained from base."""
    line = lineage_of(target, parents)
    cut = next((place for place, version in enumerate(line) if version in from_base), len(line))
    return line[: cut + 1]


def trained_from_base(tx: Store, known: Mapping[str, Adapter], line: Iterable[str]) -> set[str]:
    """Those of a line that were trained from base while another version was served."""
    found = ((version, known[version].iteration) for version in line if version in known)
    return {
        version
        for version, number in found
        if number is not None and tx.metrics.get(number).get(FROM_BASE) == 1.0
    }


def hold(tx: Store, *, left: Adapter | None, to: str | None, actor: str, reason: str) -> dict[str, Any]:
    """Hold back what trained the adapters that a move to `to` leaves, a canary among them.

    Except for what is in the weights of the target too: it was served with that, and goes on to be.
    Returns what audit log and intent tell of it.
    """
    known = {one.version: one for one in tx.adapters.list()}
    parents = {version: one.parent for version, one in known.items()}
    trial = tx.canaries.open()
    served = [left.version if left else None, trial.version if trial else None]

    def iterations(versions: Iterable[str]) -> list[int]:
        found = (known[version].iteration for version in versions if version in known)
        return sorted({number for number in found if number is not None})

    rebuilt = trained_from_base(tx, known, lineage_of(to, parents))
    gone = iterations(left_behind(served, to, parents))
    kept = iterations(learned_by(to, parents, rebuilt))
    count = tx.quarantine.hold(gone, kept=kept, actor=actor, reason=reason)
    return {"quarantined": count, "iterations": gone}


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
