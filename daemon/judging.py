"""The judge's part of an iteration: who may judge, new answers, what the judges make of them, the pairs that train.

`judge` is the table of contents. It adds to what people said and never stands in its way: where nobody holds a
licence nothing is sampled, and where judging fails the iteration goes on with people's evidence and says so.
"""

import asyncio
import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

from daemon.drawing import GAP, Drawn, draw
from daemon.licensing import Member, license_all
from daemon.opinions import Recorded, opinions, recorded
from daemon.runtime import Runtime
from daemon.stages import move, progress
from judge.config import JudgeConfig
from judge.critique import revision_question
from judge.judged import (
    JudgedQuestion,
    TrainingPair,
    answers_of,
    as_pair,
    cap_share,
    gap,
    one_per_prompt,
    outranked,
    pairs_from,
    ranking_agreement,
)
from judge.pairs import Answer, Preferences
from judge.pairs import build as build_preferences
from judge.panel import Panel, convene, opinion
from judge.scorer import Question, Scorer, Scores
from judge.scorers import build_scorers
from judge.texts import read_texts
from policies.remote import RemoteModel
from store.errors import HonedError
from store.failpoints import failpoint
from store.judging import JudgedPair
from store.records import BASE, Adapter, Completion, Iteration, Stage

log = logging.getLogger(__name__)


#: Why judged pairs do not train when another version came to be served while they were judged.
INCUMBENT_CHANGED = "incumbent_changed"


@dataclass(frozen=True)
class Judged:
    """What judging adds to an iteration.

    `records`: every pair considered, to be written down with the snapshot. `known`: the answers they name, by id.
    `adapter`: whose answers they are. `note`: why nothing was added, if that is worth telling.
    """

    records: tuple[JudgedPair, ...] = ()
    known: Mapping[str, Completion] = field(default_factory=dict)
    adapter: str | None = None
    counts: Mapping[str, int] = field(default_factory=dict)
    note: str | None = None

    @property
    def pairs(self) -> tuple[TrainingPair, ...]:
        """Those that train."""
        return tuple(as_pair(pair, self.known) for pair in self.records if pair.dropped is None)


async def judge(runtime: Runtime, iteration: Iteration, preferences: Preferences) -> Judged:
    """License, sample, judge, pair. What fails here never fails the iteration: people's evidence is enough."""
    if not runtime.config.judge.enabled:
        return Judged()
    if iteration.attempt >= runtime.config.daemon.schedule.max_attempts:
        return Judged(note="the last attempt: not judged, in case judging is what kept interrupting it")
    try:
        return await judged(runtime, iteration, preferences)
    except Exception as error:  # whatever it is, votes would otherwise stop training until it is mended
        log.exception("iteration %d: judging failed", iteration.id)
        said = str(error) if isinstance(error, HonedError) else f"{type(error).__name__}: {error}"
        reason = f"judging failed, nothing of it trains: {said}"
        subject = f"iteration {iteration.id}"
        await asyncio.to_thread(
            runtime.store.audit.add, actor="loop", action="judging failed", subject=subject, reason=reason
        )
        return Judged(note=reason)


async def judged(runtime: Runtime, iteration: Iteration, preferences: Preferences) -> Judged:
    """The steps, in order."""
    texts = await asyncio.to_thread(
        read_texts, runtime.config.judge.constitution, runtime.config.judge.rubrics
    )
    active = await asyncio.to_thread(runtime.store.adapters.active)
    scorers = build(runtime, iteration, judge_adapter(runtime, active))
    members = await license_all(runtime, iteration.id, scorers, partial(progress, runtime, iteration))
    if not members:
        return Judged(note="no scorer holds a licence: only people's feedback trains")
    await move(runtime, iteration, Stage.SAMPLING)
    drawn = await draw(runtime, iteration, preferences, active.version if active else None, texts)
    await move(runtime, iteration, Stage.JUDGING)
    questions = await ask(runtime, iteration, members, drawn)
    failpoint("judge.scored")
    agreement = await agreement_with_previous(runtime, iteration, members, active, drawn)
    known = await completions_of(runtime, drawn)
    said = await asyncio.to_thread(ever_said, runtime)
    found = pairs_from(
        questions,
        runtime.config.judge.pairs,
        iteration=iteration.id,
        consistency=1.0 if agreement is None else agreement,
    )
    pairs = one_per_prompt(outranked(found, said, known), known)
    pairs = cap_share(pairs, people_weigh(preferences), runtime.config.judge.pairs.max_share)
    await remember_gap(runtime, iteration, members, questions, agreement)
    failpoint("judge.paired")
    return Judged(tuple(pairs), known, drawn.adapter, counts(drawn, pairs))


def people_weigh(preferences: Preferences) -> float:
    """The summed weight of everything that trains from people."""
    return sum(item.weight for item in preferences.likings) + sum(item.weight for item in preferences.pairs)


def held_to(judged: Judged, incumbent: str | None) -> Judged:
    """What is left of it when this version is served now.

    Answers of a version that was rolled back meanwhile must not teach the one that took its place.
    """
    if not judged.records or judged.adapter == incumbent:
        return judged
    records = tuple(replace(pair, dropped=pair.dropped or INCUMBENT_CHANGED) for pair in judged.records)
    counted = {**judged.counts, "judged_pairs": 0, "judged_dropped": len(records)}
    served, before = incumbent or BASE, judged.adapter or BASE
    note = f"{served} came to be served while answers of {before} were judged: they do not train"
    return replace(judged, records=records, counts=counted, note=note)


def ever_said(runtime: Runtime) -> Preferences:
    """Everything people ever said on the training side, learned from or not: it outranks a judge for good."""
    store, config = runtime.store, runtime.config.feedback
    evidence = store.feedback.live(before=runtime.clock(), most=config.max_history)
    named = store.completions.get_all(e.feedback.value for e in evidence if isinstance(e.feedback.value, str))
    others = {key: completion for key, completion in named.items() if completion.stored}
    everything = max(config.max_examples, 2 * len(evidence), 2)
    return build_preferences(evidence, others, config.model_copy(update={"max_examples": everything}))


def build(runtime: Runtime, iteration: Iteration, adapter: str | None, spent: int = 0) -> tuple[Scorer, ...]:
    """The configured scorers on the judge's weights. `spent`: calls of an external judge that were made before."""
    settings = runtime.config.judge
    left = max(0, settings.external.max_calls - spent)
    settings = settings.model_copy(
        update={"external": settings.external.model_copy(update={"max_calls": left})}
    )
    endpoint = endpoint_of(settings)
    # Not the iteration's number: a seed that moves would make every score a new one, and none could be kept.
    seed = runtime.config.policies.train.seed
    epoch = str(iteration.id)
    return build_scorers(settings, runtime.engine, adapter=adapter, seed=seed, endpoint=endpoint, epoch=epoch)


def endpoint_of(settings: JudgeConfig) -> RemoteModel | None:
    """The external judge's model, its key from the environment; None where it does not judge.

    Raises:
        ConfigError: not an address, or a key that cannot be sent.
    """
    if "external" not in settings.scorers:
        return None
    external = settings.external
    return RemoteModel(
        external.url,
        external.model,
        key=os.environ.get(external.key_env),
        timeout_s=external.timeout_s,
        retries=external.retries,
    )


def check_judge(settings: JudgeConfig) -> None:
    """Tell what is wrong with the judge's texts or endpoint at the start, not at the first iteration.

    Raises:
        ConfigError: a text cannot be read, or the endpoint cannot be asked.
    """
    read_texts(settings.constitution, settings.rubrics)
    endpoint_of(settings)


def judge_adapter(runtime: Runtime, active: Adapter | None) -> str | None:
    """Whose weights judge: base's, or those that are served."""
    served = active.version if active is not None else None
    return served if runtime.config.judge.weights == "incumbent" else None


@dataclass(frozen=True)
class Group:
    """Answers judged together. `base`: places of those drawn from base; `disliked`: what a revision revises."""

    answers: tuple[Answer, ...]
    base: frozenset[int] = frozenset()
    disliked: Answer | None = None
    revised: Completion | None = None

    @property
    def question(self) -> Question:
        return Question(self.answers[0].prompt, tuple(answer.text for answer in self.answers))


def groups(drawn: Drawn) -> list[Group]:
    """Every question there is to judge: answers to one prompt, and each revision beside what it revises."""
    from_base = {completion.messages: answers_of(completion) for completion in drawn.base}
    found = []
    for completion in drawn.candidates:
        own, base = answers_of(completion), from_base.get(completion.messages, ())
        if own:
            places = range(len(own), len(own) + len(base))
            found.append(Group((*own, *base), frozenset(places)))
    for disliked, revised in drawn.revisions:
        if answers := answers_of(revised):
            found.append(Group((disliked, answers[0]), disliked=disliked, revised=revised))
    return found


async def ask(
    runtime: Runtime, iteration: Iteration, members: Sequence[Member], drawn: Drawn
) -> list[JudgedQuestion]:
    """What the licensed scorers say together of every question."""
    asked = groups(drawn)
    said = await scores_of(runtime, iteration, [member.scorer for member in members], asked, drawn)
    questions = []
    for index, group in enumerate(asked):
        panel = panel_of(runtime, members, [scores[index] for scores in said])
        if group.disliked is not None and group.revised is not None:
            revision = revision_question(group.revised, group.disliked, panel)
            questions += [revision] if revision is not None else []
        else:
            questions.append(JudgedQuestion(group.answers, panel, base=group.base))
    return questions


async def scores_of(
    runtime: Runtime, iteration: Iteration, scorers: Sequence[Scorer], asked: Sequence[Group], drawn: Drawn
) -> list[list[Scores]]:
    """Each scorer's scores of each group."""
    known_as: Recorded = recorded(drawn.completions)
    disliked = {
        (item.prompt, item.text): (item.completion_id, item.choice_index) for item, _ in drawn.revisions
    }
    known_as = Recorded({**disliked, **known_as.places})
    show = progress(runtime, iteration, "judge")
    questions = [group.question for group in asked]
    return [
        await opinions(runtime, iteration.id, scorer, questions, known_as=known_as, on_progress=show)
        for scorer in scorers
    ]


def panel_of(runtime: Runtime, members: Sequence[Member], scores: Sequence[Scores]) -> Panel:
    """What the members say together of one question. `scores`: each member's, of all its answers."""
    said = [opinion(each, member.scale) for member, each in zip(members, scores, strict=True)]
    return convene(said, runtime.config.judge.combine, answers=len(scores[0]))


async def agreement_with_previous(
    runtime: Runtime, iteration: Iteration, members: Sequence[Member], active: Adapter | None, drawn: Drawn
) -> float | None:
    """CREAM's C: how far this judge ranks the candidates as the one before it did.

    Base is the same every time: 1. None where the version before is not in the engine any more.
    """
    judging = judge_adapter(runtime, active)
    if judging is None or active is None:
        return 1.0
    if active.parent is not None and active.parent not in await runtime.engine.resident():
        return None
    asked = [group for group in groups(drawn) if group.disliked is None]
    now = await scores_of(runtime, iteration, [member.scorer for member in members], asked, drawn)
    earlier = {one.name: one for one in build(runtime, iteration, active.parent)}
    # An endpoint judges with weights of its own, then as now.
    previous = [one.scorer if one.scorer.name == "external" else earlier[one.scorer.name] for one in members]
    then = await scores_of(runtime, iteration, previous, asked, drawn)
    return ranking_agreement(
        [
            (
                standings(panel_of(runtime, members, [each[index] for each in now])),
                standings(panel_of(runtime, members, [each[index] for each in then])),
            )
            for index in range(len(asked))
        ]
    )


def standings(panel: Panel) -> list[float | None]:
    """Where each answer stands among the others."""
    return [panel.standing(place) for place in range(panel.answers)]


async def completions_of(runtime: Runtime, drawn: Drawn) -> dict[str, Completion]:
    """Every answer a pair can name: those drawn, and those that were revised."""
    revised = {answer.completion_id for answer, _ in drawn.revisions}
    logged = await asyncio.to_thread(runtime.store.completions.get_all, revised)
    return {**logged, **{completion.id: completion for completion in drawn.completions}}


def counts(drawn: Drawn, pairs: Sequence[JudgedPair]) -> dict[str, int]:
    """For the iteration's data counts."""
    return {
        "judged_prompts": len(drawn.candidates),
        "judged_answers": sum(len(completion.choices) for completion in drawn.candidates),
        "judged_pairs": sum(pair.dropped is None for pair in pairs),
        "judged_dropped": sum(pair.dropped is not None for pair in pairs),
        "revisions": sum(bool(answers_of(revised)) for _, revised in drawn.revisions),
    }


async def remember_gap(
    runtime: Runtime,
    iteration: Iteration,
    members: Sequence[Member],
    questions: Sequence[JudgedQuestion],
    agreement: float | None,
) -> None:
    """Note how far best and worst lie apart: when that halves, the model's answers have grown alike."""
    found = gap(questions)
    store, versions = runtime.store, [member.scorer.version for member in members]

    def write() -> None:
        numbers = {"judge/consistency": agreement, "judge/gap": found}
        store.metrics.add(iteration.id, {name: value for name, value in numbers.items() if value is not None})
        if found is None:
            return
        known = store.state.get(GAP) or {}
        # Another panel measures on another scale: the comparison starts anew.
        first = known.get("first", found) if known.get("panel") == versions else found
        store.state.set(GAP, {"panel": versions, "first": first, "last": found})

    await asyncio.to_thread(write)
