"""The failpoint matrix, in full: processes die of SIGKILL at every point they pass, and what must hold is checked.

    python -m benchmarks.failpoints [--jobs 2] [--segments "votes,rollback"] [--sample 12]

First every segment of a service's life (`failpoint_segments`) runs twice, and every passing of a failpoint is
recorded; what is in both records is the matrix: a point, what it is about, and the how manieth time. Then each of
these is run: the process dies there, files that it left half written are overwritten with rubbish, what was not
acknowledged is sent again, and the disk and the restarted service are held against what was (`failpoint_checks`).
The processes are real ones on a tiny model, forked from one that has imported everything (`tests.integration.warm`).

Writes benchmarks/results/failpoints.json and the table in docs/reliability.md; with a sample or some segments,
neither.
"""

import argparse
import json
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any

# Before torch loads: it is forked, so it may have one thread only.
os.environ.update(
    OMP_NUM_THREADS="1", OMP_WAIT_POLICY="PASSIVE", HF_HUB_OFFLINE="1", TOKENIZERS_PARALLELISM="false"
)

from benchmarks.failpoint_checks import check, check_served
from benchmarks.failpoint_segments import SEGMENTS, Segment, prepare
from benchmarks.failpoint_world import Died, World
from store.failpoints import AND, NAMED, PRIMITIVES
from store.records import Stage
from tests.integration import warm
from tests.tiny import make_tiny_model

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "failpoints.json"
PAGE = ROOT / "docs" / "reliability.md"
BEGIN, END = "<!-- failpoints: begin -->", "<!-- failpoints: end -->"
COLUMNS = (*PRIMITIVES, "named")
#: Times that a case is tried whose point depends on timing.
TRIES = 3


@dataclass(frozen=True, order=True)
class Case:
    """One death. `row` is the segment, or the stage of the iteration in it."""

    segment: str
    row: str
    point: str
    about: str
    nth: int

    @property
    def armed(self) -> str:
        about = f"({self.about})" if self.about else ""
        return f"main:{self.point}{about}#{self.nth}"


def cases_of(segment: Segment, lines: Iterable[dict[str, Any]]) -> set[Case]:
    """Every passing of a main process within the segment's marks."""
    found, inside, row = set(), segment.begins is None, segment.name
    counts: defaultdict[int, Counter[tuple[str, str]]] = defaultdict(Counter)
    for line in lines:
        if "mark" in line:
            if inside and line["mark"] == segment.ends:
                break
            inside = inside or line["mark"] == segment.begins
            continue
        if line["process"] != "main":
            continue
        point, labels = line["point"], line["about"].split(AND)
        for about in labels:
            counts[line["pid"]][point, about] += 1
        if point == "status.after" and labels[0].startswith("iteration, "):
            row = f"{segment.name}, {labels[0].removeprefix('iteration, ')}"
        inside = inside or point == segment.begins
        if inside:
            found.add(Case(segment.name, row, point, labels[0], counts[line["pid"]][point, labels[0]]))
        if inside and point == segment.ends:
            break
    return found


def record(segment: Segment, states: Path, scratch: Path, model: Path, nest: Path) -> set[Case]:
    """What both of two undisturbed runs pass; what only one does depends on timing."""
    runs = []
    for number in range(2):
        world = copy_of(segment, states, scratch / f"{segment.name} {number}", model, nest)
        trace = world.folder / "trace"
        world.arm("", trace)
        try:
            segment.act(world)
            check(world)
            check_served(world)
        finally:
            world.kill()
        runs.append(cases_of(segment, [json.loads(line) for line in trace.read_text().splitlines()]))
        shutil.rmtree(world.folder.parent)
    alike = {(each.point, each.about, each.nth) for each in runs[0]} & {
        (each.point, each.about, each.nth) for each in runs[1]
    }
    return {each for each in runs[0] if (each.point, each.about, each.nth) in alike}


def copy_of(segment: Segment, states: Path, folder: Path, model: Path, nest: Path) -> World:
    """A world that begins where the segment does, under a name that all have: points are about names of folders."""
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(states / segment.start, folder / "world")
    return World(folder / "world", model, nest, dict(segment.settings))


def run_case(case: Case, states: Path, scratch: Path, model: Path, nest: Path) -> dict[str, Any]:
    """Die there, come back, and hold everything against what was acknowledged."""
    segment = next(each for each in SEGMENTS if each.name == case.segment)
    began = time.monotonic()
    told: dict[str, Any] = {**asdict(case), "result": "not reached", "leftovers": 0}
    for _ in range(TRIES):
        world = copy_of(segment, states, scratch / "case", model, nest)
        world.arm(case.armed)
        try:
            try:
                segment.act(world)
                world.kill()  # or it may get there later, when nobody expects it
            except Died:
                told["result"] = "held"
            world.arm(None)
            told["leftovers"] = world.spoil_leftovers()
            segment.act(world)
            check(world)
            check_served(world)
        except Exception:  # whatever it is, it is this case's result
            told |= {"result": "failed", "error": traceback.format_exc()[-4000:], "log": world.tail()[-4000:]}
        finally:
            world.kill()
        if told["result"] != "not reached":
            break
    return {**told, "seconds": round(time.monotonic() - began, 2)}


def sweep(cases: Sequence[Case], folder: Path, model: Path, output: Path) -> int:
    """Run cases one after the other, each result on disk as soon as it is known."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    nest = warm.Nest(folder)
    try:
        with output.open("a") as file:
            for case in cases:
                told = run_case(case, folder.parent / "states", folder, model, nest.path)
                file.write(json.dumps(told) + "\n")
                file.flush()
                if told["result"] != "held":
                    print(f"{told['result']}: {case.row}: {case.armed}", file=sys.stderr, flush=True)
        return 0
    finally:
        nest.process.kill()


def chosen(cases: Iterable[Case], sample: int | None) -> list[Case]:
    """All, or some spread over rows and points."""
    everything = sorted(cases)
    random.Random(0).shuffle(everything)
    return everything if sample is None else everything[:sample]


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Deaths by stage and kind of point, as Markdown."""
    counts: Counter[tuple[str, str]] = Counter()
    order = {each.name: number for number, each in enumerate(SEGMENTS)}
    stages = {f", {stage}": number for number, stage in enumerate(Stage)}
    names = sorted(
        {
            (order[row["segment"]], stages.get(row["row"].removeprefix(row["segment"]), -1), row["row"])
            for row in rows
        }
    )
    for row in rows:
        kind = "named" if row["point"] in NAMED else row["point"].split(".")[0]
        counts[row["row"], kind] += 1
    lines = [f"| stage | {' | '.join(COLUMNS)} | all |", f"|---|{'---:|' * (len(COLUMNS) + 1)}"]
    for _, _, name in names:
        own = [counts[name, kind] for kind in COLUMNS]
        lines.append(f"| {name} | {' | '.join(str(each or '') for each in own)} | {sum(own)} |")
    whole = [sum(counts[name, kind] for _, _, name in names) for kind in COLUMNS]
    lines.append(f"| all | {' | '.join(map(str, whole))} | {sum(whole)} |")
    return "\n".join(lines)


def summary(rows: Sequence[dict[str, Any]], seconds: float) -> dict[str, Any]:
    results = Counter(row["result"] for row in rows)
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    counts: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for row in rows:
        counts[row["row"]][row["point"]] += 1
    return {
        "commit": commit.stdout.strip(),
        "seconds": round(seconds),
        "cases": len(rows),
        "results": dict(results),
        "case_seconds": round(sum(row["seconds"] for row in rows)),
        "leftovers": sum(row["leftovers"] for row in rows),
        "points": {name: dict(sorted(own.items())) for name, own in sorted(counts.items())},
        "not_held": [row for row in rows if row["result"] != "held"],
    }


def told_in(page: str, told: dict[str, Any], rows: Sequence[dict[str, Any]]) -> str:
    """The page with the table of this run between its marks."""
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    results = ", ".join(f"{count} {name}" for name, count in sorted(told["results"].items()))
    head = f"{told['cases']:,} deaths at commit {told['commit']}: {results}."
    return f"{before}{BEGIN}\n{head}\n\n{table(rows)}\n{END}{after}"


def run(
    segments: Sequence[Segment], *, jobs: int, sample: int | None, match: str | None, folder: Path
) -> list[dict[str, Any]]:
    """Record, then run the cases in `jobs` processes. Returns what became of each.

    Prepared states, records and results that `folder` has from before are used again: what was cut short goes on.
    """
    warm.warm_up()
    folder.mkdir(exist_ok=True)
    model, states = folder / "model", folder / "states"
    if not model.exists():
        assert (
            warm.fork(lambda: int(not make_tiny_model(model)), os.environ, folder / "model.log").wait(60) == 0
        )
    (folder / "nest.socket").unlink(missing_ok=True)
    nest = warm.Nest(folder)
    cases: list[Case] = []
    try:
        for segment in segments:
            prepare(segment.start, states, model, nest.path)
            known = folder / f"{segment.name}.json"
            if not known.is_file():
                own = record(segment, states, folder, model, nest.path)
                known.write_text(json.dumps([asdict(case) for case in sorted(own)]))
            cases += [Case(**row) for row in json.loads(known.read_text())]
            print(f"{segment.name}: {len(cases)} deaths so far", file=sys.stderr, flush=True)
    finally:
        nest.process.kill()
    wanted = [
        case
        for case in chosen(cases, sample)
        if match is None or re.search(match, f"{case.row} {case.armed}")
    ]
    earlier = results_in(folder)
    todo = [case for case in wanted if case not in earlier]
    workers = []
    for number in range(jobs):
        output = folder / f"results-{os.getpid()}-{number}.jsonl"
        main = partial(sweep, todo[number::jobs], folder / str(number), model, output)
        workers.append(warm.fork(main, os.environ, folder / f"worker-{number}.log"))
    for worker in workers:
        while worker.poll() is None:
            time.sleep(0.5)
    found = results_in(folder)
    missing = [case for case in wanted if case not in found]
    assert not missing, (missing, [log.read_text() for log in folder.glob("worker-*.log")])
    return [found[case] for case in wanted]


def results_in(folder: Path) -> dict[Case, dict[str, Any]]:
    """What is known of cases so far."""
    lines = [line for path in sorted(folder.glob("results-*")) for line in path.read_text().splitlines()]
    rows = [json.loads(line) for line in lines if line.endswith("}")]  # a last one may be cut short
    return {Case(**{each.name: row[each.name] for each in fields(Case)}): row for row in rows}


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.failpoints", description=__doc__)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--sample", type=int)
    parser.add_argument("--segments", help="names, with commas between")
    parser.add_argument("--match", help="regular expression over `STAGE main:POINT(ABOUT)#N`")
    parser.add_argument(
        "--folder", type=Path, help="where to work and leave everything; used again if it is there"
    )
    given = parser.parse_args(argv)
    names = given.segments.split(",") if given.segments else [each.name for each in SEGMENTS]
    segments = [each for each in SEGMENTS if each.name in names]
    began = time.monotonic()
    folder = given.folder or Path(tempfile.mkdtemp(prefix="honed-failpoints-"))
    rows = run(segments, jobs=given.jobs, sample=given.sample, match=given.match, folder=folder)
    told = summary(rows, time.monotonic() - began)
    print(table(rows))
    print(json.dumps({**told, "points": None}, indent=2)[:20_000])
    if given.sample is None and given.segments is None and given.match is None:
        RESULTS.write_text(json.dumps(told, indent=1) + "\n")
        PAGE.write_text(told_in(PAGE.read_text(), told, rows))
    if given.folder is None:
        shutil.rmtree(folder)
    return int(bool(told["results"].get("failed")))


if __name__ == "__main__":
    sys.exit(main())
