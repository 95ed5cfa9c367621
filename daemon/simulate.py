"""The demonstration: a real service, a real model, simulated people with a hidden taste.

They chat over HTTP with the unmodified openai client, vote with some slips, and wait for the scheduled
iteration; the taste is then measured on prompts nobody voted on. Last, one update with a destructive learning
rate that the gate must refuse, and one rollback that must change the next answer's adapter.
"""

import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from daemon.client import Client
from daemon.people import Taste, prompts, taste, vote
from daemon.state_files import SERVICE
from store.errors import HonedError
from store.records import FINISHED_STAGES, Stage, Verdict
from store.shares import wilson

if TYPE_CHECKING:
    from openai import OpenAI

#: Seconds a service may take until it answers (it converts the embedded model the first time).
START_LIMIT = 300.0
#: Seconds an iteration may take.
ITERATION_LIMIT = 3600.0
#: A learning rate that no model survives.
DESTRUCTIVE = 0.5
TEMPERATURE = 0.8


@dataclass(frozen=True, slots=True)
class Plan:
    """What the simulation does. `noise`: share of votes that slip; `answers`: per held-out prompt."""

    taste: str = "list"
    thumbs: int = 100
    rounds: int = 2
    seed: int = 0
    noise: float = 0.1
    people: int = 10
    at_once: int = 16
    answers: int = 2
    bad_thumbs: int = 24


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer as a client sees it."""

    id: str
    text: str
    model: str


class Say:
    """Plain progress lines on stderr."""

    def __init__(self, *, quiet: bool) -> None:
        self.quiet, self.began = quiet, time.monotonic()

    def __call__(self, text: str) -> None:
        if not self.quiet:
            print(f"[{(time.monotonic() - self.began) / 60:5.1f} min] {text}", file=sys.stderr, flush=True)


@contextmanager
def service(directory: Path, **overrides: str) -> Iterator[Client]:
    """A real service process on a state directory; stopped when the block ends."""
    environment = {
        **os.environ,
        "HONED_STORE__DIRECTORY": str(directory),
        "HONED_API__PORT": "0",
        **overrides,
    }
    environment.pop("HONED_CONFIG", None)
    with (directory / "service.log").open("ab") as log:
        child = subprocess.Popen(
            [sys.executable, "-m", "daemon", "serve"], env=environment, stdout=log, stderr=log, cwd=directory
        )
    try:
        yield wait_until_ready(child, directory)
    finally:
        child.terminate()
        child.wait(timeout=120)


def wait_until_ready(child: "subprocess.Popen[bytes]", directory: Path) -> Client:
    """Wait for the address and a positive readiness probe.

    Raises:
        HonedError: the service ended, or is not ready within `START_LIMIT`.
    """
    import json

    limit = time.monotonic() + START_LIMIT
    while time.monotonic() < limit:
        if child.poll() is not None:
            log = (directory / "service.log").read_text(errors="replace")
            raise HonedError(f"the service ended with status {child.returncode}:\n{log[-2000:]}")
        file = directory / SERVICE
        if file.is_file():
            row = json.loads(file.read_text())
            if row["pid"] == child.pid:
                client = Client(row["url"])
                try:
                    client.get("/readyz")
                    return client
                except HonedError:
                    pass
        time.sleep(0.2)
    raise HonedError(f"the service was not ready within {START_LIMIT:g} s")


class Crowd:
    """The people: each with an API key of their own, all with one taste."""

    def __init__(self, client: Client, plan: Plan) -> None:
        from openai import OpenAI

        self.client, self.plan, self.taste = client, plan, taste(plan.taste)
        self.people = [
            OpenAI(base_url=f"{client.url}/v1", api_key=f"person-{number}", timeout=600)
            for number in range(plan.people)
        ]

    def ask(self, person: "OpenAI", prompt: str, seed: int) -> Answer:
        messages: list[Any] = [{"role": "user", "content": prompt}]
        if self.taste.system is not None:
            messages.insert(0, {"role": "system", "content": self.taste.system})
        reply = person.chat.completions.create(
            model="honed",
            messages=messages,
            temperature=TEMPERATURE,
            top_p=0.95,
            seed=seed,
            max_tokens=self.taste.max_tokens,
        )
        return Answer(reply.id, reply.choices[0].message.content or "", reply.model)

    def ask_all(self, questions: Sequence[str], seed: int) -> list[Answer]:
        """Every question once, many at a time, people taking turns."""
        with ThreadPoolExecutor(self.plan.at_once) as pool:
            jobs = [
                pool.submit(self.ask, self.people[i % len(self.people)], question, seed + i)
                for i, question in enumerate(questions)
            ]
            return [job.result() for job in jobs]

    def vote_on(self, answers: Sequence[Answer], rng: random.Random) -> int:
        """Everyone votes on their own answers. Returns how many thumbs were up."""
        ups = 0
        for index, answer in enumerate(answers):
            up = vote(self.taste.likes(answer.text), noise=self.plan.noise, rng=rng)
            ups += up
            person = self.people[index % len(self.people)]
            body = {"completion_id": answer.id, "kind": "thumb", "value": up}
            person.post("/feedback", body=body, cast_to=object)
        return ups

    def measure(self, label: str, seed: int) -> dict[str, Any]:
        """How often the taste is met on prompts nobody votes on, with Wilson's 95% interval."""
        questions = list(prompts().never_asked) * self.plan.answers
        answers = self.ask_all(questions, seed)
        hits = sum(self.taste.likes(answer.text) for answer in answers)
        low, high = wilson(hits / len(answers), len(answers), 0.95)
        return {
            "after": label,
            "adapter": answers[0].model,
            "rate": hits / len(answers),
            "low": low,
            "high": high,
            "answers": len(answers),
        }


def wait_for_iteration(client: Client, number: int) -> dict[str, Any]:
    """Wait until iteration `number` is finished; it starts by itself.

    Raises:
        HonedError: it takes longer than `ITERATION_LIMIT`.
    """
    finished = {stage.value for stage in FINISHED_STAGES}
    limit = time.monotonic() + ITERATION_LIMIT
    while time.monotonic() < limit:
        rows = client.get("/v1/iterations?limit=5")["data"]
        for row in rows:
            if row["id"] == number and row["stage"] in finished:
                found: dict[str, Any] = client.get(f"/v1/iterations/{number}")
                return found
        time.sleep(1.0)
    raise HonedError(f"iteration {number} did not finish within {ITERATION_LIMIT / 60:g} minutes")


def learn(client: Client, plan: Plan, say: Say) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Rounds of chat, votes and an iteration, with the taste measured before and after each."""
    crowd, asked = Crowd(client, plan), prompts().asked
    measures, iterations = [crowd.measure("base", seed=900_000)], []
    say(f"base: taste met {measures[0]['rate']:.2f}")
    for number in range(1, plan.rounds + 1):
        rng = random.Random(f"{plan.seed}/{number}")
        questions = [asked[i % len(asked)] for i in range(plan.thumbs)]
        rng.shuffle(questions)
        answers = crowd.ask_all(questions, seed=1000 * number + plan.seed)
        ups = crowd.vote_on(answers, rng)
        say(f"round {number}: {plan.thumbs} votes, {ups} up; waiting for the iteration")
        row = wait_for_iteration(client, number)
        iterations.append(row)
        say(f"iteration {number}: {row['stage']}: {row['reason']}")
        measures.append(crowd.measure(f"iteration {number}", seed=900_000))
        say(f"after iteration {number}: taste met {measures[-1]['rate']:.2f}")
    return measures, iterations


def misbehave(client: Client, plan: Plan, say: Say) -> dict[str, Any]:
    """One more iteration, by a service whose learning rate destroys; returns how it ended."""
    crowd, rng = Crowd(client, plan), random.Random(f"{plan.seed}/bad")
    answers = crowd.ask_all(list(prompts().asked[: plan.bad_thumbs]), seed=50_000 + plan.seed)
    crowd.vote_on(answers, rng)
    say(f"a destructive update: learning rate {DESTRUCTIVE}")
    client.intend("train", reason="simulation: destructive learning rate")
    row = wait_for_iteration(client, plan.rounds + 1)
    say(f"iteration {row['id']}: {row['stage']}: {row['reason']}")
    return row


def go_back(client: Client, plan: Plan, say: Say) -> tuple[str, str]:
    """Roll back; returns which adapter answered before and after."""
    crowd = Crowd(client, plan)
    before = crowd.ask(crowd.people[0], "How are you?", 1).model
    ended = client.wait(client.intend("rollback", reason="simulation: rollback must work"))
    after = crowd.ask(crowd.people[0], "How are you?", 1).model
    say(f"rollback: {ended['status']}; answers came from {before}, now from {after}")
    return before, after


def check(name: str, ok: bool, detail: str) -> dict[str, Any]:
    return {"name": name, "ok": bool(ok), "detail": detail}


def verdicts(
    measures: list[dict[str, Any]],
    iterations: list[dict[str, Any]],
    bad: dict[str, Any],
    models: tuple[str, str],
) -> list[dict[str, Any]]:
    """What the demonstration claims, each held against what was measured."""
    first, last = measures[0], measures[-1]
    budgets = [
        (gate["metric"], gate["value"], gate["hard"])
        for row in iterations
        for gate in row["gates"]
        if gate["metric"].startswith("kl/") and gate["verdict"] != Verdict.INSUFFICIENT
    ]
    inside = all(value is not None and value <= hard for _, value, hard in budgets)
    kl = max((value for metric, value, _ in budgets if metric == "kl/base_token"), default=float("nan"))
    return [
        check(
            "the taste is learned",
            last["low"] > first["rate"],
            f"{first['rate']:.2f} -> {last['rate']:.2f}, interval {last['low']:.2f}-{last['high']:.2f}",
        ),
        check(
            "every iteration is promoted",
            all(row["stage"] == Stage.ACTIVE for row in iterations),
            ", ".join(f"{row['candidate']}: {row['stage']}" for row in iterations),
        ),
        check("within the KL budget", bool(budgets) and inside, f"largest KL to base {kl:.3f} nats/token"),
        check("the bad update is refused", bad["stage"] == Stage.REJECTED, str(bad["reason"])),
        check("rollback changes the next answer", models[0] != models[1], f"{models[0]} -> {models[1]}"),
    ]


def simulate(plan: Plan, *, quiet: bool) -> dict[str, Any]:
    """Run the whole demonstration and return its figures."""
    say, began = Say(quiet=quiet), time.monotonic()
    chosen: Taste = taste(plan.taste)
    with tempfile.TemporaryDirectory(prefix="honed-simulate-") as folder:
        directory = Path(folder)
        say("starting a service")
        schedule = {"HONED_DAEMON__SCHEDULE__MIN_FEEDBACK": str(plan.thumbs)}
        with service(directory, **schedule) as client:
            measures, iterations = learn(client, plan, say)
        destructive = {
            "HONED_DAEMON__SCHEDULE__ENABLED": "false",
            "HONED_POLICIES__TRAIN__LEARNING_RATE": str(DESTRUCTIVE),
            "HONED_POLICIES__TRAIN__LEARNING_RATE_CONTINUED": str(DESTRUCTIVE),
        }
        with service(directory, **destructive) as client:
            bad = misbehave(client, plan, say)
            models = go_back(client, plan, say)
    results = verdicts(measures, iterations, bad, models)
    return {
        "taste": chosen.name,
        "thumbs": plan.thumbs,
        "noise": plan.noise,
        "seed": plan.seed,
        "minutes": (time.monotonic() - began) / 60,
        "satisfaction": measures,
        "iterations": [
            {key: row[key] for key in ("id", "stage", "candidate", "reason", "counts", "metrics", "seconds")}
            for row in [*iterations, bad]
        ],
        "checks": results,
        "passed": all(result["ok"] for result in results),
    }
