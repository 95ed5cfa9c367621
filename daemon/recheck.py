"""Candidates held against more than the incumbent: at times against base, and against a pinned golden adapter.

Each step from incumbent to candidate may be no worse than the one before, and many of them still lead downwards. So
every few promotions the comparison goes back to something that does not move. The opponent answers in the running
engine, loaded for that and let go afterwards.
"""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from functools import partial

from daemon.promote import make_ready, unload_surplus
from daemon.runtime import Runtime
from daemon.snapshot import messages_of
from daemon.stages import progress, to_its_end
from judge.candidates import Asked, Draw, Purpose, sample_all
from judge.contest import Answered
from policies.spec import Report
from store.db import Store
from store.errors import ConfigError
from store.records import (
    BASE,
    SERVABLE,
    AdapterStatus,
    Completion,
    CompletionStatus,
    Iteration,
    Sampling,
)

log = logging.getLogger(__name__)

#: Groups of metrics, and what those of the comparison with the incumbent are called.
CONTEST, CONTEST_BASE, CONTEST_GOLDEN = "contest", "contest_base", "contest_golden"
#: Under which key of an iteration's report its comparisons are kept, row by row.
ROWS = "contest"
#: Newest moves of the pointer looked at for promotions.
LOOK_BACK = 500


@dataclass(frozen=True, slots=True)
class Opponent:
    """What a candidate is held against. `name`: of the group of metrics; `version`: None is base."""

    name: str
    version: str | None

    @property
    def label(self) -> str:
        return self.version or BASE


def due(checked: Sequence[bool], every: int, *, first: int) -> bool:
    """Whether a candidate that would be the next promotion is held against an opponent.

    Counted are promotions, for it is they that add up; a candidate that was rejected moved nothing, and the next one
    is due in its place.

    Args:
        checked: for each promotion so far, newest first, whether it was held against that opponent.
        every: promotions from one comparison to the next; 0 is never.
        first: at which promotion the first comparison is, 1 being the first of all.
    """
    if every == 0:
        return False
    since = next((count for count, was in enumerate(checked) if was), None)
    return len(checked) + 1 >= first if since is None else since + 1 >= every


def opponents(store: Store, *, every: int, golden: str | None) -> list[Opponent]:
    """Whom the running iteration's candidate is held against besides the incumbent.

    A golden adapter that is newly pinned is compared at once, base first at the promotion number `every`.
    """
    if every == 0:
        return []
    compared = [compared_with(store, version) for version in promotions(store)[:every]]
    wanted = [(Opponent(CONTEST_BASE, None), every)]
    pinned = None if golden is None else store.adapters.find(golden)
    if pinned is not None and pinned.status in SERVABLE:
        wanted.append((Opponent(CONTEST_GOLDEN, golden), 1))
    return [
        opponent
        for opponent, first in wanted
        if due([opponent in each for each in compared], every, first=first)
    ]


def promotions(store: Store) -> list[str]:
    """Versions that came to serve everybody, for however long, the one that did so last first.

    By the moves of the pointer: a canary that was rolled back served some people only, though its iteration ends like
    that of an adapter which served all. Going back to a version, or taking it up again, promotes nothing new.
    """
    moves = store.adapters.activations(limit=LOOK_BACK)
    first_moves = dict.fromkeys(move.version for move in reversed(moves) if move.version is not None)
    return list(first_moves)[::-1]


def compared_with(store: Store, version: str) -> set[Opponent]:
    """What a version was held against before it was served."""
    iteration = store.adapters.get(version).iteration
    rows = (store.iterations.report(iteration or 0) or {}).get(ROWS, [])
    return {
        Opponent(row["contest"], None if row["against"] == BASE else row["against"])
        for row in rows
        if row["candidate"] == version
    }


def check_golden(store: Store, golden: str | None) -> None:
    """Tell at the start that the pinned version is none, not at the first comparison.

    Raises:
        ConfigError: there is no such version, or it was never served.
    """
    if golden is None:
        return
    adapter = store.adapters.find(golden)
    setting = f"daemon.gate.golden = {golden!r}"
    if adapter is None:
        raise ConfigError(
            f"{setting}: there is no adapter of that name; `honed adapters` lists those there are",
            param="daemon.gate.golden",
        )
    if adapter.status is AdapterStatus.RETIRED:
        log.warning("%s is retired: nothing is compared with it any more", setting)
    elif adapter.status not in SERVABLE:
        raise ConfigError(
            f"{setting}: it is {adapter.status} and was never served; only a version that was can be pinned",
            param="daemon.gate.golden",
        )


async def answers(
    runtime: Runtime, iteration: Iteration, report: Report, opponent: Opponent
) -> list[Answered]:
    """The opponent's answers beside the candidate's, to the prompts of the report that the engine takes.

    Drawn as the trainer draws; each is stored as it is complete, and one that an earlier attempt stored is taken up.
    """
    store, train = runtime.store, runtime.config.policies.train
    sampling = Sampling(
        max_tokens=train.probe_tokens,
        temperature=train.probe_temperature,
        top_p=0.95,
        seed=train.seed + iteration.id,
    )
    how = Draw(iteration.id, opponent.version, 1, sampling, runtime.clock(), Purpose.CONTEST)
    asked = [Asked(messages_of(sample.prompt), sample.id) for sample in report.samples]
    already = await asyncio.to_thread(store.completions.samples, iteration.id)
    show, done = progress(runtime, iteration, f"{opponent.name}: answers"), 0

    async def keep(completion: Completion) -> None:
        nonlocal done
        await to_its_end(partial(store.completions.begin, completion))
        done += 1
        await show(done, len(asked))

    async with resident(runtime, opponent.version):
        drawn = await sample_all(runtime.engine, asked, how, already=already, keep=keep)
    texts = {one.messages: one.choices[0].text for one in drawn if one.status is CompletionStatus.DONE}
    return [
        Answered(sample.id, messages, sample.after, texts[messages], sample.cluster)
        for sample in report.samples
        if (messages := messages_of(sample.prompt)) in texts
    ]


@contextlib.asynccontextmanager
async def resident(runtime: Runtime, version: str | None) -> AsyncIterator[None]:
    """A version loaded and attested, and let go afterwards unless it is kept anyway.

    Whoever moves the pointer meanwhile is not made to wait: surplus adapters are unloaded then, this one too, and the
    comparison fails and is due again.
    """
    if version is None:
        yield
        return
    async with runtime.swapping:
        await make_ready(runtime, await asyncio.to_thread(runtime.store.adapters.get, version))
    try:
        yield
    finally:
        async with runtime.swapping:
            await unload_surplus(runtime)
