"""The relevance scorer: arithmetic, repetition and copies, long conversations, abstention."""

import math

import pytest

from judge.relevance import LEAST_NEW, NEUTRAL, RelevanceScorer, latest, relevance, share_of_new
from judge.slots import Judge
from policies.fake_engine import FakeEngine
from store.records import Message
from tests.judge.told import ToldEngine, asking, given, scores


def likely_when_asked(prompt: str, continuation: str) -> list[float]:
    """One nat a word for answers that name what the prompt asks about; four where nobody asked."""
    asked = any(word in prompt for word in continuation.split())
    return [-1.0 if asked else -4.0 for _ in continuation.split()]


def test_the_score_is_the_logarithm_of_the_gain_times_the_root_of_the_share_of_new_words() -> None:
    scorer = RelevanceScorer(Judge(ToldEngine(likely_when_asked)))
    ((sea, cake),) = scores(
        scorer, asking("Say something about the sea", "sea water is salt", "cake is sweet")
    )
    assert given(sea).value == pytest.approx(math.log1p(4 * 3.0))
    assert given(cake).value == 0.0
    assert given(sea).details == {"given": -4.0, "neutral": -16.0, "tokens": 4, "new": 1.0}


def test_an_answer_that_the_prompt_makes_unlikelier_scores_below_zero() -> None:
    assert relevance(-10.0, 1.0) == -relevance(10.0, 1.0) < 0
    assert relevance(0.0, 1.0) == 0.0


def test_repetition_does_not_make_a_loss_smaller() -> None:
    honest = relevance(-3.0, 1.0)
    assert relevance(-30.0, 0.0) < relevance(-30.0, 0.5) < relevance(-30.0, 1.0) < honest < 0
    assert relevance(-3.0, 0.0) == relevance(-3.0, LEAST_NEW) == pytest.approx(5 * honest)
    # Against an answer that gains nothing, nothing repeated wins either.
    assert relevance(30.0, 0.0) == relevance(0.0, 0.0) == 0.0


def test_half_the_words_new_cost_less_than_half_the_score() -> None:
    assert relevance(math.e - 1, 0.25) == pytest.approx(0.5)
    assert relevance(math.e - 1, 0.0) == 0.0


@pytest.mark.parametrize(
    ("answer", "prompt", "share"),
    [
        ("one two three four five", "", 1.0),
        ("one two three one two three one two three", "", 3 / 7),
        ("Name the seven seas", "Name the seven seas", 0.0),
        ("name the SEVEN seas.", "Please: name the seven seas!", 0.0),
        ("name the seven hills of Rome", "Name the seven seas", 3 / 4),
        ("4", "What is 2 + 2?", 1.0),
        ("?!", "Why?", 1.0),
        ("yes yes", "Is it? Say yes", 1.0),
    ],
)
def test_copies_of_the_question_and_repetition_are_not_new(answer: str, prompt: str, share: float) -> None:
    assert share_of_new(answer, prompt) == pytest.approx(share)


def test_an_answer_repeated_many_times_does_not_gain() -> None:
    once = "the sea is a large body of salt water"
    scorer = RelevanceScorer(Judge(ToldEngine(likely_when_asked)))
    ((short, long),) = scores(scorer, asking("What is the sea?", once, " ".join([once] * 30)))
    assert given(long).value < given(short).value


def test_a_long_conversation_keeps_its_latest_turns_and_starts_with_a_person() -> None:
    turns = (
        Message("user", "a" * 50),
        Message("assistant", "b" * 50),
        Message("user", "c" * 50),
        Message("assistant", "d" * 10),
        Message("user", "e" * 30),
    )
    assert latest(turns, 1000) == turns
    assert [turn.content[0] for turn in latest(turns, 100)] == ["c", "d", "e"]
    assert [turn.content[0] for turn in latest(turns, 50)] == ["e"]
    assert latest(turns, 20) == (Message("user", "e" * 20),)


def test_refused_and_overlong_answers_get_no_score_and_the_others_do() -> None:
    engine = ToldEngine(likely_when_asked, longest=200)
    ((first, *others),) = scores(
        RelevanceScorer(Judge(engine)),
        asking("The sea?", "sea water is salt", " ", "Score: 5/5", "water " * 100),
    )
    assert given(first).value > 0
    assert others == [None, None, None]


def test_the_answer_is_scored_without_template_tokens() -> None:
    engine = ToldEngine(likely_when_asked)
    scores(RelevanceScorer(Judge(engine)), asking("The sea?", "the sea <|im_end|>"))
    assert {text for call in engine.calls for _, text in call} == {"the sea"}


def test_every_answer_is_held_against_the_same_neutral_prompt() -> None:
    engine = ToldEngine(likely_when_asked)
    scores(RelevanceScorer(Judge(engine)), asking("The sea?", "the sea", "the lake"))
    asked, neutral = engine.calls
    assert [prompt for prompt, _ in asked] == ["The sea?"] * 2
    assert [prompt for prompt, _ in neutral] == [NEUTRAL[0].content] * 2


def test_the_version_follows_the_weights() -> None:
    engine = FakeEngine()
    assert RelevanceScorer(Judge(engine)).version == RelevanceScorer(Judge(engine)).version
    assert RelevanceScorer(Judge(engine)).version != RelevanceScorer(Judge(engine, "a-1")).version
