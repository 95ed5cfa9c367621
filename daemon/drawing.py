"""New answers for judges to look at: drawn from what is served, while it serves, and stored as they come.

What is drawn is planned once and written down, so that an iteration taken up after a crash goes on with the same
prompts, whatever people have said in between.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial

from daemon.runtime import Runtime
from daemon.stages import progress, to_its_end
from judge.candidates import Asked, Draw, Purpose, sample_all
from judge.critique import revise_all, to_revise
from judge.defence import new_secret
from judge.instruct import write_prompts
from judge.judged import answer_at, takes_base, wants_base
from judge.pairs import Answer, Preferences
from judge.prompts import SetAside, choose_prompts
from judge.texts import Principle, Texts
from store.failpoints import failpoint
from store.records import Completion, Iteration, Message, Role, Sampling, Source

#: Newest logged answers that prompts are chosen from.
LOG = 4000
#: Where the gap between best and worst answers is remembered from one iteration to the next.
GAP = "judge_gap"
#: Where the running iteration's plan is.
PLAN = "judge_plan"


@dataclass(frozen=True)
class Plan:
    """What an iteration draws, and from whom.

    `prompts`: ids of the logged answers whose prompts are answered anew. `written`: prompts of the model's own.
    `base`: whether base answers some of them too. `revise`: disliked answers (completion id, choice index) and the
    id of the principle each is held against.
    """

    adapter: str | None
    prompts: list[str]
    written: list[str]
    base: bool
    revise: list[tuple[str, int, str]]


@dataclass(frozen=True)
class Drawn:
    """New answers of an iteration: candidates, base's answers to some of the same prompts, revisions."""

    adapter: str | None
    candidates: Sequence[Completion]
    base: Sequence[Completion]
    revisions: Sequence[tuple[Answer, Completion]]

    @property
    def completions(self) -> list[Completion]:
        return [*self.candidates, *self.base, *(revised for _, revised in self.revisions)]


async def draw(
    runtime: Runtime, iteration: Iteration, preferences: Preferences, adapter: str | None, texts: Texts
) -> Drawn:
    """New answers, each stored as it is complete; what an earlier attempt planned and stored is taken up.

    Args:
        runtime: what to work with.
        iteration: whose answers these are.
        preferences: what people said; disliked answers are asked again and revised first.
        adapter: the version that is served; None is base.
        texts: the constitution among them.
    """
    settings, store, engine = runtime.config.judge, runtime.store, runtime.engine
    plan = await planned(runtime, iteration, preferences, adapter, texts)
    sampling = Sampling(
        max_tokens=settings.max_tokens,
        temperature=settings.temperature,
        top_p=settings.top_p,
        seed=runtime.config.policies.train.seed + iteration.id,
    )
    how = Draw(iteration.id, plan.adapter, settings.candidates, sampling, runtime.clock())
    base_how = Draw(iteration.id, None, 1, sampling, runtime.clock(), Purpose.BASE)
    revise_how = Draw(iteration.id, plan.adapter, 1, sampling, runtime.clock(), Purpose.REVISION)
    asked = await asyncio.to_thread(asked_in, runtime, plan)
    share = settings.pairs.base_rejected
    also_base = [item for item in asked if plan.base and takes_base(item.prompt, share)]
    work = await asyncio.to_thread(revised_in, runtime, plan, texts)
    already = await asyncio.to_thread(store.completions.samples, iteration.id)
    show = progress(runtime, iteration, "sample")
    done, total = len(already), len(asked) + len(also_base) + len(work)

    async def keep(completion: Completion) -> None:
        nonlocal done
        await to_its_end(partial(store.completions.begin, completion))
        failpoint("judge.sampled")
        done += 1
        await show(done, total)

    await show(done, total)
    candidates = await sample_all(engine, asked, how, already=already, keep=keep)
    base = await sample_all(engine, also_base, base_how, already=already, keep=keep)
    secret = new_secret()
    revised = await revise_all(engine, work, revise_how, secret=secret, already=already, keep=keep)
    disliked = [answer for answer, _ in work]
    return Drawn(plan.adapter, candidates, base, list(zip(disliked, revised, strict=True)))


async def planned(
    runtime: Runtime, iteration: Iteration, preferences: Preferences, adapter: str | None, texts: Texts
) -> Plan:
    """The iteration's plan: the one written down by an earlier attempt, or a new one, written down now."""
    store = runtime.store
    written = await asyncio.to_thread(store.state.get, PLAN)
    if written is not None and written["iteration"] == iteration.id:
        return Plan(**written["plan"])
    plan = await make_plan(runtime, iteration, preferences, adapter, texts)
    await asyncio.to_thread(store.state.set, PLAN, {"iteration": iteration.id, "plan": asdict(plan)})
    return plan


async def make_plan(
    runtime: Runtime, iteration: Iteration, preferences: Preferences, adapter: str | None, texts: Texts
) -> Plan:
    """Prompts people asked, those the model writes in their manner, and the disliked answers to revise."""
    config = runtime.config
    logged = await asyncio.to_thread(asked_by_people, runtime, preferences)
    set_aside = SetAside(logged, config.feedback.never_train)
    disliked = [item for item in preferences.likings if not item.label]
    chosen = await asyncio.to_thread(
        choose_prompts,
        logged,
        count=config.judge.prompts,
        never_train=config.feedback.never_train,
        seed=iteration.id,
        budget=config.policies.engine.max_context - config.judge.max_tokens,
        disliked={item.answer.completion_id for item in disliked},
    )
    written = await write_prompts(
        runtime.engine,
        [completion.messages[-1].content for completion in chosen],
        count=config.judge.self_instruct,
        adapter=adapter,
        seed=iteration.id,
        known=[completion.messages[-1].content for completion in logged],
    )
    # A question that tests the model must not be taught to it through the revision of another answer to it.
    open_ = [item for item in disliked if not set_aside.holds(item.answer.prompt[-1].content)]
    work = to_revise(open_, texts.principles, count=config.judge.revisions, seed=iteration.id)
    revise = [(answer.completion_id, answer.choice_index, principle.id) for answer, principle in work]
    base = adapter is not None and await asyncio.to_thread(answers_grew_alike, runtime)
    return Plan(adapter, [completion.id for completion in chosen], written, base, revise)


def asked_by_people(runtime: Runtime, preferences: Preferences) -> list[Completion]:
    """The newest of the log, and every answer set aside that people voted on, however old."""
    store = runtime.store
    log = store.completions.recent(limit=LOG, source=Source.CHAT)
    held = store.completions.get_all(item.answer.completion_id for item in preferences.heldout)
    known = {completion.id: completion for completion in (*held.values(), *log)}
    return [completion for completion in known.values() if completion.stored and completion.messages]


def answers_grew_alike(runtime: Runtime) -> bool:
    """Whether the gap between best and worst had halved when last measured."""
    known = runtime.store.state.get(GAP) or {}
    return wants_base(known.get("last"), known.get("first"))


def asked_in(runtime: Runtime, plan: Plan) -> list[Asked]:
    """The plan's prompts; one whose text is gone since (forgotten) is left out."""
    logged = runtime.store.completions.get_all(plan.prompts)
    asked = [Asked(logged[id].messages, id) for id in plan.prompts if id in logged and logged[id].messages]
    return asked + [Asked((Message(Role.USER, text),), None) for text in plan.written]


def revised_in(runtime: Runtime, plan: Plan, texts: Texts) -> list[tuple[Answer, Principle]]:
    """The plan's disliked answers with their principles; one whose text or principle is gone is left out."""
    logged = runtime.store.completions.get_all(id for id, _, _ in plan.revise)
    principles = {principle.id: principle for principle in texts.principles}
    found = []
    for id, index, name in plan.revise:
        answer = answer_at(logged[id], index) if id in logged else None
        if answer is not None and name in principles:
            found.append((answer, principles[name]))
    return found
