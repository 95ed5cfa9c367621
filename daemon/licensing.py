"""Who may judge in this iteration: every scorer held against people, before it is let near any training data.

The licence comes first because it is cheap: where nobody holds one, nothing is sampled and nothing is judged.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from daemon.opinions import OnProgress, Recorded, opinions, recorded
from daemon.runtime import Runtime
from judge.calibrate import Calibration, fit
from judge.humans import HumanItem, Humans, gather
from judge.injection import canary_questions, injection_rate
from judge.licence import Ruling, decide
from judge.measure import measure
from judge.panel import convene, opinion
from judge.scorer import Question, Score, Scorer, Scores
from judge.texts import digest
from store.db import Store
from store.failpoints import failpoint
from store.judging import Licence
from store.records import Completion

#: How the ensemble is named where scorers are listed.
PANEL = "panel"


@dataclass(frozen=True)
class Member:
    """A scorer with what it was measured at, and what its scores mean."""

    scorer: Scorer
    licence: Licence
    scale: Calibration
    on_people: Sequence[Scores] = ()
    on_canaries: Sequence[Scores] = ()


async def yardstick(runtime: Runtime) -> tuple[Humans, Recorded]:
    """What people said that judges are held against, and the recorded answers it is about."""
    config, store = runtime.config, runtime.store
    bounds = config.judge.licence

    def read() -> tuple[Humans, Recorded]:
        evidence = store.feedback.live(before=runtime.clock(), most=config.feedback.max_history)
        # More than count: the same label given twice (a file sent again) counts once.
        labels = store.labels.recent(4 * bounds.max_labels)
        named = {item.feedback.value for item in evidence if isinstance(item.feedback.value, str)}
        named |= {name for one in labels for name in (one.completion_id, one.other_id) if name is not None}
        others: Mapping[str, Completion] = store.completions.get_all(named)
        stored = {key: completion for key, completion in others.items() if completion.stored}
        humans = gather(
            evidence,
            labels,
            stored,
            feedback=config.feedback,
            weights=config.judge.weights,
            max_labels=bounds.max_labels,
        )
        return humans, recorded([*(item.completion for item in evidence), *stored.values()])

    return await asyncio.to_thread(read)


async def license_all(
    runtime: Runtime, iteration: int, scorers: Sequence[Scorer], show: Callable[[str], OnProgress]
) -> list[Member]:
    """Measure every scorer, write down its licence with all that decided it, and return those that hold one.

    Where several do, the panel they form has to hold one too: what each does well alone could fail together. If it
    does not, the one that agrees with people best judges alone.

    Args:
        runtime: what to work with.
        iteration: whose licences these are.
        scorers: to be measured.
        show: makes what is told of the progress of a named phase.
    """
    humans, known_as = await yardstick(runtime)
    members = [await examine(runtime, iteration, scorer, humans, known_as, show) for scorer in scorers]
    licensed = [member for member in members if member.licence.licensed]
    licences = [member.licence for member in members]
    if len(licensed) > 1:
        together, licensed = await asyncio.to_thread(convened, runtime, iteration, humans, licensed)
        licences.append(together)
    texts = {digest(text): (name, text) for one in scorers for name, text in one.texts.items()}
    metrics = {
        f"judge/{one.scorer}/{name.replace('/', '_')}": value
        for one in licences
        for name, value in {**one.measures, "licensed": float(one.licensed)}.items()
    }

    def write(tx: Store) -> None:
        for one in changed(tx.judgements.licence_history(), licences):
            action = "licensed" if one.licensed else "licence lost"
            tx.audit.add(actor="judge", action=action, subject=one.scorer, reason="; ".join(one.reasons))
        tx.judgements.keep_texts(texts, at=runtime.clock())
        tx.judgements.set_licences(iteration, licences)
        tx.metrics.add(iteration, metrics)

    await asyncio.to_thread(runtime.store.atomic, write)
    failpoint("judge.licensed")
    return licensed


async def licensed_in(runtime: Runtime, iteration: int, scorers: Sequence[Scorer]) -> list[Member]:
    """Those of the scorers that judged in an iteration, with the licences and scales it wrote down.

    None where any of those is missing among them, or is of another version now (settings that changed with a
    restart): who is left was not licensed to judge without the others.
    """
    licences = await asyncio.to_thread(runtime.store.judgements.licences, iteration)
    held = {one.scorer: one for one in licences if one.licensed and one.scorer != PANEL}
    members = [
        Member(scorer, held[scorer.name], Calibration.from_json(held[scorer.name].calibration))
        for scorer in scorers
        if scorer.name in held and held[scorer.name].version == scorer.version
    ]
    if len(members) < len(held):
        return []
    together = [one for one in licences if one.scorer == PANEL]
    return members if all(one.licensed for one in together) else [best(members)]


async def examine(
    runtime: Runtime,
    iteration: int,
    scorer: Scorer,
    humans: Humans,
    known_as: Recorded,
    show: Callable[[str], OnProgress],
) -> Member:
    """One scorer against people and against canaries."""
    bounds = runtime.config.judge.licence
    counted = count(humans.items)
    if counted["labels"] < bounds.min_labels or counted.get("balance") in (0.0, 1.0):
        # The first reason says it all; judging what cannot be measured by would only cost time.
        ruling = Ruling(licensed=False, reasons=decide(counted, bounds).reasons[:1])
        licence = licence_of(runtime, iteration, scorer, Standing(ruling, counted, fit([], [])))
        return Member(scorer, licence, fit([], []))
    on_people, on_canaries = [
        await opinions(runtime, iteration, scorer, asked, known_as=known_as, on_progress=show(phase))
        for asked, phase in (
            (humans.questions, f"license {scorer.name}: labels"),
            (canary_questions(), f"license {scorer.name}: canaries"),
        )
    ]

    def stand() -> Standing:
        measures = measured(runtime, iteration, humans.items, on_people, on_canaries)
        return Standing(decide(measures, bounds), measures, fit(humans.items, on_people))

    # On a thread: the libraries alone take seconds to import, and chat shares the event loop.
    standing = await asyncio.to_thread(stand)
    licence = licence_of(runtime, iteration, scorer, standing)
    return Member(scorer, licence, standing.scale, on_people, on_canaries)


def changed(history: Sequence[Licence], licences: Sequence[Licence]) -> list[Licence]:
    """Those that hold a licence and did not when last measured, or the other way about."""
    before: dict[str, bool] = {}
    for one in history:
        before.setdefault(one.scorer, one.licensed)
    return [one for one in licences if one.licensed != before.get(one.scorer, False)]


def count(items: Sequence[HumanItem]) -> dict[str, float]:
    """How many labels there are, and the share of good ones."""
    goods = [good for item in items for good in item.goods]
    found = {"labels": float(len(goods))}
    return {**found, "balance": sum(goods) / len(goods)} if goods else found


def measured(
    runtime: Runtime,
    iteration: int,
    items: Sequence[HumanItem],
    on_people: Sequence[Scores],
    on_canaries: Sequence[Scores],
) -> dict[str, float]:
    """Every number a licence is decided on."""
    confidence = runtime.config.judge.licence.confidence
    found = measure(items, on_people, confidence=confidence, seed=iteration)
    injection = injection_rate(on_canaries)
    return found if injection is None else {**found, "injection": injection}


@dataclass(frozen=True)
class Standing:
    """A scorer's verdict with the numbers and the scale behind it."""

    ruling: Ruling
    measures: dict[str, float]
    scale: Calibration


def licence_of(runtime: Runtime, iteration: int, scorer: Scorer, standing: Standing) -> Licence:
    """The record of it."""
    return Licence(
        iteration=iteration,
        scorer=scorer.name,
        version=scorer.version,
        licensed=standing.ruling.licensed,
        reasons=standing.ruling.reasons,
        measures=standing.measures,
        calibration=standing.scale.to_json(),
        texts={name: digest(text) for name, text in scorer.texts.items()},
        at=runtime.clock(),
    )


def convened(
    runtime: Runtime, iteration: int, humans: Humans, members: Sequence[Member]
) -> tuple[Licence, list[Member]]:
    """The panel's licence, and who judges: all of them, or without one the best alone."""
    together = panel_licence(runtime, iteration, humans, members)
    if together.licensed:
        return together, list(members)
    alone = best(members)
    reasons = (*together.reasons, f"{alone.scorer.name} judges alone")
    return replace(together, reasons=reasons), [alone]


def best(members: Sequence[Member]) -> Member:
    """The one that surely agrees with people most; of equals the one configured first."""
    return max(members, key=lambda member: member.licence.measures["auc_lower"])


def panel_licence(runtime: Runtime, iteration: int, humans: Humans, members: Sequence[Member]) -> Licence:
    """The ensemble held against the same people and canaries as its members."""
    on_people = panel_scores(runtime, humans.questions, members, [one.on_people for one in members])
    on_canaries = panel_scores(runtime, canary_questions(), members, [one.on_canaries for one in members])
    measures = measured(runtime, iteration, humans.items, on_people, on_canaries)
    ruling = decide(measures, runtime.config.judge.licence)
    return Licence(
        iteration=iteration,
        scorer=PANEL,
        version=digest(runtime.config.judge.combine, *(one.scorer.version for one in members)),
        licensed=ruling.licensed,
        reasons=ruling.reasons,
        measures=measures,
        calibration={"kind": runtime.config.judge.combine, "members": [one.scorer.name for one in members]},
        texts={},
        at=runtime.clock(),
    )


def panel_scores(
    runtime: Runtime,
    questions: Sequence[Question],
    members: Sequence[Member],
    scores: Sequence[Sequence[Scores]],
) -> list[Scores]:
    """What the members say together of every answer. `scores`: per member, per question."""
    found: list[Scores] = []
    for index, question in enumerate(questions):
        said = [opinion(each[index], member.scale) for member, each in zip(members, scores, strict=True)]
        panel = convene(said, runtime.config.judge.combine, answers=len(question.answers))
        found.append(tuple(None if value is None else Score(value) for value in panel.values()))
    return found
