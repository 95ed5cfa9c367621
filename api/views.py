"""What operators read, as plain dicts: the same for the HTTP routes and for the page."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from store.db import Store
from store.descent import lineage_of
from store.judging import Licence
from store.records import BASE, FINISHED_STAGES, Adapter, Completion, Intent, Iteration, StageEntry

#: Whether the service judges at all, as it noted when it started.
JUDGING = "judging"


def stages(entries: Sequence[StageEntry], *, now: float) -> list[dict[str, Any]]:
    """Each stage with its seconds: up to the next, up to now where it still runs, None where it is final."""
    ends: list[float | None] = [entry.at for entry in entries[1:]]
    if entries:
        ends.append(None if entries[-1].stage in FINISHED_STAGES else now)
    return [
        {
            "stage": entry.stage.value,
            "at": entry.at,
            "seconds": None if end is None else round(end - entry.at, 3),
            "note": entry.note,
        }
        for entry, end in zip(entries, ends, strict=True)
    ]


def seconds_left(told: Mapping[str, Any], *, now: float) -> float | None:
    """How long a phase still takes at the pace it had so far; None where nothing can be said yet.

    Pace is that up to the last thing heard; what passed since then is taken off.
    """
    began = told.get("began")
    if not began or not told.get("total"):
        return None
    steps, seconds = told["done"] - began["done"], float(told["at"] - began["at"])
    if steps <= 0 or seconds <= 0 or told["done"] >= told["total"]:
        return None
    left = (told["total"] - told["done"]) * seconds / steps
    return float(max(0.0, left - max(0.0, now - told["at"])))


def progress(told: Mapping[str, Any], *, now: float) -> dict[str, Any]:
    """How far a phase is, with `seconds_left`."""
    left = seconds_left(told, now=now)
    return {**told, "seconds_left": None if left is None else round(left, 1)} if told else {}


def iteration(one: Iteration) -> dict[str, Any]:
    """The short form, for lists."""
    return {
        "id": one.id,
        "object": "iteration",
        "stage": one.stage.value,
        "trigger": one.trigger,
        "incumbent": one.incumbent or BASE,
        "candidate": one.candidate,
        "created_at": one.created_at,
        "updated_at": one.updated_at,
        "finished_at": one.finished_at,
        "attempt": one.attempt,
        "reason": one.reason,
        "counts": one.counts,
    }


def iteration_in_full(store: Store, id: int, *, now: float) -> dict[str, Any]:
    """Everything known about one turn of the loop.

    Raises:
        NotFound: there is none.
    """
    one = store.iterations.get(id)
    report = store.iterations.report(id) or {}
    return {
        **iteration(one),
        "snapshot_digest": one.snapshot_digest,
        "config": one.config,
        "stages": stages(store.iterations.stages(id), now=now),
        "progress": progress(store.iterations.progress(id), now=now),
        "metrics": store.metrics.get(id),
        "gates": [asdict(gate) for gate in store.iterations.gates(id)],
        "examples": [asdict(example) for example in store.iterations.examples(id)],
        "judge": judging(store, id),
        "thumbs": thumbs(store),
        "samples": report.get("samples", []),
        "contest": report.get("contest", []),
        "seconds": report.get("seconds", {}),
        "curve": report.get(f"curve/{one.candidate}", []),
    }


def thumbs(store: Store) -> list[dict[str, Any]]:
    """Votes on every version's answers, in the order the versions were first voted on."""
    return [
        {
            **asdict(one),
            "version": one.version or BASE,
            "votes": one.up + one.down,
            "rate": one.up / (one.up + one.down),
        }
        for one in store.outcomes.thumbs()
    ]


def judging(store: Store, id: int) -> dict[str, Any]:
    """Who might judge in an iteration and why, by which texts, what was judged, and the pairs that came of it."""
    licences = store.judgements.licences(id)
    return {
        "licences": [asdict(one) for one in licences],
        "texts": store.judgements.texts(digest for one in licences for digest in one.texts.values()),
        "pairs": [{**asdict(one), "id": one.id} for one in store.judgements.pairs(id)],
        "judgements": [asdict(one) for one in store.judgements.in_iteration(id)],
        "candidates": [
            {
                "completion_id": one.id,
                "adapter": one.adapter or BASE,
                "choices": len(one.choices),
                **one.metadata,
            }
            for one in store.completions.samples(id).values()
        ],
    }


def adapter(one: Adapter) -> dict[str, Any]:
    return {
        "version": one.version,
        "object": "adapter",
        "status": one.status.value,
        "parent": one.parent or BASE,
        "iteration": one.iteration,
        "scale": one.scale,
        "digest": one.digest,
        "created_at": one.created_at,
    }


def adapter_in_full(store: Store, version: str) -> dict[str, Any]:
    """An adapter with its ancestors (nearest first, the base last) and the times it was served.

    Raises:
        NotFound: there is none.
    """
    one = store.adapters.get(version)
    chain = lineage_of(version, {other.version: other.parent for other in store.adapters.list()})[1:]
    activations = [asdict(each) for each in store.adapters.activations() if each.version == version]
    return {**adapter(one), "ancestors": [*chain, BASE], "activations": activations}


def completion_in_full(store: Store, id: str) -> dict[str, Any]:
    """An answer with all that was said about it and every iteration that learned from it.

    Raises:
        NotFound: there is none.
    """
    one: Completion = store.completions.get(id)
    return {
        **asdict(one),
        "object": "completion",
        "adapter": one.adapter or BASE,
        "feedback": [asdict(event) for event in store.feedback.events(id)],
        "quarantine": [asdict(each) for each in store.quarantine.of(id)],
        "judgements": [asdict(each) for each in store.judgements.of(id)],
        "iterations": [iteration(each) for each in store.iterations.trained_by(id)],
    }


def intent(one: Intent) -> dict[str, Any]:
    return {**asdict(one), "object": "intent"}


def judges(store: Store) -> list[dict[str, Any]]:
    """Where each scorer stood when it was last held against people; nothing while judging is switched off."""
    if not store.state.get(JUDGING, True):
        return []
    recent = store.judgements.licence_history(limit=20)
    return [licence(one) for one in recent if one.iteration == recent[0].iteration]


def licence(one: Licence) -> dict[str, Any]:
    """A licence as tables show it: the verdict, the numbers people ask for, and every reason."""
    shown = ("labels", "auc", "auc_lower", "auc_upper", "swap_consistency", "length_correlation", "tie_rate")
    return {
        "scorer": one.scorer,
        "licensed": one.licensed,
        "iteration": one.iteration,
        "version": one.version,
        **{name: one.measures.get(name) for name in (*shown, "spread", "injection")},
        "reasons": list(one.reasons),
    }


def standing_of_all(store: Store) -> str:
    """Who judges, in a sentence."""
    if not store.state.get(JUDGING, True):
        return "Judging is switched off ([judge] enabled): only people's feedback trains."
    known = judges(store)
    if not known:
        return (
            "The model has not been held against people's opinions yet: nothing it thinks of itself trains."
        )
    licensed = [one["scorer"] for one in known if one["licensed"]]
    if not licensed:
        return "Nobody holds a licence to judge: only people's feedback trains."
    return f"Licensed scorers' opinions train beside people's feedback: {', '.join(licensed)}."


def standing(one: dict[str, Any]) -> str:
    """A scorer's licence in a sentence."""
    return "licensed" if one["licensed"] else f"no licence: {'; '.join(one['reasons'])}"


def canary(store: Store) -> dict[str, Any] | None:
    """The canary under way: whom it answers, and how its step looked when the loop last looked."""
    one = store.canaries.open()
    if one is None:
        return None
    seen = store.state.get("canary")
    fresh = seen if seen is not None and (seen["version"], seen["share"]) == (one.version, one.share) else {}
    return {
        "version": one.version,
        "incumbent": one.incumbent or BASE,
        "step": one.step + 1,
        "share": one.share,
        "began_at": one.began_at,
        "step_at": one.step_at,
        "reasons": fresh.get("reasons", []),
        "metrics": fresh.get("metrics", {}),
    }


def watch(store: Store, active: Adapter | None) -> dict[str, Any] | None:
    """How the active version does against the one before it, while it is watched."""
    seen: dict[str, Any] | None = store.state.get("watch")
    if seen is None or active is None or seen["version"] != active.version:
        return None
    return seen


def under_way(store: Store, running: Iteration, *, now: float) -> dict[str, Any]:
    """The running iteration and how far its phase is."""
    return {**iteration(running), "progress": progress(store.iterations.progress(running.id), now=now)}


def audit(store: Store) -> dict[str, Any]:
    """How long the audit log is, and the digest that stands for all of it."""
    entries, head = store.audit.head()
    return {"entries": entries, "head": head}


def status(store: Store, *, now: float) -> dict[str, Any]:
    """What the store knows of now; the engine's health is added by the route."""
    active, running, last = store.adapters.active(), store.iterations.running(), store.iterations.last()
    feedback = {
        "total": store.feedback.count(),
        "since_last_iteration": store.feedback.count(since=last.created_at if last else None),
    }
    return {
        "object": "status",
        "serving": adapter(active) if active else {"version": BASE, "object": "adapter"},
        "paused": bool(store.state.get("paused", False)),
        "running": running and under_way(store, running, now=now),
        "last_iteration": last and iteration(last),
        "feedback": feedback,
        "quarantined": store.quarantine.count(),
        "completions": store.completions.count(),
        "judge": {one["scorer"]: standing(one) for one in judges(store)},
        "schedule": store.state.get("schedule"),
        "audit": audit(store),
        "canary": canary(store),
        "watch": watch(store, active),
    }
