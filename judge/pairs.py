"""Evidence into preference: what each person's events say about an answer, as KTO examples and DPO pairs.

Pure functions of what the store remembers. Nothing here is written back as fact: weights and labels are
opinions of this code and this configuration, recomputed for every iteration.
"""

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from judge.background import NOTHING, Background
from judge.config import DefenceConfig, FeedbackConfig, SignalsConfig
from judge.opinions import DECIDED, agreement, combine, person_opinion
from judge.phrases import dictated, shares
from store.records import Choice, Completion, Evidence, Feedback, FeedbackKind, Message, Split

#: How sure a pair is (cDPO's q). Human against human agreement is 65-77%, so nothing is certain.
Q_HUMAN = 0.9


@dataclass(frozen=True, slots=True)
class Answer:
    """One choice of a completion, as training sees it."""

    completion_id: str
    choice_index: int
    prompt: tuple[Message, ...]
    text: str
    ended: bool


@dataclass(frozen=True, slots=True)
class Liking:
    """KTO example: an answer, whether it is liked, how much that weighs, and the events that say so."""

    answer: Answer
    label: bool
    weight: float
    events: tuple[Feedback, ...]

    @property
    def id(self) -> str:
        return f"{self.answer.completion_id}/{self.answer.choice_index}"


@dataclass(frozen=True, slots=True)
class Pair:
    """DPO example: two answers to one prompt. `q`: probability that `chosen` is the better one."""

    prompt: tuple[Message, ...]
    chosen: str
    chosen_ended: bool
    rejected: Answer
    q: float
    weight: float
    events: tuple[Feedback, ...]

    @property
    def id(self) -> str:
        return f"{self.rejected.completion_id}/{self.rejected.choice_index}/{self.events[0].id}"


@dataclass(frozen=True, slots=True)
class Preferences:
    """Everything an iteration learns from, and what it sets aside. `dropped` counts reasons."""

    likings: tuple[Liking, ...]
    pairs: tuple[Pair, ...]
    heldout: tuple[Liking, ...]
    dropped: Mapping[str, int]

    def counts(self) -> dict[str, int]:
        ups = sum(liking.label for liking in self.likings)
        learned: list[Liking | Pair] = [*self.likings, *self.pairs]
        people = {event.principal for item in learned for event in item.events}
        return {
            "kto_up": ups,
            "kto_down": len(self.likings) - ups,
            "dpo": len(self.pairs),
            "heldout_up": sum(liking.label for liking in self.heldout),
            "heldout_down": sum(not liking.label for liking in self.heldout),
            "people": len(people),
            **{f"dropped_{reason}": count for reason, count in self.dropped.items()},
        }


def split_of(completion_id: str, never_train: float) -> Split:
    """Which side an answer is on, for ever: a stable hash of its id against the never-train share."""
    bucket = int.from_bytes(hashlib.sha256(completion_id.encode()).digest()[:8], "big") / 2**64
    return Split.NEVER_TRAIN if bucket < never_train else Split.TRAIN


def share_cap(people: int, floor: float) -> float:
    """The largest share of an iteration's weight one person may hold; loosens when people are few."""
    return min(1.0, max(floor, 3 / people)) if people else 1.0


def cap_shares(weights: Mapping[str, float], cap: float) -> dict[str, float]:
    """Factors (person -> 0..1) that bring everyone's share of the total down to `cap`.

    Water-filling: with the k heaviest people capped at a common weight w, w = cap * (k*w + rest).
    """
    rest, level = sum(weights.values()), float("inf")
    for capped, weight in enumerate(sorted(weights.values(), reverse=True)):
        if capped * cap >= 1:
            break
        level = cap * rest / (1 - capped * cap)
        if weight <= level:
            break
        rest -= weight
    return {person: min(1.0, level / weight) if weight else 1.0 for person, weight in weights.items()}


def answer_of(completion: Completion, index: int) -> Answer | None:
    """One choice as training sees it; None where there is none or it says nothing."""
    choice: Choice | None = next((c for c in completion.choices if c.index == index), None)
    if choice is None or not choice.text.strip():
        return None
    # With a stop string of the client's own, "stop" does not say that the model ended its turn.
    ended = choice.finish_reason == "stop" and not completion.sampling.stop
    return Answer(completion.id, index, completion.messages, choice.text, ended)


@dataclass(frozen=True, slots=True)
class _Spoken:
    """One answer with everybody's opinion of it, and the events that say so."""

    answer: Answer
    opinions: Mapping[str, float]
    events: tuple[Feedback, ...]

    @property
    def said(self) -> tuple[tuple[Message, ...], str]:
        return self.answer.prompt, self.answer.text


def _spoken(
    evidence: Sequence[Evidence], signals: SignalsConfig, dropped: dict[str, int]
) -> Iterable[_Spoken]:
    groups: dict[tuple[str, int], list[Evidence]] = defaultdict(list)
    for item in evidence:
        groups[item.feedback.completion_id, item.feedback.choice_index].append(item)
    for (_, index), items in groups.items():
        answer = answer_of(items[0].completion, index)
        if answer is None:
            dropped["empty_answer"] += 1
            continue
        by_person: dict[str, list[Feedback]] = defaultdict(list)
        for item in items:
            by_person[item.feedback.principal].append(item.feedback)
        opinions = {person: person_opinion(events, signals) for person, events in by_person.items()}
        stated = {person: opinion for person, opinion in opinions.items() if opinion}
        if stated:
            yield _Spoken(answer, stated, tuple(event for person in stated for event in by_person[person]))


def _likings(
    evidence: Sequence[Evidence], config: FeedbackConfig, background: Background, dropped: dict[str, int]
) -> list[Liking]:
    """Answers with what people together say of them. The same words to the same prompt are one answer, whoever got
    them: who is outvoted there trains nothing, and where nobody is, nobody does.
    """
    spoken = list(_spoken(evidence, config.signals, dropped))
    everybody: dict[object, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for one in spoken:
        for person, opinion in one.opinions.items():
            everybody[one.said][person].append(opinion)
    likings = []
    for one in spoken:
        own = _together({person: [opinion] for person, opinion in one.opinions.items()}, background)
        all_ = _together(everybody[one.said], background) if len(everybody[one.said]) > 1 else own
        if own == 0 or all_ == 0:
            dropped["people_disagree"] += 1
        elif (own > 0) != (all_ > 0):
            dropped["outvoted"] += 1
        else:
            liking = Liking(one.answer, own > 0, min(abs(own), abs(all_)), one.events)
            if not liking.label or not _steered(
                one.answer.prompt, one.answer.text, config, background, dropped
            ):
                likings.append(liking)
    return likings


def _together(opinions: Mapping[str, Sequence[float]], background: Background) -> float:
    """Everybody's opinion as one, -1..1; 0 where they are not decided."""
    means = [sum(said) / len(said) for said in opinions.values()]
    worths = [background.worth.get(person, 1.0) for person in opinions]
    return combine(means, worths) if agreement(means, worths) >= DECIDED else 0.0


def _steered(
    prompt: Iterable[Message],
    text: str,
    config: FeedbackConfig,
    background: Background,
    dropped: dict[str, int],
    besides: str = "",
) -> bool:
    """Whether a text must not train as good, for what one person alone could have made of it; counts why."""
    rules: DefenceConfig = config.defence
    if not rules.enabled or background.alone:
        return False
    turns = [turn.content for turn in prompt]
    if dictated(text, turns, longest=rules.dictated_words, share=rules.dictated_share, besides=besides):
        dropped["dictated"] += 1
        return True
    if shares(text, besides, background.private):
        dropped["one_persons_phrase"] += 1
        return True
    return False


def _pair(item: Evidence, others: Mapping[str, Completion], signals: SignalsConfig) -> Pair | None:
    event, own = item.feedback, answer_of(item.completion, item.feedback.choice_index)
    if own is None:
        return None
    match event.kind, event.value:
        case FeedbackKind.EDIT, str(text) if text.strip() and text != own.text:
            return Pair(own.prompt, text, True, own, Q_HUMAN, signals.edit, (event,))
        case FeedbackKind.PREFERENCE, int(index) if not isinstance(event.value, bool):
            other = answer_of(item.completion, index)
        case FeedbackKind.PREFERENCE, str(completion_id) if completion_id in others:
            other = answer_of(others[completion_id], 0)
        case _:
            return None
    if other is None or other.prompt != own.prompt or other.text == own.text:
        return None
    return Pair(own.prompt, own.text, own.ended, other, Q_HUMAN, signals.preference, (event,))


def _retry_pairs(
    evidence: Sequence[Evidence], others: Mapping[str, Completion], disliked: set[str], signals: SignalsConfig
) -> list[Pair]:
    pairs = []
    retried = {e.feedback.completion_id for e in evidence if e.feedback.kind is FeedbackKind.REGENERATE}
    for item in evidence:
        event = item.feedback
        if event.kind is not FeedbackKind.REGENERATE or not isinstance(event.value, str):
            continue
        new = answer_of(others[event.value], 0) if event.value in others else None
        old = answer_of(item.completion, event.choice_index)
        if new is None or old is None or new.prompt != old.prompt or new.text == old.text:
            continue
        if event.value in retried or f"{new.completion_id}/0" in disliked:
            continue
        pairs.append(Pair(old.prompt, new.text, new.ended, old, Q_HUMAN, signals.regenerate_kept, (event,)))
    return pairs


def _settled(
    pairs: Sequence[Pair], config: FeedbackConfig, background: Background, dropped: dict[str, int]
) -> list[Pair]:
    """Pairs that people do not contradict with the reverse, as far as they do not, and nobody's word for more than it
    is worth.
    """
    sides: dict[object, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))

    def about(pair: Pair) -> tuple[object, float]:
        first = min(pair.chosen, pair.rejected.text)
        return (
            pair.prompt,
            first,
            max(pair.chosen, pair.rejected.text),
        ), 1.0 if pair.chosen == first else -1.0

    for pair in pairs:
        key, sign = about(pair)
        sides[key][pair.events[0].principal].append(sign * pair.weight)
    kept = []
    for pair in pairs:
        key, sign = about(pair)
        worths = [background.worth.get(person, 1.0) for person in sides[key]]
        means = [sum(said) / len(said) for said in sides[key].values()]
        agreed = agreement(means, worths) if len(means) > 1 else 1.0
        own = background.worth.get(pair.events[0].principal, 1.0)
        if agreed < DECIDED:
            dropped["people_disagree"] += 1
        elif len(means) > 1 and combine(means, worths) * sign < 0:
            dropped["outvoted"] += 1
        elif not _steered(pair.prompt, pair.chosen, config, background, dropped, besides=pair.rejected.text):
            kept.append(replace(pair, weight=pair.weight * agreed * own))
    return [pair for pair in kept if pair.weight > 0]


def cap_people(likings: list[Liking], pairs: list[Pair], floor: float) -> tuple[list[Liking], list[Pair]]:
    """The same examples, the weights of whoever holds more than their share (`share_cap`) brought down to it."""
    weights: dict[str, float] = defaultdict(float)
    items: list[Liking | Pair] = [*likings, *pairs]
    for item in items:
        people = {event.principal for event in item.events}
        for person in people:
            weights[person] += item.weight / len(people)
    factors = cap_shares(weights, share_cap(len(weights), floor))

    def factor(events: tuple[Feedback, ...]) -> float:
        people = {event.principal for event in events}
        return sum(factors[person] for person in people) / len(people)

    return (
        [replace(liking, weight=liking.weight * factor(liking.events)) for liking in likings],
        [replace(pair, weight=pair.weight * factor(pair.events)) for pair in pairs],
    )


def build(
    evidence: Sequence[Evidence],
    others: Mapping[str, Completion],
    config: FeedbackConfig,
    background: Background = NOTHING,
) -> Preferences:
    """Everything people said into what an iteration trains on and what it is tested with.

    Args:
        evidence: live events joined with their answers, oldest first.
        others: completions named by preferences and retries, by id.
        config: weights, shares and limits.
        background: what the evidence is held against.
    """
    if background.signals is not None:
        config = config.model_copy(update={"signals": background.signals.signals})
    dropped: dict[str, int] = defaultdict(int)
    sides: dict[Split, list[Evidence]] = {Split.TRAIN: [], Split.NEVER_TRAIN: []}
    for item in evidence:
        if item.feedback.id in background.held:
            dropped[background.held[item.feedback.id]] += 1
        else:
            sides[split_of(item.completion.id, config.never_train)].append(item)
    trainable = sides[Split.TRAIN]
    # A pair must not smuggle a set-aside answer into training through its other side.
    allowed = {key: c for key, c in others.items() if split_of(key, config.never_train) is Split.TRAIN}
    likings = _likings(trainable, config, background, dropped)[-config.max_examples :]
    disliked = {liking.id for liking in likings if not liking.label}
    candidates = [_pair(item, allowed, config.signals) for item in trainable]
    pairs = [pair for pair in candidates if pair is not None]
    pairs += _retry_pairs(trainable, allowed, disliked, config.signals)
    pairs = _settled(pairs, config, background, dropped)[-config.max_examples :]
    likings = [
        replace(one, weight=one.weight * background.propensity.get(one.answer.completion_id, 1))
        for one in likings
    ]
    pairs = [
        replace(one, weight=one.weight * background.propensity.get(one.rejected.completion_id, 1))
        for one in pairs
    ]
    likings, pairs = cap_people(likings, pairs, config.principal_share_floor)
    heldout = _likings(sides[Split.NEVER_TRAIN], config, background, dropped)[-config.max_heldout :]
    return Preferences(tuple(likings), tuple(pairs), tuple(heldout), dict(dropped))


def shortage(preferences: Preferences, config: FeedbackConfig) -> str | None:
    """Why this is too little, or too one-sided, to train on, and what would mend it; None when it will do."""
    count = len(preferences.likings) + len(preferences.pairs)
    if count < config.min_examples:
        return (
            f"{count} training examples, {config.min_examples} needed (feedback.min_examples): "
            "more votes, edits or comparisons on answers would mend it"
        )
    liked = sum(liking.label for liking in preferences.likings)
    disliked = len(preferences.likings) - liked
    contrast = min(liked, disliked) + len(preferences.pairs)
    if contrast >= config.min_contrast * count:
        return None
    rarer, what = ("up", "a good") if liked < disliked else ("down", "a bad")
    return (
        f"{liked} liked and {disliked} disliked answers and {len(preferences.pairs)} pairs: too little says what "
        f"{what} answer is (feedback.min_contrast {config.min_contrast:g}); a few thumbs {rarer}, edits or "
        "comparisons would mend it"
    )
