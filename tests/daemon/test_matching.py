"""Which answers are held against which."""

from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.matching import from_history, lasting, match, near, side_by_side


@dataclass(frozen=True)
class Row:
    name: str
    at: float


def rows(name: str, *times: float) -> list[Row]:
    return [Row(f"{name}{number}", at) for number, at in enumerate(times)]


@pytest.mark.parametrize(
    ("share", "widths"), [(0.05, (1, 3)), (0.25, (1, 3)), (0.34, (1, 2)), (0.5, (1, 1)), (0.75, (3, 1))]
)
def test_the_larger_side_gives_more_to_a_set(share: float, widths: tuple[int, int]) -> None:
    assert side_by_side(share) == widths


@given(st.integers(0, 600), st.integers(0, 600))
def test_history_is_dealt_out_whole_and_every_set_is_full(treated: int, control: int) -> None:
    sets = match([False] * treated, [True] * control, from_history)
    assert sum(one.control for one in sets) <= control
    assert sum(one.treated for one in sets) <= treated
    assert all(min(one.treated, one.control) == 1 and one.harms == one.control for one in sets)
    assert sum(one.control for one in match([False] * 600, [True] * control, from_history)) == control


@pytest.mark.parametrize(("total", "lasts"), [(50, 800), (400, 40_000), (800, 200_000), (2000, 500_000)])
def test_a_lasting_history_begins_like_another_and_lasts(total: int, lasts: int) -> None:
    shape = lasting(total)
    assert shape(total) == from_history(total)
    assert sum(shape(left)[0] for left in range(1, total // 2 + 1)) > lasts
    # From its middle on a set is a small part of what was matched before.
    spent = 0
    for left in range(total // 2, 5, -1):
        spent += shape(left)[0]
        assert shape(left)[0] <= 2 + (spent + total / 2) / (left - 1)


def test_the_nearest_free_answers_of_the_other_side_are_taken() -> None:
    control = rows("c", 0.0, 1.0, 2.0, 3.0, 100.0)
    treated = rows("t", 4.0, 5.0, 50.0, 99.0)
    sets = near(treated, control, (1, 3), 10.0)
    named = [([row.name for row in own], [row.name for row in others]) for own, others in sets]
    # t2 has nobody within ten seconds, t3 waits for the next.
    assert named == [(["t0"], ["c1", "c2", "c3"]), (["t1"], ["c0"]), (["t3"], ["c4"])]
    assert [
        ([row.name for row in own], len(others)) for own, others in near(control, treated, (3, 1), 10.0)
    ] == [
        (["c1", "c2", "c3"], 1),
        (["c0"], 1),
        (["c4"], 1),
    ]


times = st.lists(st.floats(0, 100), max_size=30, unique=True)


@given(times, times, st.sampled_from([(1, 1), (1, 3), (3, 1)]), st.floats(1, 100))
def test_what_comes_later_changes_no_set_made_before(
    mine: list[float], theirs: list[float], most: tuple[int, int], seconds: float
) -> None:
    if set(mine) & set(theirs):
        return
    treated, control = rows("t", *sorted(mine)), rows("c", *sorted(theirs))
    whole = near(treated, control, most, seconds)
    used = [row.name for own, others in whole for row in (*own, *others)]
    assert len(used) == len(set(used))
    for own, others in whole:
        assert 1 <= len(own) <= most[0] and 1 <= len(others) <= most[1]
        each = [row.at for row in (*own, *others)]
        assert max(each) - min(each) <= seconds
    for until in sorted({*mine, *theirs}):
        part = near([r for r in treated if r.at < until], [r for r in control if r.at < until], most, seconds)
        assert part == whole[: len(part)]
