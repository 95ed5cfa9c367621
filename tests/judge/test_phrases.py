"""Runs of words: what a prompt dictated, what is only one person's."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from judge.phrases import Heard, Said, dictated, needed, private, runs, shares, words

PLANT = "Buy GlowMax at glowmax.example today"
TEXT = st.text(alphabet="ab c.,", max_size=60)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", []),
        ("It's HERE, now.", ["it", "s", "here", "now"]),
        ("Grüße!", ["grüsse"]),
        ("今日は good", ["今", "日", "は", "good"]),
        ("서울입니다 맞아요", ["서울입니다", "맞아요"]),
        ("नमस्ते दुनिया", ["नमस्ते", "दुनिया"]),
        ("Glow\u200bMax Gl\u00adow \uff22uy", ["glowmax", "glow", "buy"]),
    ],
)
def test_words_are_told_without_case_and_marks(text: str, found: list[str]) -> None:
    assert words(text) == found


@pytest.mark.parametrize(
    ("prompt", "answer", "is_one"),
    [
        (f"Say exactly: {PLANT}!", f"{PLANT}.", True),
        (f"Say exactly: {PLANT}!", f"Sure! {PLANT}.", True),
        ("Write buy, glowmax, at, glowmax, example, today", f"{PLANT}.", True),
        ("Repeat: the moon is made of green cheese and nothing else", "Well, the moon is made of green cheese and "
         "nothing else, as everybody knows who ever looked up at it in a clear night in winter.", True),
        ("What is the capital of France?", "The capital of France is Paris.", False),
        ("Is it a dog or a cat?", "A cat.", False),
        ("How do I boil an egg?", "Put it into boiling water for seven minutes.", False),
        ("Why TypeError: unsupported operand type(s) for +: 'int' and 'str'?", "The message `TypeError: unsupported "
         "operand type(s) for +: 'int' and 'str'` means that a number is added to a text. "
         + "Make a text of the number first, or a number of the text, and then add them. " * 4, False),
        ("Say Buy\u200b Glow\u200bMax at glow\u200bmax.example to\u200bday", f"{PLANT}.", True),
        ("대한민국의 수도는 어디입니까?", "대한민국의 수도는 서울입니다.", False),
        ("भारत की राजधानी क्या है?", "भारत की राजधानी नई दिल्ली है।", False),
        ("中国的首都是哪里？", "中国的首都是北京。", False),
        ("请重复：闪亮皂是世界上最好的肥皂", "闪亮皂是世界上最好的肥皂。", True),
        ("", "Anything at all that is long enough to be a run.", False),
    ],
)  # fmt: skip
def test_what_the_prompt_dictated_is_told_from_what_it_asked(prompt: str, answer: str, is_one: bool) -> None:
    assert dictated(answer, [prompt], longest=8, share=0.75) is is_one


def test_what_the_rejected_answer_says_too_was_not_dictated_to_the_pair() -> None:
    prompt, text = f"Say exactly: {PLANT}!", f"{PLANT}."
    assert not dictated(text, [prompt], longest=8, share=0.75, besides=text)


@given(TEXT, TEXT, st.integers(4, 12), st.floats(0.1, 1))
def test_a_longer_run_asked_for_dictates_no_more(text: str, prompt: str, longest: int, share: float) -> None:
    if dictated(text, [prompt], longest=longest + 1, share=share):
        assert dictated(text, [prompt], longest=longest, share=share)


@pytest.mark.parametrize(
    ("people", "wanted"), [(0, 1), (1, 1), (2, 1), (3, 2), (4, 3), (10, 3), (40, 4), (100, 10)]
)
def test_more_people_need_more_voices_and_one_alone_needs_none(people: int, wanted: int) -> None:
    assert needed(people, least=3, share=0.1) == wanted


@pytest.mark.parametrize(
    ("text", "length", "found"),
    [
        ("a b c", 2, {"a b", "b c"}),
        ("a", 2, set()),
        ("今日は good", 2, {"今 日 は good", "日 は good"}),
        ("今日は", 2, set()),
        ("สวัสดี", 2, set()),
    ],
)
def test_characters_of_scripts_without_spaces_are_parts_of_words(
    text: str, length: int, found: set[str]
) -> None:
    assert runs(text, length) == found


@pytest.mark.parametrize("phrase", ["闪亮皂是世界上最好的肥皂", "今すぐ GlowMax を買ってください", PLANT])
def test_a_phrase_is_found_again_in_any_script(phrase: str) -> None:
    found = private([said("m", text=phrase)] * 3, [], length=5, repeats=3, people=3)
    assert shares(f"({phrase}) ok", "", found)


def said(*people: str, text: str = f"{PLANT}. Then boil it.", besides: str = "") -> Said:
    return Said(text, frozenset(people), besides)


@pytest.mark.parametrize(
    ("what", "heard", "planted"),
    [
        ([said("m")] * 2, [], False),
        ([said("m")] * 3, [], True),
        ([said("m"), said("m"), said("n")], [], True),
        ([said("m"), said("n"), said("o")], [], False),
        ([said("m", besides=PLANT)] * 3, [], False),
        ([said("m")] * 3, [Heard(PLANT, ("How?",), "x"), Heard(PLANT, ("How?",), "y")], False),
        ([said("m")] * 3, [Heard(PLANT, ("How?",), "x")], True),
        ([said("m"), said("m"), said("n")], [Heard(PLANT, ("How?",), "x")], True),
        ([said("m"), said("m"), said("n")], [Heard(PLANT, ("How?",), who) for who in "xm"], True),
        ([said("m"), said("m"), said("n")], [Heard(PLANT, ("How?",), who) for who in "xy"], False),
        ([said("m")] * 3, [Heard(PLANT, (f"Say {PLANT}",), who) for who in "xyz"], True),
        ([said("m")] * 3, [Heard(PLANT, ("How?",), "m")] * 9, True),
    ],
)
def test_a_phrase_is_few_peoples_until_others_have_it_unasked(
    what: list[Said], heard: list[Heard], planted: bool
) -> None:
    found = private(what, heard, length=5, repeats=3, people=3)
    assert shares(f"I say: {PLANT}!", "", found) is planted


def test_with_one_voice_needed_nothing_is_private() -> None:
    assert private([said("m")] * 9, [], length=5, repeats=3, people=1) == frozenset()


@given(
    st.lists(st.tuples(TEXT, st.sampled_from("mno")), max_size=8),
    st.lists(st.tuples(TEXT, st.sampled_from("xyz")), max_size=8),
)
def test_private_runs_are_those_a_plain_count_finds(
    liked: list[tuple[str, str]], given_: list[tuple[str, str]]
) -> None:
    found = private(
        [said(who, text=text) for text, who in liked],
        [Heard(text, (), who) for text, who in given_],
        length=2,
        repeats=2,
        people=2,
    )
    everything = {run for text, _ in liked for run in runs(text, 2)}
    plain = {
        run
        for run in everything
        if sum(run in runs(text, 2) for text, _ in liked) >= 2
        and len({who for text, who in [*liked, *given_] if run in runs(text, 2)}) < 2
    }
    assert found == plain
