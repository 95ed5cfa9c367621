"""Iterations: moves, lineage, verdicts, reports."""

import math

import pytest

from store.db import Store
from store.errors import Invalid, NotFound
from store.records import AnchorUse, Example, GateResult, Split, Stage, Verdict
from tests.clock import Clock
from tests.store.conftest import completion, event


def test_an_iteration_moves_and_every_move_is_kept(store: Store, clock: Clock) -> None:
    begun = store.iterations.begin(trigger="manual", incumbent=None, config={"a": 1})
    clock.now = 1010.0
    store.iterations.move(begun.id, Stage.COLLECTING, note="go", changes={"counts": {"kto_up": 3}})
    clock.now = 1020.0
    ended = store.iterations.move(begun.id, Stage.REJECTED, changes={"reason": "KL", "candidate": "it0001-x"})
    assert (ended.stage, ended.reason, ended.candidate) == (Stage.REJECTED, "KL", "it0001-x")
    assert (ended.created_at, ended.finished_at, ended.counts, ended.config) == (
        1000.0,
        1020.0,
        {"kto_up": 3},
        {"a": 1},
    )
    assert [(e.stage, e.at, e.note) for e in store.iterations.stages(begun.id)] == [
        (Stage.QUEUED, 1000.0, "manual"),
        (Stage.COLLECTING, 1010.0, "go"),
        (Stage.REJECTED, 1020.0, None),
    ]


def test_running_is_the_unfinished_one(store: Store) -> None:
    assert store.iterations.running() is None
    first = store.iterations.begin(trigger="a", incumbent=None, config={})
    assert store.iterations.running() == first
    store.iterations.move(first.id, Stage.FAILED)
    assert store.iterations.running() is None
    second = store.iterations.begin(trigger="b", incumbent=None, config={})
    assert store.iterations.last() == second
    assert [i.id for i in store.iterations.list()] == [second.id, first.id]
    assert [i.id for i in store.iterations.list(before=second.id)] == [first.id]


def test_a_rollback_later_keeps_the_time_it_finished(store: Store, clock: Clock) -> None:
    begun = store.iterations.begin(trigger="a", incumbent=None, config={})
    store.iterations.move(begun.id, Stage.ACTIVE)
    clock.now = 5000.0
    assert store.iterations.move(begun.id, Stage.ROLLED_BACK).finished_at == 1000.0


def test_what_never_changes_cannot_be_changed(store: Store) -> None:
    begun = store.iterations.begin(trigger="a", incumbent=None, config={})
    with pytest.raises(Invalid, match="config"):
        store.iterations.move(begun.id, Stage.TRAINING, changes={"config": {}})
    with pytest.raises(NotFound):
        store.iterations.move(99, Stage.TRAINING)


def test_lineage_is_found_from_both_ends(store: Store) -> None:
    store.completions.begin(completion("c1"))
    store.feedback.add(event("f1"))
    begun = store.iterations.begin(trigger="a", incumbent=None, config={})
    example = Example(begun.id, "f1", "c1", Split.TRAIN, "kto", True, 0.5)
    store.iterations.add_examples([example])
    assert store.iterations.examples(begun.id) == [example]
    assert [i.id for i in store.iterations.trained_by("c1")] == [begun.id]
    assert store.iterations.trained_by("c2") == []


def test_measurements_verdicts_and_reports_are_kept(store: Store) -> None:
    begun = store.iterations.begin(trigger="a", incumbent=None, config={})
    store.metrics.add(begun.id, {"kl/step_token": 0.1, "broken": math.nan})
    gate = GateResult(begun.id, "kl/step_token", 0.1, 0.2, 0.3, Verdict.PASS, "fine")
    unmeasured = GateResult(begun.id, "shape/empty", math.nan, None, 0.1, Verdict.FAIL, "nan")
    store.iterations.add_gates([gate, unmeasured])
    store.iterations.save_report(begun.id, {"samples": ["ä"]})
    store.iterations.set_progress(begun.id, {"done": 1})
    assert store.metrics.get(begun.id) == {"kl/step_token": 0.1}
    first, second = store.iterations.gates(begun.id)
    assert first == gate
    assert (second.value, second.verdict) == (None, Verdict.FAIL)
    assert store.iterations.report(begun.id) == {"samples": ["ä"]}
    store.iterations.save_report(begun.id, {"contest": [1]})
    store.iterations.save_report(begun.id, {"samples": []})
    assert store.iterations.report(begun.id) == {"samples": [], "contest": [1]}
    assert store.iterations.progress(begun.id) == {"done": 1}


def test_progress_knows_where_its_phase_began(store: Store) -> None:
    begun = store.iterations.begin(trigger="a", incumbent=None, config={})
    began = []
    for phase, done, at in (
        ("sample", 0, 10.0), ("sample", 4, 14.0), ("train", 1, 20.0), ("train", 3, 30.0), ("train", 0, 40.0),
    ):  # fmt: skip
        store.iterations.set_progress(begun.id, {"phase": phase, "done": done, "total": 9, "at": at})
        kept = store.iterations.progress(begun.id)
        began.append((kept["done"], kept["began"]["done"], kept["began"]["at"]))
    # The last is a second candidate's training, which begins anew.
    assert began == [(0, 0, 10.0), (4, 0, 10.0), (1, 1, 20.0), (3, 1, 20.0), (0, 0, 40.0)]


def test_only_what_the_kept_candidate_learned_counts(store: Store) -> None:
    store.completions.begin(completion("c1"))
    store.completions.begin(completion("c2"))
    store.completions.begin(completion("base"))
    store.feedback.add(event("f1", "c1"))
    store.feedback.add(event("f2", "c2"))
    begun = store.iterations.begin(trigger="test", incumbent=None, config={})
    both = Example(begun.id, "f1", "c1", Split.TRAIN, "kto", True, 1.0, replayed=True)
    one = Example(begun.id, "f2", "c2", Split.TRAIN, "kto", True, 1.0, version="it0001-b")
    uses = [AnchorUse(begun.id, "base", "it0001-a")]
    store.iterations.add_examples([both, one])
    store.iterations.add_anchors(uses)
    assert store.iterations.examples(begun.id) == [both, one]
    assert store.iterations.anchors(begun.id) == uses
    store.iterations.move(begun.id, Stage.ACTIVE, changes={"candidate": "it0001-a"})
    assert [[i.id for i in store.iterations.trained_by(c)] for c in ("c1", "c2", "base")] == [[1], [], [1]]
    assert [item.feedback.id for item in store.feedback.unused()] == ["f2"]
    assert store.feedback.learned() == {"f1"}
    store.iterations.move(begun.id, Stage.ROLLED_BACK)
    assert [item.feedback.id for item in store.feedback.unused()] == ["f2"]
    assert store.feedback.learned() == set()
    store.iterations.move(begun.id, Stage.ACTIVE, changes={"candidate": "it0001-b"})
    assert [[i.id for i in store.iterations.trained_by(c)] for c in ("c1", "c2", "base")] == [[1], [1], []]
