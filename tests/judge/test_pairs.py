"""Evidence into preference, by table."""

import pytest

from judge.config import FeedbackConfig, SignalsConfig
from judge.opinions import combine, person_opinion
from judge.pairs import build, cap_shares, share_cap, shortage, split_of
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

SIGNALS = SignalsConfig()
ALL = FeedbackConfig(never_train=0.0)
PROMPT = (Message("user", "How do I boil an egg?"),)


def answer(name: str, text: str = "In water.", *, prompt: tuple[Message, ...] = PROMPT) -> Completion:
    choices = (Choice(0, text, "stop"), Choice(1, f"{text} Slowly.", "length"))
    return Completion(
        id=name,
        created_at=1.0,
        principal="ann",
        source=Source.CHAT,
        messages=prompt,
        sampling=Sampling(),
        adapter=None,
        engine="fake",
        status=CompletionStatus.DONE,
        choices=choices,
    )


def said(completion: Completion, kind: str, value: object, *, who: str = "ann", index: int = 0) -> Evidence:
    name = f"{completion.id}-{who}-{kind}-{index}"
    event = Feedback(name, 2.0, completion.id, index, who, FeedbackKind(kind), value)
    return Evidence(event, completion)


@pytest.mark.parametrize(
    ("events", "opinion"),
    [
        ([("thumb", True)], 1.0),
        ([("thumb", False)], -1.0),
        ([("thumb", None)], 0.0),
        ([("rating", 5)], 1.0),
        ([("rating", 4)], 0.5),
        ([("rating", 3)], 0.0),
        ([("rating", 1)], -1.0),
        ([("regenerate", "other")], -0.2),
        ([("click", "copy")], 0.3),
        ([("click", "dwell")], 0.0),
        ([("thumb", False), ("click", "copy")], -1.0),
        ([("thumb", True), ("rating", 5)], 1.0),
        ([("comment", "nice")], 0.0),
    ],
)
def test_one_persons_events_become_one_opinion(events: list[tuple[str, object]], opinion: float) -> None:
    completion = answer("a")
    feedback = [said(completion, kind, value).feedback for kind, value in events]
    assert person_opinion(feedback, SIGNALS) == pytest.approx(opinion)


def test_disagreement_lowers_the_weight_and_agreement_does_not_raise_it() -> None:
    assert combine([1.0, 1.0]) == 1.0
    assert combine([1.0, 1.0, -1.0]) == pytest.approx(1 / 3)
    assert combine([]) == 0.0


def test_thumbs_become_liked_and_disliked_answers_of_the_voted_choice() -> None:
    first, second = answer("a"), answer("b", "Put it in a pan.")
    found = build([said(first, "thumb", True, index=1), said(second, "thumb", False)], {}, ALL)
    assert [(item.answer.text, item.answer.ended, item.label) for item in found.likings] == [
        ("In water. Slowly.", False, True),
        ("Put it in a pan.", True, False),
    ]


def test_people_who_cancel_each_other_out_leave_no_example() -> None:
    completion = answer("a")
    found = build([said(completion, "thumb", True), said(completion, "thumb", False, who="bob")], {}, ALL)
    assert found.likings == ()
    assert found.dropped == {"people_disagree": 1}


def test_an_edit_prefers_the_correction() -> None:
    completion = answer("a")
    (pair,) = build([said(completion, "edit", "Boil water first.")], {}, ALL).pairs
    assert (pair.chosen, pair.rejected.text, pair.weight) == ("Boil water first.", "In water.", 0.7)


def test_an_edit_that_changes_nothing_is_no_pair() -> None:
    assert build([said(answer("a"), "edit", "In water.")], {}, ALL).pairs == ()


def test_a_preference_names_the_other_answer_by_id_or_by_choice() -> None:
    mine, other = answer("a"), answer("b", "No idea.")
    by_id = build([said(mine, "preference", "b")], {"b": other}, ALL).pairs
    by_choice = build([said(mine, "preference", 1)], {}, ALL).pairs
    assert [(p.chosen, p.rejected.text) for p in by_id] == [("In water.", "No idea.")]
    assert [(p.chosen, p.rejected.text) for p in by_choice] == [("In water.", "In water. Slowly.")]


def test_answers_to_different_prompts_are_never_paired() -> None:
    other = answer("b", "No idea.", prompt=(Message("user", "Why?"),))
    assert build([said(answer("a"), "preference", "b")], {"b": other}, ALL).pairs == ()


def test_a_retry_whose_answer_is_kept_prefers_the_new_answer() -> None:
    old, new = answer("a"), answer("b", "Better.")
    (pair,) = build([said(old, "regenerate", "b")], {"b": new}, ALL).pairs
    assert (pair.chosen, pair.rejected.text, pair.weight) == ("Better.", "In water.", 0.5)


def test_a_retry_whose_answer_is_disliked_or_retried_again_is_no_pair() -> None:
    old, new, third = answer("a"), answer("b", "Worse."), answer("c", "Third.")
    disliked = build([said(old, "regenerate", "b"), said(new, "thumb", False)], {"b": new}, ALL)
    again = build([said(old, "regenerate", "b"), said(new, "regenerate", "c")], {"b": new, "c": third}, ALL)
    assert disliked.pairs == ()
    assert [pair.chosen for pair in again.pairs] == ["Third."]


def test_set_aside_answers_only_test_and_never_enter_a_pair() -> None:
    config = FeedbackConfig(never_train=0.5)
    names = [f"chatcmpl-{number}" for number in range(40)]
    aside = [name for name in names if split_of(name, 0.5) is Split.NEVER_TRAIN]
    kept = next(name for name in names if name not in aside)
    evidence = [said(answer(name), "thumb", True) for name in names]
    evidence.append(said(answer(kept), "preference", aside[0]))
    found = build(evidence, {aside[0]: answer(aside[0], "Other.")}, config)
    assert {item.answer.completion_id for item in found.heldout} == set(aside)
    assert not {item.answer.completion_id for item in found.likings} & set(aside)
    assert found.pairs == ()


def test_the_split_is_stable_and_near_its_share() -> None:
    sides = [split_of(f"chatcmpl-{number}", 0.15) for number in range(2000)]
    assert sides == [split_of(f"chatcmpl-{number}", 0.15) for number in range(2000)]
    assert 0.12 < sides.count(Split.NEVER_TRAIN) / 2000 < 0.18


@pytest.mark.parametrize(
    ("people", "cap"), [(1, 1.0), (3, 1.0), (4, 0.75), (30, 0.1), (1000, 0.02), (0, 1.0)]
)
def test_the_share_cap_loosens_when_people_are_few(people: int, cap: float) -> None:
    assert share_cap(people, 0.02) == pytest.approx(cap)


def test_nobody_holds_more_than_the_cap() -> None:
    weights = {"flood": 90.0, **{f"p{n}": 1.0 for n in range(10)}}
    factors = cap_shares(weights, 0.25)
    capped = {name: weights[name] * factor for name, factor in factors.items()}
    assert capped["flood"] / sum(capped.values()) == pytest.approx(0.25)
    assert all(factors[f"p{n}"] == 1.0 for n in range(10))


def test_two_flooders_are_capped_together() -> None:
    weights = {"a": 50.0, "b": 40.0, **{f"p{n}": 1.0 for n in range(10)}}
    factors = cap_shares(weights, 0.2)
    capped = {name: weights[name] * factor for name, factor in factors.items()}
    total = sum(capped.values())
    assert capped["a"] / total == pytest.approx(0.2)
    assert capped["b"] / total == pytest.approx(0.2)


def test_one_person_alone_counts_fully() -> None:
    assert cap_shares({"me": 7.0}, share_cap(1, 0.02)) == {"me": 1.0}


def test_too_little_and_one_sided_data_say_what_would_mend_them() -> None:
    few = build([said(answer("a"), "thumb", True)], {}, ALL)
    downs = build([said(answer(f"a{n}"), "thumb", False) for n in range(6)], {}, ALL)
    both = build([said(answer(f"a{n}"), "thumb", n % 2 == 0) for n in range(6)], {}, ALL)
    assert "min_examples" in (shortage(few, ALL) or "")
    assert "thumbs up" in (shortage(downs, ALL) or "")
    assert shortage(both, ALL) is None


@pytest.mark.parametrize(
    ("ups", "downs", "mended_by"),
    [(20, 0, "thumbs down"), (19, 1, "thumbs down"), (1, 19, "thumbs up"), (18, 2, None), (2, 18, None)],
)
def test_votes_of_nearly_one_sign_are_refused_with_what_would_mend_it(
    ups: int, downs: int, mended_by: str | None
) -> None:
    votes = [said(answer(f"a{n}"), "thumb", n < ups) for n in range(ups + downs)]
    missing = shortage(build(votes, {}, ALL), ALL)
    assert (missing is None) if mended_by is None else (missing is not None and mended_by in missing)


def test_pairs_are_contrast_enough() -> None:
    liked = [said(answer(f"a{n}"), "thumb", True) for n in range(9)]
    edited = said(answer("b"), "edit", "In boiling water, for seven minutes.")
    assert shortage(build([*liked, edited], {}, ALL), ALL) is None


def test_counts_name_people_and_sides() -> None:
    found = build(
        [said(answer("a"), "thumb", True), said(answer("b", "No idea."), "thumb", False, who="bob")], {}, ALL
    ).counts()
    assert (found["kto_up"], found["kto_down"], found["people"]) == (1, 1, 2)
