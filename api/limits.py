"""How often one key may ask: a token bucket each. The arithmetic is pure; the table of buckets is bounded."""

from collections import OrderedDict
from dataclasses import dataclass

#: A bucket holds so many seconds' worth of requests, and one at the least.
BURST_SECONDS = 10.0
#: Names whose buckets are kept; beyond, whoever asked longest ago is forgotten, with a full bucket.
NAMES = 10_000


@dataclass(frozen=True, slots=True)
class Bucket:
    """`tokens` requests could be made at once at the time `at` (seconds)."""

    tokens: float
    at: float


def take(bucket: Bucket | None, *, per_minute: float, now: float) -> tuple[Bucket, float]:
    """One request at `now`. Returns the bucket afterwards, and the seconds to wait: 0 where the request may go on."""
    rate = per_minute / 60
    size = max(1.0, rate * BURST_SECONDS)
    # A clock that was set back refills nothing.
    tokens = size if bucket is None else min(size, bucket.tokens + rate * max(0.0, now - bucket.at))
    if tokens >= 1:
        return Bucket(tokens - 1, now), 0.0
    return Bucket(tokens, now), (1 - tokens) / rate


class Limiter:
    """The buckets of all who asked lately. Used from the event loop only."""

    def __init__(self) -> None:
        self._buckets: OrderedDict[str, Bucket] = OrderedDict()

    def wait(self, name: str, *, per_minute: int, now: float) -> float:
        """Seconds until this request would be taken; 0 takes it. `per_minute` 0 takes every one."""
        if not per_minute:
            return 0.0
        bucket, seconds = take(self._buckets.pop(name, None), per_minute=per_minute, now=now)
        self._buckets[name] = bucket
        if len(self._buckets) > NAMES:
            self._buckets.popitem(last=False)
        return seconds
