"""What an hour of samples says: slopes that single spikes do not move, latencies in windows, and the verdict.

Pure: the driver is bench_soak.py.
"""

import math
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

HOUR = 3600.0
MIB = 2**20
#: Quantile of the normal distribution for 90% in the middle.
Z90 = 1.645


@dataclass(frozen=True, slots=True)
class Sample:
    """One look at the service. `at`: seconds since the soak began; `age`: since this life was ready."""

    at: float
    life: int
    age: float
    rss: int
    pss: int
    fds: int
    threads: int
    database: int
    wal: int
    state: int
    load: float


@dataclass(frozen=True, slots=True)
class Timing:
    """One answer or vote that was served whole: when it began (seconds since the soak began), and milliseconds."""

    at: float
    kind: str
    ms: float


@dataclass(frozen=True, slots=True)
class Slope:
    """Per hour, with a 90% interval; `points` were compared, within a life only."""

    per_hour: float
    low: float
    high: float
    points: int


@dataclass(frozen=True, slots=True)
class Bounds:
    """What must hold. Slopes per hour, pooled over lives; ratios of the last quarter's latency to the first's."""

    memory_mib: float = 48.0
    fds: float = 12.0
    threads: float = 12.0
    median_ratio: float = 2.0
    p95_ratio: float = 3.0


def theil_sen(lives: Iterable[Sequence[tuple[float, float]]]) -> Slope | None:
    """Median of the slopes between all pairs of points of a life (Theil 1950, Sen 1968), and Sen's interval.

    Args:
        lives: points of each life, (seconds, value). A restart between two points says nothing about growth.

    Returns:
        None where no life has three points.
    """
    slopes: list[float] = []
    variance, points = 0.0, 0
    for life in lives:
        n = len(life)
        if n < 3:
            continue
        points += n
        # Of Kendall's S, without ties.
        variance += n * (n - 1) * (2 * n + 5) / 18
        ordered = sorted(life)
        slopes += [
            HOUR * (later[1] - earlier[1]) / (later[0] - earlier[0])
            for index, earlier in enumerate(ordered)
            for later in ordered[index + 1 :]
            if later[0] > earlier[0]
        ]
    if not slopes:
        return None
    slopes.sort()
    half = Z90 * math.sqrt(variance)
    last = len(slopes) - 1
    low = slopes[max(0, math.floor((len(slopes) - half) / 2))]
    high = slopes[min(last, math.ceil((len(slopes) + half) / 2))]
    return Slope(statistics.median(slopes), low, high, points)


def settled(
    samples: Iterable[Sample], value: Callable[[Sample], float], *, warm_up: float, window: float = 30.0
) -> dict[int, list[tuple[float, float]]]:
    """Medians of windows of a life, after its first `warm_up` seconds: life -> [(seconds, value)].

    Samples a few seconds apart are nearly one; medians of windows make the interval honest.
    """
    buckets: dict[tuple[int, int], list[Sample]] = {}
    for one in samples:
        if one.age >= warm_up:
            buckets.setdefault((one.life, int(one.age // window)), []).append(one)
    lives: dict[int, list[tuple[float, float]]] = {}
    for (life, index), among in sorted(buckets.items()):
        middle = statistics.median(value(one) for one in among)
        lives.setdefault(life, []).append(((index + 0.5) * window, middle))
    return lives


VALUES: dict[str, Callable[[Sample], float]] = {
    "rss_mib": lambda one: one.rss / MIB,
    "pss_mib": lambda one: one.pss / MIB,
    "fds": lambda one: one.fds,
    "threads": lambda one: one.threads,
    "database_mib": lambda one: one.database / MIB,
    "wal_mib": lambda one: one.wal / MIB,
    "state_mib": lambda one: one.state / MIB,
}
#: What an iteration reads at most (`feedback.max_examples`) is what a new installation has after some thousand votes
#: only, and so long memory grows by right: the run's first part does not count for these.
FILLING = ("rss_mib", "pss_mib")


def slopes(samples: Sequence[Sample], *, warm_up: float, filled_at: float = 0.0) -> dict[str, Any]:
    """Slopes of what must not grow and of what may, per life and pooled.

    Args:
        samples: of all lives.
        warm_up: seconds of each life that do not count.
        filled_at: seconds of the run that do not count for `FILLING`.
    """
    found = {}
    for name, value in VALUES.items():
        counted = [one for one in samples if name not in FILLING or one.at >= filled_at]
        found[name] = told(settled(counted, value, warm_up=warm_up))
    return found


def told(lives: Mapping[int, Sequence[tuple[float, float]]]) -> dict[str, Any]:
    """The slopes of one value, pooled and per life."""
    return {
        "pooled": shown(theil_sen(lives.values())),
        "lives": {str(life): shown(theil_sen([points])) for life, points in lives.items()},
    }


def shown(slope: Slope | None) -> dict[str, float] | None:
    if slope is None:
        return None
    return {name: round(value, 2) for name, value in asdict(slope).items()}


def percentile(values: Sequence[float], share: float) -> float:
    """Nearest rank; `share` in (0, 1]."""
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)]


def windows(timings: Sequence[Timing], samples: Sequence[Sample], *, seconds: float) -> list[dict[str, Any]]:
    """Median and p95 of each kind, in milliseconds, with the machine's load average beside."""
    rows = []
    end = max((one.at for one in timings), default=0.0)
    for number in range(int(end // seconds) + 1):
        begin = number * seconds
        among = [one for one in timings if begin <= one.at < begin + seconds]
        loads = [one.load for one in samples if begin <= one.at < begin + seconds]
        row: dict[str, Any] = {"from_s": begin, "load": round(statistics.mean(loads), 2) if loads else None}
        for kind in sorted({one.kind for one in among}):
            row[kind] = latency([one.ms for one in among if one.kind == kind])
        rows.append(row)
    return rows


def latency(values: Sequence[float]) -> dict[str, float]:
    return {
        "n": len(values),
        "p50_ms": round(percentile(values, 0.5), 1),
        "p95_ms": round(percentile(values, 0.95), 1),
        "p99_ms": round(percentile(values, 0.99), 1),
    }


def drift(timings: Sequence[Timing]) -> dict[str, dict[str, float]]:
    """Of each kind: the last quarter's median and p95 over the first quarter's."""
    if not timings:
        return {}
    end = max(one.at for one in timings)
    ratios = {}
    for kind in sorted({one.kind for one in timings}):
        first = [one.ms for one in timings if one.kind == kind and one.at < end / 4]
        last = [one.ms for one in timings if one.kind == kind and one.at >= 3 * end / 4]
        if first and last:
            ratios[kind] = {
                "median": round(percentile(last, 0.5) / percentile(first, 0.5), 2),
                "p95": round(percentile(last, 0.95) / percentile(first, 0.95), 2),
            }
    return ratios


@dataclass(frozen=True, slots=True)
class Votes:
    """`acknowledged`: key -> what was sent, of people who were not forgotten; `stored`: key -> what each row says."""

    acknowledged: Mapping[str, str]
    stored: Mapping[str, Sequence[str]]
    forgotten: frozenset[str]

    def problems(self) -> dict[str, list[str]]:
        """Keys by what is wrong with them; values are compared as they were sent."""
        rows = self.stored
        return {
            "lost": [key for key in self.acknowledged if key not in rows],
            "doubled": [key for key, found in rows.items() if len(found) > 1],
            "changed": [
                key
                for key, sent in self.acknowledged.items()
                if len(rows.get(key, ())) == 1 and rows[key][0] != sent
            ],
            "remembered": [key for key in self.forgotten if key in rows],
        }


def verdict(figures: Mapping[str, Any], bounds: Bounds) -> list[dict[str, Any]]:
    """Every claim with whether it held: `{name, ok, detail}`."""
    checks = []
    for name, bound in (("rss_mib", bounds.memory_mib), ("fds", bounds.fds), ("threads", bounds.threads)):
        slope = figures["slopes"][name]["pooled"]
        ok = slope is not None and slope["per_hour"] <= bound
        checks.append(check(f"{name} is flat", ok, f"{slope} an hour, bound {bound:g}"))
    for kind, ratio in figures["drift"].items():
        ok = ratio["median"] <= bounds.median_ratio and ratio["p95"] <= bounds.p95_ratio
        detail = f"last quarter over first {ratio}, bounds {bounds.median_ratio:g} and {bounds.p95_ratio:g}"
        checks.append(check(f"{kind} latency is steady", ok, detail))
    checks.append(check("latency was measured", {"chat", "vote"} <= figures["drift"].keys(), "both quarters"))
    problems = figures["votes"]["problems"]
    detail = ", ".join(f"{name} {count}" for name, count in problems.items())
    checks.append(check("every acknowledged vote is stored once", not any(problems.values()), detail))
    checks.append(check("nothing went wrong", not figures["faults"], f"{len(figures['faults'])} faults"))
    promoted = figures["iterations"].get("active", 0) + figures["iterations"].get("rolled_back", 0)
    checks.append(check("adapters were swapped", promoted > 0, f"iterations {figures['iterations']}"))
    # One that was killed too often may fail; a trainer that cannot work must not pass for endurance.
    failed, all_of_them = figures["iterations"].get("failed", 0), sum(figures["iterations"].values())
    checks.append(check("iterations end", failed <= 0.1 * all_of_them, f"{failed} of {all_of_them} failed"))
    return checks


def check(name: str, ok: bool, detail: str) -> dict[str, Any]:
    return {"name": name, "ok": bool(ok), "detail": detail}
