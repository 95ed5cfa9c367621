from hypothesis import given, settings
from hypothesis import strategies as st

from daemon.clusters import OTHER, cluster_prompts

BREAD = [
    "How do I bake bread in an oven?",
    "My bread does not rise in the oven",
    "What oven is best for bread?",
    "How long does bread stay in the oven?",
]
PYTHON = [
    "Sort a list in python",
    "How do I reverse a python list?",
    "python: copy a list",
    "Why is my python list empty?",
]


def test_prompts_on_one_subject_are_together_under_its_heaviest_terms() -> None:
    assert cluster_prompts([*BREAD, *PYTHON], 2) == ["bread-oven"] * 4 + ["list-python"] * 4


def test_names_go_with_the_texts_whatever_their_order() -> None:
    there, back = cluster_prompts([*BREAD, *PYTHON], 2), cluster_prompts([*PYTHON, *BREAD], 2)
    assert there == [*back[4:], *back[:4]]


def test_texts_without_a_word_are_apart_and_nothing_is_nothing() -> None:
    assert cluster_prompts(["???", "", "of the"], 3) == [OTHER] * 3
    found = cluster_prompts(["???", *BREAD], 1)
    assert found[0] == OTHER and set(found[1:]) == {"bread-oven"}
    assert cluster_prompts([], 3) == []


def test_clusters_of_the_same_terms_keep_different_names() -> None:
    # Two centres with the same two heaviest terms, told apart by a third.
    texts = ["apple apple pear pear plum"] * 3 + ["apple apple pear pear grape"] * 3
    found = cluster_prompts(texts, 2)
    assert len(set(found)) == 2 and found[0] != found[3]
    assert cluster_prompts(["shipped"] * 2, 1) == ["shipped-2"] * 2


WORDS = st.lists(st.sampled_from(["bread", "oven", "python", "list", "the", "?"]), max_size=6).map(" ".join)


@settings(deadline=None, max_examples=25)
@given(st.lists(WORDS, max_size=12), st.integers(min_value=0, max_value=5))
def test_there_is_a_name_for_every_text_and_never_too_many(texts: list[str], count: int) -> None:
    found = cluster_prompts(texts, count)
    assert len(found) == len(texts)
    assert len(set(found) - {OTHER}) <= max(1, count)
    assert found == cluster_prompts(texts, count)
    for one, name in zip(texts, found, strict=True):
        assert all(name == other for text, other in zip(texts, found, strict=True) if text == one)
