"""Retention: words are not kept for longer than `store.privacy.keep_days`, unless something served rests on them."""

import json
import time
from pathlib import Path

from daemon import forget_files
from daemon.quarantine import learned_by, trained_from_base
from store.db import Store
from store.records import SERVABLE, AdapterStatus

#: When it was last looked at, in the store's state.
STATE = "retention"
DAY = 86_400.0
#: Seconds that the clock may be corrected by while the service runs.
JUMP = 3600.0
#: Adapters that answer people, or may yet.
MAY_SERVE = SERVABLE | {AdapterStatus.HELD, AdapterStatus.CANARY, AdapterStatus.CANDIDATE}


def due(store: Store, now: float, keep_days: float) -> bool:
    """Once a day, where there is a limit."""
    return keep_days > 0 and not 0 <= now - float(store.state.get(STATE, 0.0)) < DAY


def uptime() -> float:
    """Seconds since the machine started, sleep included; no clock that anybody sets."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


def jump(began: tuple[float, float], at: tuple[float, float]) -> float:
    """Seconds by which the clock was set between two looks at (clock, `uptime`): what it calls old may not be."""
    return (at[0] - began[0]) - (at[1] - began[1])


def needed(store: Store) -> frozenset[str]:
    """Answers that an adapter which may be served learned from, it or one that it was continued from, and those whose
    words its log-probabilities are attested by.
    """
    known = {one.version: one for one in store.adapters.list()}
    parents = {version: one.parent for version, one in known.items()}
    from_base = trained_from_base(store, known, known)
    iterations: set[int] = set()
    prompts: set[str] = set()
    for version, one in known.items():
        if one.status not in MAY_SERVE:
            continue
        line = [known[each].iteration for each in learned_by(version, parents, from_base) if each in known]
        iterations.update(number for number in line if number is not None)
        rows = (store.iterations.report(one.iteration or 0) or {}).get("attestation", [])
        prompts.update(json.dumps(row["prompt"], ensure_ascii=False) for row in rows)
    return store.forgetting.behind(iterations, prompts)


def expire(store: Store, directory: Path, now: float, keep_days: float) -> int:
    """Scrub what is older, in the database and in files. Returns how many answers lost their words.

    Nothing may be training: run directories are cleaned.
    """
    held = store.forgetting.older(now - keep_days * DAY, keep=needed(store))
    count = 0
    if held:
        iterations = store.forgetting.iterations(held)
        forget_files.erase(store, directory, held, iterations, ())

        def commit(tx: Store) -> int:
            counts = tx.forgetting.scrub(held, iterations)
            subject = f"{counts['answers']} answers"
            reason = f"older than store.privacy.keep_days = {keep_days:g}"
            tx.audit.add(actor="retention", action="expire", subject=subject, reason=reason, details=counts)
            return counts["answers"]

        count = store.atomic(commit)
        store.compact()
    store.state.set(STATE, now)
    return count
