"""Which questions the model is asked again: people's own, fairly drawn, and none that only ever test.

Pure functions of logged answers. What people asked is the distribution the model is used on, so nothing here weighs
a question by how good or interesting it looks.

Left out: clustering by meaning, which needs an embedding; word shingles catch what templates and retries repeat.
"""

import heapq
import random
import re
from collections import defaultdict, deque
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Literal

from judge.pairs import split_of
from store.records import Completion, CompletionStatus, Message, Role, Source, Split

#: Words per shingle. Three keep word order without making short questions all different.
SHINGLE = 3
#: Jaccard similarity of shingles from which two texts count as the same question.
NEAR = 0.8
#: Characters a token is taken to hold where the engine did not count the prompt: low, so that it errs to "too long".
CHARACTERS_PER_TOKEN = 3

Shingles = frozenset[tuple[str, ...]]


def words(text: str) -> list[str]:
    """Lower-case words and numbers; punctuation and spacing tell no two questions apart."""
    return re.findall(r"\w+", text.lower())


def prompt_key(messages: Sequence[Message]) -> tuple[tuple[str, str], ...]:
    """What makes two prompts the same: every turn's role and words, the system message included.

    Text without words (an emoji, "?!") stands for itself, or all of it would be one prompt.
    """
    return tuple((message.role, " ".join(words(message.content)) or message.content) for message in messages)


def similarity(one: Shingles, other: Shingles) -> float:
    """Jaccard similarity, 0..1; two empty texts are the same."""
    larger = max(len(one), len(other))
    if not larger:
        return 1.0
    # The intersection is at most the smaller set: skip the work where that alone decides.
    if min(len(one), len(other)) < NEAR * larger:
        return 0.0
    return len(one & other) / len(one | other)


def shingles(text: str) -> Shingles:
    """Runs of `SHINGLE` words; a shorter text is one run."""
    found = words(text)
    if not found:
        return frozenset({(text.strip(),)}) if text.strip() else frozenset()
    return frozenset(tuple(found[at : at + SHINGLE]) for at in range(max(1, len(found) - SHINGLE + 1)))


class _Seen:
    """Prompts already met, to tell new ones from repeats."""

    def __init__(self) -> None:
        self._keys: set[tuple[tuple[str, str], ...]] = set()
        self._shapes: list[tuple[Shingles, Shingles]] = []

    def add(self, messages: Sequence[Message]) -> bool:
        """Whether the prompt was new; then it is remembered.

        Near-duplicates agree in the last question and in what came before it: "go on" is a new question in every
        conversation, and so is each question put to one long document.
        """
        key = prompt_key(messages)
        if key in self._keys:
            return False
        context = shingles("\n".join(message.content for message in messages[:-1]))
        last = shingles(messages[-1].content)
        for other_context, other_last in self._shapes:
            if similarity(last, other_last) >= NEAR and similarity(context, other_context) >= NEAR:
                return False
        self._keys.add(key)
        self._shapes.append((context, last))
        return True


class SetAside:
    """Questions asked in the never-train slice: what tests the model must not teach it, even when asked elsewhere."""

    def __init__(self, completions: Iterable[Completion], never_train: float) -> None:
        # The model's own samples carry a person's prompt under a new id; they set nothing aside.
        texts = {
            completion.messages[-1].content
            for completion in completions
            if completion.messages
            and completion.source is not Source.SAMPLE
            and split_of(completion.id, never_train) is Split.NEVER_TRAIN
        }
        self._texts = {" ".join(words(text)) for text in texts}
        self._shapes = [shingles(text) for text in texts]

    def holds(self, text: str) -> bool:
        """Whether this question, or one nearly the same, is set aside."""
        if " ".join(words(text)) in self._texts:
            return True
        own = shingles(text)
        return any(similarity(own, other) >= NEAR for other in self._shapes)


def fits(completion: Completion, budget: int) -> bool:
    """Whether the prompt has at most `budget` tokens, as counted when it was answered or else by its characters."""
    characters = sum(len(message.content) for message in completion.messages)
    return (completion.prompt_tokens or characters // CHARACTERS_PER_TOKEN + 1) <= budget


def may_measure(completion: Completion, weights: Literal["base", "incumbent"], never_train: float) -> bool:
    """Whether the judge's weights cannot have learned from this answer."""
    if weights == "base" or completion.source is Source.LABEL:
        return True
    # The model's own samples train as judged pairs, whatever side their ids are on.
    aside = split_of(completion.id, never_train) is Split.NEVER_TRAIN
    return aside and completion.source is not Source.SAMPLE


def asked(completion: Completion) -> bool:
    """Whether a person asked this for its own sake, got an answer, and let it be kept."""
    return (
        completion.source is Source.CHAT
        and completion.stored
        and completion.status is CompletionStatus.DONE
        and bool(completion.messages)
        and completion.messages[-1].role == Role.USER
        and bool(completion.messages[-1].content.strip())
    )


def askable(completion: Completion, never_train: float) -> bool:
    """Whether it was asked, and is on the training side."""
    return asked(completion) and split_of(completion.id, never_train) is Split.TRAIN


def recent_prompts(
    completions: Sequence[Completion],
    *,
    count: int,
    budget: int,
    besides: Iterable[Sequence[Message]] = (),
) -> list[Completion]:
    """At most `count` logged answers whose prompts only test: whatever was set aside may be among them.

    People take turns, so that a chatty one does not decide what is tested; within a person the newest come first.

    Args:
        completions: the log, in any order.
        budget: tokens a prompt may have.
        besides: prompts that are asked anyway; none like them is chosen.
    """
    seen = _Seen()
    for messages in besides:
        seen.add(messages)
    waiting = [item for item in completions if asked(item) and fits(item, budget)]
    waiting.sort(key=lambda item: (-item.created_at, item.id))
    # Whoever spoke last has the first turn.
    taken = dict.fromkeys((item.principal for item in waiting), 0)
    chosen: list[Completion] = []
    for item in _in_turn(waiting, taken):
        if len(chosen) >= count:
            break
        if seen.add(item.messages):
            chosen.append(item)
            taken[item.principal] += 1
    return chosen


def choose_prompts(
    completions: Sequence[Completion],
    *,
    count: int,
    never_train: float,
    seed: int,
    budget: int,
    disliked: Collection[str] = (),
) -> list[Completion]:
    """At most `count` logged answers whose prompts are worth answering anew; the same arguments choose the same.

    People take turns, those with the fewest so far first, so that a chatty one does not fill the quota; within a
    person the newest come first.

    Args:
        completions: the log, in any order, the never-train slice included: its questions are excluded by text too.
        never_train: `[feedback] never_train`.
        seed: shuffles whose turn is first.
        budget: tokens a prompt may have: the engine's context less the new answer.
        disliked: ids of answers people disliked; they are preferred for half of `count`.
    """
    set_aside, seen = SetAside(completions, never_train), _Seen()
    waiting = [item for item in completions if askable(item, never_train) and fits(item, budget)]
    waiting.sort(key=lambda item: (-item.created_at, item.id))
    people = sorted({item.principal for item in waiting})
    random.Random(seed).shuffle(people)
    taken = dict.fromkeys(people, 0)
    chosen: list[Completion] = []
    fallen_short = [item for item in waiting if item.id in disliked]
    for items, quota in ((fallen_short, (count + 1) // 2), (waiting, count)):
        for item in _in_turn(items, taken):
            if len(chosen) >= quota:
                break
            if not set_aside.holds(item.messages[-1].content) and seen.add(item.messages):
                chosen.append(item)
                taken[item.principal] += 1
    return chosen


def _in_turn(items: Iterable[Completion], taken: Mapping[str, int]) -> Iterator[Completion]:
    """Items person by person, whoever has the fewest `taken` first; the caller counts those it takes."""
    queues: dict[str, deque[Completion]] = defaultdict(deque)
    for item in items:
        queues[item.principal].append(item)
    turns = [(taken[person], place, person) for place, person in enumerate(taken) if person in queues]
    heapq.heapify(turns)
    while turns:
        _, place, person = heapq.heappop(turns)
        yield queues[person].popleft()
        if queues[person]:
            heapq.heappush(turns, (taken[person], place, person))
