"""Simulated harm after a promotion, and none: how many votes until honed goes back, and how often it does so in vain.

Real store, real canary and watch, real rollback; the engine is the fake one, because nobody reads the answers.
People like three answers in four on average, some more, some less (drawn from Beta(3, 1)). After the promotion they
like fewer of them (harm) or as many as before (none). Every vote comes with one more answer nobody votes on, and
one answer in twenty is asked for again, so that all that is watched has its chance of a false alarm. honed looks
after every tenth vote. Some rows have few people, or days on which votes come faster and answers slower than at
night. Prints a table and writes benchmarks/results/live_harm.json.

    python -m benchmarks.bench_live_harm
"""

import argparse
import asyncio
import json
import logging
import random
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from daemon.config import Config
from daemon.live import Live
from daemon.runtime import Runtime
from policies.engine import AdapterRef
from policies.fake_engine import FakeEngine, FakeLimits
from store.canaries import in_canary
from store.db import Store
from store.records import (
    Adapter,
    AdapterStatus,
    Choice,
    Completion,
    CompletionStatus,
    Feedback,
    FeedbackKind,
    Message,
    Sampling,
    Source,
    Stage,
)

RESULTS = Path(__file__).parent / "results" / "live_harm.json"
NEW = "it0001-00000001"
RETRIED = 0.05
PEOPLE = 200
#: Votes between two looks. What was found stays found, so looking more often only finds it sooner.
BATCH = 10
#: Seconds from one vote to the next.
PACE = 60.0
DAY = 86_400.0
#: Where the load changes: by day votes come so many times as fast, and answers take so many times as long.
DAY_VOTES, DAY_LATENCY = 4.0, 3.0
#: Parameters of Beta for the share of answers that a person likes, and its mean.
STRICTNESS = (3.0, 1.0)
LIKED = STRICTNESS[0] / sum(STRICTNESS)


@dataclass(frozen=True, slots=True)
class Case:
    """One row of the table. `canary`: share of people; 0 is the watch after full promotion."""

    name: str
    drop: float
    history: int
    canary: float = 0.0
    votes: int = 400
    """Votes on the new version that a run may take."""
    step_votes: int = 400
    """Votes that pass the canary's step."""
    people: int = PEOPLE
    load: bool = False
    """Whether there are day and night."""


CASES = (
    *(
        Case(f"watch, {drop:.0%} drop, {history} votes before", drop, history)
        for drop, histories in ((0.2, (50, 200, 400)), (0.1, (200, 400)), (0.0, (50, 200, 400)))
        for history in histories
    ),
    *(
        Case(f"watch, {drop:.0%} drop, 200 votes before, household of 3", drop, 200, people=3)
        for drop in (0.2, 0.0)
    ),
    *(
        Case(f"canary of 25%, {drop:.0%} drop, open for 200 votes", drop, 0, 0.25, 200, 200)
        for drop in (0.2, 0.1, 0.0)
    ),
    *(
        Case(f"canary of 25%, {drop:.0%} drop, open for 200 votes of 40 people", drop, 0, 0.25, 200, 200, 40)
        for drop in (0.2, 0.0)
    ),
    *(
        Case(
            f"canary of 5%, {drop:.0%} drop, open for 60 votes, day and night",
            drop,
            0,
            0.05,
            60,
            60,
            load=True,
        )
        for drop in (0.2, 0.0)
    ),
    *(
        Case(f"canary of 25% passed at 20 votes, then watch, {drop:.0%} drop", drop, 200, 0.25, 400, 20)
        for drop in (0.2, 0.0)
    ),
)


class World:
    """A store, people, and a clock that votes push on."""

    def __init__(self, case: Case, seed: int) -> None:
        self.case, self.rng, self.count = case, random.Random(f"{case.name}/{seed}"), 0
        self.now = 1e9 + (self.rng.random() * DAY if case.load else 0.0)
        self.liked = [self.rng.betavariate(*STRICTNESS) for _ in range(case.people)]
        self.store = Store.memory(clock=lambda: self.now)
        canary = {"steps": [case.canary] if case.canary else [], "votes": case.step_votes, "min_hours": 0}
        settings = {"store": {"directory": "/nonexistent"}, "daemon": {"canary": canary}}
        self.runtime = Runtime(
            Config.model_validate(settings),
            self.store,
            FakeEngine(FakeLimits(verify=False)),
            Path("/nonexistent"),
            "b" * 16,
            clock=lambda: self.now,
        )

    @property
    def busy(self) -> bool:
        """Whether it is day, the second half of it."""
        return self.case.load and self.now % DAY >= DAY / 2

    def answer(self, tx: Store, person: str, adapter: str | None) -> str:
        """An answer as it is recorded, a retry now and then; returns its id."""
        self.count += 1
        tokens = max(1, round(self.rng.lognormvariate(4.5, 0.6)))
        row = Completion(
            id=f"c{self.count}",
            created_at=self.now,
            principal=person,
            source=Source.CHAT,
            messages=(Message("user", "?"),),
            sampling=Sampling(),
            adapter=adapter,
            engine="fake",
            status=CompletionStatus.DONE,
            choices=(Choice(0, "!", "stop", tokens),),
            completion_tokens=tokens,
            latency_s=tokens * self.rng.lognormvariate(-3.0, 0.3) * (DAY_LATENCY if self.busy else 1.0),
        )
        tx.completions.begin(row)
        # `begin` does not write how it ended.
        tx.completions.finish(
            row.id, status=row.status, choices=row.choices, usage=(1, tokens), latency_s=row.latency_s
        )
        if self.rng.random() < RETRIED:
            self.say(tx, row.id, person, FeedbackKind.REGENERATE, f"c{self.count}")
        return row.id

    def say(self, tx: Store, answer: str, person: str, kind: FeedbackKind, value: bool | str) -> None:
        tx.feedback.add(Feedback(f"{kind}-{answer}", self.now, answer, 0, person, kind, value))

    def vote(self, tx: Store, serve: Callable[[str], str | None]) -> bool:
        """One person asks twice and votes once. Returns whether the new version answered."""
        self.now += PACE / (DAY_VOTES if self.busy else 1.0)
        who = self.rng.randrange(self.case.people)
        person = f"p{who}"
        adapter = serve(person)
        self.answer(tx, person, adapter)
        # In proportion, so that nobody likes less than nothing and the mean drop is the row's.
        liked = self.liked[who] * (1 - self.case.drop / LIKED if adapter == NEW else 1.0)
        self.say(tx, self.answer(tx, person, adapter), person, FeedbackKind.THUMB, self.rng.random() < liked)
        return bool(adapter == NEW)

    def begin(self) -> None:
        """History on the base, then the new version: to some, or to all."""

        def commit(tx: Store) -> None:
            for _ in range(self.case.history):
                self.vote(tx, lambda _: None)
            begun = tx.iterations.begin(trigger="simulated", incumbent=None, config={})
            status = AdapterStatus.CANARY if self.case.canary else AdapterStatus.CANDIDATE
            tx.adapters.add(Adapter(NEW, None, begun.id, Path("a"), "d" * 64, status, 1.0, self.now))
            if self.case.canary:
                tx.canaries.begin(version=NEW, incumbent=None, iteration=begun.id, share=self.case.canary)
                tx.iterations.move(begun.id, Stage.CANARY)
            else:
                tx.adapters.activate(NEW, actor="gate", reason="simulated")
                tx.iterations.move(begun.id, Stage.ACTIVE)

        self.store.atomic(commit)

    def batch(self) -> int:
        """Votes until so many are on the new version; nothing changes hands in between. Returns how many were."""

        def commit(tx: Store) -> int:
            canary, active = tx.canaries.open(), tx.adapters.active()
            everybody = active.version if active else None

            def serve(person: str) -> str | None:
                if canary is not None and in_canary(person, canary.version, canary.share):
                    return canary.version
                return everybody

            found = 0
            while found < BATCH:
                found += self.vote(tx, serve)
            return found

        return self.store.atomic(commit)


async def simulate(case: Case, seed: int) -> dict[str, Any]:
    """One run to its end: votes on the new version until it went back, None if it did not."""
    world = World(case, seed)
    store = world.store
    # The adapter is there and proved: what is simulated comes after that.
    await world.runtime.engine.start()
    world.runtime.attested.add(NEW)
    await world.runtime.engine.load(AdapterRef(NEW, Path("a"), "d" * 64))
    world.begin()
    live, votes, by = Live(world.runtime), 0, None
    while votes < case.votes and by is None:
        votes += world.batch()
        await live.step()
        if store.adapters.get(NEW).status is AdapterStatus.ROLLED_BACK:
            by = store.audit.list(limit=1)[0].actor
        elif case.canary and case.votes == case.step_votes and store.canaries.open() is None:
            break
    store.close()
    return {"votes": votes if by else None, "by": by}


def run(task: tuple[Case, int]) -> dict[str, Any]:
    logging.disable(logging.ERROR)  # every rollback is told there
    return asyncio.run(simulate(*task))


def figures(case: Case, runs: list[dict[str, Any]]) -> dict[str, Any]:
    votes = sorted(one["votes"] for one in runs if one["votes"] is not None)
    # Nearest rank; of the runs that went back.
    spread = {
        "median_votes": statistics.median_low(votes) if votes else None,
        "p95_votes": votes[max(0, -(-95 * len(votes) // 100) - 1)] if votes else None,
    }
    return {
        **asdict(case),
        "runs": len(runs),
        "rolled_back": len(votes) / len(runs),
        "by_canary": sum(one["by"] == "canary" for one in runs) / len(runs),
        **spread,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--only", default="", help="cases whose name contains this; nothing is written then")
    arguments = parser.parse_args()
    rows, began = [], time.monotonic()
    print(f"{'case':66} {'back':>6} {'median':>7} {'p95':>5}")
    with ProcessPoolExecutor(arguments.processes) as pool:
        for case in (one for one in CASES if arguments.only in one.name):
            tasks = [(case, seed) for seed in range(arguments.runs)]
            row = figures(case, list(pool.map(run, tasks, chunksize=5)))
            rows.append(row)
            median, p95 = row["median_votes"] or "-", row["p95_votes"] or "-"
            print(f"{case.name:66} {row['rolled_back']:6.1%} {median:>7} {p95:>5}", flush=True)
    worst = max((row["rolled_back"] for row in rows if row["drop"] == 0), default=0.0)
    print(f"false rollbacks: {worst:.1%} at most; 5% allowed; {time.monotonic() - began:.0f} s")
    if not arguments.only:
        told = {
            "command": f"python -m benchmarks.bench_live_harm --runs {arguments.runs}",
            "liked_before": LIKED,
            "strictness_beta": STRICTNESS,
            "look_every_votes": BATCH,
            "cases": rows,
            "worst_false_rollbacks": worst,
        }
        RESULTS.write_text(json.dumps(told, indent=2) + "\n")
    if worst > 0.05:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
