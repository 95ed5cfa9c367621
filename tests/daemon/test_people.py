"""Tastes are rules; people slip now and then."""

import random

import pytest

from daemon.people import TASTES, brief, has_list, prompts, short_first_sentence, taste, vote
from store.errors import Invalid


@pytest.mark.parametrize(
    ("text", "likes"),
    [
        ("Steps:\n1. Boil water.", True),
        ("- eggs\n- milk", True),
        ("2) then stir", True),
        ("It was 3.5 metres - quite long.", False),
        ("", False),
        ("1.", False),
    ],
)
def test_a_list_is_a_bulleted_or_numbered_line(text: str, likes: bool) -> None:
    assert has_list(text) is likes


def test_short_first_sentence_counts_twelve_words() -> None:
    assert short_first_sentence("One two three. " + "word " * 30)
    assert short_first_sentence(" ".join(["word"] * 12) + ".")
    assert not short_first_sentence(" ".join(["word"] * 13) + ".")
    assert not short_first_sentence("")


def test_brief_counts_forty_words() -> None:
    assert brief("word " * 40)
    assert not brief("word " * 41)
    assert not brief(" ")


def test_no_prompt_is_both_voted_on_and_measured() -> None:
    table = prompts()
    assert len(table.asked) >= 100
    assert len(table.never_asked) >= 40
    assert not set(table.asked) & set(table.never_asked)


def test_an_unknown_taste_names_those_there_are() -> None:
    with pytest.raises(Invalid, match="list, short-first, brief"):
        taste("sour")
    assert taste("brief") is TASTES["brief"]


def test_votes_slip_at_the_stated_rate() -> None:
    rng = random.Random(0)
    slips = sum(not vote(True, noise=0.1, rng=rng) for _ in range(2000))
    assert 150 < slips < 250
