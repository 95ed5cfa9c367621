"""Small charts as SVG markup: data in, markup out, no script and no inline style, so that any policy allows them.

A chart is a picture for those who see it and a name with a description for those who do not; the numbers themselves
stand in the table beside it (`api.plots`). Colours come from `static/ops.css` by class, and series differ in shape
as well.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from markupsafe import Markup

#: The drawing, in units of the view box; it is scaled to its place.
WIDTH, HEIGHT = 480.0, 230.0
LEFT, RIGHT, TOP, BOTTOM = 50.0, 12.0, 16.0, 30.0
#: Series that look different from each other; a later one would look like the first.
LOOKS = 6
#: Of a row chart: height of a row, and the width that its labels take.
ROW, LABELS = 26.0, 150.0


@dataclass(frozen=True, slots=True)
class Point:
    """One measurement at a place of the x axis; None where nothing was measured. `low`, `high`: its interval."""

    x: float
    value: float | None
    low: float | None = None
    high: float | None = None
    says: str = ""


@dataclass(frozen=True, slots=True)
class Series:
    """`joined`: neighbours belong together, so a line leads from one to the next."""

    name: str
    points: Sequence[Point]
    joined: bool = True


@dataclass(frozen=True, slots=True)
class Guide:
    """A level to compare with. `look`: soft, hard or chance."""

    name: str
    value: float
    look: str


@dataclass(frozen=True, slots=True)
class Frame:
    """What a chart is of. `bottom`, `top`: what the y axis shows at least; `ceiling`: at most, what is higher is
    drawn at the edge with its number.
    """

    id: str
    title: str
    says: str
    bottom: float | None = None
    top: float | None = None
    ceiling: float | None = None
    percent: bool = False
    x_name: str = "iteration"


@dataclass(frozen=True, slots=True)
class RowOf:
    """One row of a row chart: an estimate with its interval, or parts laid end to end."""

    label: str
    says: str = ""
    value: float | None = None
    low: float | None = None
    high: float | None = None
    parts: Sequence[tuple[str, float]] = field(default=())


def ticks(low: float, high: float, count: int = 4) -> tuple[float, ...]:
    """Round levels from `low` to `high`, about `count` of them, in steps of 1, 2 or 5 times a power of ten."""
    if not (math.isfinite(low) and math.isfinite(high)) or high <= low:
        return (low,)
    rough = (high - low) / count
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough * 0.999)
    first = math.ceil(low / step - 1e-9)
    return tuple(round((first + n) * step, 12) for n in range(int((high - first * step) / step + 1e-9) + 1))


def number(value: float, *, percent: bool = False) -> str:
    """As an axis says it."""
    return f"{100 * value:.0f}%" if percent else f"{value:.3g}"


def attributes(**given: object) -> Markup:
    """` name="value"` for each; an underscore is a hyphen, a trailing one is dropped. Numbers to a tenth."""
    told = ((name.rstrip("_").replace("_", "-"), value) for name, value in given.items())
    return Markup("").join(
        Markup(' {}="{}"').format(name, f"{value:.1f}" if isinstance(value, float) else value)
        for name, value in told
    )


def tag(name: str, content: str | Markup = "", **given: object) -> Markup:
    return Markup("<{}{}>{}</{}>").format(name, attributes(**given), content, name)


def picture(frame: Frame, body: Sequence[Markup], *, height: float = HEIGHT) -> Markup:
    """The whole drawing with its name and description."""
    head = tag("title", frame.title, id=f"{frame.id}-title") + tag("desc", frame.says, id=f"{frame.id}-desc")
    return tag(
        "svg",
        head + Markup("").join(body),
        class_="chart",
        viewBox=f"0 0 {WIDTH:g} {height:g}",
        role="img",
        aria_labelledby=f"{frame.id}-title {frame.id}-desc",
    )


def measured(series: Sequence[Series]) -> Iterator[Point]:
    return (point for one in series for point in one.points if point.value is not None)


@dataclass(frozen=True, slots=True)
class Scale:
    """From data to the drawing."""

    x: tuple[float, float]
    y: tuple[float, float]

    def across(self, x: float) -> float:
        low, high = self.x
        share = 0.5 if high == low else (x - low) / (high - low)
        return LEFT + share * (WIDTH - LEFT - RIGHT)

    def up(self, y: float) -> float:
        low, high = self.y
        share = 0.5 if high == low else (y - low) / (high - low)
        return HEIGHT - BOTTOM - min(1.0, max(0.0, share)) * (HEIGHT - TOP - BOTTOM)


def scale_of(frame: Frame, series: Sequence[Series], guides: Sequence[Guide]) -> Scale:
    """Everything measured fits in. Guides do unless they are far away: what is near 0 must not be pressed flat."""
    points = list(measured(series))
    values = [
        each for point in points for each in (point.value, point.low, point.high) if each is not None
    ] or [0.0]
    low, high = min(values), max(values)
    reach = max(high, frame.top or 0.0) * 4 if high > 0 else math.inf
    values += [guide.value for guide in guides if guide.value <= reach]
    low = min([*values, *([] if frame.bottom is None else [frame.bottom])])
    high = max([*values, *([] if frame.top is None else [frame.top])])
    if high == low:
        low, high = low - 0.5, high + 0.5
    if frame.ceiling is not None and low < frame.ceiling < high:
        high = frame.ceiling
    room = 0.04 * (high - low)
    bounded = (low if low == frame.bottom else low - room, high if high == frame.top else high + room)
    xs = [point.x for point in points] or [0.0]
    beside = max(0.5, 0.025 * (max(xs) - min(xs)))
    return Scale((min(xs) - beside, max(xs) + beside), bounded)


def marker(look: int, x: float, y: float, says: str) -> Markup:
    """Circle, square, triangle, diamond, then the first two hollow."""
    size = 3.6
    shapes = (
        f"M{x - size:.1f} {y:.1f}a{size} {size} 0 1 0 {2 * size} 0a{size} {size} 0 1 0 {-2 * size} 0z",
        f"M{x - 3.2:.1f} {y - 3.2:.1f}h6.4v6.4h-6.4z",
        f"M{x:.1f} {y - 4.4:.1f}l4.4 7.6h-8.8z",
        f"M{x:.1f} {y - 4.6:.1f}l4.6 4.6l-4.6 4.6l-4.6 -4.6z",
    )
    hollow = " hollow" if look >= len(shapes) else ""
    return tag("path", tag("title", says), d=shapes[look % len(shapes)], class_=f"mark s{look}{hollow}")


def runs(points: Sequence[Point]) -> Iterator[list[Point]]:
    """Neighbouring points that were measured; a gap is not bridged."""
    run: list[Point] = []
    for point in points:
        if point.value is not None:
            run.append(point)
        elif run:
            yield run
            run = []
    if run:
        yield run


def drawn(series: Series, look: int, scale: Scale, *, aside: float) -> Iterator[Markup]:
    """Intervals, then the line, then the points on top. `aside`: how far to the right, so that intervals of several
    series at one place stand beside each other.
    """
    for run in runs(series.points):
        for point in run:
            if point.low is not None and point.high is not None:
                x = scale.across(point.x) + aside
                yield tag(
                    "line",
                    x1=x,
                    x2=x,
                    y1=scale.up(point.low),
                    y2=scale.up(point.high),
                    class_=f"range s{look}",
                )
        if series.joined and len(run) > 1:
            places = [(scale.across(one.x) + aside, scale.up(one.value or 0.0)) for one in run]
            path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
            yield tag("polyline", points=path, class_=f"line s{look}")
        for point in run:
            says = point.says or f"{series.name}, {point.x:g}: {number(point.value or 0.0)}"
            x, y = scale.across(point.x) + aside, scale.up(point.value or 0.0)
            yield marker(look, x, y, says)
            if (point.value or 0.0) > scale.y[1]:
                yield tag(
                    "text", number(point.value or 0.0), x=x - 8, y=y + 4 + 13 * look, class_="axis end beyond"
                )


def grid(frame: Frame, scale: Scale) -> Iterator[Markup]:
    """Levels with their numbers, and the x axis."""
    for level in ticks(*scale.y):
        y = scale.up(level)
        yield tag("line", x1=LEFT, x2=WIDTH - RIGHT, y1=y, y2=y, class_="grid")
        yield tag("text", number(level, percent=frame.percent), x=LEFT - 6, y=y + 4, class_="axis end")
    floor = HEIGHT - BOTTOM
    yield tag("line", x1=LEFT, x2=WIDTH - RIGHT, y1=floor, y2=floor, class_="base")
    found = [each for each in ticks(*scale.x, count=6) if each == int(each)] or [scale.x[0]]
    for place in found:
        yield tag("text", f"{place:g}", x=scale.across(place), y=floor + 15, class_="axis middle")
    yield tag("text", frame.x_name, x=WIDTH - RIGHT, y=HEIGHT - 2, class_="axis end")


def levels(guides: Sequence[Guide], scale: Scale) -> Iterator[Markup]:
    """Guides that are in sight, hard ones named at the right, others at the left: two may be near each other."""
    for guide in guides:
        if scale.y[0] <= guide.value <= scale.y[1]:
            y = scale.up(guide.value)
            x, end = (WIDTH - RIGHT - 2, "end ") if guide.look == "hard" else (LEFT + 3, "")
            yield tag("line", x1=LEFT, x2=WIDTH - RIGHT, y1=y, y2=y, class_=f"guide {guide.look}")
            yield tag("text", guide.name, x=x, y=y - 4, class_=f"axis {end}{guide.look}")


def line_chart(frame: Frame, series: Sequence[Series], guides: Sequence[Guide] = ()) -> Markup:
    """Series over a common x axis, with intervals and levels to compare with."""
    scale = scale_of(frame, series, guides)
    body = [*grid(frame, scale), *levels(guides, scale)]
    spread = 5.0 if any(point.low is not None for point in measured(series)) else 0.0
    for look, one in enumerate(series):
        body += drawn(one, look % LOOKS, scale, aside=spread * (look - (len(series) - 1) / 2))
    return picture(frame, body)


def shortened(label: str, most: int = 20) -> str:
    return label if len(label) <= most else label[: most - 1] + "…"


def row_chart(
    frame: Frame, rows: Sequence[RowOf], guides: Sequence[Guide] = (), *, names: Sequence[str] = ()
) -> Markup:
    """Rows under each other: estimates with intervals, or parts end to end, whose looks follow `names`."""
    height = ROW * len(rows) + BOTTOM + 6
    floor = height - BOTTOM
    ends = [row.high if row.high is not None else row.value for row in rows]
    sums = [sum(value for _, value in row.parts) for row in rows]
    top = frame.top or max([*(end for end in ends if end is not None), *sums, 0.0]) or 1.0
    low = frame.bottom or 0.0

    def across(value: float) -> float:
        share = min(1.0, max(0.0, (value - low) / (top - low)))
        return LABELS + share * (WIDTH - LABELS - RIGHT - 14)

    body = []
    for level in ticks(low, top):
        x = across(level)
        body.append(tag("line", x1=x, x2=x, y1=2.0, y2=floor, class_="grid"))
        body.append(
            tag("text", number(level, percent=frame.percent), x=x, y=floor + 15, class_="axis middle")
        )
    body.append(tag("text", frame.x_name, x=WIDTH - RIGHT, y=height - 2, class_="axis end"))
    for guide in guides:
        x = across(guide.value)
        body.append(tag("line", x1=x, x2=x, y1=2.0, y2=floor, class_=f"guide {guide.look}"))
    for place, row in enumerate(rows):
        y = 4 + ROW * (place + 0.5)
        body.append(tag("text", shortened(row.label), x=LABELS - 8, y=y + 4, class_="axis end"))
        if row.value is not None:
            if row.low is not None and row.high is not None:
                body.append(
                    tag("line", x1=across(row.low), x2=across(row.high), y1=y, y2=y, class_="range s0")
                )
            body.append(marker(0, across(row.value), y, row.says or row.label))
        body += parts_of(row, y, across, names)
    return picture(frame, body, height=height)


def parts_of(
    row: RowOf, y: float, across: Callable[[float], float], names: Sequence[str]
) -> Iterator[Markup]:
    """A row's parts as bars end to end; `across` maps a value to its place."""
    begin = 0.0
    for name, value in row.parts:
        look = names.index(name) % LOOKS if name in names else 0
        x, end = across(begin), across(begin + value)
        says = tag("title", f"{row.label}: {name} {value:.3g}")
        yield tag(
            "rect",
            says,
            x=x,
            y=y - 8,
            width=max(0.5, end - x - 0.5),
            height=16.0,
            class_=f"part s{look}",
        )
        begin += value


def inline(body: Sequence[Markup], wide: float, tall: float, *, look: str, says: str) -> Markup:
    """A drawing of a line's height, among words."""
    view = f"0 0 {wide:g} {tall:g}"
    return tag("svg", Markup("").join(body), class_=look, viewBox=view, role="img", aria_label=says)


def sparkline(values: Sequence[float | None], says: str, *, ceiling: float | None = None) -> Markup:
    """A line of a word's size, oldest first; the last point is marked. Nothing where nothing was measured."""
    known = [value for value in values if value is not None]
    if not known:
        return Markup("")
    low, high = min(0.0, *known), max([*known, ceiling or 0.0])
    wide, tall = 88.0, 22.0

    def place(index: int, value: float) -> str:
        x = 2 + (wide - 6) * (index / (len(values) - 1) if len(values) > 1 else 1.0)
        y = tall - 3 - (tall - 6) * ((value - low) / (high - low) if high > low else 0.5)
        return f"{x:.1f},{y:.1f}"

    body = []
    run: list[str] = []
    for index, value in enumerate([*values, None]):
        if value is not None:
            run.append(place(index, value))
            continue
        if len(run) > 1:
            body.append(tag("polyline", points=" ".join(run), class_="line s0"))
        run = []
    index = max(index for index, value in enumerate(values) if value is not None)
    x, y = place(index, values[index] or 0.0).split(",")
    body.append(tag("circle", cx=x, cy=y, r="2.2", class_="mark s0"))
    return inline(body, wide, tall, look="spark", says=says)


def bullet(value: float | None, soft: float | None, hard: float, *, says: str) -> Markup:
    """How much of a budget is spent: a bar against the hard limit, with the soft one marked."""
    wide, tall = 160.0, 14.0
    reach = 1.15 * hard

    def across(level: float) -> float:
        return wide * min(1.0, max(0.0, level / reach))

    body = [tag("rect", x=0.0, y=3.0, width=across(hard), height=8.0, class_="budget")]
    if value is not None:
        over = "over" if value > hard else "warn" if soft is not None and value > soft else "fine"
        width = max(1.0, across(value))
        body.append(tag("rect", x=0.0, y=4.5, width=width, height=5.0, class_=f"spent {over}"))
    for level, look in ((soft, "soft"), (hard, "hard")):
        if level is not None:
            x = across(level)
            body.append(tag("line", x1=x, x2=x, y1=0.0, y2=tall, class_=f"guide {look}"))
    return inline(body, wide, tall, look="bullet", says=says)
