"""The operators' other pages, each as the values its template shows: adapters, plots, feedback, judges."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from api import plots, views
from api.detail import asked, said
from api.plots import CONFIDENCE, Plot
from store.db import Store
from store.descent import lineage_of
from store.judging import Licence
from store.outcomes import Thumbs
from store.quarantine import Quarantined
from store.records import BASE, SERVABLE, Adapter, AdapterStatus, Completion, Feedback, FeedbackKind
from store.shares import wilson

#: Moves of the pointer whose latencies are told, and how far around each is looked.
MOVES, MINUTES = 12, 30.0
LICENCES = 1000


@dataclass(frozen=True, slots=True)
class AdapterRow:
    """An adapter with how people took it. `move`: what may be asked of it, rollback or promote; None: neither."""

    version: str
    status: str
    parent: str
    iteration: int | None
    scale: float
    created_at: float
    kl_base: float | None
    votes: int
    rate: float | None
    low: float | None
    high: float | None
    move: str | None


def move_of(status: AdapterStatus) -> str | None:
    if status is AdapterStatus.SUPERSEDED:
        return "rollback"
    waits = status in (AdapterStatus.HELD, AdapterStatus.CANARY)
    return "promote" if waits or status in SERVABLE - {AdapterStatus.ACTIVE} else None


def adapter_row(one: Adapter, thumbs: Thumbs | None, kl_base: float | None) -> AdapterRow:
    votes = thumbs.up + thumbs.down if thumbs else 0
    rate = thumbs.up / votes if thumbs and votes else None
    low, high = (None, None) if rate is None else wilson(rate, votes, CONFIDENCE)
    return AdapterRow(
        version=one.version,
        status=one.status.value,
        parent=one.parent or BASE,
        iteration=one.iteration,
        scale=one.scale,
        created_at=one.created_at,
        kl_base=kl_base,
        votes=votes,
        rate=rate,
        low=low,
        high=high,
        move=move_of(one.status),
    )


def measured(store: Store, some: Sequence[Adapter]) -> dict[str, float]:
    """KL to base by version; nothing of one that its iteration passed over, whose numbers are the other's."""
    numbers = [one.iteration for one in some if one.iteration is not None]
    kept = store.history.candidates(numbers)
    found = store.history.metrics(numbers, ["kl/base_token"])
    return {kept[number]: of["kl/base_token"] for number, of in found.items() if number in kept}


def shortened(line: Sequence[str], most: int = 8) -> tuple[list[str], int]:
    """The end of a line that grew long, and how many stand before it."""
    return list(line[-most:]), max(0, len(line) - most)


def adapters(store: Store, *, limit: int) -> dict[str, Any]:
    """The newest adapters, and the line from base to what is served."""
    known = store.adapters.known()
    active = store.adapters.active()
    thumbs = {one.version: one for one in store.outcomes.thumbs()}
    shown = list(known.values())[:limit]
    distances = measured(store, shown)
    rows = [adapter_row(one, thumbs.get(one.version), distances.get(one.version)) for one in shown]
    parents = {version: one.parent for version, one in known.items()}
    line = lineage_of(active.version if active else None, parents)[::-1]
    chain, before = shortened(line)
    return {
        "rows": rows,
        "more": max(0, len(known) - limit),
        "chain": chain,
        "before": before,
        "serving": active.version if active else BASE,
        "canary": views.canary(store),
        "moves": [
            {"at": one.at, "to": one.version or BASE, "from": one.previous or BASE, "back": one.backwards}
            | {"actor": one.actor, "reason": one.reason}
            for one in store.adapters.activations(20)
        ],
    }


def adapter(store: Store, version: str) -> dict[str, Any]:
    """One adapter.

    Raises:
        NotFound: there is none.
    """
    one = store.adapters.get(version)
    thumbs = {each.version: each for each in store.outcomes.thumbs()}
    row = adapter_row(one, thumbs.get(version), measured(store, [one]).get(version))
    full = views.adapter_in_full(store, version)
    ancestors, before = shortened(full["ancestors"][-2::-1])
    return {"one": full, "ancestors": ancestors, "before": before, "row": row}


def plots_of(store: Store, *, limit: int) -> list[Plot]:
    """Every plot, over the newest iterations, those that show something first; a fixed number of queries."""
    ids = [one.id for one in store.iterations.list(limit=limit)]
    numbers = store.history.metrics(ids, plots.METRICS)
    limits = store.history.limits(ids, plots.CHECKED)
    moves = store.adapters.activations(MOVES)
    near = store.history.around_moves(moves=MOVES, seconds=60 * MINUTES)
    found = [
        plots.thumbs(store.outcomes.thumbs()),
        plots.agreement(numbers),
        plots.distance(numbers, limits),
        plots.wins(numbers),
        plots.judges(store.judgements.licence_history(limit=LICENCES)),
        plots.length(numbers),
        plots.repetition(numbers, limits),
        plots.phases(store.history.stages(ids)),
        plots.swaps(moves, near, minutes=MINUTES),
    ]
    return sorted(found, key=lambda plot: plot.chart is None)


@dataclass(frozen=True, slots=True)
class Said:
    """One event of the feedback log with what it is about."""

    id: str
    at: float
    who: str
    said: str
    look: str
    words: str
    completion_id: str
    version: str
    asked: str
    answered: str
    held: bool


def look_of(event: Feedback) -> str:
    """up, down or neither."""
    if event.kind is FeedbackKind.THUMB and isinstance(event.value, bool):
        return "up" if event.value else "down"
    return ""


def row_of(event: Feedback, answer: Completion | None, *, held: bool) -> Said:
    wrote = str(event.value) if event.kind in (FeedbackKind.EDIT, FeedbackKind.COMMENT) else None
    words = "; ".join(each for each in (event.reason, event.comment, wrote) if each)
    choices = {choice.index: choice.text for choice in answer.choices} if answer else {}
    text = " ".join(choices.get(event.choice_index, "").split())
    return Said(
        id=event.id,
        at=event.created_at,
        who=event.principal,
        said=said(event),
        look=look_of(event),
        words=words,
        completion_id=event.completion_id,
        version=(answer.adapter if answer else None) or BASE,
        asked=asked(answer),
        answered=text if len(text) <= 140 else text[:139] + "…",
        held=held,
    )


def stream(store: Store, *, limit: int, before: str | None, kind: FeedbackKind | None) -> list[Said]:
    """The newest events, or those before one."""
    events = store.feedback.recent(limit, before=before, kind=kind)
    answers = store.completions.get_all(one.completion_id for one in events)
    held = store.quarantine.among(one.id for one in events)
    return [row_of(one, answers.get(one.completion_id), held=one.id in held) for one in events]


@dataclass(frozen=True, slots=True)
class Held:
    """Events that were put into quarantine together."""

    iteration: int
    at: float
    actor: str
    reason: str
    count: int
    people: int
    examples: tuple[str, ...]


def groups(rows: Sequence[Quarantined], events: Mapping[str, Feedback], *, shown: int = 5) -> list[Held]:
    """Held events by why they are held, newest first; `examples` are answers to look at."""
    found: dict[tuple[int, float, str, str], list[Quarantined]] = {}
    for row in rows:
        found.setdefault((row.iteration, row.at, row.actor, row.reason), []).append(row)
    return [
        Held(
            *key,
            count=len(group),
            people=len({events[one.feedback_id].principal for one in group if one.feedback_id in events}),
            examples=tuple(
                dict.fromkeys(
                    events[one.feedback_id].completion_id for one in group if one.feedback_id in events
                )
            )[:shown],
        )
        for key, group in sorted(found.items(), key=lambda item: item[0][1], reverse=True)
    ]


def quarantine(store: Store) -> list[Held]:
    rows = store.quarantine.held()
    return groups(rows, store.feedback.some(one.feedback_id for one in rows))


def latest_licences(history: Sequence[Licence]) -> list[dict[str, Any]]:
    """Every scorer as it stood when it was last measured; `history` newest first."""
    newest: dict[str, Licence] = {}
    for one in history:
        newest.setdefault(one.scorer, one)
    return [{**views.licence(one), "at": one.at} for _, one in sorted(newest.items())]


def judges(store: Store) -> dict[str, Any]:
    """Who may judge, and how that went over time."""
    history = store.judgements.licence_history(limit=LICENCES)
    return {
        "says": views.standing_of_all(store),
        "latest": latest_licences(history),
        "over_time": plots.judges(history),
        "history": [{**views.licence(one), "at": one.at} for one in history[:100]],
        "labels": store.labels.count(),
    }
