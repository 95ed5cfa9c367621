"""The plots people steer by, each from plain rows of the store and each with its numbers as a table.

What was not measured is not drawn: a gap stays a gap, and a plot without a single number is a sentence.
"""

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from markupsafe import Markup

from api.charts import Frame, Guide, Point, RowOf, Series, line_chart, row_chart
from store.history import Limits, Near
from store.judging import Licence
from store.outcomes import Thumbs
from store.records import BASE, SETTLED_STAGES, Activation, StageEntry
from store.shares import wilson

#: Coverage of the interval of a thumbs-up rate.
CONFIDENCE = 0.95
#: Answers on either side of a move below which no latency is told of it.
ENOUGH = 3

Numbers = Mapping[int, Mapping[str, float]]
Cell = str | float | int | None


@dataclass(frozen=True, slots=True)
class Plot:
    """A chart and the same as a table. `chart` None: nothing was measured yet, and `says` tells what would be."""

    id: str
    title: str
    says: str
    headings: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    chart: Markup | None = None
    names: Sequence[str] = field(default=())
    """What the series are called, in the order of their looks; empty where there is only one."""


@dataclass(frozen=True, slots=True)
class Curve:
    """A metric of iterations and the two that are its interval."""

    name: str
    metric: str
    low: str | None = None
    high: str | None = None


#: Every metric that a plot reads.
AGREEMENT = (
    Curve("against the incumbent", "heldout/auc", "heldout/auc_low", "heldout/auc_high"),
    Curve("against base", "heldout_base/auc", "heldout_base/auc_low", "heldout_base/auc_high"),
)
WINS = (
    Curve("against the incumbent", "contest/win_rate", "contest/win_low", "contest/win_high"),
    Curve("against base", "contest_base/win_rate", "contest_base/win_low", "contest_base/win_high"),
)
DISTANCE = (Curve("from base", "kl/base_token"), Curve("this step", "kl/step_token"))
LENGTH = (
    Curve("candidate", "shape/length_tokens"),
    Curve("incumbent", "incumbent/shape/length_tokens"),
)
REPETITION = (
    Curve("candidate", "shape/repetition"),
    Curve("incumbent", "incumbent/shape/repetition"),
)
CURVES = (*AGREEMENT, *WINS, *DISTANCE, *LENGTH, *REPETITION)
METRICS = tuple(
    dict.fromkeys(name for one in CURVES for name in (one.metric, one.low, one.high) if name is not None)
)
#: Checks whose limits are drawn.
CHECKED = ("kl/base_token", "shape/repetition")


def series_of(curves: Sequence[Curve], numbers: Numbers) -> list[Series]:
    """A series for each curve that has a number, over the iterations that have any of these."""
    asked = {one.metric for one in curves}
    among = sorted(number for number, found in numbers.items() if asked & set(found))
    made = []
    for one in curves:
        points = [point_of(one, number, numbers[number]) for number in among]
        if any(point.value is not None for point in points):
            made.append(Series(one.name, points))
    return made


def point_of(curve: Curve, number: int, found: Mapping[str, float]) -> Point:
    low = found.get(curve.low) if curve.low else None
    high = found.get(curve.high) if curve.high else None
    value = found.get(curve.metric)
    between = "" if low is None or high is None else f" ({low:.2f} to {high:.2f})"
    says = "" if value is None else f"iteration {number}, {curve.name}: {value:.3g}{between}"
    return Point(number, value, low, high, says)


def table_of(series: Sequence[Series]) -> tuple[list[str], list[list[Cell]]]:
    """The same numbers, newest first, with the columns of an interval only where a series has one."""
    headings = ["Iteration"]
    columns: list[list[Cell]] = []
    for one in series:
        parts = [(one.name, [point.value for point in one.points])]
        if any(point.low is not None for point in one.points):
            parts += [
                (f"{one.name}, low", [point.low for point in one.points]),
                (f"{one.name}, high", [point.high for point in one.points]),
            ]
        headings += [name for name, _ in parts]
        columns += [list(values) for _, values in parts]
    places = [int(point.x) for point in series[0].points] if series else []
    rows: list[list[Cell]] = [
        [number, *(column[at] for column in columns)] for at, number in enumerate(places)
    ]
    return headings, rows[::-1]


def over_iterations(
    frame: Frame, curves: Sequence[Curve], numbers: Numbers, guides: Sequence[Guide] = ()
) -> Plot:
    """A plot of metrics of iterations."""
    series = series_of(curves, numbers)
    if not series:
        return Plot(frame.id, frame.title, frame.says, (), ())
    headings, rows = table_of(series)
    names = [one.name for one in series] if len(series) > 1 else []
    return Plot(
        frame.id, frame.title, frame.says, headings, rows, line_chart(frame, series, guides), tuple(names)
    )


CHANCE = Guide("chance", 0.5, "chance")


def newest(limits: Mapping[int, Mapping[str, Limits]], metric: str) -> list[Guide]:
    """The limits that the newest iteration with this check was held against."""
    found = [of[metric] for _, of in sorted(limits.items()) if metric in of]
    if not found:
        return []
    levels = (("soft limit", found[-1].soft, "soft"), ("hard limit", found[-1].hard, "hard"))
    return [Guide(name, value, look) for name, value, look in levels if value is not None]


def agreement(numbers: Numbers) -> Plot:
    says = "Of a liked and a disliked answer that never trained, how often the update favours the liked one."
    frame = Frame("agreement", "Agreement with votes it never trained on", says, 0.0, 1.0)
    return over_iterations(frame, AGREEMENT, numbers, (CHANCE,))


def wins(numbers: Numbers) -> Plot:
    says = "How often licensed judges prefer the candidate's answer; ties are one half. 90% interval over prompts."
    frame = Frame("wins", "Win rate by licensed judges", says, 0.0, 1.0, percent=True)
    return over_iterations(frame, WINS, numbers, (CHANCE,))


def distance(numbers: Numbers, limits: Mapping[int, Mapping[str, Limits]]) -> Plot:
    says = "How far candidates went from the frozen base and from what was served, in nats per token."
    guides = newest(limits, "kl/base_token")
    # One candidate that ran away must not press all others flat.
    ceiling = 1.6 * max((guide.value for guide in guides), default=0.0) or None
    frame = Frame("distance", "KL to the anchor, and its budget", says, 0.0, ceiling=ceiling)
    return over_iterations(frame, DISTANCE, numbers, guides)


def length(numbers: Numbers) -> Plot:
    says = "Mean length of answers to the probes, in tokens."
    return over_iterations(Frame("length", "Length", says, 0.0), LENGTH, numbers)


def repetition(numbers: Numbers, limits: Mapping[int, Mapping[str, Limits]]) -> Plot:
    says = "Share of repeated four-token sequences in answers to the probes."
    frame = Frame("repetition", "Repetition", says, 0.0, percent=True)
    return over_iterations(frame, REPETITION, numbers, newest(limits, "shape/repetition"))


def thumbs(votes: Sequence[Thumbs]) -> Plot:
    """Thumbs-up rate of every version, the newest last."""
    says = f"Latest thumb of everybody on every answer, by who gave the answer. {CONFIDENCE:.0%} interval (Wilson)."
    frame = Frame("thumbs", "Thumbs-up rate per version", says, 0.0, 1.0, percent=True, x_name="thumbs up")
    headings = ("Version", "Up", "Down", "Rate", "Low", "High", "People", "In quarantine")
    rows: list[list[Cell]] = []
    shown = []
    for one in votes:
        total = one.up + one.down
        rate = one.up / total if total else None
        low, high = wilson(one.up / total, total, CONFIDENCE) if total else (None, None)
        version = one.version or BASE
        rows.append([version, one.up, one.down, rate, low, high, one.people, one.quarantined])
        told = "" if rate is None else f"{version}: {one.up} of {total} up"
        shown.append(RowOf(version, told, rate, low, high))
    if not shown:
        return Plot(frame.id, frame.title, says, (), ())
    return Plot(frame.id, frame.title, says, headings, rows, row_chart(frame, shown[-16:]))


def judges(licences: Sequence[Licence]) -> Plot:
    """Agreement of every scorer with people over the iterations it was measured in; `licences` newest first."""
    says = "AUC of a scorer's opinions against people's votes and operators' labels, with its interval."
    frame = Frame("judges", "Agreement of judges with people", says, 0.0, 1.0)
    numbers: dict[int, dict[str, float]] = {}
    curves = []
    for scorer in sorted({one.scorer for one in licences}):
        curves.append(Curve(scorer, f"{scorer}/auc", f"{scorer}/auc_lower", f"{scorer}/auc_upper"))
    for one in licences:
        found = numbers.setdefault(one.iteration, {})
        for name in ("auc", "auc_lower", "auc_upper"):
            if one.measures.get(name) is not None:
                found[f"{one.scorer}/{name}"] = one.measures[name]
    return over_iterations(frame, curves, numbers, (CHANCE,))


def spans(entries: Sequence[StageEntry]) -> dict[str, float]:
    """Seconds of work per stage, summed over what was repeated; waiting for people is no work."""
    found: dict[str, float] = {}
    for entry, after in pairwise(entries):
        if entry.stage not in SETTLED_STAGES:
            found[entry.stage.value] = found.get(entry.stage.value, 0.0) + max(0.0, after.at - entry.at)
    return found


def phases(stages: Mapping[int, Sequence[StageEntry]], *, most: int = 16) -> Plot:
    """How long each stage of the newest iterations took."""
    says = "Minutes that each stage of an iteration took."
    frame = Frame("phases", "How long iterations take", says, x_name="minutes")
    timed = {number: spans(entries) for number, entries in sorted(stages.items())}
    timed = {number: found for number, found in timed.items() if sum(found.values()) > 0}
    names = tuple(dict.fromkeys(name for found in timed.values() for name in found))
    if not timed:
        return Plot(frame.id, frame.title, says, (), ())
    rows: list[list[Cell]] = [
        [number, *(round(found[name], 1) if name in found else None for name in names)]
        for number, found in timed.items()
    ]
    shown = [
        RowOf(f"iteration {number}", parts=tuple((name, seconds / 60) for name, seconds in found.items()))
        for number, found in list(timed.items())[-most:]
    ]
    headings = ("Iteration", *(f"{name}, s" for name in names))
    return Plot(
        frame.id, frame.title, says, headings, rows[::-1], row_chart(frame, shown, names=names), names
    )


def quantile(values: Sequence[float], share: float) -> float:
    """By linear interpolation between the nearest two."""
    ordered = sorted(values)
    place = share * (len(ordered) - 1)
    below = int(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (place - below) * (ordered[above] - ordered[below])


def pace(near: Iterable[Near]) -> list[float]:
    """Milliseconds per token of answers that have any."""
    return [1000 * one.latency / one.tokens for one in near if one.tokens > 0]


def swaps(moves: Sequence[Activation], near: Sequence[Near], *, minutes: float) -> Plot:
    """Latency before and after the newest moves of the pointer; `moves` newest first."""
    says = (
        f"Milliseconds per token of people's answers in the {minutes:g} minutes before and after the served version "
        f"changed: median, and the slowest in twenty. Moves with fewer than {ENOUGH} answers on a side are left out."
    )
    frame = Frame("swaps", "Latency around swaps", says, 0.0, x_name="move")
    headings = (
        "Move",
        "To",
        "Answers before",
        "Median",
        "95%",
        "Answers after",
        "Median",
        "95%",
        "Longest, s",
    )
    rows: list[list[Cell]] = []
    points: dict[str, list[Point]] = {"before": [], "after": []}
    for move in reversed(moves):
        around = [one for one in near if one.move == move.id]
        sides = {
            "before": [one for one in around if one.offset < 0],
            "after": [one for one in around if one.offset >= 0],
        }
        found = {name: pace(side) for name, side in sides.items()}
        if min(len(side) for side in found.values()) < ENOUGH:
            continue
        row: list[Cell] = [move.id, move.version or BASE]
        for name, side in found.items():
            middle, slow = statistics.median(side), quantile(side, 0.95)
            points[name].append(
                Point(move.id, middle, middle, slow, f"{name} move {move.id}: {middle:.0f} ms")
            )
            row += [len(side), round(middle, 1), round(slow, 1)]
        rows.append([*row, round(max(one.latency for one in around), 2)])
    if not rows:
        return Plot(frame.id, frame.title, says, (), ())
    series = [Series(name, side, joined=False) for name, side in points.items()]
    return Plot(
        frame.id, frame.title, says, headings, rows[::-1], line_chart(frame, series), ("before", "after")
    )
