"""Generated requests against the OpenAPI document: many thousands, good and bad, one seed after the other.

Schemathesis with all its checks and phases, positive and negative data; half of the names it sends are of things that
are there, so that it does not stop at 404. The service counts what it answered, by operation and status, and that is
held against the document once more. Prints the counts, writes benchmarks/results/fuzz.json, and exits 1 where a check
failed, a status was not documented, or was a 5xx other than 503.

    python -m benchmarks.bench_fuzz --cases 20000
"""

import argparse
import asyncio
import json
import re
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from fastapi import FastAPI

from api.app import create_app
from api.config import ApiConfig
from api.openapi import document, operations
from policies.engine import AdapterRef
from policies.fake_engine import FakeEngine, FakeLimits
from store.db import Store
from store.records import Adapter, AdapterStatus
from tests.listening import listening

RESULTS = Path(__file__).parent / "results" / "fuzz.json"
#: What a schema cannot say (that a completion exists, that `top_logprobs` wants `logprobs`) is refused with these.
CONFIG = """
[checks.positive_data_acceptance]
expected-statuses = ["2xx", "400", "401", "403", "404", "422"]
"""
#: Parameters and fields that name something, and what.
NAMES = {
    "path.completion_id": "completions",
    "body.completion_id": "completions",
    "path.version": "adapters",
    "body.version": "adapters",
    "path.name": "models",
    "body.model": "models",
    "path.id": "ids",
}
#: How often a name is one of something that is there.
KNOWN = 0.5
#: Other methods and paths than the document's, among them the document's own and the pages.
ELSEWHERE = "other methods and paths"
OUTSIDE = frozenset({"200", "403"})
COUNT = re.compile(
    r'^honed_requests_total\{method="(\w+)",route="([^"]*)",status="(\d+)"\} ([0-9.e+]+)$', re.MULTILINE
)

Counts = dict[str, dict[str, int]]


@dataclass(frozen=True)
class Ran:
    """One run of Schemathesis: how it ended, what it printed, and what it reports."""

    status: int
    output: str
    report: dict[str, Any]

    @property
    def cases(self) -> int:
        return int(self.report["test_cases"]["generated"])


def config_of(known: Mapping[str, Sequence[str | int]]) -> str:
    """Schemathesis' configuration, with the names of what is there."""
    lines = [CONFIG]
    for name, values in known.items():
        lines.append(f"[dictionaries.{name}]\nvalues = {json.dumps(list(values))}\n")
    bound = {key: name for key, name in NAMES.items() if known.get(name)}
    if bound:
        lines.append("[parameters]")
        lines += [
            f'"{key}" = {{ dictionary = "{name}", probability = {KNOWN} }}' for key, name in bound.items()
        ]
    return "\n".join(lines)


def generate(
    address: str, folder: Path, *, examples: int, seed: int, known: Mapping[str, Sequence[str | int]]
) -> Ran:
    """Run Schemathesis against a service. `examples`: the most cases of an operation in a phase."""
    config, told = folder / "schemathesis.toml", folder / "report.json"
    config.write_text(config_of(known))
    command = [sys.executable, "-m", "schemathesis.cli", f"--config-file={config}", "run", "--checks=all"]
    command += [f"{address}/openapi.json", f"--max-examples={examples}", f"--report-json-path={told}"]
    # An open stream never ends; tests/api/test_operator.py reads it.
    command += [
        "--exclude-path=/v1/events",
        "--no-color",
        f"--seed={seed}",
        "--max-failures=10",
        "--mode=all",
    ]
    ran = subprocess.run(command, capture_output=True, text=True, cwd=folder, check=False)
    report = json.loads(told.read_text()) if told.is_file() else {"test_cases": {"generated": 0}}
    return Ran(ran.returncode, ran.stdout + ran.stderr, report)


def answered(metrics: str) -> Counts:
    """`METHOD /path` -> status -> requests, as the service counted them."""
    found: Counts = defaultdict(dict)
    for method, route, status, count in COUNT.findall(metrics):
        found[f"{method} {route}"][status] = int(float(count))
    return dict(found)


def by_operation(counts: Counts, app: FastAPI) -> tuple[Counts, list[str]]:
    """Counts of the document's operations, everything else as one; and what no client could know of: statuses of
    operations that the document does not name, 5xx other than 503, and other answers than 404 and 405 elsewhere.
    """
    named = {
        f"{method.upper()} {path}": {*operation["responses"]}
        for method, path, operation in operations(document(app))
    }
    wrong, found, elsewhere = [], {}, Counter[str]()
    for operation, statuses in counts.items():
        # A method that is not there is refused on the same path: POST /v1/operator/queue.
        allowed = named.get(operation, {"404"} | OUTSIDE) | {"405"}
        wrong += [f"{operation}: {status}" for status in statuses if status not in allowed or bad(status)]
        if operation in named:
            found[operation] = statuses
        else:
            elsewhere.update(statuses)
    return {**found, ELSEWHERE: dict(elsewhere)}, wrong


def bad(status: str) -> bool:
    return status >= "500" and status != "503"


def added(counts: Iterable[Counts]) -> Counts:
    """The sum of several."""
    total: dict[str, Counter[str]] = defaultdict(Counter)
    for each in counts:
        for operation, statuses in each.items():
            total[operation].update(statuses)
    return {operation: dict(sorted(statuses.items())) for operation, statuses in sorted(total.items())}


def furnish(client: httpx.Client, store: Store, engine: FakeEngine) -> dict[str, list[str | int]]:
    """Have answers, votes, adapters, an iteration and an order; returns their names."""
    now = time.time()
    for version, status in (("it0001-a", AdapterStatus.ACTIVE), ("it0002-b", AdapterStatus.SUPERSEDED)):
        adapter = Adapter(version, None, None, Path("/none") / version, "d" * 64, status, 1.0, now)
        store.adapters.add(adapter)
        asyncio.run(engine.load(AdapterRef(version, adapter.path, adapter.digest)))
        if status is AdapterStatus.ACTIVE:
            store.adapters.activate(version, actor="fuzz", reason="fuzz")
    iteration = store.iterations.begin(trigger="fuzz", incumbent="it0001-a", config={})
    completions: list[str | int] = []
    for number in range(3):
        body = {
            "model": "honed",
            "messages": [{"role": "user", "content": f"Hello {number}"}],
            "n": 1 + number,
        }
        answer = client.post("/v1/chat/completions", json=body).raise_for_status().json()
        completions.append(answer["id"])
        vote = {"completion_id": answer["id"], "choice_index": number, "kind": "thumb", "value": True}
        client.post("/v1/feedback", json=vote).raise_for_status()
    order = client.post("/v1/operator/train", json={"reason": "fuzz"}).raise_for_status().json()
    versions: list[str | int] = ["it0001-a", "it0002-b"]
    return {
        "completions": completions,
        "adapters": versions,
        "models": ["honed", "base", *versions],
        "ids": [order["id"], iteration.id],
    }


def once(folder: Path, *, examples: int, seed: int) -> tuple[Ran, Counts, list[str]]:
    """One seed against a service of its own."""
    engine = FakeEngine(FakeLimits(verify=False))
    asyncio.run(engine.start())
    with Store.memory() as store:
        app = create_app(store=store, engine=engine, settings=ApiConfig(drain_seconds=5))
        with listening(app) as address, httpx.Client(base_url=address) as client:
            known = furnish(client, store, engine)
            ran = generate(address, folder, examples=examples, seed=seed, known=known)
            counts, wrong = by_operation(answered(client.get("/metrics").text), app)
        return ran, counts, wrong


def fuzz(cases: int, *, examples: int, seed: int) -> dict[str, Any]:
    """Seed after seed until there are so many cases, or one failed."""
    runs, all_counts, wrong, failed, total = [], [], [], [], 0
    while total < cases and not failed and not wrong:
        with tempfile.TemporaryDirectory(prefix="honed-fuzz-") as folder:
            ran, counts, undocumented = once(Path(folder), examples=examples, seed=seed)
        total += ran.cases
        wrong += undocumented
        all_counts.append(counts)
        runs.append({"seed": seed, "cases": ran.cases, "status": ran.status})
        print(f"seed {seed}: {ran.cases} cases, {total} in all, status {ran.status}", flush=True)
        if ran.status:
            failed.append(ran.output[-8000:])
        seed += 1
    counts = added(all_counts)
    by_status = added([{"all": statuses} for statuses in counts.values()]).get("all", {})
    return {
        "cases": total,
        "examples": examples,
        "runs": runs,
        "requests": sum(by_status.values()),
        "by_status": by_status,
        "by_operation": counts,
        "undocumented": wrong,
        "failures": failed,
    }


def main() -> None:
    """Generate, print, write; exit 1 where anything was found."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cases", type=int, default=20_000)
    parser.add_argument("--examples", type=int, default=300)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--output", type=Path, default=RESULTS)
    chosen = parser.parse_args()
    figures = fuzz(chosen.cases, examples=chosen.examples, seed=chosen.seed)
    for failure in figures["failures"]:
        print(failure)
    for operation, statuses in figures["by_operation"].items():
        print(f"{operation:50} {statuses}")
    print(f"{figures['cases']} cases, {figures['requests']} requests, {figures['by_status']}")
    print(f"undocumented: {figures['undocumented']}")
    chosen.output.write_text(json.dumps(figures, indent=2) + "\n")
    raise SystemExit(1 if figures["failures"] or figures["undocumented"] else 0)


if __name__ == "__main__":
    main()
