"""One iteration as its page shows it: rows of the store in, values to show out. Pure but for `read`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from api import views
from api.charts import Frame, Point, Series, bullet, line_chart
from api.plots import Plot
from store.db import Store
from store.records import BASE, FINISHED_STAGES, Completion, Example, Feedback, Split

#: Distances in the order people read them: check, what it is.
DISTANCES = {
    "kl/step_token": "this step, from the incumbent",
    "kl/base_token": "from base",
    "kl/path_token": "all steps since base, summed",
    "kl/step_p99": "this step, worst prompts",
    "kl/cluster_max": "this step, worst kind of prompt",
    "kl/base_sequence": "from base, nats per answer",
    "kl/forward_base": "forgetting, on base's own answers",
}
#: Counts in the order people read them.
COUNTS = {
    "kto_up": "liked answers",
    "kto_down": "disliked answers",
    "dpo": "pairs from people",
    "judged_pairs": "pairs from judges",
    "replayed": "replayed from earlier iterations",
    "anchors": "answers of base's own, as an anchor",
    "heldout_up": "liked, never trained on",
    "heldout_down": "disliked, never trained on",
    "people": "people",
    "events": "feedback events",
}
#: What training told, in the order people read it.
TRAINING = {
    "train/steps": "optimiser steps",
    "train/loss_first": "loss, first steps",
    "train/loss_last": "loss, last steps",
    "train/anchor_nll": "negative log-likelihood of anchors, nats per token",
    "train/winner_dlogp": "change of liked answers' log-probability, nats per token",
    "train/loser_dlogp": "change of disliked answers' log-probability, nats per token",
    "train/beta": "beta",
    "train/scale": "scale of the adapter that was kept",
    "train/grad_norm": "gradient norm",
}
#: Verdicts that need a look come first.
URGENCY = {"fail": 0, "soft": 1, "insufficient": 2, "pass": 3}
#: Rows of lineage on the page; the API has all.
LINEAGE = 200


@dataclass(frozen=True, slots=True)
class StageRow:
    """A stage with its share of the longest one's time; `seconds` None: final."""

    stage: str
    at: float
    seconds: float | None
    share: float
    note: str | None
    running: bool


@dataclass(frozen=True, slots=True)
class Spent:
    """What was spent of one KL budget."""

    name: str
    metric: str
    value: float | None
    soft: float | None
    hard: float
    chart: Markup


@dataclass(frozen=True, slots=True)
class Sample:
    """One prompt, answered before and after."""

    asked: str
    before: str
    after: str
    cluster: str


@dataclass(frozen=True, slots=True)
class Taught:
    """One event that trained or tested the iteration, with the beginning of what it is about."""

    feedback_id: str
    completion_id: str
    said: str
    who: str
    asked: str
    split: str
    form: str
    weight: float
    replayed: bool


@dataclass(frozen=True, slots=True)
class Balance:
    """Of rated answers, how many are liked. `share` None: none is rated."""

    up: int
    down: int

    @property
    def share(self) -> float | None:
        return self.up / (self.up + self.down) if self.up + self.down else None


@dataclass(frozen=True, slots=True)
class Detail:
    """Everything the page of one iteration shows."""

    row: Mapping[str, Any]
    running: bool
    stages: Sequence[StageRow]
    balance: Balance
    counts: Sequence[tuple[str, Any]]
    training: Sequence[tuple[str, float]]
    curve: Plot
    ledger: Sequence[Spent]
    gates: Sequence[Mapping[str, Any]]
    samples: Sequence[Sample]
    taught: Sequence[Taught]
    more_taught: int


def stage_rows(stages: Sequence[Mapping[str, Any]]) -> list[StageRow]:
    """From `views.stages`; the share is of the longest stage of work, what was served or waited is none."""
    work = [
        one["seconds"]
        for one in stages
        if one["seconds"] is not None and one["stage"] not in FINISHED_STAGES | {"canary"}
    ]
    longest = max(work, default=0.0)
    rows = []
    for place, one in enumerate(stages):
        last = place == len(stages) - 1
        waits = one["stage"] in FINISHED_STAGES | {"canary"}
        share = 0.0 if waits or not longest or one["seconds"] is None else one["seconds"] / longest
        rows.append(
            StageRow(
                one["stage"],
                one["at"],
                one["seconds"],
                share,
                one["note"],
                last and one["seconds"] is not None,
            )
        )
    return rows


def counted(counts: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """What it learned from, known names first; what is no number is left to the API."""
    known = [(name, counts[key]) for key, name in COUNTS.items() if key in counts]
    rest = [
        (key.replace("_", " "), value)
        for key, value in counts.items()
        if key not in COUNTS and isinstance(value, int | float)
    ]
    return [*known, *rest]


def spent(gates: Sequence[Mapping[str, Any]]) -> list[Spent]:
    """The KL checks with their budgets."""
    by_metric = {gate["metric"]: gate for gate in gates}
    rows = []
    for metric, name in DISTANCES.items():
        gate = by_metric.get(metric)
        if gate is None or gate["hard"] is None:
            continue
        value, soft, hard = gate["value"], gate["soft"], gate["hard"]
        told = "not measured" if value is None else f"{value:.3g} of {hard:g}"
        says = f"{name}: {told}" + ("" if soft is None else f", soft limit {soft:g}")
        rows.append(Spent(name, metric, value, soft, hard, bullet(value, soft, hard, says=says)))
    return rows


def loss_plot(curve: Sequence[Mapping[str, float]]) -> Plot:
    """Loss and watched KL by optimiser step."""
    says = "Loss of every optimiser step; KL to the incumbent on watched answers where it was measured."
    frame = Frame("loss", "Loss", says, 0.0, x_name="step")
    series = []
    for name, metric in (("loss", "train/loss"), ("KL watched", "train/kl_watched")):
        points = [
            Point(row["step"], row[metric], says=f"step {row['step']:g}, {name}: {row[metric]:.3g}")
            for row in curve
            if metric in row
        ]
        if points:
            series.append(Series(name, points))
    if not series:
        return Plot("loss", "Loss", says, (), ())
    rows = [[row["step"], row.get("train/loss"), row.get("train/kl_watched")] for row in curve]
    names = tuple(one.name for one in series) if len(series) > 1 else ()
    return Plot("loss", "Loss", says, ("Step", "Loss", "KL watched"), rows, line_chart(frame, series), names)


def asked(completion: Completion | None, most: int = 90) -> str:
    """The beginning of the last thing a person said."""
    if completion is None or not completion.messages:
        return ""
    words = " ".join(completion.messages[-1].content.split())
    return words if len(words) <= most else words[: most - 1] + "…"


def said(event: Feedback | None) -> str:
    """An event in a few words."""
    if event is None:
        return "a judge's pair"
    if event.kind == "thumb":
        return "thumb taken back" if event.value is None else "thumb up" if event.value else "thumb down"
    if event.kind == "rating":
        return f"{event.value} of 5 stars"
    if event.kind == "click":
        return f"clicked {event.value}"
    return {"edit": "edited", "regenerate": "asked again", "preference": "preferred"}.get(
        event.kind, event.kind.value
    )


def taught(
    examples: Sequence[Example], events: Mapping[str, Feedback], answers: Mapping[str, Completion]
) -> list[Taught]:
    """Lineage as people read it."""
    return [
        Taught(
            one.feedback_id,
            one.completion_id,
            said(events.get(one.feedback_id)),
            events[one.feedback_id].principal if one.feedback_id in events else "",
            asked(answers.get(one.completion_id)),
            "tested" if one.split is Split.NEVER_TRAIN else "trained",
            one.form,
            one.weight,
            one.replayed,
        )
        for one in examples
    ]


def samples(rows: Sequence[Mapping[str, Any]]) -> list[Sample]:
    return [
        Sample(
            "\n".join(turn["content"] for turn in one.get("prompt", []) if turn["role"] == "user"),
            one.get("before", ""),
            one.get("after", ""),
            one.get("cluster", ""),
        )
        for one in rows
    ]


def read(store: Store, number: int, *, now: float) -> Detail:
    """Everything about one iteration.

    Raises:
        NotFound: there is none.
    """
    row = views.iteration_in_full(store, number, now=now)
    examples = store.iterations.examples(number)
    shown = examples[:LINEAGE]
    events = store.feedback.some(one.feedback_id for one in shown)
    answers = store.completions.get_all(one.completion_id for one in shown)
    counts = row["counts"]
    return Detail(
        row={**row, "incumbent": row["incumbent"] or BASE},
        running=row["stage"] not in FINISHED_STAGES and row["stage"] != "canary",
        stages=stage_rows(row["stages"]),
        balance=Balance(int(counts.get("kto_up", 0)), int(counts.get("kto_down", 0))),
        counts=counted(counts),
        training=[(name, row["metrics"][key]) for key, name in TRAINING.items() if key in row["metrics"]],
        curve=loss_plot(row["curve"]),
        ledger=spent(row["gates"]),
        gates=sorted(row["gates"], key=lambda gate: URGENCY[gate["verdict"]]),
        samples=samples(row["samples"]),
        taught=taught(shown, events, answers),
        more_taught=len(examples) - len(shown),
    )
