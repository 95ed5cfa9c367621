"""What operators are asked to compare next: the log's pairs of answers, and what scorers and traffic say of them.

Read anew for every look. Only the newest answers are looked at, which bounds what a look costs.
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache

from daemon.clusters import cluster_prompts
from daemon.config import Config
from judge.calibrate import Calibration
from judge.prompts import may_measure
from judge.queue import (
    Candidate,
    Given,
    Place,
    Scale,
    choose,
    disagreement,
    opinions_of,
    pairs_of,
    traffic_of,
)
from store.db import Store
from store.judging import Label, Queue, QueueItem, Shown
from store.records import Completion, IntentKind, Source

#: Newest answers of each source that pairs are made of, and newest questions that traffic is counted in.
ANSWERS, ASKED = 1000, 400
#: Prompts whose subjects are told, those that scorers leave the most open; what the others are about is not asked.
PROMPTS = 200
#: Subjects told apart: about one for so many questions, and so many at the most.
PER_CLUSTER, SUBJECTS = 10, 40
#: Labels looked at for what is settled already.
LABELS = 10_000
#: Without a calibration a scorer's scores say which answer it prefers, and not how surely.
UNSURE = 0.75


def offer(store: Store, config: Config, limit: int) -> Queue:
    """The next `limit` pairs to compare, or why there are none."""
    settled = settled_places(store)
    logged = [
        one
        for source in (Source.CHAT, Source.SAMPLE)
        for one in store.completions.recent(limit=ANSWERS, source=source, done_only=True)
        if one.stored and one.messages
    ]
    fit = [one for one in logged if may_measure(one, config.judge.weights, config.feedback.never_train)]
    candidates = pairs_of(given(fit), settled=settled)
    if not candidates:
        return Queue((), nothing(bool(pairs_of(given(logged), settled=()))))
    chosen = choose(weighed(store, candidates), limit, given=store.labels.count())
    return Queue(tuple(item(one) for one in chosen))


def nothing(compared: bool) -> str:
    if compared:
        return (
            "every pair of answers that could be compared was labelled, or may have trained the judge "
            "(judge.weights); new ones come from retries, n above 1, and answers drawn for judges"
        )
    return (
        "no prompt has two different answers yet: they come from retries, n above 1, and answers drawn for judges "
        "(judge.enabled)"
    )


def settled_places(store: Store) -> set[Place]:
    """Answers that somebody labelled, or whose label waits to be written down."""
    labels: list[Label] = store.labels.recent(LABELS)
    places = {(one.completion_id, one.choice_index) for one in labels}
    places |= {(one.other_id, one.other_index) for one in labels if one.other_id is not None}
    for intent in store.intents.pending():
        about = intent.arguments
        if intent.kind is IntentKind.LABEL and "completion_id" in about:
            places.add((about["completion_id"], about["choice_index"]))
            if "other_id" in about:
                places.add((about["other_id"], about["other_index"]))
    return places


def given(completions: Sequence[Completion]) -> list[Given]:
    return [
        Given((one.id, choice.index), one.messages, choice.text)
        for one in completions
        for choice in one.choices
    ]


def weighed(store: Store, candidates: Sequence[Candidate]) -> list[Candidate]:
    """The pairs with what scorers say of them, and how much is asked about their subjects."""
    scores: dict[Place, dict[tuple[str, str], float]] = {}
    judged = {one.place[0] for pair in candidates for one in (pair.left, pair.right)}
    for each in store.judgements.about(judged):
        if each.completion_id is not None and each.choice_index is not None:
            question = each.answer.partition("/")[0]
            place = (each.completion_id, each.choice_index)
            scores.setdefault(place, {})[each.scorer, question] = each.score
    names = {scorer for known in scores.values() for scorer, _ in known}
    scales = scales_of(store, names)
    asked = store.completions.recent(limit=ASKED, source=Source.CHAT, done_only=True)
    # One script that asks the same all day is one question.
    questions = sorted(
        {(one.principal, one.messages[-1].content) for one in asked if one.stored and one.messages}
    )
    pairs = [replace(pair, opinions=opinions_of(pair, scores, scales)) for pair in candidates]
    prompts = sorted(most_open(pairs))
    texts = [*prompts, *(question for _, question in questions)]
    found = subjects(tuple(texts))
    subject = dict(zip(prompts, found, strict=False))
    traffic = traffic_of(found[len(prompts) :] or found)
    least = 1 / len(texts)  # what was asked longer ago still may be asked again
    return [
        replace(
            pair,
            cluster=(name := subject.get(pair.left.prompt[-1].content, "")),
            traffic=max(least, traffic.get(name, 0.0)),
        )
        for pair in pairs
    ]


def most_open(pairs: Sequence[Candidate]) -> set[str]:
    """The `PROMPTS` questions about whose answers a label would settle the most; of equals, the newest."""
    found: dict[str, None] = {}
    for pair in sorted(pairs, key=lambda one: -disagreement(one.opinions)):
        found.setdefault(pair.left.prompt[-1].content)
        if len(found) == PROMPTS:
            break
    return set(found)


@lru_cache(maxsize=1)
def subjects(texts: tuple[str, ...]) -> list[str]:
    """What each text is about, remembered until other texts come: operators ask again after every few labels."""
    return cluster_prompts(texts, min(SUBJECTS, max(1, len(texts) // PER_CLUSTER)))


def scales_of(store: Store, scorers: set[str]) -> dict[str, Scale]:
    """What each scorer's scores mean, by its newest measurement; without one, which answer it prefers."""
    scales: dict[str, Scale] = dict.fromkeys(scorers, preferred)
    for licence in reversed(store.judgements.licence_history()):
        if licence.scorer in scorers and "slope" in licence.calibration:
            scales[licence.scorer] = Calibration.from_json(licence.calibration).q
    return scales


def preferred(one: float, other: float) -> float:
    return 0.5 if one == other else UNSURE if one > other else 1 - UNSURE


def item(pair: Candidate) -> QueueItem:
    return QueueItem(pair.id, pair.left.prompt, shown(pair.left), shown(pair.right))


def shown(one: Given) -> Shown:
    return Shown(*one.place, one.text)
