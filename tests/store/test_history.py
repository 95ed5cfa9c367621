"""What is read of many iterations at once."""

import pytest

from store.db import Store
from store.history import Limits, Near
from store.records import GateResult, Stage, Verdict
from tests.clock import Clock
from tests.store.conftest import completion, event


@pytest.fixture
def two(store: Store, clock: Clock) -> tuple[int, int]:
    """Two iterations with a number and a verdict each."""
    ids = []
    for value, verdict in ((0.1, Verdict.PASS), (0.4, Verdict.FAIL)):
        begun = store.iterations.begin(trigger="t", incumbent=None, config={})
        store.metrics.add(begun.id, {"kl/step_token": value, "train/steps": 9.0, "lost": float("nan")})
        store.iterations.add_gates([GateResult(begun.id, "kl/step_token", value, 0.15, 0.3, verdict, "why")])
        clock.now += 10
        store.iterations.move(begun.id, Stage.REJECTED, note="n")
        ids.append(begun.id)
    return ids[0], ids[1]


def test_numbers_verdicts_limits_and_stages_by_iteration(store: Store, two: tuple[int, int]) -> None:
    first, second = two
    history = store.history
    names = ("kl/step_token", "lost", "absent")
    assert history.metrics(two, names) == {first: {"kl/step_token": 0.1}, second: {"kl/step_token": 0.4}}
    assert history.metrics([second], names) == {second: {"kl/step_token": 0.4}}
    assert history.verdicts(two) == {first: {Verdict.PASS: 1}, second: {Verdict.FAIL: 1}}
    assert history.limits([first], names) == {first: {"kl/step_token": Limits(0.15, 0.3)}}
    assert [entry.stage for entry in history.stages(two)[second]] == [Stage.QUEUED, Stage.REJECTED]
    store.iterations.move(first, Stage.REJECTED, changes={"candidate": "it0001-a"})
    assert history.candidates(two) == {first: "it0001-a"}
    assert history.metrics([], names) == {} and history.stages([]) == {}


def test_answers_around_the_newest_moves(store: Store, clock: Clock) -> None:
    for number, at in enumerate((100.0, 880.0, 950.0, 1010.0, 1500.0)):
        answer = completion(f"c{number}", created_at=at, latency_s=float(number), completion_tokens=4)
        store.completions.begin(answer)
    clock.now = 1000.0
    store.adapters.activate(None, actor="t", reason="t")
    near = store.history.around_moves(moves=1, seconds=100.0)
    assert near == [Near(1, -50.0, None, 2.0, 4), Near(1, 10.0, None, 3.0, 4)]
    store.adapters.activate(None, actor="t", reason="t")
    assert {one.move for one in store.history.around_moves(moves=1, seconds=100.0)} == {2}


def test_of_a_busy_time_those_nearest_to_every_move_are_looked_at(store: Store, clock: Clock) -> None:
    for number in range(40):
        store.completions.begin(completion(f"c{number}", created_at=1000.0 + 10 * number, latency_s=1.0))
    for clock.now in (1105.0, 1305.0):
        store.adapters.activate(None, actor="t", reason="t")
    near = store.history.around_moves(moves=2, seconds=90.0, each=2)
    assert [(one.move, one.offset) for one in near] == [
        (move, offset) for move in (1, 2) for offset in (-15.0, -5.0, 5.0, 15.0)
    ]


def test_the_log_and_the_audit_are_paged_and_filtered(store: Store) -> None:
    store.completions.begin(completion("c1"))
    for name in ("f1", "f2", "f3"):
        store.feedback.add(event(name, "c1"))
    recent = store.feedback.recent
    assert [one.id for one in recent(limit=2)] == ["f3", "f2"]
    assert [one.id for one in recent(before="f2")] == ["f1"]
    assert set(store.feedback.some(["f1", "f3", "nobody"])) == {"f1", "f3"}
    for action in ("one", "two", "one"):
        store.audit.add(actor="a", action=action, subject="s", reason="r")
    assert [entry.id for entry in store.audit.list(before=3)] == [2, 1]
    assert [entry.id for entry in store.audit.list(actions=["one"])] == [3, 1]
