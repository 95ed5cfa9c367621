"""When an iteration starts, by table; the clock is an argument."""

from datetime import UTC, datetime

import pytest

from daemon.config import ScheduleConfig
from daemon.schedule import Situation, due, in_quiet_hours, next_fire, next_time, parse_hours, weekdays

NOON = datetime(2026, 3, 1, 12, 0, tzinfo=UTC).timestamp()


def situation(**changes: object) -> Situation:
    usual = {
        "now": NOON,
        "paused": False,
        "running": False,
        "new_feedback": 100,
        "last_start": None,
        "last_end": None,
        "failures": 0,
    }
    return Situation(**{**usual, **changes})


def test_enough_feedback_starts_one() -> None:
    assert due(situation(), ScheduleConfig(min_feedback=100)).trigger == "feedback"


@pytest.mark.parametrize(
    ("changes", "config", "word"),
    [
        ({"new_feedback": 31}, {}, "31 of 32"),
        ({"paused": True}, {}, "paused"),
        ({"running": True}, {}, "running"),
        ({}, {"enabled": False}, "off"),
        ({}, {"quiet_hours": ["11:00-13:00"]}, "quiet hours"),
        ({"last_start": NOON - 60}, {"interval_minutes": 10}, "not before 2026-03-01 12:09:00"),
        ({"last_start": NOON - 60}, {"cron": "0 3 * * *"}, "not before 2026-03-02 03:00:00"),
        ({"last_start": NOON - 86400 * 9}, {"cron": "0 3 * * *"}, "not before 2026-03-02 03:00:00"),
        (
            {"now": NOON + 20, "last_start": NOON + 5},
            {"cron": "0 12 * * *"},
            "not before 2026-03-02 12:00:00",
        ),
        ({"failures": 2, "last_end": NOON - 60}, {"retry_minutes": 5}, "not before 2026-03-01 12:09:00"),
    ],
)
def test_each_condition_holds_an_iteration_back_and_says_so(
    changes: dict[str, object], config: dict[str, object], word: str
) -> None:
    plan = due(situation(**changes), ScheduleConfig.model_validate(config))
    assert plan.trigger is None
    assert word in " ".join(plan.waiting_for)


@pytest.mark.parametrize(
    ("last_start", "config", "trigger"),
    [
        (NOON - 600, {"interval_minutes": 10}, "interval"),
        (None, {"interval_minutes": 10}, "interval"),
        (NOON - 3600 * 24, {"cron": "0 12 * * *"}, "cron"),
        (None, {"cron": "0 12 * * 7"}, "cron"),
        (None, {"cron": "0 12 * * 0,3"}, "cron"),
        (None, {"cron": "*/5 12 1-7 * sun"}, "cron"),
    ],
)
def test_the_clock_lets_an_iteration_start_when_its_time_has_come(
    last_start: float | None, config: dict[str, object], trigger: str
) -> None:
    assert due(situation(last_start=last_start), ScheduleConfig.model_validate(config)).trigger == trigger


def test_weekdays_are_counted_from_sunday_as_cron_does() -> None:
    sunday = datetime(2026, 3, 1, tzinfo=UTC)
    for number in range(8):
        fire = next_fire(f"0 3 * * {number}", sunday.timestamp())
        assert fire is not None
        assert (datetime.fromtimestamp(fire, UTC) - sunday).days == number % 7
    workdays = next_fire("0 3 * * 1-5", sunday.timestamp())
    assert datetime.fromtimestamp(workdays or 0, UTC).day == 2


@pytest.mark.parametrize(
    ("field", "names"),
    [
        ("*", "sun,mon,tue,wed,thu,fri,sat"),
        ("*/2", "sun,tue,thu,sat"),
        ("1-5/2", "mon,wed,fri"),
        ("0-3", "sun,mon,tue,wed"),
        ("5-7", "sun,fri,sat"),
        ("fri-mon", "sun,mon,fri,sat"),
        ("3/2", "wed,fri"),
        ("7,tue", "sun,tue"),
    ],
)
def test_a_weekday_field_means_what_it_means_to_cron(field: str, names: str) -> None:
    assert weekdays(field) == names


def test_days_of_both_kinds_mean_either() -> None:
    fires, at = [], datetime(2026, 3, 1, 12, tzinfo=UTC).timestamp()
    for _ in range(4):
        at = next_fire("0 3 15 * 1", at) or 0.0
        fires.append(datetime.fromtimestamp(at, UTC).day)
    assert fires == [2, 9, 15, 16], "Mondays and the 15th"


@pytest.mark.parametrize(
    "cron",
    ["", "0 3 * *", "61 3 * * *", "0 3 * * 8", "0 3 * * mo", "0 3 * * 1/0", "every day at three o'clock"],
)
def test_what_cron_does_not_say_is_refused(cron: str) -> None:
    with pytest.raises(ValueError):
        next_fire(cron, 0.0)


def test_waiting_after_failures_doubles_up_to_a_limit() -> None:
    config = ScheduleConfig(retry_minutes=5, retry_minutes_max=15)
    waits = [next_time(situation(failures=n, last_end=NOON), config) for n in (1, 2, 3, 4)]
    assert [(at or 0) - NOON for at in waits] == [300, 600, 900, 900]


@pytest.mark.parametrize(
    ("span", "hour", "quiet"),
    [
        ("22:00-06:00", 23, True),
        ("22:00-06:00", 5, True),
        ("22:00-06:00", 6, False),
        ("08:00-09:00", 8, True),
    ],
)
def test_quiet_hours_may_cross_midnight(span: str, hour: int, quiet: bool) -> None:
    at = datetime(2026, 3, 1, hour, 0, tzinfo=UTC).timestamp()
    assert in_quiet_hours(at, [span]) is quiet


@pytest.mark.parametrize(
    "text", ["", "8-9", "08:00", "25:00-03:00", "08:00-09:61", "a:b-c:d", "1:00-2:00-3:00"]
)
def test_malformed_spans_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="HH:MM"):
        parse_hours(text)


@pytest.mark.parametrize("ahead", [1.0, 3600.0, 86_400.0 * 365])
@pytest.mark.parametrize(
    ("changes", "config"),
    [
        (("last_start",), {"interval_minutes": 10}),
        (("last_start",), {"cron": "0 12 * * *"}),
        (("last_start", "last_end"), {"retry_minutes": 60}),
    ],
)
def test_nobody_waits_for_a_time_that_a_clock_ahead_wrote_down(
    changes: tuple[str, ...], config: dict[str, object], ahead: float
) -> None:
    failures = 1 if "last_end" in changes else 0
    found = situation(failures=failures, **dict.fromkeys(changes, NOON + ahead))
    assert due(found, ScheduleConfig.model_validate(config)).trigger is not None
