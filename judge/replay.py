"""The mix against forgetting: what is repeated of earlier feedback, and which of base's answers are kept likely.

Pure choices. What is replayed is built anew from the events as they stand (`judge.pairs.build`), never copied from an
earlier run, so a vote taken back, or text since forgotten, is not replayed. Shares as in docs/architecture.md; replay
after 2605.29495 and 2605.26097, anchors against the forgetting that goes with KL from base (2509.04259).

Left out: replaying the current model's own answers to old prompts, which judged pairs come near to.
"""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Hashable, Iterable, Sequence
from dataclasses import dataclass

from judge.config import FeedbackConfig
from judge.pairs import Answer, Liking, Pair, Preferences, answer_of, cap_people, split_of
from judge.prompts import prompt_key
from store.records import Completion, Evidence, FeedbackKind, Message, Split

Learned = Liking | Pair
#: Completion id and choice index: what a vote is about.
Target = tuple[str, int]
#: As much as is known of what a prompt is about.
Topic = Callable[[Sequence[Message]], Hashable]


@dataclass(frozen=True, slots=True)
class Mix:
    """What one run trains on and is tested with. `replayed`: ids of the events that trained before; `anchors`: base's
    own answers.
    """

    likings: tuple[Liking, ...]
    pairs: tuple[Pair, ...]
    heldout: tuple[Liking, ...] = ()
    anchors: tuple[Answer, ...] = ()
    replayed: frozenset[str] = frozenset()

    @property
    def examples(self) -> tuple[Learned, ...]:
        """Everything that trains but the anchors."""
        return (*self.likings, *self.pairs)


def unlimited(config: FeedbackConfig) -> FeedbackConfig:
    """The same opinions, nobody's share capped and nothing left out for its age: what is chosen is capped then."""
    return config.model_copy(update={"principal_share_floor": 1.0, "max_examples": 2**31})


def targets(item: Learned) -> set[Target]:
    """Every answer an example is about or names."""
    found = {(event.completion_id, event.choice_index) for event in item.events}
    return found | {(event.value, 0) for event in item.events if isinstance(event.value, str)}


def replayable(everything: Preferences, fresh: Collection[Target], learned: Collection[str]) -> list[Learned]:
    """The examples that may be replayed, oldest answers first.

    Args:
        everything: all live feedback as examples, shares not capped.
        fresh: answers that something new was said about; those are learned anew.
        learned: ids of the events that trained an adapter which was not rolled back.
    """
    items: list[Learned] = [*everything.likings, *everything.pairs]
    return [
        item
        for item in items
        if not any(target in fresh for target in targets(item))
        and all(event.id in learned for event in item.events)
    ]


def replay_count(new: int, *, replay_share: float, anchor_share: float) -> int:
    """Examples to replay beside `new` ones, so that they make up `replay_share` of a mix with all its parts."""
    return whole(new * replay_share / (1 - replay_share - anchor_share))


def anchor_count(others: int, *, anchor_share: float) -> int:
    """Anchors beside `others` examples, so that they make up `anchor_share` of all."""
    return whole(others * anchor_share / (1 - anchor_share))


def whole(exact: float) -> int:
    """The whole number below, where 2.9999999999999996 was meant to be 3."""
    return int(exact + 1e-9)


def lot(name: str, seed: int) -> bytes:
    """Where an example stands in the draw of a seed. The first k by lot are a uniform sample of any set."""
    return hashlib.sha256(f"{seed}\n{name}".encode()).digest()


def spread(items: Iterable[Learned], *, seed: int, topic: Topic) -> list[Learned]:
    """In the order in which they are taken: everybody's first one before anybody's second; then topics likewise."""
    people: Counter[str] = Counter()
    topics: Counter[Hashable] = Counter()
    ranked: list[tuple[int, int, int, Learned]] = []
    for item in sorted(items, key=lambda item: lot(item.id, seed)):
        person, about = item.events[0].principal, topic(prompt_of(item))
        ranked.append((people[person], topics[about], len(ranked), item))
        people[person] += 1
        topics[about] += 1
    return [item for *_, item in sorted(ranked, key=lambda row: row[:3])]


def prompt_of(item: Learned) -> tuple[Message, ...]:
    return item.answer.prompt if isinstance(item, Liking) else item.prompt


def stratum(item: Learned) -> str:
    """Liked, disliked, or a pair."""
    return "pair" if isinstance(item, Pair) else "up" if item.label else "down"


def quotas(sizes: dict[str, int], count: int) -> dict[str, int]:
    """`count` shared out in proportion to the sizes, by largest remainders; nobody gets more than their size."""
    total = sum(sizes.values())
    if count >= total:
        return dict(sizes)
    exact = {name: count * size / total for name, size in sizes.items()}
    shares = {name: int(value) for name, value in exact.items()}
    order = sorted(exact, key=lambda name: (shares[name] - exact[name], name))
    for name in order[: count - sum(shares.values())]:
        shares[name] += 1
    return shares


def choose(
    pool: Sequence[Learned], count: int, *, seed: int, topic: Topic = prompt_key
) -> tuple[Learned, ...]:
    """At most `count` of what may be replayed, in the pool's order.

    As many liked, disliked and pairs as the past holds of them; within each, spread over people, then over topics,
    then by lot. The same seed and pool give the same choice, and one further event changes little of it.
    """
    strata: dict[str, list[Learned]] = defaultdict(list)
    for item in pool:
        strata[stratum(item)].append(item)
    shares = quotas({name: len(items) for name, items in strata.items()}, count)
    kept = {
        (name, item.id)
        for name, items in strata.items()
        for item in spread(items, seed=seed, topic=topic)[: shares[name]]
    }
    return tuple(item for item in pool if (stratum(item), item.id) in kept)


def spoken_against(evidence: Iterable[Evidence]) -> set[str]:
    """Completions about which anybody said, or showed, anything bad: never an anchor."""
    found = set()
    for item in evidence:
        event = item.feedback
        match event.kind, event.value:
            case FeedbackKind.THUMB, False:
                found.add(event.completion_id)
            case FeedbackKind.RATING, int(stars) if stars < 3:
                found.add(event.completion_id)
            case ((FeedbackKind.EDIT | FeedbackKind.REGENERATE), _):
                found.add(event.completion_id)
            case FeedbackKind.PREFERENCE, str(other):
                found.add(other)
            case FeedbackKind.PREFERENCE, _:
                found.add(event.completion_id)
    return found


def anchors(
    answers: Iterable[Completion], barred: Collection[str], count: int, *, seed: int, never_train: float
) -> tuple[Answer, ...]:
    """At most `count` of base's answers, one to a prompt, by lot.

    Args:
        answers: completions that base gave.
        barred: ids of those spoken against and of those the iteration learns from as it is.
        never_train: share of answers that only ever test; an anchor is none of them.
    """
    found: dict[Hashable, Answer] = {}
    for completion in sorted(answers, key=lambda one: lot(one.id, seed)):
        if len(found) >= count:
            break
        if completion.id in barred or split_of(completion.id, never_train) is Split.NEVER_TRAIN:
            continue
        answer = answer_of(completion, completion.choices[0].index) if completion.choices else None
        if answer is not None:
            found.setdefault(prompt_key(completion.messages), answer)
    return tuple(found.values())


def mixed(new: Preferences, replayed: Sequence[Learned], *, floor: float) -> Mix:
    """New and replayed examples together, each person's share of them all capped.

    Args:
        new, replayed: with nobody's share capped yet.
        floor: `feedback.principal_share_floor`.
    """
    likings = [*(item for item in replayed if isinstance(item, Liking)), *new.likings]
    pairs = [*(item for item in replayed if isinstance(item, Pair)), *new.pairs]
    likings, pairs = cap_people(likings, pairs, floor)
    repeated = frozenset(event.id for item in replayed for event in item.events)
    return Mix(tuple(likings), tuple(pairs), new.heldout, (), repeated)
