"""Questions the model writes itself."""

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from judge.instruct import (
    ATTEMPTS,
    WAVE,
    common_subsequence,
    few_shot,
    is_novel,
    is_question,
    rouge_l,
    tidy,
    write_prompts,
)
from judge.prompts import words
from policies.engine import Priority
from policies.fake_engine import FakeEngine, FakeLimits
from store.errors import EngineUnavailable
from store.records import Message
from tests.judge.saying import SayingEngine

SEEDS = [
    "How do I boil an egg?",
    "Why is the sky blue?",
    "Write a letter to my landlord.",
    "What do bees eat in winter?",
    "Name three rivers of Spain.",
    "Explain compound interest.",
    "Which knots should a sailor know?",
]


@pytest.mark.parametrize(
    ("reply", "question"),
    [
        ("What is moss?", "What is moss?"),
        ("8. What is moss?", "What is moss?"),
        ('Sure! Here is one:\n\n"What is moss?"', "What is moss?"),
        ("**New message:**\n- What is moss?\nIt is a plant.", "What is moss?"),
        ("Question 9: What is moss?", "What is moss?"),
        ("<|im_start|>user\nWhat is moss?<|im_end|>", "What is moss?"),
        ("Sure!\nWhat is moss?", "What is moss?"),
        ("1) “What is moss?”", "What is moss?"),
        ("3 ways to cook moss", "3 ways to cook moss"),
        ("", ""),
        ("Here it is:", ""),
    ],
)
def test_a_reply_is_tidied_to_its_question(reply: str, question: str) -> None:
    assert tidy(reply) == question


@pytest.mark.parametrize(
    ("text", "good"),
    [
        ("What is moss?", True),
        ("Why?", False),
        ("user", False),
        ("word " * 81, False),
        ("why why why why why why", False),
        (" ".join(f"w{n}" for n in range(80)), True),
        ("x" * 200 + " " + "y" * 200 + " " + "z" * 200, False),
    ],
)
def test_a_question_has_a_size(text: str, good: bool) -> None:
    assert is_question(text) is good


@pytest.mark.parametrize(
    ("one", "other", "f1"),
    [("a b c d", "a b c d", 1.0), ("a b c d", "e f", 0.0), ("a b c d", "a c", 2 / 3), ("", "", 1.0)],
)
def test_rouge_l_by_hand(one: str, other: str, f1: float) -> None:
    assert rouge_l(one.split(), other.split()) == pytest.approx(f1)


def by_table(one: Sequence[str], other: Sequence[str]) -> int:
    """The textbook's longest common subsequence."""
    above = [0] * (len(other) + 1)
    for a in one:
        row = [0]
        for at, b in enumerate(other):
            row.append(above[at] + 1 if a == b else max(above[at + 1], row[at]))
        above = row
    return above[-1]


@given(st.lists(st.sampled_from("abc"), max_size=12), st.lists(st.sampled_from("abcd"), max_size=12))
def test_bits_and_table_find_the_same_subsequence(one: list[str], other: list[str]) -> None:
    assert common_subsequence(one, other) == by_table(one, other)


def test_at_the_bound_a_question_is_not_novel() -> None:
    known = words("a b c d e f g h i j")
    assert not is_novel("a b c d e f g x y z", [known])
    assert is_novel("a b c d e f w x y z", [known])


def test_what_is_shown_is_one_line_each_without_control_tokens() -> None:
    seeds = [*SEEDS, "First line\nsecond <|im_end|> line " + "long " * 200]
    (message,) = few_shot(seeds, seed=3)
    lines = [line for line in message.content.splitlines() if line[:1].isdigit()]
    assert 6 <= len(lines) <= 8
    assert "<|im_end|>" not in message.content
    assert max(map(len, lines)) < 320
    assert few_shot(seeds, seed=3) == few_shot(seeds, seed=3) != few_shot(seeds, seed=4)


def written(engine: FakeEngine | SayingEngine, **changes: Any) -> list[str]:
    arguments: dict[str, Any] = {"count": 3, "adapter": None, "seed": 5, **changes}

    async def scene() -> list[str]:
        await engine.start()
        seeds = arguments.pop("seeds", SEEDS)
        return await asyncio.wait_for(write_prompts(engine, seeds, **arguments), timeout=20)

    return asyncio.run(scene())


def test_new_questions_are_written_and_the_same_again() -> None:
    first = written(FakeEngine())
    assert len(first) == 3 == len(set(first))
    assert first == written(FakeEngine())
    assert first != written(FakeEngine(), seed=6)
    assert all(is_novel(text, [words(seed) for seed in SEEDS]) for text in first)


def test_a_model_that_repeats_itself_writes_one_and_stops() -> None:
    engine = SayingEngine(lambda _: "What is the use of moss?")
    assert written(engine) == ["What is the use of moss?"]
    assert len(engine.asked) == 3 * ATTEMPTS
    assert engine.priorities == {Priority.BACKGROUND}


def test_a_model_that_copies_what_it_was_shown_writes_nothing() -> None:
    assert written(SayingEngine(lambda _: SEEDS[0])) == []
    assert written(SayingEngine(lambda _: "What is moss?"), known=["what is moss"]) == []
    assert written(SayingEngine(lambda _: "")) == []


def test_too_few_seeds_and_no_wish_ask_nothing() -> None:
    engine = SayingEngine(lambda _: "What is moss?")
    assert written(engine, seeds=SEEDS[:5]) == []
    assert written(engine, count=0) == []
    assert engine.asked == []


def test_a_context_too_small_for_the_examples_ends_with_fewer() -> None:
    assert written(FakeEngine(FakeLimits(max_context=90))) == []


def test_a_question_cut_short_is_not_taken() -> None:
    engine = SayingEngine(lambda _: "What is the use of", finish="length")
    assert written(engine) == []
    engine = SayingEngine(lambda _: "What is the use of moss?\nAnd what", finish="length")
    assert written(engine) == ["What is the use of moss?"]


def test_an_engine_that_went_away_is_an_error() -> None:
    def gone(_: Sequence[Message]) -> str:
        raise EngineUnavailable("closed")

    with pytest.raises(EngineUnavailable):
        written(SayingEngine(gone))
    assert WAVE > 1
