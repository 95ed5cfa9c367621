"""Retention: words are not kept for longer than `store.privacy.keep_days`, unless something served rests on them, and
folders of iterations that came to nothing not for longer than `store.keep_runs_days`.
"""

import json
import shutil
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
    """Once a day, where there is a limit (the larger of both)."""
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


def useless(store: Store, before: float) -> frozenset[int]:
    """Iterations that ended before a time and have no adapter that answers people, or may yet."""
    may_serve = {one.iteration for one in store.adapters.list() if one.status in MAY_SERVE}
    return store.iterations.ended(before) - may_serve


def prune(store: Store, directory: Path, now: float, keep_runs_days: float) -> int:
    """Delete the folders of iterations that came to nothing and are older. Returns how many; 0 days deletes none.

    Nobody reads a folder once its iteration has ended but who loads its adapter.
    """
    if not keep_runs_days:
        return 0
    numbers = useless(store, now - keep_runs_days * DAY)
    gone = [run for run in forget_files.runs(directory) if forget_files.number_of(run) in numbers]
    for run in gone:
        shutil.rmtree(run)
    if gone:
        reason = f"older than store.keep_runs_days = {keep_runs_days:g}, and of no adapter that may be served"
        names = {"folders": [run.name for run in gone]}
        subject = f"{len(gone)} iterations' folders"
        store.audit.add(actor="retention", action="prune", subject=subject, reason=reason, details=names)
    return len(gone)


def expire(store: Store, directory: Path, now: float, keep_days: float) -> int:
    """Scrub what is older, in the database and in files. Returns how many answers lost words; 0 days scrubs none.

    Nothing may be training: run directories are cleaned.
    """
    held = store.forgetting.older(now - keep_days * DAY, keep=needed(store)) if keep_days else None
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
