"""When an iteration starts: a pure decision from the clock, the counts and the configuration.

APScheduler only ticks; what is true lives in the store. `due` also says why nothing starts yet, because
"why is it not training?" is what an operator asks first.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from apscheduler.triggers.cron import CronTrigger

from daemon.config import ScheduleConfig

#: Seconds after a cron time in which it still counts: more than a tick may take, less than cron's minute.
GRACE = 45.0
WEEKDAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")


@dataclass(frozen=True, slots=True)
class Situation:
    """What the decision is made from. Times in seconds since the epoch."""

    now: float
    paused: bool
    running: bool
    new_feedback: int
    last_start: float | None
    last_end: float | None
    failures: int
    """Failed iterations in a row."""
    canary: str | None = None
    """The version that some people are tried with."""
    cooldown_until: float | None = None
    """Until when the last automatic rollback keeps iterations from starting by themselves."""


@dataclass(frozen=True, slots=True)
class Plan:
    """`trigger` names why an iteration starts now; None with `waiting_for` reasons when it does not."""

    trigger: str | None
    waiting_for: tuple[str, ...]
    next_at: float | None = None


def parse_hours(text: str) -> tuple[int, int]:
    """Minutes of the day of "HH:MM-HH:MM".

    Raises:
        ValueError: not of that form.
    """
    minutes = []
    for part in text.split("-"):
        hour, _, minute = part.strip().partition(":")
        if not (hour.isdigit() and minute.isdigit() and int(hour) < 24 and int(minute) < 60):
            raise ValueError(f"{text!r} is not of the form HH:MM-HH:MM")
        minutes.append(int(hour) * 60 + int(minute))
    if len(minutes) != 2:
        raise ValueError(f"{text!r} is not of the form HH:MM-HH:MM")
    return minutes[0], minutes[1]


def in_quiet_hours(now: float, hours: Sequence[str]) -> bool:
    """Whether `now` (UTC) lies in one of the spans; a span may cross midnight."""
    at = datetime.fromtimestamp(now, UTC)
    minute = at.hour * 60 + at.minute
    for span in hours:
        start, end = parse_hours(span)
        inside = start <= minute < end if start <= end else minute >= start or minute < end
        if inside:
            return True
    return False


def five_fields(cron: str) -> list[str]:
    fields = cron.split()
    if len(fields) != 5:
        raise ValueError(f"{cron!r} has {len(fields)} fields, five are needed: minute hour day month weekday")
    return fields


def weekday_number(text: str) -> int:
    """cron's number of a weekday, or its name; Sunday is 0, and 7 at the end of a span."""
    if text.lower() in WEEKDAYS:
        return WEEKDAYS.index(text.lower())
    if not (text.isdigit() and int(text) <= 7):
        raise ValueError(f"{text!r} is no weekday; 0 (Sunday) to 7 (Sunday), or sun to sat")
    return int(text)


def weekdays(field: str) -> str:
    """cron's weekday field spelled out as names, which mean the same to the library; its own numbers and steps count
    from Monday.
    """
    found: set[int] = set()
    for part in field.split(","):
        span, stepped, step = part.partition("/")
        if stepped and not (step.isdigit() and int(step)):
            raise ValueError(f"{part!r}: the step of a weekday field is a number above 0")
        first, ranged, last = span.partition("-")
        if span == "*":
            low, high = 0, 6
        else:
            low = weekday_number(first)
            high = weekday_number(last) if ranged else (6 if stepped else low)
        if high < low:  # fri-mon, 5-1: over the end of the week
            high += 7
        found |= {day % 7 for day in range(low, high + 1, int(step or 1))}
    return ",".join(WEEKDAYS[day] for day in sorted(found))


def next_fire(cron: str, after: float) -> float | None:
    """The first time after `after` (both in seconds since the epoch) that a cron expression names; None: never.

    Raises:
        ValueError: not five fields, or a field out of range.
    """
    minute, hour, day, month, weekday = five_fields(cron)
    # Where cron is told days of both kinds, either will do; the library asks for both.
    either = [(day, "*"), ("*", weekday)] if day != "*" and weekday != "*" else [(day, weekday)]
    fires = []
    for days, names in either:
        trigger = CronTrigger(
            minute=minute, hour=hour, day=days, month=month, day_of_week=weekdays(names), timezone=UTC
        )
        fires.append(trigger.get_next_fire_time(None, datetime.fromtimestamp(after + 1, UTC)))
    return min((fire.timestamp() for fire in fires if fire is not None), default=None)


def passed(at: float | None, now: float) -> float | None:
    """A time that something happened at; None where the clock has not come to it. Then it was ahead once and was set
    back, and nobody shall wait until it comes there again.
    """
    return at if at is not None and at <= now else None


def next_time(situation: Situation, config: ScheduleConfig) -> float | None:
    """The earliest time the clock allows, or None when only feedback decides."""
    earliest = []
    last_start, last_end = (passed(at, situation.now) for at in (situation.last_start, situation.last_end))
    if config.cron is not None:
        # A time that was missed (too little feedback, paused, switched off) is not made up for later.
        since = max(situation.now - GRACE, last_start or 0.0)
        fire = next_fire(config.cron, since)
        earliest.append(float("inf") if fire is None else fire)
    if config.interval_minutes is not None and last_start is not None:
        earliest.append(last_start + 60 * config.interval_minutes)
    if situation.failures and last_end is not None:
        wait = min(config.retry_minutes * 2 ** min(situation.failures - 1, 30), config.retry_minutes_max)
        earliest.append(last_end + 60 * wait)
    if situation.cooldown_until is not None:
        earliest.append(situation.cooldown_until)
    return max(earliest) if earliest else None


def under_way(version: str) -> str:
    """Why nothing is trained while a canary runs: the next candidate would have no settled incumbent."""
    return f"a canary is under way: {version}"


def due(situation: Situation, config: ScheduleConfig) -> Plan:
    """Whether an iteration starts now, and if not, everything it waits for."""
    if not config.enabled:
        return Plan(
            None, ("the schedule is off (daemon.schedule.enabled); `honed train` starts one by hand",)
        )
    waiting = []
    if situation.paused:
        waiting.append("paused by an operator; `honed resume` goes on")
    if situation.running:
        waiting.append("an iteration is running")
    if situation.canary is not None:
        waiting.append(under_way(situation.canary))
    if situation.cooldown_until is not None and situation.now < situation.cooldown_until:
        waiting.append("the pause after an automatic rollback (daemon.watch.cooldown_minutes)")
    if situation.new_feedback < config.min_feedback:
        waiting.append(
            f"{situation.new_feedback} of {config.min_feedback} new feedback events (daemon.schedule.min_feedback)"
        )
    if in_quiet_hours(situation.now, config.quiet_hours):
        waiting.append("quiet hours (daemon.schedule.quiet_hours)")
    at = next_time(situation, config)
    if at is not None and situation.now < at:
        when = "ever" if at == float("inf") else f"{datetime.fromtimestamp(at, UTC):%Y-%m-%d %H:%M:%S} UTC"
        waiting.append(f"the clock: not before {when}")
    if waiting:
        return Plan(None, tuple(waiting), at)
    return Plan("cron" if config.cron else "interval" if config.interval_minutes else "feedback", ())
