"""What an iteration's candidates train on: new feedback mixed with past feedback and with base's own answers.

Reads the store and lets `judge.replay` choose. The seed is the iteration's number, so an iteration collected again
after a crash chooses the same from the same facts.
"""

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from daemon.runtime import Known
from judge.background import Background
from judge.pairs import Preferences, build
from judge.replay import (
    Learned,
    Mix,
    anchor_count,
    anchors,
    choose,
    mixed,
    replay_count,
    replayable,
    spoken_against,
    unlimited,
)
from store.records import AnchorUse, Completion, Evidence, Example, Iteration, Split

#: The newest of base's answers that anchors are chosen from.
BASE_ANSWERS = 2000


@dataclass(frozen=True, slots=True)
class Run:
    """One candidate to be trained. `version`: its server-made name."""

    version: str
    rebuilt: bool
    mix: Mix


@dataclass(frozen=True, slots=True)
class Past:
    """What mixes are made of. `new`: nobody's share capped yet. `barred`: answers that anchor nothing."""

    new: Preferences
    pool: tuple[Learned, ...]
    base_answers: tuple[Completion, ...]
    barred: frozenset[str]


def look_back(
    runtime: Known, evidence: Sequence[Evidence], others: Mapping[str, Completion], background: Background
) -> Past:
    """Read what may be replayed beside this new evidence, and what may be an anchor."""
    store, config = runtime.store, runtime.config.feedback
    new = build(evidence, others, config.model_copy(update={"principal_share_floor": 1.0}), background)
    live = store.feedback.live(before=runtime.clock(), most=config.max_history)
    named = store.completions.get_all(e.feedback.value for e in live if isinstance(e.feedback.value, str))
    known = {key: completion for key, completion in named.items() if completion.stored}
    fresh = {(item.feedback.completion_id, item.feedback.choice_index) for item in evidence}
    pool = replayable(build(live, known, unlimited(config), background), fresh, store.feedback.learned())
    answers = store.completions.of_base(limit=BASE_ANSWERS)
    return Past(new, tuple(pool), tuple(answers), frozenset(spoken_against(live)))


def continued(runtime: Known, iteration: int, past: Past, *, judged: int) -> Mix:
    """The mix that continues the incumbent. Before anything was learned nothing can be forgotten: all of it is new.

    `judged`: pairs that judges add to the new examples.
    """
    train = runtime.config.policies.train
    new = len(past.new.likings) + len(past.new.pairs) + judged
    count = replay_count(new, replay_share=train.replay_share, anchor_share=train.anchor_share)
    return assemble(runtime, iteration, past, count, judged=judged)


def rebuilt(runtime: Known, iteration: int, past: Past, *, judged: int) -> Mix:
    """The mix that a candidate is rebuilt from base on: everything, up to `rebuild_examples`, new ones first."""
    room = runtime.config.policies.train.rebuild_examples
    new = len(past.new.likings) + len(past.new.pairs) + judged
    return assemble(runtime, iteration, past, max(0, room - new), judged=judged)


def runs(runtime: Known, iteration: Iteration, past: Past, *, judged: int, rebuild: bool) -> list[Run]:
    """The candidates of an iteration: the one that continues the incumbent, then the rebuilt one."""
    mixes = [continued(runtime, iteration.id, past, judged=judged)]
    if rebuild:
        mixes.append(rebuilt(runtime, iteration.id, past, judged=judged))
    names = [f"it{iteration.id:04d}-{secrets.token_hex(4)}" for _ in mixes]
    return [Run(name, number > 0, mix) for number, (name, mix) in enumerate(zip(names, mixes, strict=True))]


def assemble(runtime: Known, iteration: int, past: Past, count: int, *, judged: int) -> Mix:
    """New examples, `count` of the past ones at the most, and anchors where there is a past."""
    feedback, train = runtime.config.feedback, runtime.config.policies.train
    replayed = choose(past.pool, count, seed=iteration)
    mix = mixed(past.new, replayed, floor=feedback.principal_share_floor)
    if not past.pool:
        return mix
    learned = {event.completion_id for item in mix.examples for event in item.events}
    wanted = anchor_count(len(mix.examples) + judged, anchor_share=train.anchor_share)
    found = anchors(
        past.base_answers,
        past.barred | learned,
        wanted,
        seed=iteration,
        never_train=feedback.never_train,
    )
    return replace(mix, anchors=found)


def counts(mix: Mix) -> dict[str, int]:
    """What the mix adds to the new examples, for the iteration's counts."""
    repeated = [item for item in mix.examples if item.events[0].id in mix.replayed]
    return {"replayed": len(repeated), "anchors": len(mix.anchors)}


def events(iteration: Iteration, mix: Mix) -> dict[tuple[str, str], Example]:
    """Which event trained, or tested, what: one row per event and form."""
    rows = [
        Example(iteration.id, event.id, event.completion_id, split, "kto", liking.label, liking.weight)
        for split, likings in ((Split.TRAIN, mix.likings), (Split.NEVER_TRAIN, mix.heldout))
        for liking in likings
        for event in liking.events
    ]
    rows += [
        Example(iteration.id, event.id, event.completion_id, Split.TRAIN, "dpo", None, pair.weight)
        for pair in mix.pairs
        for event in pair.events
    ]
    return {
        (row.feedback_id, row.form): replace(row, replayed=row.feedback_id in mix.replayed) for row in rows
    }


def lineage(iteration: Iteration, runs: Sequence[Run]) -> list[Example]:
    """The rows of all candidates. What not all of them learned from names the one that did.

    An event of several has the weight it has in the first.
    """
    found = [(run.version, events(iteration, run.mix)) for run in runs]
    rows: dict[tuple[str, str], Example] = {}
    for version, own in found:
        for key, row in own.items():
            shared = all(key in other for _, other in found)
            rows.setdefault(key, row if shared else replace(row, version=version))
    return list(rows.values())


def anchor_lineage(iteration: Iteration, runs: Sequence[Run]) -> list[AnchorUse]:
    """The same of the anchors."""
    found = [(run.version, [one.completion_id for one in run.mix.anchors]) for run in runs]
    uses = [
        AnchorUse(iteration.id, name, None if all(name in other for _, other in found) else version)
        for version, names in found
        for name in names
    ]
    return list(dict.fromkeys(uses))
