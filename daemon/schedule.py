"""When an iteration starts: a pure decision from the clock, the counts and the configuration.

APScheduler only ticks; what is true lives in the store. `due` also says why nothing starts yet, because
"why is it not training?" is what an operator asks first.
"""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from apscheduler.triggers.cron import CronTrigger

from daemon.config import ScheduleConfig


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


def in_quiet_hours(now: float, hours: list[str]) -> bool:
    """Whether `now` (UTC) lies in one of the spans; a span may cross midnight."""
    at = datetime.fromtimestamp(now, UTC)
    minute = at.hour * 60 + at.minute
    for span in hours:
        start, end = parse_hours(span)
        inside = start <= minute < end if start <= end else minute >= start or minute < end
        if inside:
            return True
    return False


def next_time(situation: Situation, config: ScheduleConfig) -> float | None:
    """The earliest time the clock allows, or None when only feedback decides."""
    earliest = []
    if config.cron is not None:
        since = situation.last_start if situation.last_start is not None else situation.now - 60
        trigger = CronTrigger.from_crontab(config.cron, timezone=UTC)
        after = datetime.fromtimestamp(since, UTC) + timedelta(seconds=1)
        fire = trigger.get_next_fire_time(None, after)
        if fire is not None:
            earliest.append(fire.timestamp())
    if config.interval_minutes is not None and situation.last_start is not None:
        earliest.append(situation.last_start + 60 * config.interval_minutes)
    if situation.failures and situation.last_end is not None:
        wait = min(config.retry_minutes * 2 ** (situation.failures - 1), config.retry_minutes_max)
        earliest.append(situation.last_end + 60 * wait)
    return max(earliest) if earliest else None


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
    if situation.new_feedback < config.min_feedback:
        waiting.append(
            f"{situation.new_feedback} of {config.min_feedback} new feedback events (daemon.schedule.min_feedback)"
        )
    if in_quiet_hours(situation.now, config.quiet_hours):
        waiting.append("quiet hours (daemon.schedule.quiet_hours)")
    at = next_time(situation, config)
    if at is not None and situation.now < at:
        waiting.append(f"the clock: not before {datetime.fromtimestamp(at, UTC):%Y-%m-%d %H:%M:%S} UTC")
    if waiting:
        return Plan(None, tuple(waiting), at)
    return Plan("cron" if config.cron else "interval" if config.interval_minutes else "feedback", ())
