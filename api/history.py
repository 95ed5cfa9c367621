"""Many iterations at a glance: one line each, and a little curve above what people follow from line to line."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from api.charts import sparkline
from api.plots import Numbers, spans
from store.db import Store
from store.outcomes import Thumbs
from store.records import BASE, Iteration, StageEntry, Verdict

#: What a line shows of an iteration's measurements.
METRICS = ("kl/step_token", "kl/base_token", "heldout/auc", "contest/win_rate", "contest/win_low")


@dataclass(frozen=True, slots=True)
class Line:
    """An iteration as one row. KL in nats per token, `seconds` of work, None where nothing is known.

    `up`, `down`, `pairs`: what it learned from. `votes`, `rate`: people on its candidate's answers afterwards.
    """

    id: int
    began: float
    trigger: str
    stage: str
    incumbent: str
    candidate: str | None
    reason: str | None
    up: int
    down: int
    pairs: int
    kl_step: float | None
    kl_base: float | None
    agreement: float | None
    win_rate: float | None
    failed: int
    warned: int
    checks: int
    votes: int
    rate: float | None
    seconds: float | None

    @property
    def gate(self) -> str:
        """The verdicts in a few words."""
        if not self.checks:
            return ""
        told = [f"{self.failed} failed"] if self.failed else []
        told += [f"{self.warned} warned"] if self.warned else []
        return ", ".join(told) or "passed"


@dataclass(frozen=True, slots=True)
class Strip:
    """A little curve over the lines shown, oldest first, and the newest number in words."""

    title: str
    latest: str
    chart: Markup


def line(
    one: Iteration,
    numbers: Mapping[str, float],
    verdicts: Mapping[Verdict, int],
    entries: Sequence[StageEntry],
    thumbs: Thumbs | None,
) -> Line:
    """One iteration from everything that is known of it."""
    votes = thumbs.up + thumbs.down if thumbs else 0
    counts = one.counts
    worked = sum(spans(entries).values())
    return Line(
        id=one.id,
        began=one.created_at,
        trigger=one.trigger,
        stage=one.stage.value,
        incumbent=one.incumbent or BASE,
        candidate=one.candidate,
        reason=one.reason,
        up=int(counts.get("kto_up", 0)),
        down=int(counts.get("kto_down", 0)),
        pairs=int(counts.get("dpo", 0)) + int(counts.get("judged_pairs", 0)),
        kl_step=numbers.get("kl/step_token"),
        kl_base=numbers.get("kl/base_token"),
        agreement=numbers.get("heldout/auc"),
        win_rate=numbers.get("contest/win_rate"),
        failed=verdicts.get(Verdict.FAIL, 0),
        warned=verdicts.get(Verdict.SOFT, 0),
        checks=sum(verdicts.values()),
        votes=votes,
        rate=thumbs.up / votes if thumbs and votes else None,
        seconds=worked or None,
    )


def lines(store: Store, *, limit: int, before: int | None = None) -> list[Line]:
    """The newest iterations, or those before one; a fixed number of queries, however many are asked for."""
    found = store.iterations.list(limit=limit, before=before)
    ids = [one.id for one in found]
    numbers: Numbers = store.history.metrics(ids, METRICS)
    verdicts = store.history.verdicts(ids)
    stages = store.history.stages(ids)
    thumbs = {one.version: one for one in store.outcomes.thumbs()}
    return [
        line(
            one,
            numbers.get(one.id, {}),
            verdicts.get(one.id, {}),
            stages.get(one.id, ()),
            thumbs.get(one.candidate) if one.candidate else None,
        )
        for one in found
    ]


def newest(values: Sequence[float | None]) -> float | None:
    return next((value for value in reversed(values) if value is not None), None)


def strips(shown: Sequence[Line]) -> list[Strip]:
    """Curves over the lines shown (newest first, as the table is)."""
    told = (
        ("KL to base", [one.kl_base for one in shown], "nats per token", "{:.3f}", None),
        ("Agreement", [one.agreement for one in shown], "with never-train votes", "{:.2f}", 1.0),
        ("Thumbs up", [one.rate for one in shown], "of votes on the candidate", "{:.0%}", 1.0),
        (
            "Votes learned",
            [float(one.up + one.down + one.pairs) for one in shown],
            "examples",
            "{:.0f}",
            None,
        ),
    )
    made = []
    for title, column, unit, form, ceiling in told:
        values = list(column)[::-1]
        last = newest(values)
        if last is not None:
            says = f"{title} over {len(values)} iterations, lately {form.format(last)} {unit}"
            made.append(Strip(title, f"{form.format(last)} {unit}", sparkline(values, says, ceiling=ceiling)))
    return made
