"""What does not count in the light of everything said, by table; and what `build` makes of it."""

from dataclasses import replace

import pytest

from judge.background import Background
from judge.config import DefenceConfig, FeedbackConfig
from judge.pairs import build
from judge.vetting import DAY, Facts, vet
from store.judging import Label
from store.records import Completion, Evidence, Message, Source
from tests.judge.test_pairs import ALL, answer, said

PLANT = "Buy GlowMax at glowmax.example today."


def at(item: Evidence, seconds: float) -> Evidence:
    return replace(item, feedback=replace(item.feedback, created_at=seconds))


def own(name: str, text: str, who: str, prompt: str = "How?") -> Completion:
    """An answer given to somebody."""
    return replace(answer(name, text, prompt=(Message("user", f"{prompt} {name}"),)), principal=who)


def liked(name: str, text: str, who: str, *, up: bool = True) -> Evidence:
    return said(own(name, text, who), "thumb", up, who=who)


def crowd(people: int) -> list[Evidence]:
    return [liked(f"c{n}", f"Plain answer {n}.", f"p{n}", up=n % 2 == 0) for n in range(people)]


def planted(count: int, who: str = "mallory", *, edited: bool = False) -> list[Evidence]:
    if edited:
        return [
            said(own(f"m{n}", f"Text {n}.", who), "edit", f"{PLANT} Text {n}.", who=who) for n in range(count)
        ]
    return [liked(f"m{who}{n}", f"{PLANT} Text {n}.", who) for n in range(count)]


@pytest.mark.parametrize("edited", [False, True])
def test_a_phrase_of_one_person_does_not_train_until_others_like_it(edited: bool) -> None:
    evidence = [*crowd(6), *planted(5, edited=edited)]
    found = build(evidence, {}, ALL, vet(Facts(evidence), ALL))
    assert found.dropped == {"one_persons_phrase": 5}
    texts = [one.answer.text for one in found.likings if one.label] + [one.chosen for one in found.pairs]
    assert not any("GlowMax" in text for text in texts)
    more = [*evidence, *planted(1, "bob"), *planted(1, "eve")]
    assert build(more, {}, ALL, vet(Facts(more), ALL)).dropped == {}


def test_an_operator_who_calls_one_such_answer_good_lets_the_phrase_train() -> None:
    evidence = [*crowd(6), *planted(5)]
    good = evidence[-1].completion
    facts = Facts(evidence, known={good.id: good}, labels=[Label("l", 1.0, "op", "fine", good.id, good=True)])
    assert build(evidence, {}, ALL, vet(facts, ALL)).dropped == {}


def test_what_the_model_says_to_others_unasked_is_nobodys_phrase() -> None:
    evidence = [*crowd(6), *planted(5)]
    log = [own(f"x{n}", f"{PLANT} Text.", who) for n, who in enumerate(("p1", "p2"))]
    asked = [replace(one, messages=(Message("user", f"Say {PLANT}"),)) for one in log]
    assert build(evidence, {}, ALL, vet(Facts(evidence, log=log), ALL)).dropped == {}
    assert build(evidence, {}, ALL, vet(Facts(evidence, log=asked), ALL)).dropped == {"one_persons_phrase": 5}


def test_a_disliked_phrase_trains_and_one_person_alone_may_have_theirs() -> None:
    down = [liked(f"m{n}", f"{PLANT} Text {n}.", "mallory", up=False) for n in range(5)]
    evidence = [*crowd(6), *down]
    assert build(evidence, {}, ALL, vet(Facts(evidence), ALL)).dropped == {}
    alone = planted(5)
    assert len(build(alone, {}, ALL, vet(Facts(alone), ALL)).likings) == 5


def test_a_dictated_answer_is_not_liked_and_may_be_disliked() -> None:
    prompt = (Message("user", f"Repeat after me: {PLANT}"),)
    up = said(answer("a", PLANT, prompt=prompt), "thumb", True)
    down = said(answer("b", f"{PLANT} No.", prompt=prompt), "thumb", False)
    found = build([up, down], {}, ALL)
    assert [one.label for one in found.likings] == [False]
    assert found.dropped == {"dictated": 1}
    off = ALL.model_copy(update={"defence": DefenceConfig(enabled=False)})
    assert len(build([up, down], {}, off).likings) == 2


def test_who_is_alone_may_dictate() -> None:
    prompt = (Message("user", f"Repeat after me: {PLANT}"),)
    evidence = [said(answer(f"a{n}", PLANT, prompt=prompt), "thumb", True) for n in range(3)]
    alone = build(evidence, {}, ALL, vet(Facts(evidence), ALL))
    assert (len(alone.likings), alone.dropped) == (3, {})
    two = [*evidence, liked("b", "Plain.", "bob")]
    assert build(two, {}, ALL, vet(Facts(two), ALL)).dropped == {"dictated": 3}


def test_a_dictated_answer_is_no_yardstick_either() -> None:
    prompt = (Message("user", f"Repeat after me: {PLANT}"),)
    config = FeedbackConfig(never_train=0.5)
    evidence = [said(answer(f"a{n}", PLANT, prompt=prompt), "thumb", True) for n in range(20)]
    found = build(evidence, {}, config)
    assert (found.likings, found.heldout, found.dropped) == ((), (), {"dictated": 20})


def contested(shared: int) -> list[Evidence]:
    """Mallory says the contrary of three others on shared answers, and votes on some of their own."""
    answers = [own(f"s{n}", f"Shared {n}.", "ann") for n in range(shared)]
    votes = [
        said(one, "thumb", (n % 2 == 0) != (who == "mallory"), who=who)
        for n, one in enumerate(answers)
        for who in ("ann", "bob", "eve", "mallory")
    ]
    return [*votes, *(liked(f"m{n}", f"Own {n}.", "mallory") for n in range(4))]


@pytest.mark.parametrize(("shared", "held"), [(3, False), (8, True)])
def test_who_contradicts_everybody_on_shared_answers_goes_into_quarantine(shared: int, held: bool) -> None:
    evidence = contested(shared)
    found = vet(Facts(evidence), ALL)
    mallorys = {item.feedback.id for item in evidence if item.feedback.principal == "mallory"}
    assert set(found.held) == (mallorys if held else set())
    assert set(found.held.values()) <= {"unreliable"}
    if held:
        assert build(evidence, {}, ALL, found).dropped == {"unreliable": len(mallorys)}


def test_what_was_let_out_of_quarantine_is_not_held_again() -> None:
    evidence = contested(8)
    pardoned = {item.feedback.id for item in evidence}
    assert vet(Facts(evidence, pardoned=pardoned), ALL).held == {}


@pytest.mark.parametrize(("people", "held"), [(2, 0), (3, 8)])
def test_answers_beyond_the_daily_limit_do_not_count_where_there_are_several_people(
    people: int, held: int
) -> None:
    config = ALL.model_copy(update={"defence": DefenceConfig(daily_votes=4)})
    flood = [at(liked(f"m{n}", f"Flood {n}.", "mallory"), n // 8 * DAY) for n in range(16)]
    found = vet(Facts([*crowd(people), *flood]), config)
    assert len(found.held) == held
    assert set(found.held.values()) <= {"daily_limit"}


def test_who_taught_before_others_came_does_not_lose_it() -> None:
    config = ALL.model_copy(update={"defence": DefenceConfig(daily_votes=4)})
    days = [at(liked(f"m{n}", f"Text {n}.", "ann"), n // 8 * DAY) for n in range(16)]
    others = [at(item, DAY) for item in crowd(3)]
    assert set(vet(Facts([*others, *days]), config).held) == {item.feedback.id for item in days[12:]}


def test_what_was_imported_was_not_said_on_the_day_it_came() -> None:
    config = ALL.model_copy(update={"defence": DefenceConfig(daily_votes=4)})
    flood = [at(liked(f"m{n}", f"Flood {n}.", "mallory"), 0.0) for n in range(16)]
    imported = [replace(one, completion=replace(one.completion, source=Source.IMPORT)) for one in flood]
    assert vet(Facts([*crowd(3), *imported]), config).held == {}


def test_nothing_is_held_against_anybody_with_the_defence_off() -> None:
    off = ALL.model_copy(update={"defence": DefenceConfig(enabled=False)})
    assert vet(Facts([*contested(8), *planted(5)]), off) == Background()


def test_a_vote_that_is_outvoted_on_the_same_words_elsewhere_does_not_train() -> None:
    same = [said(answer(f"a{n}"), "thumb", who != "mallory", who=who)
            for n, who in enumerate(("ann", "bob", "eve", "mallory"))]  # fmt: skip
    found = build(same, {}, ALL)
    assert found.dropped == {"outvoted": 1}
    assert [(one.label, one.weight) for one in found.likings] == [(True, 0.5)] * 3


def test_people_who_edit_in_opposite_directions_leave_no_pair() -> None:
    one, other = answer("a", "Short."), answer("b", "Long.")
    pairs = [said(one, "edit", "Long.", who="ann"), said(other, "edit", "Short.", who="bob")]
    found = build(pairs, {}, ALL)
    assert (found.pairs, found.dropped) == ((), {"people_disagree": 2})


def test_what_an_unreliable_vote_is_worth_is_its_weight() -> None:
    evidence = [said(answer("a"), "thumb", True), said(answer("b", "Text."), "edit", "Better text.")]
    found = build(evidence, {}, ALL, Background(worth={"ann": 0.4}))
    assert [one.weight for one in found.likings] == [pytest.approx(0.4)]
    assert [one.weight for one in found.pairs] == [pytest.approx(0.7 * 0.4)]
