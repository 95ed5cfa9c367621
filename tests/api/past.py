"""A service with a past: iterations that were promoted, rejected and rolled back, votes, judges, a quarantine."""

from pathlib import Path

from store.db import Store
from store.judging import Licence
from store.records import (
    Adapter,
    AdapterStatus,
    Choice,
    Completion,
    CompletionStatus,
    Example,
    Feedback,
    FeedbackKind,
    GateResult,
    Message,
    Sampling,
    Source,
    Split,
    Stage,
    Verdict,
)
from tests.clock import Clock


def version_of(number: int) -> str:
    return f"it{number:04d}-{number:08x}"


def answer(number: int, at: float, adapter: str | None) -> Completion:
    return Completion(
        id=f"c{number}",
        created_at=at,
        principal=f"key:p{number % 4}",
        source=Source.CHAT,
        messages=(Message("user", f"How do I boil egg {number}?"),),
        sampling=Sampling(),
        adapter=adapter,
        engine="fake",
        status=CompletionStatus.DONE,
        choices=(Choice(0, f"Put egg {number} into water.", "stop", 8),),
        completion_tokens=8,
        latency_s=0.4 + number % 3 / 10,
    )


def vote(number: int, at: float) -> Feedback:
    up = number % 3 != 0
    reason = None if up else "too long"
    return Feedback(
        f"f{number}", at, f"c{number}", 0, f"key:p{number % 4}", FeedbackKind.THUMB, up, reason=reason
    )


def live_through(store: Store, clock: Clock, count: int) -> None:
    """`count` iterations, each after one vote: every third is rejected, the others are promoted."""

    def work(tx: Store) -> None:
        for number in range(1, count + 1):
            one_more(tx, clock, number)

    store.atomic(work)


def one_more(tx: Store, clock: Clock, number: int) -> None:
    """One vote and the iteration that learns from it."""
    active = tx.adapters.active()
    incumbent = active.version if active else None
    tx.completions.begin(answer(number, clock.now, incumbent))
    tx.feedback.add(vote(number, clock.now + 1))
    begun = tx.iterations.begin(trigger="feedback", incumbent=incumbent, config={})
    for stage in (Stage.COLLECTING, Stage.TRAINING, Stage.EVALUATING):
        clock.now += 20
        tx.iterations.move(begun.id, stage)
    learned = Example(begun.id, f"f{number}", f"c{number}", Split.TRAIN, "kto", number % 3 != 0, 1.0)
    tx.iterations.add_examples([learned])
    value = 0.05 + 0.01 * (number % 7)
    tx.metrics.add(
        begun.id,
        {
            "kl/step_token": value,
            "kl/base_token": 2 * value,
            "heldout/auc": 0.5 + value,
            "heldout/auc_low": 0.4,
            "heldout/auc_high": 0.8,
            "shape/length_tokens": 40.0,
            "train/steps": 9.0,
        },
    )
    good = number % 3 != 0
    verdict = Verdict.PASS if good else Verdict.FAIL
    told = "keeps to its limit" if good else "is above its limit"
    tx.iterations.add_gates([GateResult(begun.id, "kl/base_token", 2 * value, 0.25, 0.45, verdict, told)])
    measures = {"auc": 0.6, "auc_lower": 0.5, "auc_upper": 0.7, "labels": 44.0}
    tx.judgements.set_licences(
        begun.id,
        [Licence(begun.id, "relevance", "v", False, ("too many ties",), measures, {}, {}, clock.now)],
    )
    prompt = [{"role": "user", "content": "Hello?"}]
    tx.iterations.save_report(
        begun.id,
        {"samples": [{"prompt": prompt, "before": "Ah.", "after": "Oh."}], "seconds": {"train": 3.0}},
    )
    clock.now += 20
    status = AdapterStatus.CANDIDATE if good else AdapterStatus.REJECTED
    made = version_of(number)
    tx.adapters.add(Adapter(made, incumbent, begun.id, Path("/none"), "d" * 64, status, 1.0, clock.now))
    changes = {"candidate": made, "reason": told, "counts": {"kto_up": 3, "kto_down": 2, "events": 5}}
    tx.iterations.move(begun.id, Stage.ACTIVE if good else Stage.REJECTED, changes=changes)
    if good:
        tx.adapters.activate(made, actor="gate", reason=told)
    action = "promote" if good else "reject"
    tx.audit.add(actor="gate", action=action, subject=made, reason=told, details={"iteration": begun.id})
