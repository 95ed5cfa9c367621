"""Lines of descent: what a move leaves, and where a rollback goes."""

from pathlib import Path

import pytest

from store.descent import left_behind, way_back
from store.records import Adapter, AdapterStatus

#: d was continued from c, from b, from a; x from a; r was trained from base while d was served, s continues r.
PARENTS = {"a": None, "b": "a", "c": "b", "d": "c", "x": "a", "r": "d", "s": "r"}


@pytest.mark.parametrize(
    ("served", "target", "left"),
    [
        (["d"], "c", ("d",)),
        (["d"], "a", ("d", "c", "b")),
        (["d"], None, ("d", "c", "b", "a")),
        (["d"], "x", ("d", "c", "b")),
        (["b"], "d", ()),
        (["r"], "d", ("r",)),
        (["b", "c"], "a", ("b", "c")),
        (["b", "x"], "a", ("b", "x")),
        (["b", "c"], "b", ("c",)),
        ([None], "a", ()),
        (["unknown"], None, ("unknown",)),
    ],
)
def test_which_versions_a_move_leaves(
    served: list[str | None], target: str | None, left: tuple[str, ...]
) -> None:
    assert left_behind(served, target, PARENTS) == left


def test_a_circle_of_parents_ends() -> None:
    assert left_behind(["a"], None, {"a": "b", "b": "a"}) == ("a", "b")


def adapter(version: str, parent: str | None, status: AdapterStatus) -> Adapter:
    return Adapter(version, parent, None, Path("/none"), "d" * 64, status, 1.0, 0.0)


@pytest.mark.parametrize(
    ("statuses", "to"),
    [
        ({"c": AdapterStatus.SUPERSEDED}, "c"),
        ({"c": AdapterStatus.ROLLED_BACK, "b": AdapterStatus.SUPERSEDED}, "b"),
        ({"c": AdapterStatus.RETIRED, "b": AdapterStatus.ROLLED_BACK, "a": AdapterStatus.SUPERSEDED}, "a"),
        ({"c": AdapterStatus.RETIRED}, None),
        ({}, None),
    ],
)
def test_a_rollback_goes_to_the_nearest_that_nobody_rolled_back_or_retired(
    statuses: dict[str, AdapterStatus], to: str | None
) -> None:
    known = {
        version: adapter(version, PARENTS[version], statuses.get(version, AdapterStatus.ROLLED_BACK))
        for version in "abc"
    }
    known["d"] = adapter("d", "c", AdapterStatus.ACTIVE)
    assert way_back(known["d"], known) == to


def test_an_ancestor_that_is_not_recorded_is_no_way_back() -> None:
    lost = adapter("d", "c", AdapterStatus.ACTIVE)
    assert way_back(lost, {"d": lost}) is None
