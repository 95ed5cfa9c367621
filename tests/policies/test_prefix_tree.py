"""Every distinct beginning of a row is listed once, and nothing is lost."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.prefix_tree import Row, TokenTree, common_length, grow_tree, parent_slots

Tokens = st.lists(st.integers(0, 2), max_size=6)
Rows = st.lists(st.tuples(st.lists(st.integers(0, 2), min_size=1, max_size=6), Tokens), max_size=8)


def beginnings(tree: TokenTree) -> list[tuple[int, ...]]:
    """For each listed token, the row up to and including it."""
    path: list[int] = []
    found = []
    for token, depth in zip(tree.tokens, tree.depths, strict=True):
        assert depth <= len(path)
        path = [*path[:depth], token]
        found.append(tuple(path))
    return found


@pytest.mark.parametrize(
    ("rows", "tokens", "depths", "trunk"),
    [
        pytest.param([], [], [], 0, id="no rows"),
        pytest.param([([1, 2], [])], [], [], 0, id="an empty answer costs nothing"),
        pytest.param([([1, 2], [5])], [1, 2], [0, 1], 1, id="an answer's last token is never an input"),
        pytest.param([([1, 2], [5]), ([1, 2], [6])], [1, 2], [0, 1], 1, id="options share one prompt"),
        pytest.param([([1, 2], [5, 6])] * 3, [1, 2, 5], [0, 1, 2], 1, id="identical rows"),
        pytest.param(
            [([1, 2, 4], [5]), ([1, 2, 3], [5])],
            [1, 2, 3, 4],
            [0, 1, 2, 2],
            2,
            id="a rubric and two questions",
        ),
        pytest.param([([1, 2, 3], [5]), ([1], [6])], [1, 2, 3], [0, 1, 2], 0, id="a prompt begins another"),
        pytest.param([([1, 2, 3], [5]), ([1, 2], [3, 4])], [1, 2, 3], [0, 1, 2], 1, id="split elsewhere"),
        pytest.param([([2], [5, 5]), ([1], [5, 5])], [1, 5, 2, 5], [0, 1, 0, 1], 0, id="nothing in common"),
    ],
)
def test_rows_become_a_tree(rows: list[Row], tokens: list[int], depths: list[int], trunk: int) -> None:
    tree = grow_tree(rows)
    assert (tree.tokens, tree.depths, tree.trunk) == (tokens, depths, trunk)
    assert tree.asked == sum(len(prompt) + len(answer) for prompt, answer in rows)


@given(Rows)
def test_each_beginning_is_listed_once_and_each_target_follows_its_own_row(rows: list[Row]) -> None:
    tree = grow_tree(rows)
    listed = beginnings(tree)
    inputs = [(*prompt, *answer[:-1]) for prompt, answer in rows if answer]
    assert sorted(listed) == sorted({row[: end + 1] for row in inputs for end in range(len(row))})
    found = {
        (t.row, t.at): (listed[node], t.token) for node, targets in tree.targets.items() for t in targets
    }
    assert found == {
        (number, at): ((*prompt, *answer[:at]), token)
        for number, (prompt, answer) in enumerate(rows)
        for at, token in enumerate(answer)
    }


@given(Rows)
def test_the_trunk_belongs_to_every_row_and_to_no_target(rows: list[Row]) -> None:
    tree = grow_tree(rows)
    asking = [[*prompt, *answer[:-1]] for prompt, answer in rows if answer]
    assert all(row[: tree.trunk] == tree.tokens[: tree.trunk] for row in asking)
    assert tree.depths[: tree.trunk] == list(range(tree.trunk))
    assert all(node >= tree.trunk for node in tree.targets)


def test_a_prompt_without_tokens_is_refused() -> None:
    with pytest.raises(ValueError, match="no tokens"):
        grow_tree([([], [1])])


@pytest.mark.parametrize(
    ("depths", "parents", "way"),
    [
        pytest.param([0, 1, 2], [-1, 0, 1], [0, 1, 2], id="one row"),
        pytest.param([0, 0], [-1, -1], [1], id="two rows without anything in common"),
        pytest.param([3, 4], [2, 3], [0, 1, 2, 3, 4], id="a row read on"),
        pytest.param([3, 4, 3, 4], [2, 3, 2, 5], [0, 1, 2, 5, 6], id="two branches above the same three"),
        pytest.param([3, 1, 2], [2, 0, 4], [0, 4, 5], id="back to nearer the root"),
    ],
)
def test_a_token_hangs_from_the_last_one_above_it(
    depths: list[int], parents: list[int], way: list[int]
) -> None:
    assert parent_slots(depths) == (parents, way)


@pytest.mark.parametrize(
    ("one", "other", "length"),
    [([], [1], 0), ([1, 2], [1, 2], 2), ([1, 2], [1], 1), ([1, 2, 3], [1, 9, 3], 1)],
)
def test_what_two_rows_have_in_common(one: list[int], other: list[int], length: int) -> None:
    assert common_length(one, other) == common_length(other, one) == length
