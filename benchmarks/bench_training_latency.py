"""Time to first token, idle and while an iteration trains: the service answers chat all the while.

One real service on the embedded model, one client asking short questions one after the other, the same
questions both times. Prints a table and writes benchmarks/results/training_latency.json.

    python -m benchmarks.bench_training_latency
"""

import json
import random
import statistics
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from daemon.client import Client
from daemon.people import prompts
from daemon.simulate import Crowd, Plan, service
from store.records import FINISHED_STAGES

RESULTS = Path(__file__).parent / "results" / "training_latency.json"
#: Answers timed while idle.
IDLE = 30
#: Votes the iteration learns from.
VOTES = 60
TOKENS = 16


def first_token_seconds(crowd: Crowd, question: str) -> float:
    """Seconds from the request to the first piece of text; the stream is then read to its end."""
    began, first = time.monotonic(), None
    stream = crowd.people[0].chat.completions.create(
        model="honed",
        messages=[{"role": "user", "content": question}],
        max_tokens=TOKENS,
        stream=True,
        temperature=0,
    )
    for chunk in stream:
        if first is None and chunk.choices and chunk.choices[0].delta.content:
            first = time.monotonic() - began
    return first if first is not None else time.monotonic() - began


def measure(crowd: Crowd, more: Callable[[int], bool]) -> list[float]:
    questions, times = prompts().asked, []
    while more(len(times)):
        times.append(first_token_seconds(crowd, questions[len(times) % len(questions)]))
    return times


def summary(times: list[float]) -> dict[str, float]:
    ordered = sorted(times)
    return {
        "answers": len(times),
        "median_s": statistics.median(times),
        "p95_s": ordered[min(len(ordered) - 1, int(0.95 * len(ordered)))],
        "max_s": ordered[-1],
    }


def training(client: Client, done: threading.Event) -> None:
    """Start an iteration and say when it ended."""
    client.intend("train", reason="benchmark")
    finished = {stage.value for stage in FINISHED_STAGES}
    while True:
        rows: list[dict[str, Any]] = client.get("/v1/iterations")["data"]
        if rows and rows[0]["stage"] in finished:
            done.set()
            return
        time.sleep(0.5)


def main() -> None:
    """Measure both, print, write."""
    plan = Plan(thumbs=VOTES)
    with (
        tempfile.TemporaryDirectory(prefix="honed-bench-") as folder,
        service(Path(folder), HONED_DAEMON__SCHEDULE__ENABLED="false") as client,
    ):
        crowd = Crowd(client, plan)
        crowd.vote_on(crowd.ask_all(prompts().asked[:VOTES], seed=1), random.Random(0))
        idle = measure(crowd, lambda count: count < IDLE)
        done = threading.Event()
        thread = threading.Thread(target=training, args=(client, done))
        thread.start()
        busy = measure(crowd, lambda _: not done.is_set())
        thread.join()
        ended = client.get("/v1/iterations/1")
    figures = {
        "idle": summary(idle),
        "training": summary(busy),
        "p95_ratio": summary(busy)["p95_s"] / summary(idle)["p95_s"],
        "iteration": {key: ended[key] for key in ("stage", "seconds", "counts")},
    }
    for name in ("idle", "training"):
        row = figures[name]
        print(
            f"{name:9} answers {row['answers']:4}  median {row['median_s']:.3f} s  p95 {row['p95_s']:.3f} s"
        )
    print(f"p95 while training / idle: {figures['p95_ratio']:.2f}")
    RESULTS.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
