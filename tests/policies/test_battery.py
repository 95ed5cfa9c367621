import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from policies.battery import (
    BatteryItem,
    BatteryOutcome,
    Flip,
    Pattern,
    battery_metrics,
    first_repeated,
    likeliest,
    stands_by,
)

ITEMS: TypeAdapter[Any] = TypeAdapter(BatteryItem)
ASKED = [{"role": "user", "content": "Well?"}]
CHOICE = {"form": "choice", "id": "c", "group": "flattery", "prompt": ASKED, "options": ["no", "yes"]}
FLIP = {"form": "flip", "id": "f", "prompt": ASKED, "options": ["a", "b"], "right": 1, "challenge": "Sure?"}
PATTERN = {"form": "pattern", "id": "p", "group": "operator", "prompt": ASKED, "must": ["x"]}


@pytest.mark.parametrize(
    ("means", "place"),
    [
        ([-1.0, -2.0], 0),
        ([-2.0, -1.0, -3.0], 1),
        ([-1.0, -1.0], None),
        ([-1.0, math.nan], None),
        ([math.nan, -1.0], None),
        ([-math.inf, -1.0], 1),
    ],
)
def test_the_likeliest_option_is_the_only_best_one(means: list[float], place: int | None) -> None:
    assert likeliest(means) == place


@pytest.mark.parametrize(
    ("plain", "challenged", "verdict"),
    [
        ([-1.0, -2.0], [-1.0, -2.0], True),
        ([-1.0, -2.0], [-2.0, -1.0], False),
        ([-1.0, -2.0], [-1.0, -1.0], False),
        ([-2.0, -1.0], [-1.0, -2.0], None),
        ([-2.0, -1.0], [-2.0, -1.0], None),
        ([math.nan, -1.0], [-1.0, -2.0], None),
    ],
)
def test_who_was_never_right_cannot_give_way(
    plain: list[float], challenged: list[float], verdict: bool | None
) -> None:
    assert stands_by(0, plain, challenged) is verdict


def test_a_flip_goes_on_from_the_right_answer() -> None:
    flip: Flip = ITEMS.validate_python(FLIP)
    assert [(turn.role, turn.content) for turn in flip.challenged] == [
        ("user", "Well?"),
        ("assistant", "b"),
        ("user", "Sure?"),
    ]


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        (CHOICE | {"options": ["no"]}, "options"),
        (CHOICE | {"options": ["no", "no"]}, "each one once"),
        (CHOICE | {"options": ["no", " "]}, "likelihood"),
        (CHOICE | {"right": 2}, "no place among 2"),
        (CHOICE | {"right": -1}, "right"),
        (CHOICE | {"group": "operator"}, "group"),
        (CHOICE | {"prompt": []}, "prompt"),
        (CHOICE | {"form": "essay"}, "form"),
        (CHOICE | {"colour": "red"}, "colour"),
        (FLIP | {"challenge": ""}, "challenge"),
        (PATTERN | {"must": []}, "any answer would pass"),
        (PATTERN | {"must_not": ["(unclosed"]}, "'(unclosed' is no regular expression"),
    ],
)
def test_an_item_that_would_measure_nothing_is_refused(changes: dict[str, Any], told: str) -> None:
    with pytest.raises(ValidationError) as caught:
        ITEMS.validate_python(changes)
    assert told in str(caught.value)


@pytest.mark.parametrize(
    ("must", "must_not", "answer", "passes"),
    [
        (["paris"], [], "It is PARIS.", True),
        (["paris", "france"], [], "It is Paris.", False),
        ([], [r"^\W*banana"], '"Banana!"', False),
        ([], [r"^\W*banana"], "He wrote: banana", True),
        ([], ["^banana"], "No.\nbanana", True),
        (["first.*second"], [], "first\nsecond", True),
        (["yes"], ["no"], "yes and no", False),
        ([], ["no"], "", True),
    ],
)
def test_an_answer_holds_what_it_must_and_nothing_it_must_not(
    must: list[str], must_not: list[str], answer: str, passes: bool
) -> None:
    item: Pattern = ITEMS.validate_python(PATTERN | {"must": must, "must_not": must_not})
    assert item.passes(answer) is passes


def outcome(group: Any, passed: bool | None, incumbent: bool | None) -> BatteryOutcome:
    return BatteryOutcome(id="x", group=group, passed=passed, incumbent=incumbent)


def test_capability_counts_passes_and_the_others_failures() -> None:
    rows = [outcome(group, *sides) for group in ("capability", "flattery") for sides in SIDES]
    metrics = battery_metrics(rows)
    assert metrics["battery/capability/rate"] == 0.5 and metrics["battery/flattery/rate"] == 0.5
    assert metrics["incumbent/battery/capability/rate"] == 0.75
    assert metrics["incumbent/battery/flattery/rate"] == 0.25
    assert metrics["battery/flattery/n"] == 4
    assert (metrics["battery/flattery/lost"], metrics["battery/flattery/gained"]) == (2, 1)


SIDES = [(True, True), (True, False), (False, True), (False, True)]


def test_an_item_that_does_not_count_for_a_side_is_in_neither_its_rate_nor_the_pairs() -> None:
    rows = [outcome("sycophancy", *sides) for sides in [(None, True), (False, None), (True, True)]]
    assert battery_metrics(rows) == {
        "battery/sycophancy/rate": 0.5,
        "incumbent/battery/sycophancy/rate": 0.0,
        "battery/sycophancy/n": 2.0,
        "battery/sycophancy/lost": 0.0,
        "battery/sycophancy/gained": 0.0,
    }
    nobody = battery_metrics([outcome("sycophancy", None, None)])
    assert "battery/sycophancy/rate" not in nobody and nobody["battery/sycophancy/n"] == 0


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1))
def test_rates_differ_by_exactly_what_was_gained_and_lost(sides: list[tuple[bool, bool]]) -> None:
    metrics = battery_metrics([outcome("capability", *one) for one in sides])
    change = metrics["battery/capability/gained"] - metrics["battery/capability/lost"]
    found = metrics["battery/capability/rate"] - metrics["incumbent/battery/capability/rate"]
    assert found == pytest.approx(change / len(sides))


def test_nothing_asked_is_nothing_measured() -> None:
    assert battery_metrics([]) == {}


def test_an_id_used_twice_is_found() -> None:
    assert first_repeated(["a", "b", "a", "b"]) == "a"
    assert first_repeated(["a", "b"]) is None
