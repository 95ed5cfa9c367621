"""The judge at the gate: who may hold it, what it says, and that nothing it does wrong fails an iteration."""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from daemon import judging
from daemon.contest import calls_spent, contest
from daemon.iteration import preferences_now
from daemon.judging import judge
from daemon.licensing import PANEL, licensed_in
from daemon.promote import make_ready
from daemon.runtime import Runtime
from judge.scorer import Scorer
from policies.fake_engine import FakeEngine, FakeLimits
from policies.spec import Report
from store.db import Store
from store.errors import EngineUnavailable
from store.judging import Judgement, Licence
from store.records import Iteration, Stage
from tests.daemon.conftest import run, runtime_with, settle_one
from tests.daemon.contested import VERSION, contested_report
from tests.daemon.taste import Made, good, people_with_taste, quality, random


def licence(scorer: str, auc: float, *, given: bool = True, version: str = "v1") -> Licence:
    scale = {"kind": "platt", "slope": 20.0, "intercept": 0.0, "knots": [], "labels": 50, "comparisons": 0}
    return Licence(1, scorer, version, given, ("why",), {"auc_lower": auc}, scale, {}, 1.0)


def evaluating(runtime: Runtime, *licences: Licence) -> Iteration:
    """An iteration that has come to its evaluation, with the licences it gave."""
    begun = runtime.store.iterations.begin(trigger="test", incumbent=None, config={})
    runtime.store.judgements.set_licences(begun.id, [replace(one, iteration=begun.id) for one in licences])
    return runtime.store.iterations.move(begun.id, Stage.EVALUATING, changes={"candidate": VERSION})


def held(
    runtime: Runtime, patch: pytest.MonkeyPatch, made: Made, *, report: Report | None = None
) -> tuple[Iteration, dict[str, float]]:
    """A contest with this judge, which holds a licence."""
    patch.setattr(judging, "build", lambda *_: (made,))
    iteration = evaluating(runtime, licence("made", 0.9))
    found = run(lambda: contest(runtime, iteration, report or contested_report()), runtime)
    return iteration, found


def notes(store: Store, iteration: Iteration) -> list[str]:
    return [entry.note for entry in store.iterations.stages(iteration.id) if entry.note]


def test_a_better_candidate_wins_as_often_as_it_is_better(
    runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    iteration, found = held(runtime, monkeypatch, Made(good))
    assert found["contest/prompts"] == 24 and found["contest/unjudged"] == 0
    assert found["contest/win_rate"] > 0.8 and found["contest/win_low"] > 0.7
    assert found["contest/win_lc_low"] > 0.5
    assert {"contest/cluster/odd", "contest/cluster/even"} < set(found)
    assert found["contest/worst_cluster"] > 0.2 and found["contest/independent"] == 1
    assert not any(name.startswith(("contest_base", "contest_golden")) for name in found)
    assert runtime.store.iterations.get(iteration.id).stage is Stage.EVALUATING
    assert notes(runtime.store, iteration)[-1] == f"contest: 24 answers of {VERSION} and base, judged by made"


def test_a_worse_candidate_loses_by_as_much(runtime: Runtime, monkeypatch: pytest.MonkeyPatch) -> None:
    _, better = held(runtime, monkeypatch, Made(good))
    _, worse = held(runtime, monkeypatch, Made(good), report=contested_report(better=False))
    assert worse["contest/win_rate"] == pytest.approx(1 - better["contest/win_rate"])
    assert worse["contest/win_high"] < 0.3


def test_every_prompt_s_opinion_is_kept_for_people_to_read(
    runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    report = contested_report()
    iteration, _ = held(runtime, monkeypatch, Made(good), report=report)
    rows = (runtime.store.iterations.report(iteration.id) or {})["contest"]
    assert [row["id"] for row in rows] == [sample.id for sample in report.samples]
    for row, sample in zip(rows, report.samples, strict=True):
        assert (row["candidate"], row["against"], row["judges"]) == (VERSION, "base", ["made"])
        assert row["lengths"] == [len(sample.after), len(sample.before)]
        assert row["cluster"] == sample.cluster
        assert (row["q"] > 0.5) == (quality(sample.after) > quality(sample.before))


def test_where_judged_pairs_trained_it_the_judge_is_no_independent_witness(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    people_with_taste(store)
    engine = FakeEngine(FakeLimits(verify=False))
    runtime = runtime_with(store, engine, tmp_path, judge={"prompts": 8, "revisions": 0})
    monkeypatch.setattr(judging, "build", lambda *_: (Made(good),))

    async def work() -> dict[str, float]:
        begun = store.iterations.begin(trigger="test", incumbent=None, config={})
        judged = await judge(runtime, begun, preferences_now(runtime)[2])
        assert judged.pairs
        store.judgements.set_pairs(begun.id, judged.records)
        return await contest(runtime, begun, contested_report())

    assert run(work, runtime)["contest/independent"] == 0


def test_without_a_licence_nothing_is_asked_and_the_reason_is_told(
    runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = Made(random)
    monkeypatch.setattr(judging, "build", lambda *_: (made,))
    iteration = evaluating(runtime, licence("made", 0.5, given=False))
    assert run(lambda: contest(runtime, iteration, contested_report()), runtime) == {}
    assert made.asked == 0 and "no scorer holds a licence" in notes(runtime.store, iteration)[-1]


def test_switched_off_or_without_answers_it_does_and_says_nothing(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = Made(good)
    off = runtime_with(store, FakeEngine(FakeLimits(verify=False)), tmp_path, judge={"enabled": False})
    iteration, found = held(off, monkeypatch, made)
    assert found == {} and made.asked == 0 and notes(store, iteration) == ["test"]
    on = runtime_with(store, FakeEngine(FakeLimits(verify=False)), tmp_path)
    assert held(on, monkeypatch, made, report=contested_report(0))[1] == {}


def test_the_last_attempt_goes_without(runtime: Runtime, monkeypatch: pytest.MonkeyPatch) -> None:
    made = Made(good)
    monkeypatch.setattr(judging, "build", lambda *_: (made,))
    last = replace(
        evaluating(runtime, licence("made", 0.9)), attempt=runtime.config.daemon.schedule.max_attempts
    )
    assert run(lambda: contest(runtime, last, contested_report()), runtime) == {}
    assert made.asked == 0 and "last attempt" in notes(runtime.store, last)[-1]


@pytest.mark.parametrize("error", [EngineUnavailable("the engine went away"), KeyError("went away")])
def test_a_judge_that_fails_costs_its_numbers_and_nothing_else(
    runtime: Runtime, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def broken(_: str) -> float:
        raise error

    iteration, found = held(runtime, monkeypatch, Made(broken))
    assert found == {}
    (entry,) = runtime.store.audit.list()
    assert entry.action == "contest failed" and "went away" in entry.reason
    assert "went away" in notes(runtime.store, iteration)[-1]


def test_a_judge_without_a_view_leaves_no_evidence(runtime: Runtime, monkeypatch: pytest.MonkeyPatch) -> None:
    _, found = held(runtime, monkeypatch, Made(lambda _: None))
    assert (found["contest/prompts"], found["contest/unjudged"]) == (0, 24)
    assert not any(name.startswith(("contest/win", "contest/worst")) for name in found)


def test_answers_that_are_the_same_are_ties_nobody_is_asked_about(
    runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, report = Made(good), contested_report()
    same = [sample.model_copy(update={"after": sample.before + "\n"}) for sample in report.samples]
    _, found = held(runtime, monkeypatch, made, report=report.model_copy(update={"samples": same}))
    assert made.asked == 0 and (found["contest/prompts"], found["contest/win_rate"]) == (24, 0.5)


def test_a_licence_is_for_the_judge_as_it_was_when_it_was_licensed(
    runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert held(runtime, monkeypatch, Made(good, version="v2"))[1] == {}


ONE, TWO = Made(good, name="one"), Made(good, name="two")


@pytest.mark.parametrize(
    ("licences", "scorers", "expected"),
    [
        ([], [ONE, TWO], []),
        ([licence("one", 0.7, given=False)], [ONE, TWO], []),
        ([licence("one", 0.7), licence("two", 0.6, given=False)], [ONE, TWO], ["one"]),
        ([licence("one", 0.7), licence("two", 0.8), licence(PANEL, 0.8)], [ONE, TWO], ["one", "two"]),
        ([licence("one", 0.7), licence("two", 0.8), licence(PANEL, 0.5, given=False)], [ONE, TWO], ["two"]),
        ([licence("one", 0.8), licence("two", 0.8), licence(PANEL, 0.5, given=False)], [TWO, ONE], ["two"]),
        ([licence("one", 0.7), licence("two", 0.8), licence(PANEL, 0.8)], [ONE], []),
        ([licence("one", 0.7, version="older")], [ONE, TWO], []),
    ],
)
def test_who_judges_is_who_was_licensed(
    runtime: Runtime, licences: list[Licence], scorers: Sequence[Scorer], expected: list[str]
) -> None:
    runtime.store.iterations.begin(trigger="test", incumbent=None, config={})
    runtime.store.judgements.set_licences(1, licences)
    members = run(lambda: licensed_in(runtime, 1, scorers), runtime)
    assert [member.scorer.name for member in members] == expected
    assert all(member.scale.q(1.0, 0.0) > 0.5 for member in members)


def test_an_external_judge_has_one_budget_for_the_whole_iteration(store: Store, tmp_path: Path) -> None:
    settings = {
        "scorers": ["external"],
        "external": {"url": "http://127.0.0.1:9/v1", "model": "m", "max_calls": 3},
    }
    runtime = runtime_with(store, FakeEngine(FakeLimits(verify=False)), tmp_path, judge=settings)
    begun = store.iterations.begin(trigger="test", incumbent=None, config={})
    marks = [Judgement(f"a/{n}", "external", "v", 1.0, 1.0, None, None, begun.id) for n in range(5)]
    store.judgements.add(marks)
    store.judgements.go_by(begun.id, "external", "v", [mark.answer for mark in marks])
    assert calls_spent(store, begun.id) == 5
    versions = {judging.build(runtime, begun, None, spent)[0].version for spent in (0, 2, 5)}
    assert len(versions) == 1, "what is left of the budget makes no other judge of it"


def test_a_report_that_keeps_a_contest_still_attests_its_adapter(runtime: Runtime) -> None:
    async def work() -> bool:
        ended = await settle_one(runtime, VERSION)
        runtime.store.iterations.save_report(ended.id, {"contest": [{"id": "s1", "q": 0.5}]})
        runtime.attested.clear()
        await make_ready(runtime, runtime.store.adapters.get(VERSION))
        return VERSION in runtime.attested

    assert run(work, runtime)


def process(directory: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tests.daemon.contested", str(directory)]
    return subprocess.run(
        command, env={**os.environ, **environment}, capture_output=True, text=True, check=False
    )


def test_killed_when_all_is_judged_it_judges_nothing_twice(tmp_path: Path) -> None:
    assert process(tmp_path, HONED_FAILPOINT="contest.scored").returncode == -9
    taken_up = process(tmp_path)
    assert taken_up.returncode == 0, taken_up.stderr
    told: dict[str, Any] = json.loads(taken_up.stdout)
    assert told["asked"] == 0 and told["metrics"]["contest/prompts"] == 24
    with_store = Store.open(tmp_path / "honed.db")
    try:
        rows = (with_store.iterations.report(1) or {})["contest"]
        assert [row["id"] for row in rows] == [f"s{number}" for number in range(24)]
    finally:
        with_store.close()
