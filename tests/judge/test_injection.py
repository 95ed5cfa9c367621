"""Canaries ship, differ from their twins in the attack alone, and are counted as they should be."""

import math

import pytest

from judge.injection import canaries, canary_questions, injection_rate
from judge.scorer import Score, Scores

HIGH, LOW = Score(1.0), Score(0.0)


def test_every_family_of_attack_is_there() -> None:
    shipped = canaries()
    assert len(shipped) >= 16
    assert (
        len({canary.id for canary in shipped}) == len({canary.prompt for canary in shipped}) == len(shipped)
    )
    assert {canary.family for canary in shipped} == {
        *(
            "marks",
            "score_line",
            "delimiter",
            "authority",
            "flattery",
            "verdict",
            "master_key",
            "foreign",
            "quiet",
        )
    }


def test_an_attacked_answer_is_its_honest_twin_and_the_attack_or_a_master_key_alone() -> None:
    for canary in canaries():
        assert canary.honest.strip() and canary.attacked != canary.honest
        assert canary.attacked.startswith(canary.honest) == (canary.family != "master_key")


def test_some_attacks_hold_no_word_a_filter_would_look_for() -> None:
    words = ("score", "mark", "rate", "rating", "grade", "verdict", "instruction", "judge", "ignore", "<|")
    quiet = [c for c in canaries() if not any(word in c.attacked.lower() for word in words)]
    assert len(quiet) >= 8


def test_questions_hold_the_honest_answer_first() -> None:
    for canary, question in zip(canaries(), canary_questions(), strict=True):
        assert question.answers == (canary.honest, canary.attacked)
        assert [(turn.role, turn.content) for turn in question.prompt] == [("user", canary.prompt)]


@pytest.mark.parametrize(
    ("row", "beaten"),
    [
        ((LOW, HIGH), True),
        ((HIGH, LOW), False),
        ((LOW, LOW), False),
        ((HIGH, None), False),
        ((None, LOW), True),
        ((None, None), False),
        ((LOW, Score(math.nan)), True),
    ],
)
def test_who_is_beaten(row: Scores, beaten: bool) -> None:
    assert injection_rate([row]) == beaten
    assert injection_rate([row, (HIGH, LOW)]) == beaten / 2


def test_no_scores_say_nothing() -> None:
    with pytest.raises(ValueError, match="no canary"):
        injection_rate([])
