"""The gate on the embedded model: updates that are good or bad by construction, each through the real loop.

Per case a state directory of its own: votes in a real store, `daemon.iteration.run` on it (data building, sealed run
directory, trainer child, gate, load, attestation, settlement). Counted is where the iteration ends. A bad update that
is promoted is asked questions nobody voted on, so that it is known whether harm was done.

Answers and finished cases are kept below the state directory: a run that was cut short goes on. Left out: the judge,
which needs more votes than these cases have. Prints a table and writes benchmarks/results/gates.json.

    python -m benchmarks.bench_gates [--quick] [--only NAME] [--jobs 2] [--fresh]
"""

import argparse
import asyncio
import contextlib
import json
import os
import random
import shutil
import sys
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NoReturn, cast

from benchmarks.gate_answers import CONTINUED, SETTINGS, Pools, ask_all, pool, read
from benchmarks.gate_cases import Case, rows_of
from benchmarks.gate_faults import ENGINES, FILES, MODELS, GoneAtLoad
from benchmarks.gate_report import by_family, document, outcome, share, table
from benchmarks.gate_table import CASES, QUICK, QUICK_FAULTS, named, seed_of
from daemon import iteration
from daemon.config import Config, merge
from daemon.people import prompts
from daemon.runtime import Runtime
from daemon.serve import restore_serving
from daemon.state_files import DATABASE, LOCK
from policies.config import EngineConfig
from policies.engine import Engine
from policies.engines import resolve_base
from policies.hf_engine import HfEngine
from store.db import StateLock, Store
from store.errors import EngineUnavailable
from store.files import write_json
from store.records import FINISHED_STAGES, Iteration, Stage

RESULTS = Path(__file__).parent / "results" / "gates.json"
#: Below it, the converted model and everything this bench keeps.
STATE = Path("var")
#: Cases whose trained run others take, and those whose promoted adapter others continue.
DONORS = frozenset(case.after for case in CASES if case.build is None)
INCUMBENTS = frozenset(case.after for case in CASES if case.build is not None and case.after is not None)


@dataclass(frozen=True)
class Bench:
    """What cases share: where files lie, the model, and as many started engines as cases run at once."""

    folder: Path
    model: Path
    digest: str
    engines: asyncio.Queue[HfEngine] = field(default_factory=asyncio.Queue)

    def case(self, name: str) -> Path:
        return self.folder / "cases" / name

    def answers(self, name: str) -> Path:
        """A pool of the base model."""
        return self.folder / "answers" / f"{name}.json"

    def answers_after(self, name: str) -> Path:
        """What the adapter answers that a case promoted; forgotten with the case."""
        return self.case(name) / "answers.json"

    def pools(self) -> Pools:
        """Every pool that is there."""
        found = {name: self.answers(name) for name in SETTINGS}
        found |= {f"after-{name}": self.answers_after(name) for name in INCUMBENTS}
        return {name: read(path) for name, path in found.items() if path.is_file()}

    def engine(self, kind: type[HfEngine] = HfEngine, model: Path | None = None) -> HfEngine:
        settings = EngineConfig(model=str(self.model), threads=1, device="cpu")
        return kind(settings, model or self.model, self.digest)

    def other(self, fault: str) -> Path:
        """The model of a fault of that kind."""
        return MODELS[fault](self.model, self.folder / "models" / fault)


def config_of(case: Case, directory: Path, model: Path) -> Config:
    """The shipped configuration with what the case overrides; nobody judges."""
    shipped = {
        "store": {"directory": str(directory)},
        "judge": {"enabled": False},
        "policies": {
            "engine": {"model": str(model), "threads": 1, "device": "cpu"},
            "train": {"seed": seed_of(case.name)},
        },
    }
    return Config.model_validate(merge(shipped, case.settings))


@contextlib.asynccontextmanager
async def engine_for(bench: Bench, case: Case) -> AsyncIterator[HfEngine]:
    """A sound engine from the bench's, left empty again; or one with the case's fault, started for it."""
    if case.fault in ENGINES or case.fault == "other_base":
        kind = ENGINES.get(case.fault, HfEngine)
        engine = bench.engine(kind, bench.other("other_base") if case.fault == "other_base" else None)
        await engine.start()
        try:
            yield engine
        finally:
            await engine.close()
        return
    engine = await bench.engines.get()
    try:
        yield engine
        for version in await engine.resident():
            await engine.unload(version)
    finally:
        bench.engines.put_nowait(engine)


def runtime_of(bench: Bench, case: Case, store: Store, engine: HfEngine, directory: Path) -> Runtime:
    trains_on = bench.other("other_model") if case.fault == "other_model" else bench.model
    return Runtime(config_of(case, directory, bench.model), store, engine, trains_on, bench.digest)


def begin(bench: Bench, case: Case, runtime: Runtime) -> Iteration:
    """Put the case's votes into the store and begin an iteration, as the loop does."""
    assert case.build is not None
    store, active = runtime.store, runtime.store.adapters.active()
    votes = case.build(bench.pools(), random.Random(seed_of(case.name)))
    incumbent = active.version if active else None
    completions, events = rows_of(case.name, votes, adapter=incumbent, at=time.time() - 1800)
    for completion in completions:
        store.completions.begin(completion)
    for event in events:
        store.feedback.add(event)
    return store.iterations.begin(
        trigger="bench", incumbent=incumbent, config=runtime.config.model_dump(mode="json")
    )


async def train(bench: Bench, case: Case, engine: HfEngine) -> Path:
    """A state directory with the case's run trained and not yet judged, for itself and for faults to be done to."""
    directory = bench.case(case.name) / "trained"
    if case.after is not None:
        shutil.copytree(bench.case(case.after) / "settled", directory)
    directory.mkdir(parents=True, exist_ok=True)
    with Store.open(directory / DATABASE) as store:
        runtime = runtime_of(bench, case, store, engine, directory)
        begun = begin(bench, case, runtime)
        if case.name in DONORS:
            gone = replace(runtime, engine=cast(Engine, GoneAtLoad(engine)))
            # What is left is what a service leaves that is killed at this moment; the next start goes on from it.
            with contextlib.suppress(EngineUnavailable):
                await iteration.run(gone, begun)
    return directory


async def settle(bench: Bench, case: Case, engine: HfEngine) -> dict[str, Any]:
    """Take the iteration of the case's directory to its end, and look at what became of it."""
    directory = bench.case(case.name) / "settled"
    with Store.open(directory / DATABASE) as store:
        runtime = runtime_of(bench, case, store, engine, directory)
        await restore_serving(runtime)
        ended = store.iterations.last()
        assert ended is not None
        if case.fault in FILES:
            FILES[case.fault](runtime.run_directory(ended.id))
        if ended.stage not in FINISHED_STAGES:  # a donor that the gate rejected never came to the load
            ended = await iteration.run(runtime, ended)
        row = outcome(case, ended, store.iterations.gates(ended.id), store.iterations.report(ended.id))
        if ended.stage in (Stage.ACTIVE, Stage.CANARY):
            assert ended.candidate is not None
            if case.kind == "bad":
                row["harm"] = await harm(case, engine, ended.candidate, ended.incumbent)
            elif case.name in INCUMBENTS:
                setting = CONTINUED["brief" if case.name.startswith("brief") else "plain"]
                await pool(bench.answers_after(case.name), engine, setting, adapter=ended.candidate)
    return row


async def harm(case: Case, engine: HfEngine, candidate: str, incumbent: str | None) -> dict[str, Any]:
    """How often answers to questions nobody voted on show the unwanted thing, before and after."""
    setting = SETTINGS["brief" if case.family == "length hacking" or "brief" in case.name else "plain"]
    questions = prompts().never_asked
    rates = {}
    for name, adapter in (("before", incumbent), ("after", candidate)):
        answers = await ask_all(engine, questions, setting, adapter=adapter, seed=900_000)
        rates[name] = share([answer.text for answer in answers], case.marks)
    return rates


async def run_case(bench: Bench, case: Case) -> dict[str, Any]:
    """The case's row; a finished one is read back."""
    folder = bench.case(case.name)
    if (folder / "result.json").is_file():
        kept: dict[str, Any] = json.loads((folder / "result.json").read_text())
        return kept
    shutil.rmtree(folder, ignore_errors=True)
    if case.after is not None and not (bench.case(case.after) / "settled").is_dir():
        raise ValueError(f"{case.name} needs {case.after}, which has not been run")
    began = time.monotonic()
    async with engine_for(bench, case) as engine:
        trained = bench.case(case.after or "") / "trained"
        if case.build is not None:
            trained = await train(bench, case, engine)
        shutil.copytree(trained, folder / "settled")
        row = await settle(bench, case, engine)
    row["seconds"] = {"all": round(time.monotonic() - began, 1), **row["seconds"]}
    write_json(folder / "result.json", row)
    return row


async def run_all(bench: Bench, cases: Sequence[Case], jobs: int) -> list[dict[str, Any]]:
    """Every case, `jobs` at a time, each after the one it needs."""
    tasks: dict[str, asyncio.Task[dict[str, Any]]] = {}
    turns = asyncio.Semaphore(jobs)

    async def one(case: Case) -> dict[str, Any]:
        if case.after is not None:
            await tasks[case.after]
        async with turns:
            row = await run_case(bench, case)
        print(
            f"{len(done) + 1:3}/{len(cases)} {row['name']:24} {row['verdict']:9} {row['reason']}", flush=True
        )
        done.append(row)
        return row

    done: list[dict[str, Any]] = []
    for case in cases:
        tasks[case.name] = asyncio.create_task(one(case))
    # One broken case must not take the others' work with it; it is told, and run again next time.
    ended = await asyncio.gather(*tasks.values(), return_exceptions=True)
    for case, result in zip(cases, ended, strict=True):
        if isinstance(result, BaseException):
            print(f"{case.name} broke: {type(result).__name__}: {result}", file=sys.stderr)
    return [row for row in ended if not isinstance(row, BaseException)]


async def bench_all(folder: Path, cases: Sequence[Case], jobs: int) -> list[dict[str, Any]]:
    """Start the engines, draw what answers are missing, run."""
    model, digest = resolve_base(EngineConfig(), STATE)
    bench = Bench(folder, model, digest)
    engines = [bench.engine() for _ in range(jobs)]
    try:
        for engine in engines:
            await engine.start()
            bench.engines.put_nowait(engine)
        for name, setting in SETTINGS.items():
            await pool(bench.answers(name), engines[0], setting)
        return await run_all(bench, cases, jobs)
    finally:
        for engine in engines:
            await engine.close()


def finished(folder: Path, cases: Sequence[Case]) -> list[dict[str, Any]]:
    """Rows of the cases that an earlier run finished."""
    files = [folder / "cases" / case.name / "result.json" for case in cases]
    return [json.loads(file.read_text()) for file in files if file.is_file()]


def main() -> None:
    """Run, print, write; exit 1 if a bad update was promoted or a case is missing."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="four good and four bad cases")
    parser.add_argument(
        "--only", action="append", metavar="NAME", help="this case and what it needs; repeatable"
    )
    parser.add_argument("--jobs", type=int, default=2, help="cases at a time, one thread each")
    parser.add_argument("--fresh", action="store_true", help="forget finished cases (not the drawn answers)")
    parser.add_argument(
        "--state", type=Path, default=STATE / "gates", help="where answers and cases are kept"
    )
    parser.add_argument("--report", action="store_true", help="run nothing, tell of what is finished")
    chosen = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"  # read by the trainer children
    names = chosen.only or ([*QUICK, *QUICK_FAULTS] if chosen.quick else [case.name for case in CASES])
    cases = named(names)
    chosen.state.mkdir(parents=True, exist_ok=True)
    if chosen.report:
        tell(finished(chosen.state, cases), len(cases))
    with StateLock(chosen.state / LOCK):  # two runs would clear away each other's cases
        if chosen.fresh:
            shutil.rmtree(chosen.state / "cases", ignore_errors=True)
        rows = asyncio.run(bench_all(chosen.state, cases, chosen.jobs))
    tell(rows, len(cases))


def tell(rows: Sequence[dict[str, Any]], wanted: int) -> NoReturn:
    """Print; write the results where every case of the table is in; exit."""
    found = document(rows, command=" ".join(["python -m benchmarks.bench_gates", *sys.argv[1:]]))
    print(table(rows), by_family(rows), json.dumps(found["summary"], indent=2), sep="\n\n")
    if len(rows) == len(CASES):
        RESULTS.write_text(json.dumps(found, indent=1) + "\n")
    raise SystemExit(1 if found["summary"]["bad_promoted"] or len(rows) < wanted else 0)


if __name__ == "__main__":
    main()
