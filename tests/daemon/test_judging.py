"""Judging inside an iteration, with judges made for it: a good one, a random one, one that can be talked into it."""

import asyncio
import re
from dataclasses import replace
from pathlib import Path

import pytest

from daemon import judging
from daemon.iteration import preferences_now
from daemon.judging import Judged, held_to, judge
from daemon.runtime import Runtime
from judge.pairs import split_of
from judge.scorer import Scorer
from policies.fake_engine import FakeEngine, FakeLimits
from store.db import Store
from store.errors import EngineUnavailable
from store.records import Choice, Completion, Example, Feedback, Iteration, Split, Stage
from tests.daemon.conftest import run, runtime_with
from tests.daemon.taste import Made, Opinion, fake_text, good, gullible, people_with_taste, quality, random
from tests.store.conftest import completion, event


@pytest.fixture
def runtime(store: Store, tmp_path: Path) -> Runtime:
    people_with_taste(store)
    engine = FakeEngine(FakeLimits(verify=False))
    return runtime_with(store, engine, tmp_path, judge={"prompts": 12, "revisions": 4})


def judge_with(
    runtime: Runtime, monkeypatch: pytest.MonkeyPatch, *scorers: Scorer
) -> tuple[Iteration, Judged]:
    monkeypatch.setattr(judging, "build", lambda *_: scorers)

    async def work() -> tuple[Iteration, Judged]:
        begun = runtime.store.iterations.begin(trigger="test", incumbent=None, config={})
        _, _, preferences = preferences_now(runtime)
        return begun, await judge(runtime, begun, preferences)

    return run(work, runtime)


def answer_of(store: Store, side: tuple[str, int]) -> tuple[Completion, str]:
    found = store.completions.get(side[0])
    return found, next(choice.text for choice in found.choices if choice.index == side[1])


def test_a_good_judge_is_licensed_and_its_pairs_prefer_what_people_would(
    runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = runtime.store
    iteration, judged = judge_with(runtime, monkeypatch, Made(good))
    (licence,) = store.judgements.licences(iteration.id)
    assert licence.licensed, licence.reasons
    assert licence.measures["auc_lower"] > 0.8 and licence.measures["injection"] == 0.0
    assert licence.calibration["kind"] == "platt" and licence.calibration["slope"] > 0
    assert store.judgements.texts(licence.texts.values()) == {licence.texts["made/rule"]: "Worth by word."}
    assert [entry.action for entry in store.audit.list()] == ["licensed"]
    trained = [pair for pair in judged.records if pair.dropped is None]
    assert len(judged.pairs) == len(trained) >= 4
    for pair in trained:
        chosen, rejected = answer_of(store, pair.chosen)[1], answer_of(store, pair.rejected)[1]
        assert quality(chosen) > quality(rejected) and 0.6 <= pair.q <= 0.98
    assert [entry.stage for entry in store.iterations.stages(iteration.id)][1:] == [
        Stage.SAMPLING,
        Stage.JUDGING,
    ]
    assert {pair.id for pair in judged.pairs} == {pair.id for pair in trained}
    assert store.metrics.get(iteration.id)["judge/made/licensed"] == 1.0
    assert judged.counts is not None and judged.counts["judged_pairs"] == len(trained)


def test_judged_pairs_weigh_at_most_as_much_as_people(
    runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, judged = judge_with(runtime, monkeypatch, Made(good))
    _, _, preferences = preferences_now(runtime)
    said = sum(item.weight for item in preferences.likings) + sum(pair.weight for pair in preferences.pairs)
    assert 0 < sum(pair.weight for pair in judged.pairs) <= said + 1e-9


def test_no_candidate_answers_a_never_train_question(
    runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    iteration, _ = judge_with(runtime, monkeypatch, Made(good))
    never = runtime.config.feedback.never_train
    drawn = runtime.store.completions.samples(iteration.id).values()
    origins = [one.metadata["prompt_of"] for one in drawn if "prompt_of" in one.metadata]
    assert len(origins) == 12
    assert all(split_of(origin, never) is Split.TRAIN for origin in origins)


@pytest.mark.parametrize(
    ("opinion", "word"),
    [(random, "agreement with people"), (gullible, "ask for marks"), (lambda _: 1.0, "nearly the same")],
)
def test_a_judge_that_fails_people_or_canaries_changes_nothing(
    runtime: Runtime, monkeypatch: pytest.MonkeyPatch, opinion: Opinion, word: str
) -> None:
    iteration, judged = judge_with(runtime, monkeypatch, Made(opinion))
    (licence,) = runtime.store.judgements.licences(iteration.id)
    assert not licence.licensed and any(word in reason for reason in licence.reasons), licence.reasons
    assert judged.pairs == () and "no scorer holds a licence" in str(judged.note)
    assert runtime.store.completions.samples(iteration.id) == {}
    assert runtime.store.judgements.pairs(iteration.id) == []
    assert runtime.store.iterations.get(iteration.id).stage is Stage.QUEUED, "nothing was sampled"


def test_an_unlicensed_scorer_is_measured_and_has_no_say_beside_a_licensed_one(
    runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    iteration, both = judge_with(runtime, monkeypatch, Made(good), Made(random, name="chance"))
    store = runtime.store
    verdicts = {one.scorer: one.licensed for one in store.judgements.licences(iteration.id)}
    assert verdicts == {"made": True, "chance": False}

    trained = [pair for pair in both.records if pair.dropped is None]
    worth = [
        quality(answer_of(store, one.chosen)[1]) - quality(answer_of(store, one.rejected)[1])
        for one in trained
    ]
    assert worth and all(value > 0 for value in worth)


def test_two_licensed_scorers_are_licensed_together_too(
    runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    iteration, judged = judge_with(runtime, monkeypatch, Made(good), Made(good, name="twin", version="v2"))
    verdicts = {one.scorer: one for one in runtime.store.judgements.licences(iteration.id)}
    assert set(verdicts) == {"made", "twin", "panel"} and verdicts["panel"].licensed
    assert verdicts["panel"].calibration == {"kind": "mean", "members": ["made", "twin"]}
    assert judged.pairs


def test_too_few_labels_cost_no_scoring_at_all(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.completions.begin(completion("c1"))
    store.feedback.add(event("f1"))
    made = Made(good)
    runtime = runtime_with(store, FakeEngine(FakeLimits(verify=False)), tmp_path)
    iteration, _ = judge_with(runtime, monkeypatch, made)
    (licence,) = store.judgements.licences(iteration.id)
    assert made.asked == 0
    assert len(licence.reasons) == 1 and re.search(
        r"too few human labels: [01], 40 needed", licence.reasons[0]
    )


def test_an_iteration_taken_up_again_neither_samples_nor_judges_twice(
    runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = Made(good)
    monkeypatch.setattr(judging, "build", lambda *_: (made,))

    async def work() -> tuple[int, Judged, Judged]:
        begun = runtime.store.iterations.begin(trigger="test", incumbent=None, config={})
        _, _, preferences = preferences_now(runtime)
        first, asked = await judge(runtime, begun, preferences), made.asked
        drawn = runtime.store.completions.samples(begun.id)
        # What people do between a crash and the next start must not change what is drawn.
        never = runtime.config.feedback.never_train
        for number in [n for n in range(40) if split_of(f"c{n}", never) is Split.TRAIN]:
            runtime.store.feedback.add(event(f"g{number}", f"c{number}", False, principal=f"p{number % 5}"))
        _, _, preferences = preferences_now(runtime)
        second = await judge(runtime, begun, preferences)
        assert runtime.store.completions.samples(begun.id) == drawn
        return made.asked - asked, first, second

    again, first, second = run(work, runtime)
    sides = [[(pair.chosen, pair.rejected, pair.q) for pair in one.records] for one in (first, second)]
    assert again == 0 and sides[0] == sides[1] != []


def test_what_people_ever_said_outranks_a_judge(runtime: Runtime, monkeypatch: pytest.MonkeyPatch) -> None:
    """A judged answer that people disliked word for word, in feedback long learned from, is never the chosen one."""
    store = runtime.store
    _, first = judge_with(runtime, monkeypatch, Made(good))
    pair = next(pair for pair in first.records if pair.dropped is None and pair.origin.value == "candidates")
    drawn, text = answer_of(store, pair.chosen)
    asked = replace(
        store.completions.get(drawn.metadata["prompt_of"]), id="older", choices=(Choice(0, text, "stop"),)
    )
    assert split_of(asked.id, runtime.config.feedback.never_train) is Split.TRAIN
    store.completions.begin(asked)
    store.feedback.add(event("older-vote", "older", False, principal=asked.principal))
    spent = store.iterations.begin(trigger="test", incumbent=None, config={})
    store.iterations.add_examples([Example(spent.id, "older-vote", "older", Split.TRAIN, "kto", False, 1.0)])
    store.iterations.move(spent.id, Stage.ACTIVE)
    evidence, _, preferences = preferences_now(runtime)
    assert "older" not in {item.completion.id for item in evidence}, "it trains no more"

    async def work() -> Judged:
        return await judge(runtime, store.iterations.get(drawn.metadata["iteration"]), preferences)

    again = run(work, runtime)
    (same,) = [one for one in again.records if (one.chosen, one.rejected) == (pair.chosen, pair.rejected)]
    assert same.dropped == "people_disliked_chosen"


def test_answers_of_a_version_that_is_served_no_more_do_not_train(
    runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, judged = judge_with(runtime, monkeypatch, Made(good))
    assert judged.adapter is None and held_to(judged, None) is judged
    after = held_to(judged, "it0009-00000009")
    assert judged.pairs and after.pairs == ()
    assert {pair.dropped for pair in after.records if pair.dropped != "tie"} >= {"incumbent_changed"}
    assert "it0009-00000009 came to be served" in str(after.note) and after.counts["judged_pairs"] == 0


def test_the_last_attempt_goes_without_judging(runtime: Runtime, monkeypatch: pytest.MonkeyPatch) -> None:
    made = Made(good)
    monkeypatch.setattr(judging, "build", lambda *_: (made,))
    last = runtime.config.daemon.schedule.max_attempts

    async def work() -> Judged:
        begun = runtime.store.iterations.begin(trigger="test", incumbent=None, config={})
        _, _, preferences = preferences_now(runtime)
        return await judge(runtime, replace(begun, attempt=last), preferences)

    assert "last attempt" in str(run(work, runtime).note) and made.asked == 0


def test_labels_are_judged_once_and_not_every_iteration(
    runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = Made(random)
    judge_with(runtime, monkeypatch, made)
    asked = made.asked
    judge_with(runtime, monkeypatch, made)
    assert asked >= 60 and made.asked == asked


def test_scores_of_recorded_answers_are_found_from_the_answer(
    runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    judge_with(runtime, monkeypatch, Made(good))
    (judgement,) = runtime.store.judgements.of("l0")
    assert judgement.score == good(fake_text(1000)) and (judgement.scorer, judgement.version) == (
        "made",
        "v1",
    )


@pytest.mark.parametrize("error", [EngineUnavailable("the engine went away"), KeyError("went away")])
def test_a_failure_of_judging_is_audited_and_leaves_people_s_evidence_alone(
    runtime: Runtime, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def broken(_: str) -> float:
        raise error

    _, judged = judge_with(runtime, monkeypatch, Made(broken))
    assert judged.pairs == () and "went away" in str(judged.note)
    assert [entry.action for entry in runtime.store.audit.list()] == ["judging failed"]


def test_switched_off_it_does_nothing(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = Made(good)
    runtime = runtime_with(store, FakeEngine(FakeLimits(verify=False)), tmp_path, judge={"enabled": False})
    iteration, judged = judge_with(runtime, monkeypatch, made)
    assert judged == Judged() and made.asked == 0
    assert store.judgements.licences(iteration.id) == []


def test_revisions_of_disliked_answers_become_pairs_that_choose_the_revision(
    runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    iteration, judged = judge_with(runtime, monkeypatch, Made(good))
    store = runtime.store
    drawn = store.completions.samples(iteration.id).values()
    revised = [one for one in drawn if "revision_of" in one.metadata]
    assert revised and all(one.metadata["principle"] and one.metadata["principle_text"] for one in revised)
    pairs = [pair for pair in judged.records if pair.origin.value == "revision"]
    assert pairs
    for pair in pairs:
        assert "revision_of" in store.completions.get(pair.chosen[0]).metadata
        assert pair.rejected == tuple(store.completions.get(pair.chosen[0]).metadata["revision_of"])
        assert feedback_of(store, pair.rejected[0]).value is False


def feedback_of(store: Store, completion_id: str) -> Feedback:
    (one,) = store.feedback.events(completion_id)
    return one


def test_judging_does_not_hold_up_the_event_loop(runtime: Runtime, monkeypatch: pytest.MonkeyPatch) -> None:
    """A heartbeat beside it keeps beating: judging shares its loop with chat."""
    monkeypatch.setattr(judging, "build", lambda *_: (Made(good),))

    async def work() -> int:
        begun = runtime.store.iterations.begin(trigger="test", incumbent=None, config={})
        _, _, preferences = preferences_now(runtime)
        task = asyncio.create_task(judge(runtime, begun, preferences))
        beats = 0
        while not task.done():
            await asyncio.sleep(0.005)
            beats += 1
        await task
        return beats

    assert run(work, runtime) > 5
