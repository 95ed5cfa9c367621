"""New answers to questions people asked, drawn from the served model while it serves.

People come first: every answer is asked for at background priority, and where the engine's queue is full the wait
grows. Nothing is written here; each answer is handed over as a record the moment it is complete, under an id that
follows from what was asked and how, so that an iteration cut short finds what it already has.

Left out: sharing one prompt's key-value cache among its answers; that is the engine's business.
"""

import asyncio
import hashlib
import json
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from functools import partial
from typing import Any, TypeVar

from policies.engine import Delta, Engine, Priority, Usage
from store.errors import EngineBusy, Invalid
from store.records import Choice, Completion, CompletionStatus, Message, Sampling, Source

T = TypeVar("T")
Sleep = Callable[[float], Awaitable[None]]

#: Whose answers these are in the log.
PRINCIPAL = "honed"
#: Longest pause before a full queue is tried again, seconds.
LONGEST_PAUSE = 30.0
#: Answers asked for at once.
AT_ONCE = 8


class Purpose(StrEnum):
    """Why an answer was drawn. `base`: from the untouched model, to be the rejected side. `contest`: to hold a
    candidate's answer against."""

    CANDIDATES = "candidates"
    BASE = "base"
    REVISION = "revision"
    CONTEST = "contest"


@dataclass(frozen=True, slots=True)
class Asked:
    """A prompt to answer anew. `prompt_of`: the logged completion it was asked in; None if the model wrote it."""

    prompt: tuple[Message, ...]
    prompt_of: str | None


@dataclass(frozen=True, slots=True)
class Draw:
    """How an iteration draws answers.

    `count` answers to each prompt from `adapter` (None is base); every answer's seed is derived from
    `sampling.seed`. `at`: the time the answers are dated, seconds since the epoch.
    """

    iteration: int
    adapter: str | None
    count: int
    sampling: Sampling
    at: float
    purpose: Purpose = Purpose.CANDIDATES


def derived_seed(*parts: object) -> int:
    """31 bits from a stable hash of JSON-like values: every engine takes that much."""
    return int.from_bytes(_digest(*parts)[:4], "big") >> 1


def sample_id(draw: Draw, engine: Engine, *asked: object) -> str:
    """The id of an answer before it is drawn: whatever could change the text changes it."""
    how = asdict(replace(draw, at=0.0))
    return f"sample-{draw.iteration:04d}-{_digest(engine.fingerprint, how, *asked).hex()[:20]}"


def recorded(
    draw: Draw,
    engine: Engine,
    *,
    id: str,
    messages: tuple[Message, ...],
    metadata: Mapping[str, Any],
) -> Completion:
    """A record of answers of the model's own, without them yet."""
    return Completion(
        id=id,
        created_at=draw.at,
        principal=PRINCIPAL,
        source=Source.SAMPLE,
        messages=messages,
        sampling=draw.sampling,
        adapter=draw.adapter,
        engine=engine.fingerprint,
        status=CompletionStatus.DONE,
        metadata={"iteration": draw.iteration, "purpose": draw.purpose.value, **metadata},
    )


async def sample(engine: Engine, asked: Asked, draw: Draw, *, sleep: Sleep = asyncio.sleep) -> Completion:
    """`draw.count` answers to one prompt, as a record ready to be stored.

    Raises:
        Invalid: the engine does not take the prompt (its length, its roles).
    """
    turns = [message.as_dict() for message in asked.prompt]
    seeds = [derived_seed(draw.sampling.seed, draw.purpose, turns, index) for index in range(draw.count)]
    answers = await together(
        [
            answer(engine, asked.prompt, replace(draw.sampling, seed=seed), adapter=draw.adapter, sleep=sleep)
            for seed in seeds
        ]
    )
    return replace(
        _unanswered(engine, asked, draw),
        choices=tuple(replace(choice, index=index) for index, (choice, _) in enumerate(answers)),
        prompt_tokens=max(usage.prompt_tokens for _, usage in answers),
        completion_tokens=sum(usage.completion_tokens for _, usage in answers),
    )


async def sample_all(
    engine: Engine,
    asked: Sequence[Asked],
    draw: Draw,
    *,
    already: Mapping[str, Completion],
    keep: Callable[[Completion], Awaitable[None]] | None = None,
    on_progress: Callable[[int], None] | None = None,
) -> list[Completion]:
    """Answer every prompt, in order, the same one once; those found in `already` are not drawn again.

    A prompt the engine refuses comes back as a failed record without answers, its reason in the metadata: one long
    conversation must not cost an iteration all the others, and is not tried again when it resumes.

    Args:
        engine: with `draw.adapter` resident.
        asked: the prompts.
        draw: how.
        already: stored completions by id, of an earlier attempt at this iteration.
        keep: awaited with each new record as it is complete, to store it before the next; calls may overlap.
        on_progress: told how many prompts are done so far.
    """
    pending = {_unanswered(engine, item, draw).id: item for item in asked}
    work = {name: partial(_sample_or_refusal, engine, item, draw) for name, item in pending.items()}
    return await once_each(
        work, already=already, at_once=AT_ONCE // draw.count, keep=keep, on_progress=on_progress
    )


async def once_each(
    work: Mapping[str, Callable[[], Coroutine[Any, Any, Completion]]],
    *,
    already: Mapping[str, Completion],
    at_once: int,
    keep: Callable[[Completion], Awaitable[None]] | None = None,
    on_progress: Callable[[int], None] | None = None,
) -> list[Completion]:
    """The completion of every id, in order: the one in `already`, or what its work makes, `at_once` at a time."""
    slots = asyncio.Semaphore(max(1, at_once))
    done = 0

    async def one(name: str, make: Callable[[], Coroutine[Any, Any, Completion]]) -> Completion:
        nonlocal done
        found = already.get(name)
        if found is None:
            async with slots:
                found = await make()
                if keep is not None:
                    await keep(found)
        done += 1
        if on_progress is not None:
            on_progress(done)
        return found

    return await together([one(name, make) for name, make in work.items()])


async def answer(
    engine: Engine,
    messages: Sequence[Message],
    sampling: Sampling,
    *,
    adapter: str | None,
    sleep: Sleep = asyncio.sleep,
) -> tuple[Choice, Usage]:
    """One whole answer at background priority, waiting for as long as the engine's queue is full."""
    pause = 0.0
    while True:
        try:
            stream = await engine.generate(messages, sampling, adapter=adapter, priority=Priority.BACKGROUND)
            break
        except EngineBusy as busy:
            pause = min(LONGEST_PAUSE, max(busy.retry_after, 2 * pause))
            await sleep(pause)
    pieces: list[str] = []
    last = Delta("")
    try:
        async for last in stream:
            pieces.append(last.text)
    finally:
        # Cancelled half-way, the answer would go on being written for nobody.
        closer = getattr(stream, "aclose", None)
        if closer is not None:
            await closer()
    usage = last.usage or Usage(0, 0)
    return Choice(0, "".join(pieces), last.finish_reason, usage.completion_tokens), usage


async def together(work: Sequence[Coroutine[Any, Any, T]]) -> list[T]:
    """Run all at once, results in order. The first failure cancels the rest and is raised as it is."""
    tasks = [asyncio.ensure_future(item) for item in work]
    try:
        return list(await asyncio.gather(*tasks))
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _sample_or_refusal(engine: Engine, asked: Asked, draw: Draw) -> Completion:
    try:
        return await sample(engine, asked, draw)
    except Invalid as error:
        pending = _unanswered(engine, asked, draw)
        told = {**pending.metadata, "refused": str(error)}
        return replace(pending, status=CompletionStatus.FAILED, metadata=told)


def _unanswered(engine: Engine, asked: Asked, draw: Draw) -> Completion:
    turns = [message.as_dict() for message in asked.prompt]
    metadata = {"prompt_of": asked.prompt_of, "self_instruct": asked.prompt_of is None}
    name = sample_id(draw, engine, turns)
    return recorded(draw, engine, id=name, messages=asked.prompt, metadata=metadata)


def _digest(*parts: object) -> bytes:
    return hashlib.sha256(json.dumps(parts, ensure_ascii=False).encode()).digest()
