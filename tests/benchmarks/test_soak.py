"""Slopes, windows and verdict of the soak, by hand-made samples; and that its ledger survives what it must."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from benchmarks.bench_soak import RESULTS
from benchmarks.soak_page import BEGIN, PAGE, rewritten
from benchmarks.soak_report import (
    HOUR,
    MIB,
    Bounds,
    Sample,
    Timing,
    Votes,
    drift,
    latency,
    percentile,
    settled,
    slopes,
    theil_sen,
    verdict,
    windows,
)
from benchmarks.soak_world import Ledger

BASE = Sample(
    at=0, life=1, age=0, rss=100 * MIB, pss=90 * MIB, fds=20, threads=8, database=0, wal=0, state=0, load=1.0
)


def line(per_hour: float, *, start: float = 0.0, count: int = 40) -> list[tuple[float, float]]:
    return [(30.0 * n, start + per_hour * 30.0 * n / HOUR) for n in range(count)]


def test_a_line_has_its_slope_and_an_interval_of_no_width() -> None:
    slope = theil_sen([line(12.0)])
    assert slope is not None
    assert slope.points == 40
    assert (slope.per_hour, slope.low, slope.high) == pytest.approx((12.0, 12.0, 12.0))


def test_spikes_do_not_move_it() -> None:
    points = line(12.0)
    points[5], points[20], points[39] = (150.0, 500.0), (600.0, 900.0), (1170.0, 700.0)
    slope = theil_sen([points])
    assert slope is not None and slope.per_hour == pytest.approx(12.0, abs=0.5)
    assert slope.low <= 12.0 <= slope.high


def test_a_restart_between_two_lives_is_no_growth() -> None:
    slope = theil_sen([line(0.0, start=100.0), [(t + 1200, v) for t, v in line(0.0, start=300.0)]])
    assert slope is not None and slope.per_hour == 0.0


@pytest.mark.parametrize("lives", [[], [[]], [[(0.0, 1.0), (1.0, 2.0)]], [[(5.0, 1.0)] * 4]])
def test_too_few_points_have_no_slope(lives: list[list[tuple[float, float]]]) -> None:
    assert theil_sen(lives) is None


def test_noise_without_a_trend_has_an_interval_around_nothing() -> None:
    slope = theil_sen([[(float(n), float((n * 7919) % 101)) for n in range(100)]])
    assert slope is not None and slope.low < 0 < slope.high


def test_the_first_minutes_of_a_life_do_not_count() -> None:
    samples = [replace(BASE, age=5.0 * n, fds=99 if n < 12 else 20) for n in range(48)]
    lives = settled(samples, lambda one: one.fds, warm_up=60.0)
    assert lives == {1: [(75.0, 20), (105.0, 20), (135.0, 20), (165.0, 20), (195.0, 20), (225.0, 20)]}


def test_slopes_are_told_per_life_and_pooled() -> None:
    growing = [replace(BASE, age=5.0 * n, rss=(100 + n) * MIB) for n in range(60)]
    steady = [replace(BASE, life=2, age=5.0 * n) for n in range(60)]
    found = slopes([*growing, *steady], warm_up=0.0)["rss_mib"]
    assert found["lives"]["1"]["per_hour"] == pytest.approx(720.0)
    assert found["lives"]["2"]["per_hour"] == 0.0
    assert 0.0 < found["pooled"]["per_hour"] < 720.0


def test_memory_counts_once_what_an_iteration_reads_at_most_is_there() -> None:
    samples = [replace(BASE, at=10.0 * n, age=10.0 * n, rss=min(100 + n, 400) * MIB) for n in range(400)]
    early = slopes(samples, warm_up=0.0)["rss_mib"]["pooled"]
    late = slopes(samples, warm_up=0.0, filled_at=3000.0)["rss_mib"]["pooled"]
    assert early["per_hour"] > 0 and late["per_hour"] == 0.0
    rising = [replace(one, fds=int(one.at)) for one in samples]
    assert slopes(rising, warm_up=0.0, filled_at=1e6)["fds"]["pooled"]["per_hour"] == pytest.approx(
        3600, rel=0.01
    )


def test_percentiles_are_of_the_nearest_rank() -> None:
    assert [percentile([4.0, 1.0, 3.0, 2.0], share) for share in (0.25, 0.5, 0.95, 1.0)] == [
        1.0,
        2.0,
        4.0,
        4.0,
    ]
    assert latency([2.0])["n"] == 1


def test_windows_and_quarters() -> None:
    timings = [Timing(float(n), "vote", 10.0 if n < 400 else 30.0) for n in range(600)]
    rows = windows(timings, [replace(BASE, at=10.0, load=2.0)], seconds=300.0)
    assert [row["vote"]["p50_ms"] for row in rows] == [10.0, 30.0]
    assert [row["load"] for row in rows] == [2.0, None]
    assert drift(timings) == {"vote": {"median": 3.0, "p95": 3.0}}
    assert drift([]) == {} and windows([], [], seconds=300.0) == [{"from_s": 0.0, "load": None}]


def test_every_wrong_vote_is_named() -> None:
    votes = Votes(
        acknowledged={"a": "1", "b": "1", "c": "1", "d": "1"},
        stored={"a": ["1"], "b": ["1", "1"], "c": ["2"], "g": ["1"], "unanswered": ["1"]},
        forgotten=frozenset({"g", "h"}),
    )
    assert votes.problems() == {"lost": ["d"], "doubled": ["b"], "changed": ["c"], "remembered": ["g"]}


def good() -> dict[str, Any]:
    flat = {"pooled": {"per_hour": 0.0, "low": -1.0, "high": 1.0, "points": 90}}
    ratio = {"median": 1.0, "p95": 1.1}
    return {
        "slopes": {"rss_mib": flat, "fds": flat, "threads": flat},
        "drift": {"chat": ratio, "vote": ratio},
        "votes": {"problems": {"lost": 0, "doubled": 0, "changed": 0, "remembered": 0}},
        "faults": [],
        "iterations": {"active": 3, "rejected": 2},
    }


def test_a_good_run_passes() -> None:
    assert all(one["ok"] for one in verdict(good(), Bounds()))


@pytest.mark.parametrize(
    ("path", "value", "broken"),
    [
        (("slopes", "rss_mib"), {"pooled": {"per_hour": 48.1}}, "rss_mib is flat"),
        (("slopes", "fds"), {"pooled": None}, "fds is flat"),
        (("slopes", "threads"), {"pooled": {"per_hour": 12.1}}, "threads is flat"),
        (("drift", "vote"), {"median": 2.1, "p95": 1.0}, "vote latency is steady"),
        (("drift", "chat"), {"median": 1.0, "p95": 3.1}, "chat latency is steady"),
        (("drift",), {}, "latency was measured"),
        (("votes", "problems", "doubled"), 1, "every acknowledged vote is stored once"),
        (("faults",), ["GET /: 500"], "nothing went wrong"),
        (("iterations",), {"rejected": 3}, "adapters were swapped"),
        (("iterations",), {"active": 8, "failed": 1}, "iterations end"),
    ],
)
def test_each_bound_breaks_by_itself(path: tuple[str, ...], value: Any, broken: str) -> None:
    figures = good()
    at = figures
    for name in path[:-1]:
        at = at[name]
    at[path[-1]] = value
    assert [one["name"] for one in verdict(figures, Bounds()) if not one["ok"]] == [broken]


def test_what_the_docs_say_is_what_was_measured() -> None:
    figures = json.loads(RESULTS.read_text())
    text = PAGE.read_text()
    assert BEGIN in text and rewritten(text, figures) == text, "run `python -m benchmarks.bench_soak --docs`"
    worse = {**figures, "checks": [{"name": "x is flat", "ok": False, "detail": "9 an hour"}]}
    assert "Not kept: x is flat (9 an hour)." in rewritten(text, worse)


def test_the_ledger_is_on_disk_before_a_vote_counts(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger.jsonl")
    ledger.write("0.1", "ann", "sent")
    assert json.loads((tmp_path / "ledger.jsonl").read_text()) == ["0.1", "ann", "sent"]
    assert ledger.acknowledged == {"0.1": ("ann", "sent")}
    ledger.close()
