"""What a move would do, in sentences, and which moves there are."""

from pathlib import Path

import pytest

from api.moves import Standing, promote, rollback
from store.errors import Invalid, NotFound
from store.records import Adapter, AdapterStatus, Canary

A, B, C, D = "it0001-a", "it0002-b", "it0003-c", "it0004-d"


def adapter(version: str, parent: str | None, status: AdapterStatus) -> Adapter:
    return Adapter(version, parent, None, Path("/none"), "d" * 64, status, 1.0, 0.0)


def standing(*, canary: str | None = None, base: bool = False, **statuses: AdapterStatus) -> Standing:
    """A, B, C one after another, C served unless the base is; D held beside."""
    made = {
        A: adapter(A, None, statuses.get("a", AdapterStatus.SUPERSEDED)),
        B: adapter(B, A, statuses.get("b", AdapterStatus.SUPERSEDED)),
        C: adapter(C, B, statuses.get("c", AdapterStatus.ACTIVE)),
        D: adapter(D, C, statuses.get("d", AdapterStatus.HELD)),
    }
    active = None if base else made[C]
    incumbent = active.version if active else None
    trial = Canary(1, canary, incumbent, None, 0, 0.25, 0.0, 0.0) if canary else None
    return Standing(made, active, trial)


@pytest.mark.parametrize(
    ("now", "asked", "to", "leaves"),
    [
        (standing(), None, B, (C,)),
        (standing(), A, A, (C, B)),
        (standing(), "base", "base", (C, B, A)),
        (standing(b=AdapterStatus.ROLLED_BACK), None, A, (C, B)),
        (standing(a=AdapterStatus.RETIRED, b=AdapterStatus.RETIRED), None, "base", (C, B, A)),
        (standing(canary=D), None, D, (D,)),
        (standing(canary=D), C, D, (D,)),
        (standing(canary=D), A, A, (C, B, D)),
        (standing(canary=D, base=True), "base", D, (D,)),
    ],
)
def test_where_a_rollback_goes_and_what_it_leaves(
    now: Standing, asked: str | None, to: str, leaves: tuple[str, ...]
) -> None:
    move = rollback(now, asked)
    assert (move.kind, move.to, set(move.leaves)) == ("rollback", to, set(leaves))
    assert move.serving == now.serving and move.says


@pytest.mark.parametrize(
    ("now", "asked", "error", "says"),
    [
        (standing(base=True), None, Invalid, "nothing to roll back"),
        (standing(), C, Invalid, "already being served"),
        (standing(base=True), "base", Invalid, "already being served"),
        (standing(), D, Invalid, "held: only versions that were served"),
        (standing(), "it9999-x", NotFound, "no adapter"),
    ],
)
def test_a_rollback_that_cannot_be(
    now: Standing, asked: str | None, error: type[Exception], says: str
) -> None:
    with pytest.raises(error, match=says):
        rollback(now, asked)


@pytest.mark.parametrize(
    ("now", "version", "error", "says"),
    [
        (standing(), C, Invalid, "already being served"),
        (standing(d=AdapterStatus.REJECTED), D, Invalid, "rejected: only held, canary or earlier served"),
        (standing(d=AdapterStatus.RETIRED), D, Invalid, "retired"),
        (standing(), "base", NotFound, "no adapter"),
    ],
)
def test_a_promotion_that_cannot_be(now: Standing, version: str, error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says):
        promote(now, version)


@pytest.mark.parametrize(
    ("now", "says"),
    [
        (standing(), "held it0004-d for a person"),
        (standing(d=AdapterStatus.CANARY, canary=D), "before its people's votes have decided"),
        (standing(d=AdapterStatus.ROLLED_BACK), "was rolled back before"),
        (standing(canary=B), "The canary it0002-b ends and is held"),
    ],
)
def test_a_promotion_says_what_is_special_about_it(now: Standing, says: str) -> None:
    move = promote(now, D)
    told = " ".join(move.says)
    assert says in told and "it0003-c is kept: one rollback leads back to it." in told
    assert told.startswith("it0004-d answers everybody")


def test_sentences_name_the_base_in_words_and_versions_as_they_are() -> None:
    told = " ".join(rollback(standing(), "base").says)
    assert "The untouched base model answers everybody again" in told
    assert "it0003-c stays on disk" in told and "It0003" not in told
    assert "25%" in " ".join(rollback(standing(canary=D)).says)
