"""`honed top`: what the service does right now, drawn again and again. From two looks one page; the page is pure."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from daemon.client import Client
from daemon.page import Block, Page, Section, Table, counted, text

Row = dict[str, Any]

#: Iterations shown.
NEWEST = 5
BAR = 24
HALTED = "the service does not answer"


@dataclass(frozen=True, slots=True)
class Look:
    """What there was to see at a time (seconds)."""

    at: float
    status: Row
    iterations: tuple[Row, ...]


def look(client: Client, clock: Callable[[], float] = time.time) -> Look:
    """Ask the service."""
    rows = client.get(f"/v1/iterations?limit={NEWEST}")["data"]
    return Look(clock(), client.get("/v1/status"), tuple(rows))


def page(now: Look, before: Look | None) -> Page:
    """One screen. Rates are between two looks, and unknown at the first."""
    status = now.status
    sections = [
        Section("Serving", serving(status, rates(now, before))),
        Section("Iteration", running(status["running"], status)),
        Section("Newest", (iterations(now),)),
    ]
    if status["judge"]:
        judges = tuple((name, said) for name, said in sorted(status["judge"].items()))
        sections.append(Section("Judges", (Table(("SCORER", "STANDING"), judges),)))
    return Page(f"honed {time.strftime('%H:%M:%S', time.localtime(now.at))}", tuple(sections))


def rates(now: Look, before: Look | None) -> tuple[float | None, float | None]:
    """Answers and events of feedback in a minute."""
    if before is None or now.at <= before.at:
        return None, None
    minutes = (now.at - before.at) / 60
    return (
        (now.status["completions"] - before.status["completions"]) / minutes,
        (now.status["feedback"]["total"] - before.status["feedback"]["total"]) / minutes,
    )


def serving(status: Row, per_minute: tuple[float | None, float | None]) -> tuple[Block, ...]:
    engine, held = status["engine"], status["quarantined"]
    state = "ready" if engine["ready"] else f"not ready: {engine['detail'] or 'no reason given'}"
    told: list[Block] = [
        f"{status['serving']['version']} by {engine['name']}, {state}; {engine['running']} running, "
        f"{engine['waiting']} waiting"
    ]
    if status["canary"] is not None:
        canary = status["canary"]
        told.append(f"canary {canary['version']} at {100 * canary['share']:.0f}%")
    if status["watch"] is not None:
        reasons = status["watch"]["reasons"]
        told.append(f"watched since its promotion: {'; '.join(reasons) if reasons else 'no harm seen'}")
    answers, votes = per_minute
    rows = [
        ("answers", status["completions"], answers),
        ("feedback", status["feedback"]["total"], votes),
        ("feedback since the last iteration", status["feedback"]["since_last_iteration"], None),
        ("in quarantine", held, None),
    ]
    return (*told, Table(("WHAT", "COUNT", "A MINUTE"), rows))


def running(row: Row | None, status: Row) -> tuple[Block, ...]:
    """The iteration under way, or why there is none."""
    if row is None:
        schedule = status["schedule"] or {}
        waits = schedule.get("waiting_for") or ["the next tick"]
        paused = ["paused; `honed resume` lets iterations start again"] if status["paused"] else []
        return tuple(f"none; waits for: {each}" for each in [*paused, *waits])
    progress = row["progress"] or {}
    told = f"{row['id']} ({row['trigger']}): {row['stage']}"
    if progress.get("phase"):
        told += f", {progress['phase']} {bar(progress.get('done', 0), progress.get('total', 0))}"
    if progress.get("seconds_left") is not None:
        told += f", about {left(progress['seconds_left'])} left"
    return (told,)


def bar(done: int, total: int) -> str:
    """How far, as a line of a fixed length."""
    share = min(1.0, done / total) if total else 0.0
    full = round(share * BAR)
    return f"[{'#' * full}{'.' * (BAR - full)}] {done} of {total}"


def left(seconds: float) -> str:
    return counted(round(seconds), "second") if seconds < 90 else counted(round(seconds / 60), "minute")


def iterations(now: Look) -> Block:
    if not now.iterations:
        return "no iteration yet"
    rows = [
        (
            row["id"],
            row["stage"],
            row["candidate"],
            left(max(0.0, now.at - row["updated_at"])),
            row["reason"] or "",
        )
        for row in now.iterations
    ]
    return Table(("ID", "STAGE", "CANDIDATE", "AGO", "WHY"), rows)


def shown(found: Page, width: int, height: int | None = None) -> str:
    """The page as text, cut to a screen where one is given."""
    lines = text(found, width).splitlines()
    return "\n".join(lines[:height])
