"""The judge at the gate: a candidate's answers held against the incumbent's by those who are licensed to judge.

`contest` is the table of contents. It is evidence beside the trainer's own numbers: where nobody holds a licence, or
judging fails, its numbers are missing and the gate is told nothing, but the iteration goes on.
"""

import asyncio
import logging
from collections.abc import Awaitable, Sequence
from dataclasses import dataclass
from typing import Any

from daemon import judging
from daemon.licensing import Member, licensed_in
from daemon.opinions import opinions, recorded
from daemon.recheck import CONTEST, ROWS, Opponent, answers, opponents
from daemon.runtime import Runtime
from daemon.snapshot import messages_of
from daemon.stages import progress
from judge.contest import Answered, Match, contest_metrics
from policies.spec import Report
from store.db import Store
from store.errors import HonedError
from store.failpoints import failpoint
from store.records import Iteration, Stage

log = logging.getLogger(__name__)

#: Whose calls are counted over a whole iteration.
EXTERNAL = "external"


async def contest(runtime: Runtime, iteration: Iteration, report: Report) -> dict[str, float]:
    """The numbers of every comparison that is due; none where nobody may judge, or nothing can be judged."""
    if not runtime.config.judge.enabled or not report.samples:
        return {}
    if iteration.attempt >= runtime.config.daemon.schedule.max_attempts:
        await note(runtime, iteration, "contest: left out of the last attempt, in case it is what interrupts")
        return {}
    return await attempted(runtime, iteration, contested(runtime, iteration, report))


@dataclass(frozen=True)
class Comparison:
    """A candidate's answers beside an opponent's."""

    candidate: str
    opponent: Opponent
    given: Sequence[Answered]


async def contested(runtime: Runtime, iteration: Iteration, report: Report) -> dict[str, float]:
    """The steps, in order."""
    members = await judges(runtime, iteration)
    if not members:
        await note(runtime, iteration, "contest: not held, no scorer holds a licence in this iteration")
        return {}
    own = Comparison(report.version, Opponent(CONTEST, iteration.incumbent), as_trained(report))
    found = await compare(runtime, iteration, members, own)
    failpoint("contest.scored")
    found["contest/independent"] = await independent(runtime, iteration)
    due = await asyncio.to_thread(due_opponents, runtime)
    for opponent in due:
        work = recheck(runtime, iteration, members, report, opponent)
        found |= await attempted(runtime, iteration, work)
    return found


async def attempted(
    runtime: Runtime, iteration: Iteration, work: Awaitable[dict[str, float]]
) -> dict[str, float]:
    """Its numbers, or none and an audit row: a judge that fails never fails an iteration."""
    try:
        return await work
    except (
        Exception
    ) as error:  # whatever it is, people's votes would otherwise stop training until it is mended
        log.exception("iteration %d: contest failed", iteration.id)
        said = str(error) if isinstance(error, HonedError) else f"{type(error).__name__}: {error}"
        subject, reason = f"iteration {iteration.id}", f"contest failed, it says nothing to the gate: {said}"
        await asyncio.to_thread(
            runtime.store.audit.add, actor="loop", action="contest failed", subject=subject, reason=reason
        )
        await note(runtime, iteration, reason)
        return {}


async def judges(runtime: Runtime, iteration: Iteration) -> list[Member]:
    """Those who hold a licence in this iteration, as they were when they got it."""
    weights = iteration.incumbent if runtime.config.judge.weights == "incumbent" else None
    spent = await asyncio.to_thread(calls_spent, runtime.store, iteration.id)
    scorers = judging.build(runtime, iteration, weights, spent)
    return await licensed_in(runtime, iteration.id, scorers)


def calls_spent(store: Store, iteration: int) -> int:
    """Marks an external judge has given in an iteration: its budget of calls is for the whole of it."""
    return sum(one.scorer == EXTERNAL for one in store.judgements.in_iteration(iteration))


def as_trained(report: Report) -> list[Answered]:
    """What the trainer drew: the candidate's answers after training beside the incumbent's before."""
    return [
        Answered(sample.id, messages_of(sample.prompt), sample.after, sample.before, sample.cluster)
        for sample in report.samples
    ]


async def compare(
    runtime: Runtime, iteration: Iteration, members: Sequence[Member], comparison: Comparison
) -> dict[str, float]:
    """Judge one comparison, keep it for people to read, and return its numbers."""
    name, given = comparison.opponent.name, comparison.given
    who = " and ".join(member.scorer.name for member in members)
    asked = f"{len(given)} answers of {comparison.candidate} and {comparison.opponent.label}"
    await note(runtime, iteration, f"{name}: {asked}, judged by {who}")
    matches = await judge(runtime, iteration, members, comparison)
    await asyncio.to_thread(keep, runtime.store, iteration, rows(comparison, members, matches))
    band = runtime.config.judge.pairs.near_tie
    # On a thread: chat shares the event loop.
    return await asyncio.to_thread(contest_metrics, matches, band=band, seed=iteration.id, name=name)


async def judge(
    runtime: Runtime, iteration: Iteration, members: Sequence[Member], comparison: Comparison
) -> list[Match]:
    """What the panel says of every prompt, in order; answers that are the same are not asked about."""
    different = [one for one in comparison.given if not one.same]
    questions = [one.question for one in different]
    show = progress(runtime, iteration, comparison.opponent.name)
    drawn = await asyncio.to_thread(runtime.store.completions.samples, iteration.id)
    known_as = recorded(list(drawn.values()))
    said = [
        await opinions(runtime, iteration.id, member.scorer, questions, known_as=known_as, on_progress=show)
        for member in members
    ]
    views = {
        one: judging.panel_of(runtime, members, [scores[index] for scores in said]).q(1, 0)
        for index, one in enumerate(different)
    }
    return [one.judged(views.get(one)) for one in comparison.given]


def rows(comparison: Comparison, members: Sequence[Member], matches: Sequence[Match]) -> list[dict[str, Any]]:
    """A comparison as the report keeps it, a row for each prompt; `lengths` in characters, the candidate's first.

    Without texts: the report's samples have them, under the same ids, and recorded answers those of other opponents.
    """
    return [
        {
            "contest": comparison.opponent.name,
            "candidate": comparison.candidate,
            "against": comparison.opponent.label,
            "judges": [member.scorer.name for member in members],
            "id": match.id,
            "q": match.q,
            "lengths": list(match.lengths),
            "cluster": match.cluster,
        }
        for match in matches
    ]


def keep(store: Store, iteration: Iteration, found: Sequence[dict[str, Any]]) -> None:
    """Put rows beside the trainer's report, in the place of those an earlier attempt left."""
    mine = {(row["contest"], row["candidate"]) for row in found}

    def commit(tx: Store) -> None:
        known = (tx.iterations.report(iteration.id) or {}).get(ROWS, [])
        others = [row for row in known if (row["contest"], row["candidate"]) not in mine]
        tx.iterations.save_report(iteration.id, {ROWS: [*others, *found]})

    store.atomic(commit)


async def independent(runtime: Runtime, iteration: Iteration) -> float:
    """1 where no judged pair trained this candidate: what was trained on a judge's word pleases that judge."""
    pairs = await asyncio.to_thread(runtime.store.judgements.pairs, iteration.id)
    return float(all(pair.dropped is not None for pair in pairs))


def due_opponents(runtime: Runtime) -> list[Opponent]:
    gate = runtime.config.daemon.gate
    return opponents(runtime.store, every=gate.recheck_every, golden=gate.golden)


async def recheck(
    runtime: Runtime, iteration: Iteration, members: Sequence[Member], report: Report, opponent: Opponent
) -> dict[str, float]:
    """The comparison with base or the golden adapter; where that is the incumbent its answers are there already."""
    same = opponent.version == iteration.incumbent
    given = as_trained(report) if same else await answers(runtime, iteration, report, opponent)
    return await compare(runtime, iteration, members, Comparison(report.version, opponent, given))


async def note(runtime: Runtime, iteration: Iteration, text: str) -> None:
    """Tell among the iteration's stages what is being done, or why it is not."""
    await asyncio.to_thread(runtime.store.iterations.move, iteration.id, Stage.EVALUATING, note=text)
