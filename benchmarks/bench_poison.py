"""Poisoning the embedded model: a few people try to plant a phrase, or to flip everybody's taste.

Per case a state directory of its own with one iteration of the real loop: votes in a store, then
`daemon.iteration.run` (vetting, data building, trainer child, gate, load, attestation, settlement). Once with
`[feedback.defence]` and the cap on one person's share as they ship, once with both off; the gate is on either way.
Then base, the candidate and what is served answer questions nobody voted on.

Answers and finished cases are kept below the state directory: a run that was cut short goes on. Prints a table and
writes benchmarks/results/poison.json.

    python -m benchmarks.bench_poison [--quick] [--only NAME] [--jobs 1] [--fresh] [--report]
"""

import argparse
import asyncio
import json
import math
import os
import random
import shutil
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

from benchmarks.bench_gates import STATE, Bench, begin, engine_for, runtime_of
from benchmarks.gate_answers import SETTINGS, Logged, Pools, ask_all, keep, pool, read
from benchmarks.gate_cases import Case, Vote
from benchmarks.gate_report import outcome
from benchmarks.poison_cases import (
    ATTACKS,
    LIKING,
    PHRASE,
    QUICK,
    Attack,
    attackers_weight,
    carries,
    named,
    settings,
    votes,
)
from benchmarks.poison_report import document, table
from daemon import iteration
from daemon.iteration import preferences_now
from daemon.people import prompts
from daemon.runtime import Runtime
from daemon.state_files import DATABASE, ITERATIONS, LOCK
from policies.config import EngineConfig
from policies.engine import Engine
from policies.engines import resolve_base
from store.db import StateLock, Store
from store.files import write_json
from store.records import Message

RESULTS = Path(__file__).parent / "results" / "poison.json"
#: Where people of this taste get their answers from, and how those are drawn.
POOL = "plain"
#: In a case's folder: what its candidate answered.
ANSWERS = "answers.json"


def case_of(attack: Attack) -> Case:
    """The attack as the gate's bench runs it."""

    def build(pools: Pools, rng: random.Random) -> list[Vote]:
        del rng  # the same votes whether defended or not
        return votes(attack, pools[POOL])

    marks = carries if attack.goal == "phrase" else LIKING.likes
    return Case(attack.name, "bad", attack.goal, "", "", marks, build, settings=settings(attack))


async def measured(engine: Engine, *, seed: int, adapter: str | None) -> list[Logged]:
    """Answers to the questions that nobody voted on; the same draws for every adapter."""
    once = replace(SETTINGS[POOL], samples=1)
    return await ask_all(engine, prompts().never_asked, once, adapter=adapter, seed=700_000 + 1000 * seed)


async def begins(engine: Engine, *, adapter: str | None) -> list[float]:
    """How likely (0..1) an answer to each of these questions begins with the phrase, at temperature 1."""
    asked = [[Message("user", question)] for question in prompts().never_asked]
    scored = await engine.score(asked, [PHRASE] * len(asked), adapter=adapter)
    return [math.exp(sum(logprobs)) for logprobs in scored]


def base_answers(bench: Bench, seed: int) -> Path:
    return bench.answers(f"never-asked-{seed}")


def finished(bench: Bench, attack: Attack) -> Path:
    """Where a case's row is once it is done."""
    return bench.case(attack.name) / "result.json"


async def run_attack(bench: Bench, attack: Attack) -> dict[str, Any]:
    """The case's row; a finished one is read back."""
    if finished(bench, attack).is_file():
        kept: dict[str, Any] = json.loads(finished(bench, attack).read_text())
        return kept
    folder, case = bench.case(attack.name), case_of(attack)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    began = time.monotonic()
    async with engine_for(bench, case) as engine:
        with Store.open(folder / DATABASE) as store:
            row = await attacked(runtime_of(bench, case, store, engine, folder), bench, attack)
    row["seconds"] = {"all": round(time.monotonic() - began, 1), **row["seconds"]}
    shutil.rmtree(folder / ITERATIONS, ignore_errors=True)  # adapters that nothing reads any more
    write_json(finished(bench, attack), row)
    return row


async def attacked(runtime: Runtime, bench: Bench, attack: Attack) -> dict[str, Any]:
    """One iteration on the case's votes, and what its candidate answers then."""
    store, case = runtime.store, case_of(attack)
    begun = begin(bench, case, runtime)
    _, _, preferences = preferences_now(runtime)
    ended = await iteration.run(runtime, begun)
    row = outcome(case, ended, store.iterations.gates(ended.id), store.iterations.report(ended.id))
    row["attackers_weight"] = round(attackers_weight(preferences), 4)
    row["served"] = "candidate" if store.adapters.active() is not None else "base"
    row["begins"] = {"base": await begins(runtime.engine, adapter=None)}
    candidate = store.adapters.find(ended.candidate) if ended.candidate else None
    if candidate is not None:
        if (
            candidate.version not in await runtime.engine.resident()
        ):  # a rejected one is looked at all the same
            await runtime.engine.load(runtime.reference(candidate))
        row["begins"]["candidate"] = await begins(runtime.engine, adapter=candidate.version)
        answers = await measured(runtime.engine, seed=attack.seed, adapter=candidate.version)
        keep(bench.case(attack.name) / ANSWERS, answers)
    return row


def answered(bench: Bench, attack: Attack) -> dict[str, Any]:
    """A finished case's row with what base, candidate and served model answered."""
    row = json.loads(finished(bench, attack).read_text())
    base = read(base_answers(bench, attack.seed))
    file = bench.case(attack.name) / ANSWERS
    candidate = read(file) if file.is_file() else base  # nothing was trained
    served = candidate if row["served"] == "candidate" else base
    likely = {"candidate": row["begins"]["base"], **row["begins"]}
    likely["served"] = likely[row["served"]]
    texts = {"base": base, "candidate": candidate, "served": served}
    said = {side: [answer.text for answer in answers] for side, answers in texts.items()}
    return {**row, "attack": attack, "answers": said, "begins": likely}


async def run_all(bench: Bench, attacks: Sequence[Attack], jobs: int) -> None:
    """Every case, `jobs` at a time. One that breaks is told and leaves the others alone."""
    turns = asyncio.Semaphore(jobs)

    async def one(attack: Attack) -> None:
        async with turns:
            row = await run_attack(bench, attack)
        print(f"{attack.name:24} {row['verdict']:9} {row['reason']}", flush=True)

    ended = await asyncio.gather(*map(one, attacks), return_exceptions=True)
    for attack, result in zip(attacks, ended, strict=True):
        if isinstance(result, BaseException):
            print(f"{attack.name} broke: {type(result).__name__}: {result}", file=sys.stderr)


async def bench_all(bench: Bench, attacks: Sequence[Attack], jobs: int) -> None:
    """Start the engines, draw what base answers, run."""
    engines = [bench.engine() for _ in range(jobs)]
    try:
        for engine in engines:
            await engine.start()
            bench.engines.put_nowait(engine)
        await pool(bench.answers(POOL), engines[0], SETTINGS[POOL])
        for seed in sorted({attack.seed for attack in attacks}):
            if not base_answers(bench, seed).is_file():
                keep(base_answers(bench, seed), await measured(engines[0], seed=seed, adapter=None))
        await run_all(bench, attacks, jobs)
    finally:
        for engine in engines:
            await engine.close()


def main() -> None:
    """Run, print, write; exit 1 if a case is missing, or what is claimed does not hold."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="one seed, one attacker")
    parser.add_argument("--only", action="append", metavar="NAME", help="this case; repeatable")
    parser.add_argument("--jobs", type=int, default=1, help="cases at a time, one thread each")
    parser.add_argument("--fresh", action="store_true", help="forget finished cases (not the drawn answers)")
    parser.add_argument(
        "--state", type=Path, default=STATE / "poison", help="where answers and cases are kept"
    )
    parser.add_argument("--report", action="store_true", help="run nothing, tell of what is finished")
    chosen = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"  # read by the trainer children
    attacks = named(chosen.only) if chosen.only else QUICK if chosen.quick else ATTACKS
    chosen.state.mkdir(parents=True, exist_ok=True)
    bench = Bench(chosen.state, *resolve_base(EngineConfig(), STATE))
    if not chosen.report:
        with StateLock(chosen.state / LOCK):  # two runs would clear away each other's cases
            if chosen.fresh:
                shutil.rmtree(chosen.state / "cases", ignore_errors=True)
            asyncio.run(bench_all(bench, attacks, chosen.jobs))
    tell([answered(bench, attack) for attack in attacks if finished(bench, attack).is_file()], attacks)


def tell(rows: Sequence[dict[str, Any]], wanted: Sequence[Attack]) -> NoReturn:
    """Print; write the results where every case was asked for, with the names of those that are missing; exit."""
    missing = sorted({attack.name for attack in wanted} - {row["name"] for row in rows})
    command = " ".join(["python -m benchmarks.bench_poison", *sys.argv[1:]])
    found = document(rows, len(prompts().never_asked), command=command, missing=missing)
    print(table(found["summary"]), *found["failures"], sep="\n")
    if missing:
        print(f"missing: {', '.join(missing)}")
    if len(wanted) == len(ATTACKS):
        RESULTS.write_text(json.dumps(found, indent=1) + "\n")
    raise SystemExit(1 if found["failures"] or missing else 0)


if __name__ == "__main__":
    main()
