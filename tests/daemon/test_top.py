"""The page of `honed top`: what it says of a status."""

from typing import Any

import pytest

from daemon.top import Look, bar, page, rates, shown

STATUS: dict[str, Any] = {
    "serving": {"version": "it0002-b"},
    "engine": {"name": "hf", "ready": True, "running": 2, "waiting": 1, "detail": ""},
    "canary": None,
    "watch": None,
    "running": None,
    "paused": False,
    "schedule": {"waiting_for": ["12 more votes (20 of 32)"]},
    "feedback": {"total": 40, "since_last_iteration": 20},
    "completions": 100,
    "quarantined": 3,
    "judge": {},
}
RUNNING = {
    "id": 3,
    "trigger": "volume",
    "stage": "training",
    "progress": {"phase": "train", "done": 6, "total": 12, "seconds_left": 40.0},
}


def at(seconds: float, **changes: Any) -> Look:
    return Look(seconds, {**STATUS, **changes}, ())


def said(now: Look, before: Look | None = None) -> str:
    return shown(page(now, before), 200)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {},
            [
                "it0002-b by hf, ready; 2 running, 1 waiting",
                "waits for: 12 more votes (20 of 32)",
                "no iteration yet",
            ],
        ),
        (
            {"running": RUNNING},
            ["3 (volume): training, train [############............] 6 of 12", "40 seconds left"],
        ),
        ({"running": {**RUNNING, "progress": None}}, ["3 (volume): training"]),
        ({"paused": True}, ["paused; `honed resume`"]),
        ({"schedule": None}, ["waits for: the next tick"]),
        ({"canary": {"version": "it0003-c", "share": 0.25}}, ["canary it0003-c at 25%"]),
        ({"watch": {"reasons": []}}, ["no harm seen"]),
        ({"watch": {"reasons": ["thumbs fell"]}}, ["watched since its promotion: thumbs fell"]),
        ({"engine": {**STATUS["engine"], "ready": False, "detail": "restarting"}}, ["not ready: restarting"]),
        ({"judge": {"rubric": "licensed"}}, ["JUDGES", "rubric  licensed"]),
    ],
)
def test_what_is_going_on_is_told(changes: dict[str, Any], words: list[str]) -> None:
    told = said(at(0.0, **changes))
    for word in words:
        assert word in told


def test_rates_are_between_two_looks() -> None:
    before = at(0.0)
    now = at(30.0, completions=110, feedback={"total": 43, "since_last_iteration": 23})
    assert rates(now, before) == (20.0, 6.0)
    assert rates(now, None) == (None, None)
    assert rates(before, before) == (None, None)


@pytest.mark.parametrize(
    ("done", "total", "full"), [(0, 0, 0), (0, 4, 0), (2, 4, 12), (4, 4, 24), (9, 4, 24)]
)
def test_a_bar_is_as_long_as_it_ever_is(done: int, total: int, full: int) -> None:
    drawn = bar(done, total)
    assert drawn.count("#") == full
    assert drawn.index("]") == 25


def test_a_page_fits_the_screen_and_a_reason_moves_no_cursor() -> None:
    row = {"id": 1, "stage": "held", "candidate": "c", "updated_at": 0.0, "reason": "\x1b[2J" + "word " * 200}
    found = page(Look(60.0, STATUS, (row,)), None)
    lines = shown(found, 80, 12).splitlines()
    assert len(lines) == 12
    assert all(len(line) <= 80 for line in lines)
    assert "\x1b" not in shown(found, 80)
