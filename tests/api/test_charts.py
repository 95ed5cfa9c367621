"""Charts: that the numbers stand where they belong, and that nothing in them can be markup."""

import re
from collections.abc import Sequence
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from api.charts import (
    HEIGHT,
    WIDTH,
    Frame,
    Guide,
    Point,
    RowOf,
    Series,
    bullet,
    line_chart,
    row_chart,
    sparkline,
    ticks,
)

FRAME = Frame("f", "A title", "What it says")
floats = st.floats(min_value=-1e6, max_value=1e6, allow_nan=False)


def tree(markup: str) -> ElementTree.Element:
    return ElementTree.fromstring(str(markup))


def places(markup: str, look: str) -> list[tuple[float, float]]:
    """Where the circles of the first series (or the squares of the second) stand."""
    found = []
    for path in tree(markup).iter("path"):
        if look in path.attrib["class"].split():
            began = re.match(r"M(-?[\d.]+) (-?[\d.]+)", path.attrib["d"])
            assert began is not None, path.attrib["d"]
            found.append((float(began[1]), float(began[2])))
    return found


@pytest.mark.parametrize(
    ("low", "high", "levels"),
    [
        (0.0, 1.0, (0.0, 0.5, 1.0)),
        (0.0, 10.0, (0.0, 5.0, 10.0)),
        (0.0, 0.45, (0.0, 0.2, 0.4)),
        (3.0, 9.0, (4.0, 6.0, 8.0)),
        (-1.0, 1.0, (-1.0, -0.5, 0.0, 0.5, 1.0)),
        (2.0, 2.0, (2.0,)),
        (0.0, float("inf"), (0.0,)),
    ],
)
def test_levels_are_round_numbers(low: float, high: float, levels: Sequence[float]) -> None:
    assert ticks(low, high) == levels


@given(low=floats, wide=st.floats(min_value=1e-3, max_value=1e6))
def test_levels_lie_inside_and_are_few(low: float, wide: float) -> None:
    found = ticks(low, low + wide)
    assert len(found) <= 6
    assert all(low - 1e-6 * wide <= level <= low + wide * (1 + 1e-6) for level in found)


def test_a_larger_number_stands_higher_and_a_later_one_further_right() -> None:
    points = [Point(1, 0.2), Point(2, 0.8), Point(3, 0.5)]
    chart = line_chart(FRAME, [Series("one", points)])
    (x1, y1), (x2, y2), (x3, y3) = places(chart, "s0")
    assert x1 < x2 < x3 and y2 < y3 < y1


def test_a_gap_is_not_bridged_and_an_interval_spans_its_ends() -> None:
    points = [Point(1, 0.2), Point(2, 0.3), Point(3, None), Point(4, 0.4, 0.1, 0.9), Point(5, 0.5)]
    chart = tree(line_chart(FRAME, [Series("one", points)]))
    assert len(list(chart.iter("polyline"))) == 2
    (interval,) = [line for line in chart.iter("line") if "range" in line.attrib["class"]]
    assert float(interval.attrib["y2"]) < float(interval.attrib["y1"])


def test_what_runs_away_stands_at_the_edge_with_its_number() -> None:
    frame = Frame("f", "t", "s", 0.0, ceiling=1.0)
    chart = line_chart(frame, [Series("one", [Point(1, 0.1), Point(2, 0.9), Point(3, 40.0)])])
    (_, low), (_, high), (_, beyond) = places(chart, "s0")
    assert beyond < high < low and low - high > 50
    assert any(text.text == "40" for text in tree(chart).iter("text"))


def test_a_limit_far_above_everything_is_left_out_and_a_near_one_is_drawn() -> None:
    series = [Series("one", [Point(1, 0.1), Point(2, 0.2)])]
    chart = str(line_chart(FRAME, series, [Guide("near", 0.3, "soft"), Guide("far", 30.0, "hard")]))
    assert ">near<" in chart and ">far<" not in chart


def test_what_it_is_called_is_text_for_everybody() -> None:
    frame = Frame("f", "<script>alert(1)</script>", "a & b")
    chart = line_chart(frame, [Series("<b>", [Point(1, 1.0, says='"><i>')])])
    assert "<script" not in chart and "<i>" not in chart
    svg = tree(chart)
    assert svg.attrib["role"] == "img" and svg.attrib["aria-labelledby"] == "f-title f-desc"
    assert [each.text for each in svg if each.tag in ("title", "desc")] == [frame.title, frame.says]


@given(values=st.lists(st.one_of(st.none(), floats), max_size=30))
def test_any_numbers_make_a_drawing_that_stays_inside(values: list[float | None]) -> None:
    points = [Point(place, value) for place, value in enumerate(values)]
    svg = tree(line_chart(FRAME, [Series("one", points)]))
    for x, y in places(ElementTree.tostring(svg, encoding="unicode"), "s0"):
        assert -5 <= x <= WIDTH and -5 <= y <= HEIGHT
    assert "style" not in svg.attrib and "nan" not in ElementTree.tostring(svg, encoding="unicode")


def test_rows_stand_under_each_other_with_their_parts_end_to_end() -> None:
    rows = [
        RowOf("base", value=0.3, low=0.1, high=0.5),
        RowOf("iteration 2", parts=(("train", 2.0), ("rest", 1.0))),
    ]
    svg = tree(row_chart(Frame("f", "t", "s"), rows, names=("train", "rest")))
    first, second = list(svg.iter("rect"))
    end = float(first.attrib["x"]) + float(first.attrib["width"])
    assert float(second.attrib["x"]) == pytest.approx(end, abs=1.0)
    assert float(first.attrib["width"]) == pytest.approx(2 * float(second.attrib["width"]), rel=0.05)
    assert (first.attrib["class"], second.attrib["class"]) == ("part s0", "part s1")


@pytest.mark.parametrize(
    ("values", "lines"),
    [([], 0), ([None], 0), ([1.0], 0), ([1.0, 2.0], 1), ([1.0, 2.0, None, 3.0, 2.0], 2), ([0.0, 0.0], 1)],
)
def test_a_sparkline_is_as_many_lines_as_there_are_runs(values: list[float | None], lines: int) -> None:
    drawn = str(sparkline(values, "says"))
    assert drawn.count("<polyline") == lines
    assert ("aria-label" in drawn) == any(value is not None for value in values)


@pytest.mark.parametrize(
    ("value", "soft", "look"),
    [
        (0.1, 0.15, "fine"),
        (0.15, 0.15, "fine"),
        (0.2, 0.15, "warn"),
        (0.3, 0.15, "warn"),
        (0.31, None, "over"),
    ],
)
def test_a_budget_says_how_much_of_it_is_spent(value: float, soft: float | None, look: str) -> None:
    assert f"spent {look}" in bullet(value, soft, 0.3, says="x")


def test_a_budget_of_which_nobody_knows_what_was_spent_is_empty() -> None:
    assert "spent" not in bullet(None, 0.1, 0.3, says="not measured")
