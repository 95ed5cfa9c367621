"""What counts as people's word on an answer, and what is left out."""

import math
from typing import Any, Literal

import pytest

from judge.config import FeedbackConfig, SignalsConfig
from judge.humans import HumanItem, Humans, gather, scored
from judge.pairs import split_of
from judge.scorer import Question, Score
from store.judging import Label
from store.records import (
    Choice,
    Completion,
    CompletionStatus,
    Evidence,
    Feedback,
    FeedbackKind,
    Message,
    Sampling,
    Source,
    Split,
)

HALF = FeedbackConfig(never_train=0.5)


def named(side: Split, number: int = 0) -> str:
    """The number-th id that falls on this side of an even split."""
    return [f"c{n}" for n in range(200) if split_of(f"c{n}", 0.5) is side][number]


ASIDE, ASIDE_2, ASIDE_3 = (named(Split.NEVER_TRAIN, number) for number in range(3))
TRAIN, TRAIN_2 = named(Split.TRAIN), named(Split.TRAIN, 1)


def answer(
    name: str, text: str | None = None, *, prompt: str = "", source: Source = Source.CHAT
) -> Completion:
    text = f"Answer {name}." if text is None else text
    return Completion(
        id=name,
        created_at=1.0,
        principal="ann",
        source=source,
        messages=(Message("user", prompt or f"Question {name}?"),),
        sampling=Sampling(),
        adapter=None,
        engine="fake",
        status=CompletionStatus.DONE,
        choices=(Choice(0, text, "stop"), Choice(1, f"{text} Slowly.", "stop")),
    )


def said(
    completion: Completion,
    kind: str,
    value: bool | int | str | None,
    *,
    who: str = "ann",
    at: float = 2.0,
    index: int = 0,
) -> Evidence:
    name = f"{completion.id}-{who}-{kind}-{index}"
    event = Feedback(name, at, completion.id, index, who, FeedbackKind(kind), value)
    return Evidence(event, completion)


def label(name: str, about: str, *, at: float = 3.0, **fields: Any) -> Label:
    return Label(name, at, "op", "looked at it", about, **fields)


def found(
    evidence: list[Evidence] | None = None,
    labels: list[Label] | None = None,
    completions: list[Completion] | None = None,
    *,
    weights: Literal["base", "incumbent"] = "base",
    max_labels: int = 100,
    feedback: FeedbackConfig = HALF,
) -> Humans:
    known = {completion.id: completion for completion in completions or []}
    return gather(
        evidence or [],
        labels or [],
        known,
        feedback=feedback,
        weights=weights,
        max_labels=max_labels,
    )


def opinions(humans: Humans) -> list[tuple[str, bool]]:
    return sorted(
        pair for item in humans.items for pair in zip(item.question.answers, item.goods, strict=True)
    )


@pytest.mark.parametrize("weights", ["base", "incumbent"])
def test_votes_count_on_the_never_train_side_alone(weights: Literal["base", "incumbent"]) -> None:
    aside, train = answer(ASIDE), answer(TRAIN)
    humans = found([said(aside, "thumb", True), said(train, "thumb", False)], weights=weights)
    assert opinions(humans) == [(f"Answer {ASIDE}.", True)]
    assert humans.items[0].source == "thumb" and humans.items[0].key == f"thumb/{ASIDE}/0"


@pytest.mark.parametrize(
    ("events", "good"),
    [
        ([("ann", "thumb", True)], True),
        ([("ann", "rating", 2)], False),
        ([("ann", "rating", 3)], None),
        ([("ann", "thumb", None)], None),
        ([("ann", "thumb", True), ("bob", "thumb", False)], None),
        ([("ann", "thumb", True), ("bob", "thumb", False), ("cy", "rating", 1)], False),
        ([("ann", "click", "copy")], None),
        ([("ann", "regenerate", TRAIN)], None),
        ([("ann", "thumb", True), ("bob", "regenerate", TRAIN)], True),
    ],
)
def test_several_people_make_one_label_or_none(
    events: list[tuple[str, str, bool | int | str | None]], good: bool | None
) -> None:
    completion = answer(ASIDE)
    humans = found([said(completion, kind, value, who=who) for who, kind, value in events])
    assert [item.goods for item in humans.items] == ([] if good is None else [(good,)])


def test_disagreement_is_counted() -> None:
    completion = answer(ASIDE)
    evidence = [said(completion, "thumb", True), said(completion, "thumb", False, who="bob")]
    assert found(evidence).dropped == {"people_disagree": 1}


def test_a_signal_that_is_logged_only_is_not_heard() -> None:
    deaf = HALF.model_copy(update={"signals": SignalsConfig(thumb=0.0)})
    assert found([said(answer(ASIDE), "thumb", True)], feedback=deaf).items == ()


def test_labels_say_good_or_better() -> None:
    one, two, three = answer("x"), answer("y", prompt="Same?"), answer("z", prompt="Same?")
    labels = [label("l1", "x", good=False), label("l2", "y", other_id="z", choice_index=1)]
    humans = found(labels=labels, completions=[one, two, three])
    assert opinions(humans) == [("Answer x.", False), ("Answer y. Slowly.", True), ("Answer z.", False)]
    assert {item.source for item in humans.items} == {"label"}


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        (label("l", "gone", good=True), "label_unresolved"),
        (label("l", "x", choice_index=7, good=True), "label_unresolved"),
        (label("l", "x"), "label_unresolved"),
        (label("l", "x", other_id="gone"), "label_unresolved"),
        (label("l", "blank", good=True), "label_unresolved"),
        (label("l", "x", other_id="y"), "label_across_prompts"),
        (label("l", "x", other_id="x"), "label_without_difference"),
    ],
)
def test_labels_that_resolve_to_nothing_are_counted(given: Label, reason: str) -> None:
    humans = found(labels=[given], completions=[answer("x"), answer("y"), answer("blank", " ")])
    assert (humans.items, humans.dropped) == ((), {reason: 1})


def test_a_policy_that_judges_is_not_measured_on_what_it_may_have_learned_from() -> None:
    answers = [
        answer(ASIDE),
        answer(TRAIN),
        answer(ASIDE_2, source=Source.SAMPLE),
        answer(TRAIN_2, source=Source.LABEL),
    ]
    labels = [label(f"l{number}", completion.id, good=True) for number, completion in enumerate(answers)]
    base = found(labels=labels, completions=answers)
    own = found(labels=labels, completions=answers, weights="incumbent")
    assert len(base.items) == 4
    assert opinions(own) == sorted([(f"Answer {ASIDE}.", True), (f"Answer {TRAIN_2}.", True)])
    assert own.dropped == {"label_may_have_trained": 2}
    other = [answer(ASIDE, prompt="Same?"), answer(TRAIN, prompt="Same?")]
    better = [label("l", ASIDE, other_id=TRAIN)]
    assert len(found(labels=better, completions=other).items) == 1
    assert found(labels=better, completions=other, weights="incumbent").dropped == {
        "label_may_have_trained": 1
    }


def test_comparisons_name_a_better_and_a_worse_answer() -> None:
    train, aside = answer(TRAIN, prompt="Same?"), answer(ASIDE, prompt="Same?")
    edited = answer(ASIDE_2)
    evidence = [said(train, "preference", ASIDE), said(edited, "edit", "Better.")]
    known = [train, aside, edited]
    humans = found(evidence, completions=known)
    kept, other, before = (completion.choices[0].text for completion in known)
    assert opinions(humans) == sorted([(kept, True), (other, False), ("Better.", True), (before, False)])
    assert {item.source for item in humans.items} == {"comparison"}
    # One side of the first may have trained.
    own = found(evidence, completions=known, weights="incumbent")
    assert opinions(own) == sorted([("Better.", True), (before, False)])


def test_an_answer_is_labelled_once_by_whoever_looked_hardest() -> None:
    completion = answer(ASIDE)
    evidence = [said(completion, "thumb", True, at=9.0), said(completion, "edit", "Better.", at=8.0)]
    operators = [label("old", ASIDE, good=True, at=1.0), label("new", ASIDE, good=False, at=2.0)]
    assert [item.key for item in found(evidence).items] == [f"comparison/{ASIDE}-ann-edit-0"]
    humans = found(evidence, operators, [completion])
    assert [(item.key, item.goods) for item in humans.items] == [("label/new", (False,))]
    assert humans.dropped == {"said_again": 3}


def test_only_the_newest_labels_are_kept_and_a_comparison_is_two() -> None:
    first, second, third = answer(ASIDE), answer(ASIDE_2), answer(ASIDE_3)
    evidence = [
        said(first, "thumb", True, at=1.0),
        said(second, "edit", "Better.", at=2.0),
        said(third, "thumb", False, at=3.0),
    ]
    assert [item.source for item in found(evidence, max_labels=4).items] == ["thumb", "comparison", "thumb"]
    humans = found(evidence, max_labels=3)
    assert [item.source for item in humans.items] == ["thumb", "comparison"]
    assert humans.dropped == {"older": 1}
    assert [item.source for item in found(evidence, max_labels=2).items] == ["thumb"]


def labels_of(humans: Humans, person: str) -> int:
    """How many labels of the yardstick are this person's comparisons or votes."""
    return sum(len(item.goods) for item in humans.items if f"-{person}-" in item.key)


def crowded(loud: int, others: int, *, at: float = 9.0) -> list[Evidence]:
    """`loud` corrections by ann, at `at`; one earlier by each of the others."""
    edits = [("ann", at + number / 1000) for number in range(loud)]
    edits += [(f"p{number}", 2.0 + number / 1000) for number in range(others)]
    return [
        said(answer(f"said{number}"), "edit", "Better.", who=who, at=when)
        for number, (who, when) in enumerate(edits)
    ]


def test_nobody_owns_the_yardstick() -> None:
    humans = found(crowded(200, 9), max_labels=1000)
    # Ten people: three tenths each at the most, 7 of 25 labels at the most of her 200 comparisons.
    assert sum(len(item.goods) for item in humans.items) == 18 + labels_of(humans, "ann")
    assert labels_of(humans, "ann") == 6 <= 0.3 * 24
    assert humans.dropped == {"share": 197}
    newest = {f"comparison/said{number}-ann-edit-0" for number in (197, 198, 199)}
    assert {item.key for item in humans.items if "-ann-" in item.key} == newest


def test_nobody_pushes_the_others_out_of_the_newest() -> None:
    """All of ann's are newer than anybody else's, and more than are kept."""
    evidence = crowded(400, 200)
    humans = found(evidence, max_labels=100)
    everyone = sum(len(item.goods) for item in humans.items)
    assert everyone == 100
    assert 0 < labels_of(humans, "ann") <= 0.02 * everyone


def test_nobody_silences_others_by_speaking_of_their_answers() -> None:
    asides = [answer(named(Split.NEVER_TRAIN, number)) for number in range(40)]
    votes = [said(one, "thumb", True, who=f"p{n}") for n, one in enumerate(asides)]
    edits = [said(one, "edit", "Worse.", who="ann", at=9.0 + n) for n, one in enumerate(asides)]
    humans = found(votes + edits, max_labels=1000)
    heard = sum(item.source == "thumb" for item in humans.items)
    assert heard >= 36
    assert labels_of(humans, "ann") <= 4


def test_few_people_and_operators_have_no_share() -> None:
    assert len(found(crowded(50, 2), max_labels=1000).items) == 52
    texts = [answer(f"import{number}", source=Source.LABEL) for number in range(60)]
    labels = [label(f"l{n}", text.id, good=True) for n, text in enumerate(texts)]
    humans = found(crowded(3, 9), labels, texts, max_labels=1000)
    assert sum(item.source == "label" for item in humans.items) == 60
    assert "share" not in humans.dropped


def test_a_vote_of_several_stands_while_one_of_them_has_room() -> None:
    asides = [answer(named(Split.NEVER_TRAIN, number)) for number in range(30)]
    votes = [said(one, "thumb", True, who="ann", at=9.0) for one in asides]
    votes += [said(one, "thumb", True, who=f"p{n % 9}", at=9.0) for n, one in enumerate(asides)]
    # Half of thirty votes are ann's, of three tenths she may have; but somebody else stands behind each.
    assert len(found(votes).items) == 30
    # Without them hers alone go, the oldest first.
    alone = found([*votes[:30], *(said(answer(f"e{n}"), "edit", "Better.", who=f"p{n}") for n in range(9))])
    assert sum(item.source == "thumb" for item in alone.items) == 7


def test_answers_to_one_prompt_are_one_question_of_bounded_size() -> None:
    answers = [answer(named(Split.NEVER_TRAIN, number), prompt="Same?") for number in range(6)]
    humans = found([said(completion, "thumb", True) for completion in answers])
    assert sorted(len(item.goods) for item in humans.items) == [2, 4]
    assert len(humans.questions) == 2


def test_position_tells_nothing_and_order_is_stable() -> None:
    texts = [answer(f"import{number}", source=Source.LABEL) for number in range(300)]
    labels = [label(f"l{n}", text.id, other_id=text.id, other_index=1) for n, text in enumerate(texts)]
    humans = found(labels=labels, completions=texts, max_labels=600)
    first = sum(item.goods[0] for item in humans.items)
    assert len(humans.items) == 300 and abs(first - 150) < 3 * math.sqrt(75)
    assert found(labels=labels[::-1], completions=texts, max_labels=600) == humans


def test_scores_line_up_with_labels() -> None:
    items = [
        HumanItem(Question((), ("aa", "b")), (True, False), "label", "1"),
        HumanItem(Question((), ("ccc",)), (False,), "thumb", "2"),
    ]
    lined = scored(items, [(Score(1.0), None), (Score(math.nan),)])
    assert (lined.value.tolist(), lined.good.tolist(), lined.length.tolist()) == ([1.0], [True], [2.0])
    assert lined.prompt.tolist() == [0]
    with pytest.raises(ValueError, match="zip"):
        scored(items, [(Score(1.0), None)])
