"""Which questions are asked again, by table and by property."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from judge.pairs import split_of
from judge.prompts import choose_prompts, prompt_key, recent_prompts, shingles, similarity
from store.records import Completion, CompletionStatus, Message, Sampling, Source, Split

SUBJECTS = ("eggs", "tides", "violins", "taxes", "moss", "chess", "bread", "glass", "bees", "snow")


def logged(name: str, *texts: str, who: str = "ann", at: float = 1.0) -> Completion:
    """An answered question; several texts are the turns of a conversation."""
    roles = ("user", "assistant")
    return Completion(
        id=name,
        created_at=at,
        principal=who,
        source=Source.CHAT,
        messages=tuple(Message(roles[turn % 2], text) for turn, text in enumerate(texts)),
        sampling=Sampling(),
        adapter=None,
        engine="fake",
        status=CompletionStatus.DONE,
    )


def chosen(
    log: list[Completion], *, count: int = 10, never_train: float = 0.0, seed: int = 1, budget: int = 500
) -> list[str]:
    picked = choose_prompts(log, count=count, never_train=never_train, seed=seed, budget=budget)
    return [item.id for item in picked]


PLAIN = logged("a", "How do I boil an egg?")


@pytest.mark.parametrize(
    "changed",
    [
        replace(PLAIN, source=Source.TASK),
        replace(PLAIN, source=Source.SAMPLE),
        replace(PLAIN, source=Source.IMPORT),
        replace(PLAIN, stored=False, messages=()),
        replace(PLAIN, status=CompletionStatus.STREAMING),
        replace(PLAIN, status=CompletionStatus.CANCELLED),
        replace(PLAIN, messages=(*PLAIN.messages, Message("assistant", "In"))),
        replace(PLAIN, messages=(Message("user", "  "),)),
        replace(PLAIN, prompt_tokens=501),
        replace(PLAIN, messages=(Message("user", "egg " * 400),)),
    ],
)
def test_what_nobody_asked_for_its_own_sake_is_not_asked_again(changed: Completion) -> None:
    assert chosen([PLAIN]) == ["a"]
    assert chosen([changed]) == []


def test_a_prompt_at_the_budget_fits() -> None:
    assert chosen([replace(PLAIN, prompt_tokens=500)]) == ["a"]


def test_a_question_of_the_never_train_slice_is_not_asked_wherever_else_it_was() -> None:
    names = [f"chatcmpl-{n}" for n in range(60)]
    aside = next(name for name in names if split_of(name, 0.3) is Split.NEVER_TRAIN)
    kept = [name for name in names if split_of(name, 0.3) is Split.TRAIN]
    long = "Please tell me how the tides of the sea come about and why there are two of them a day"
    log = [
        logged(aside, long),
        logged(kept[0], long.upper() + "?"),
        logged(kept[1], f"{long} please"),
        logged(kept[2], "What do bees eat?"),
    ]
    assert chosen(log, never_train=0.3) == [kept[2]]


def test_the_models_own_samples_set_nothing_aside() -> None:
    names = [f"sample-{n}" for n in range(60)]
    aside = next(name for name in names if split_of(name, 0.3) is Split.NEVER_TRAIN)
    kept = next(name for name in names if split_of(name, 0.3) is Split.TRAIN)
    text = "What do bees eat?"
    sampled = replace(logged(aside, text), source=Source.SAMPLE)
    assert chosen([sampled, logged(kept, text)], never_train=0.3) == [kept]


@pytest.mark.parametrize(
    ("other", "same"),
    [
        (("how do I boil an egg",), True),
        (("How do I fry an egg?",), False),
        (("How do I boil an egg?", "In water.", "go on"), False),
        (("  how do i BOIL an egg?!",), True),
        (("🥚",), False),
    ],
)
def test_the_same_question_is_asked_once(other: tuple[str, ...], same: bool) -> None:
    assert chosen([PLAIN, logged("b", *other)]) == (["a"] if same else ["a", "b"])


def test_the_system_message_makes_another_prompt() -> None:
    told = replace(PLAIN, id="b", messages=(Message("system", "Answer in verse."), *PLAIN.messages))
    assert chosen([PLAIN, told]) == ["a", "b"]


def test_near_duplicates_are_dropped_only_where_the_conversation_before_is_alike() -> None:
    text = "Write a short and friendly letter to my landlord about the broken heating in the kitchen of flat"
    assert chosen([logged("a", f"{text} one"), logged("b", f"{text} two")]) == ["a"]
    follow = [
        logged("a", "What do bees eat?", "Nectar.", "go on"),
        logged("b", "Who was Bach?", "He.", "go on"),
    ]
    assert chosen(follow) == ["a", "b"]


def test_wordless_prompts_are_told_apart() -> None:
    assert chosen([logged("a", "🥚"), logged("b", "🐝"), logged("c", "🐝")]) == ["a", "b"]


def test_people_take_turns_and_the_newest_come_first() -> None:
    log = [
        logged(f"chatty{n}", f"Tell me about {subject}", who="chatty", at=n)
        for n, subject in enumerate(SUBJECTS)
    ]
    log += [logged("bob", "Why is the sky blue?", who="bob"), logged("cid", "Name a river.", who="cid")]
    picked = chosen(log, count=4)
    assert set(picked) == {"bob", "cid", "chatty9", "chatty8"}
    assert set(picked[:3]) == {"bob", "cid", "chatty9"}


def test_disliked_answers_get_half_and_no_more() -> None:
    log = [logged(f"a{n}", f"Tell me about {subject}", at=n) for n, subject in enumerate(SUBJECTS)]
    picked = choose_prompts(
        log, count=4, never_train=0.0, seed=1, budget=500, disliked={"a0", "a1", "a2", "gone"}
    )
    assert [item.id for item in picked] == ["a2", "a1", "a9", "a8"]


def test_a_turn_for_a_disliked_answer_is_a_turn() -> None:
    log = [logged(f"a{n}", f"Tell me about {subject}", at=n) for n, subject in enumerate(SUBJECTS)]
    log.append(logged("bob", "Why is the sky blue?", who="bob"))
    picked = choose_prompts(log, count=2, never_train=0.0, seed=1, budget=500, disliked={"a0"})
    assert [item.id for item in picked] == ["a0", "bob"]


def test_the_seed_decides_whose_turn_is_first() -> None:
    log = [logged(f"p{n}", f"Tell me about {s}", who=f"p{n}") for n, s in enumerate(SUBJECTS)]
    assert chosen(log, count=3, seed=1) == chosen(list(reversed(log)), count=3, seed=1)
    assert len({tuple(chosen(log, count=3, seed=seed)) for seed in range(5)}) > 1


TEXTS = st.lists(st.sampled_from(["why", "is", "the", "sky", "blue", "bees", "?"]), min_size=1, max_size=6)


@given(st.lists(st.tuples(TEXTS, st.sampled_from("abc")), max_size=30), st.integers(0, 12), st.integers(0, 3))
def test_what_is_chosen_is_never_set_aside_and_never_twice(
    asked: list[tuple[list[str], str]], count: int, seed: int
) -> None:
    log = [logged(f"c{n}", " ".join(text), who=who, at=n) for n, (text, who) in enumerate(asked)]
    picked = choose_prompts(log, count=count, never_train=0.3, seed=seed, budget=500)
    aside = {prompt_key(c.messages) for c in log if split_of(c.id, 0.3) is Split.NEVER_TRAIN}
    keys = [prompt_key(item.messages) for item in picked]
    assert len(keys) == len(set(keys)) <= count
    assert not aside & set(keys)
    assert all(split_of(item.id, 0.3) is Split.TRAIN for item in picked)


@given(TEXTS, TEXTS)
def test_similarity_is_symmetric_and_one_for_the_same(one: list[str], other: list[str]) -> None:
    a, b = shingles(" ".join(one)), shingles(" ".join(other))
    assert similarity(a, b) == similarity(b, a) <= 1
    assert similarity(a, a) == 1


def recent(log: list[Completion], *, count: int = 10, besides: tuple[str, ...] = ()) -> list[str]:
    prompts = [(Message("user", text),) for text in besides]
    return [item.id for item in recent_prompts(log, count=count, budget=500, besides=prompts)]


def test_what_only_tests_is_recent_different_and_fairly_shared() -> None:
    chatty = [logged(f"c{n}", f"What of the {subject}?", at=10.0 + n) for n, subject in enumerate(SUBJECTS)]
    quiet = logged("q", "How is the weather?", who="ben", at=1.0)
    assert recent([*chatty, quiet], count=3) == ["c9", "q", "c8"]
    assert recent([*chatty, replace(chatty[9], id="again", created_at=50.0)], count=2) == ["again", "c8"]
    assert recent(chatty, count=2, besides=("what of the snow",)) == ["c8", "c7"]
    assert recent([]) == recent(chatty, count=0) == []


def test_what_only_tests_may_be_set_aside_but_not_a_side_job_or_too_long() -> None:
    names = [f"chatcmpl-{n}" for n in range(60)]
    aside = next(name for name in names if split_of(name, 0.3) is Split.NEVER_TRAIN)
    assert recent([replace(PLAIN, id=aside)]) == [aside]
    assert recent([replace(PLAIN, source=Source.TASK)]) == []
    assert recent([replace(PLAIN, prompt_tokens=501)]) == []
