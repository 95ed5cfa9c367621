"""New answers for judges to look at: drawn from what is served, while it serves, and stored as they come."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from daemon.runtime import Runtime
from daemon.stages import progress
from judge.candidates import Asked, Draw, Purpose, sample_all
from judge.critique import revise_all, to_revise
from judge.defence import new_secret
from judge.instruct import write_prompts
from judge.judged import takes_base, wants_base
from judge.pairs import Answer, Preferences
from judge.prompts import choose_prompts
from judge.texts import Texts
from store.failpoints import failpoint
from store.records import Adapter, Completion, Iteration, Message, Role, Sampling, Source

#: Newest logged answers that prompts are chosen from.
LOG = 4000
#: Where the gap between best and worst answers is remembered from one iteration to the next.
GAP = "judge_gap"


@dataclass(frozen=True)
class Drawn:
    """New answers of an iteration: candidates, base's answers to some of the same prompts, revisions."""

    candidates: Sequence[Completion]
    base: Sequence[Completion]
    revisions: Sequence[tuple[Answer, Completion]]

    @property
    def completions(self) -> list[Completion]:
        return [*self.candidates, *self.base, *(revised for _, revised in self.revisions)]


async def draw(
    runtime: Runtime, iteration: Iteration, preferences: Preferences, active: Adapter | None, texts: Texts
) -> Drawn:
    """New answers from what is served, each stored as it is complete; what an earlier attempt stored is taken up."""
    settings, store, engine = runtime.config.judge, runtime.store, runtime.engine
    adapter = active.version if active is not None else None
    sampling = Sampling(
        max_tokens=settings.max_tokens,
        temperature=settings.temperature,
        top_p=settings.top_p,
        seed=runtime.config.policies.train.seed + iteration.id,
    )
    how = Draw(iteration.id, adapter, settings.candidates, sampling, runtime.clock())
    base_how = Draw(iteration.id, None, 1, sampling, runtime.clock(), Purpose.BASE)
    revise_how = Draw(iteration.id, adapter, 1, sampling, runtime.clock(), Purpose.REVISION)
    asked = await prompts(runtime, iteration, preferences, adapter)
    also_base = await from_base(runtime, asked) if adapter is not None else []
    work = to_revise(preferences.likings, texts.principles, count=settings.revisions, seed=iteration.id)
    already = await asyncio.to_thread(store.completions.samples, iteration.id)
    show = progress(runtime, iteration, "sample")
    done, total = 0, len(asked) + len(also_base) + len(work)

    async def keep(completion: Completion) -> None:
        nonlocal done
        await asyncio.to_thread(store.completions.begin, completion)
        failpoint("judge.sampled")
        done += 1
        await show(done, total)

    await show(done, total)
    candidates = await sample_all(engine, asked, how, already=already, keep=keep)
    base = await sample_all(engine, also_base, base_how, already=already, keep=keep)
    secret = new_secret()
    revised = await revise_all(engine, work, revise_how, secret=secret, already=already, keep=keep)
    disliked = [answer for answer, _ in work]
    return Drawn(candidates, base, list(zip(disliked, revised, strict=True)))


async def prompts(
    runtime: Runtime, iteration: Iteration, preferences: Preferences, adapter: str | None
) -> list[Asked]:
    """What is answered anew: prompts people asked, and those the model writes in their manner."""
    logged = await asyncio.to_thread(asked_by_people, runtime, iteration)
    chosen = await asyncio.to_thread(choose, runtime, iteration, preferences, logged)
    asked = [Asked(completion.messages, completion.id) for completion in chosen]
    return asked + await written_prompts(runtime, iteration, asked, logged, adapter)


def asked_by_people(runtime: Runtime, iteration: Iteration) -> list[Completion]:
    """The log up to the iteration's beginning: taken up again, it must choose the same prompts again."""
    before = iteration.created_at
    log = runtime.store.completions.recent(limit=LOG, source=Source.CHAT, before=before, done_only=True)
    return [completion for completion in log if completion.stored and completion.messages]


def choose(
    runtime: Runtime, iteration: Iteration, preferences: Preferences, logged: Sequence[Completion]
) -> list[Completion]:
    """Logged answers whose prompts are answered anew; half of them, if there are so many, people disliked."""
    config = runtime.config
    return choose_prompts(
        logged,
        count=config.judge.prompts,
        never_train=config.feedback.never_train,
        seed=iteration.id,
        budget=config.policies.engine.max_context - config.judge.max_tokens,
        disliked={item.answer.completion_id for item in preferences.likings if not item.label},
    )


async def written_prompts(
    runtime: Runtime,
    iteration: Iteration,
    asked: Sequence[Asked],
    logged: Sequence[Completion],
    adapter: str | None,
) -> list[Asked]:
    """Prompts the model writes itself, if configured; those of an earlier attempt are taken up."""
    count = runtime.config.judge.self_instruct
    if not count:
        return []
    drawn = await asyncio.to_thread(runtime.store.completions.samples, iteration.id)
    before = [one.messages for one in drawn.values() if one.metadata.get("self_instruct")]
    if before:
        return [Asked(messages, None) for messages in dict.fromkeys(before)]
    written = await write_prompts(
        runtime.engine,
        [item.prompt[-1].content for item in asked],
        count=count,
        adapter=adapter,
        seed=iteration.id,
        known=[completion.messages[-1].content for completion in logged],
    )
    return [Asked((Message(Role.USER, text),), None) for text in written]


async def from_base(runtime: Runtime, asked: Sequence[Asked]) -> list[Asked]:
    """The prompts that base answers too, once the model's own answers have grown alike."""
    known = await asyncio.to_thread(runtime.store.state.get, GAP) or {}
    if not wants_base(known.get("last"), known.get("first")):
        return []
    return [item for item in asked if takes_base(item.prompt, runtime.config.judge.pairs.base_rejected)]
