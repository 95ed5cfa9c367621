"""What people said, as the yardstick a judge is held against.

Three sources: votes on answers set aside for ever, operators' labels, and users' own comparisons. Nothing here
trains. A judge that is the policy itself is held only against answers the policy cannot have learned from; the
base model has learned from none of them.

Copies, retries and dwelling are left out: they train with small weights, but are too faint to overrule a judge.
"""

import hashlib
import math
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from judge.config import FeedbackConfig
from judge.pairs import build, cap_shares, share_cap, split_of
from judge.prompts import may_measure, prompt_key
from judge.scorer import Question, Scores
from store.judging import Label
from store.records import Completion, Evidence, FeedbackKind, Message, Split

Origin = Literal["thumb", "label", "comparison"]

#: Answers to one prompt held against each other at the most: a scorer that compares asks about every two of them.
MAX_ANSWERS = 4
#: Labels everybody may give whatever their share: one comparison.
ROOM = 2.0
#: Scores closer than this are the same opinion.
TIE = 1e-9

VOTES = frozenset({FeedbackKind.THUMB, FeedbackKind.RATING})
COMPARISONS = frozenset({FeedbackKind.PREFERENCE, FeedbackKind.EDIT})


@dataclass(frozen=True, slots=True)
class HumanItem:
    """A question whose every answer people called good (or better) or bad (or worse).

    `goods`: one per answer, in their order. `key`: names the events or labels behind it.
    """

    question: Question
    goods: tuple[bool, ...]
    source: Origin
    key: str


@dataclass(frozen=True, slots=True)
class Humans:
    """The yardstick, newest first, and what could not be part of it. `dropped` counts reasons."""

    items: tuple[HumanItem, ...]
    dropped: Mapping[str, int]

    @property
    def questions(self) -> list[Question]:
        return [item.question for item in self.items]


@dataclass(frozen=True, slots=True)
class Scored:
    """The labelled answers a scorer did not abstain on, flat; N of them over all questions.

    `value`: (N,) scores. `good`: (N,) people's labels. `question`: (N,) index of the item each belongs to.
    `prompt`: (N,) number of its prompt, which several items may share. `length`: (N,) characters. `asked`: labelled
    answers it was asked about, abstentions included. `beyond`: those it cannot be asked about.
    """

    value: npt.NDArray[np.float64]
    good: npt.NDArray[np.bool_]
    question: npt.NDArray[np.int64]
    prompt: npt.NDArray[np.int64]
    length: npt.NDArray[np.float64]
    asked: int
    beyond: int = 0

    def by_question(self) -> Iterator[tuple[npt.NDArray[np.float64], npt.NDArray[np.bool_]]]:
        """Scores and labels of one question after the other."""
        if not len(self.question):
            return
        starts = np.flatnonzero(np.diff(self.question)) + 1  # an item's answers stand together
        yield from zip(np.split(self.value, starts), np.split(self.good, starts), strict=True)

    def of(self, prompts: npt.NDArray[np.int64]) -> "Scored":
        """The answers to these prompts only."""
        keep = np.isin(self.prompt, prompts)
        return Scored(
            self.value[keep],
            self.good[keep],
            self.question[keep],
            self.prompt[keep],
            self.length[keep],
            int(keep.sum()),
        )


@dataclass(frozen=True, slots=True)
class _Statement:
    at: float
    source: Origin
    key: str
    prompt: tuple[Message, ...]
    answers: tuple[str, ...]
    goods: tuple[bool, ...]
    people: frozenset[str] = frozenset()
    """Whose word it is; nobody's for an operator's label."""


def scored(items: Sequence[HumanItem], scores: Sequence[Scores]) -> Scored:
    """Line scores up with people's labels; a score that is not a finite number counts as an abstention.

    A scorer that compares cannot judge an answer alone: where it scored some answers that stand beside others and
    none that stands alone, it was not asked about the latter.
    """
    numbers: dict[tuple[tuple[str, str], ...], int] = {}
    prompts = [numbers.setdefault(prompt_key(item.question.prompt), len(numbers)) for item in items]
    rows = [
        (score.value, good, index, len(text), prompts[index], len(item.goods) == 1)
        for index, (item, given) in enumerate(zip(items, scores, strict=True))
        for text, good, score in zip(item.question.answers, item.goods, given, strict=True)
        if score is not None and math.isfinite(score.value)
    ]
    alone = [row[5] for row in rows]
    labels = sum(len(item.goods) for item in items)
    compares = bool(rows) and not any(alone)
    beyond = sum(len(item.goods) == 1 for item in items) if compares else 0
    return Scored(
        value=np.array([row[0] for row in rows], dtype=np.float64),
        good=np.array([row[1] for row in rows], dtype=np.bool_),
        question=np.array([row[2] for row in rows], dtype=np.int64),
        prompt=np.array([row[4] for row in rows], dtype=np.int64),
        length=np.array([row[3] for row in rows], dtype=np.float64),
        asked=labels - beyond,
        beyond=beyond,
    )


def gather(
    evidence: Sequence[Evidence],
    labels: Sequence[Label],
    completions: Mapping[str, Completion],
    *,
    feedback: FeedbackConfig,
    weights: Literal["base", "incumbent"],
    max_labels: int,
) -> Humans:
    """The newest `max_labels` labels people gave, each answer at most once.

    Where several speak of one answer, operators outrank users' comparisons, which outrank votes (an operator looked
    at it for this very purpose); of equals the newest counts. No user's word is more than a fair share of all users'
    (`judge.pairs.share_cap`): beyond it their oldest is dropped, so that nobody can own the yardstick.

    Args:
        evidence: live events joined with their answers, oldest first.
        labels: operators' labels, in any order.
        completions: those that labels and comparisons name, by id.
        feedback: the never-train share and the signals' weights (a signal of weight 0 is not heard).
        weights: whose weights the judge runs on, `[judge] weights`.
        max_labels: labels at the most; a comparison is two.
    """
    dropped: Counter[str] = Counter()

    def unseen(completion: Completion) -> bool:
        return may_measure(completion, weights, feedback.never_train)

    ranked = (
        _labels(labels, completions, unseen, dropped),
        _comparisons(evidence, completions, unseen, feedback),
        _votes(evidence, feedback, dropped),
    )
    statements = [statement for rank in ranked for statement in _newest_first(rank)]
    kept = _shared(statements, max_labels, feedback.principal_share_floor, dropped)
    return Humans(tuple(_items(kept)), {reason: count for reason, count in dropped.items() if count})


def _recorded(
    completions: Mapping[str, Completion], completion_id: str, index: int
) -> tuple[tuple[Message, ...], str] | None:
    completion = completions.get(completion_id)
    choices = completion.choices if completion is not None else ()
    text = next((choice.text for choice in choices if choice.index == index), "")
    return (completion.messages, text) if completion is not None and text.strip() else None


def _label(
    label: Label, completions: Mapping[str, Completion], unseen: Callable[[Completion], bool]
) -> _Statement | str:
    """One label as a statement, or why it says nothing."""
    key = f"label/{label.id}"
    own = _recorded(completions, label.completion_id, label.choice_index)
    if own is None:
        return "label_unresolved"
    # An operator's label never trains, but what somebody else said of the same answer may have.
    if not unseen(completions[label.completion_id]):
        return "label_may_have_trained"
    if label.other_id is None:
        if label.good is None:
            return "label_unresolved"
        return _Statement(label.created_at, "label", key, own[0], (own[1],), (label.good,))
    other = _recorded(completions, label.other_id, label.other_index)
    if other is None:
        return "label_unresolved"
    if not unseen(completions[label.other_id]):
        return "label_may_have_trained"
    if other[0] != own[0]:
        return "label_across_prompts"
    if label.same:
        return "label_same"
    if other[1] == own[1]:
        return "label_without_difference"
    return _Statement(label.created_at, "label", key, own[0], (own[1], other[1]), (True, False))


def _labels(
    labels: Iterable[Label],
    completions: Mapping[str, Completion],
    unseen: Callable[[Completion], bool],
    dropped: Counter[str],
) -> list[_Statement]:
    statements = []
    for label in labels:
        found = _label(label, completions, unseen)
        if isinstance(found, str):
            dropped[found] += 1
        else:
            statements.append(found)
    return statements


def _comparisons(
    evidence: Sequence[Evidence],
    completions: Mapping[str, Completion],
    unseen: Callable[[Completion], bool],
    feedback: FeedbackConfig,
) -> list[_Statement]:
    found = [item for item in evidence if item.feedback.kind in COMPARISONS and unseen(item.completion)]
    others = {key: completion for key, completion in completions.items() if unseen(completion)}
    # Whatever may be measured by is taken from one side here, so the split must not drop it again.
    everything = feedback.model_copy(update={"never_train": 0.0, "max_examples": max(2, len(found))})
    return [
        _Statement(
            at=pair.events[0].created_at,
            source="comparison",
            key=f"comparison/{pair.events[0].id}",
            prompt=pair.prompt,
            answers=(pair.chosen, pair.rejected.text),
            goods=(True, False),
            people=frozenset(event.principal for event in pair.events),
        )
        for pair in build(found, others, everything).pairs
    ]


def _votes(evidence: Sequence[Evidence], feedback: FeedbackConfig, dropped: Counter[str]) -> list[_Statement]:
    votes = [
        item
        for item in evidence
        if item.feedback.kind in VOTES
        and split_of(item.completion.id, feedback.never_train) is Split.NEVER_TRAIN
    ]
    held = build(votes, {}, feedback.model_copy(update={"max_heldout": max(2, len(votes))}))
    dropped.update(held.dropped)
    return [
        _Statement(
            at=max(event.created_at for event in liking.events),
            source="thumb",
            key=f"thumb/{liking.id}",
            prompt=liking.answer.prompt,
            answers=(liking.answer.text,),
            goods=(liking.label,),
            people=frozenset(event.principal for event in liking.events),
        )
        for liking in held.heldout
    ]


def _newest_first(statements: Iterable[_Statement]) -> list[_Statement]:
    return sorted(statements, key=lambda statement: (-statement.at, statement.key))


def _shared(
    statements: Sequence[_Statement], max_labels: int, floor: float, dropped: Counter[str]
) -> list[_Statement]:
    """The newest statements, each answer in one of them, and no user's among them beyond their share.

    Shares are taken twice. First of everything users said, before an answer's first statement displaces the others:
    else one user who speaks of everybody's answers silences them. Then of what the newest labels hold, where somebody
    with many new ones would leave no room; what they lose there, the next older get.
    """
    left = _without(statements, _beyond_share(statements, share_cap(len(_people(statements)), floor)))
    cap = share_cap(len(_people(_once(left))), floor)
    while True:
        once = _once(left)
        kept = _newest(once, max_labels)
        beyond = _beyond_share(kept, cap)
        if not beyond:
            break
        left = _without(left, beyond)
    dropped["share"] += len(statements) - len(left)
    dropped["said_again"] += len(left) - len(once)
    dropped["older"] += len(once) - len(kept)
    return kept


def _people(statements: Iterable[_Statement]) -> set[str]:
    return {person for statement in statements for person in statement.people}


def _without(statements: Iterable[_Statement], keys: Collection[str]) -> list[_Statement]:
    return [statement for statement in statements if statement.key not in keys]


def _beyond_share(statements: Sequence[_Statement], cap: float) -> set[str]:
    """Keys of what is beyond its user's share of all users' labels, the oldest of it.

    A vote of several people is a part of a label of each, and stands while one of them has room for it.
    """
    weights: dict[str, float] = defaultdict(float)
    for statement in statements:
        for person in statement.people:
            weights[person] += len(statement.answers) / len(statement.people)
    factors = cap_shares(weights, cap)
    room = {person: max(ROOM, factors[person] * weight) for person, weight in weights.items()}
    beyond = set()
    for statement in _newest_first(statements):
        if not statement.people:
            continue
        part = len(statement.answers) / len(statement.people)
        if all(room[person] < part - TIE for person in statement.people):
            beyond.add(statement.key)
            continue
        for person in statement.people:
            room[person] -= part
    return beyond


def _once(statements: Iterable[_Statement]) -> list[_Statement]:
    """Each answer (a text to a prompt) in the first statement about it only: labels are drawn independently."""
    seen: set[tuple[tuple[Message, ...], str]] = set()
    kept = []
    for statement in statements:
        answers = {(statement.prompt, text) for text in statement.answers}
        if answers & seen:
            continue
        seen |= answers
        kept.append(statement)
    return kept


def _newest(statements: Iterable[_Statement], max_labels: int) -> list[_Statement]:
    kept: list[_Statement] = []
    room = max_labels
    for statement in _newest_first(statements):
        if len(statement.answers) > room:
            break
        kept.append(statement)
        room -= len(statement.answers)
    return kept


def _order(prompt: tuple[Message, ...], text: str) -> str:
    said = "\0".join([*(f"{turn.role}\0{turn.content}" for turn in prompt), text])
    return hashlib.sha256(said.encode("utf-8", "surrogatepass")).hexdigest()


def _items(statements: Iterable[_Statement]) -> list[HumanItem]:
    """Statements as questions; single answers to one prompt go together, so that a judge can compare them.

    Which answer stands first is a hash's choice: a scorer that favours a position gains nothing by it.
    """
    groups: dict[tuple[object, ...], list[list[_Statement]]] = defaultdict(lambda: [[]])
    for statement in statements:
        alone = len(statement.answers) == 1
        chunks = groups[(statement.source, statement.prompt) if alone else (statement.key,)]
        if len(chunks[-1]) == MAX_ANSWERS:
            chunks.append([])
        chunks[-1].append(statement)
    return [_item(chunk) for chunks in groups.values() for chunk in chunks]


def _item(chunk: Sequence[_Statement]) -> HumanItem:
    prompt = chunk[0].prompt
    answers = [pair for statement in chunk for pair in zip(statement.answers, statement.goods, strict=True)]
    answers.sort(key=lambda answer: _order(prompt, answer[0]))
    return HumanItem(
        Question(prompt, tuple(text for text, _ in answers)),
        tuple(good for _, good in answers),
        chunk[0].source,
        "+".join(statement.key for statement in chunk),
    )
