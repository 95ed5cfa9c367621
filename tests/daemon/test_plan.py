"""`honed plan`: what an iteration would do, told from the database alone."""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from daemon.cli import app
from daemon.config import Config
from daemon.page import text
from daemon.plan import (
    PastRun,
    Reader,
    balance_of,
    by_rate,
    capability_evidence,
    contest_evidence,
    duration,
    from_past,
    heldout_evidence,
    memory_now,
    page,
    past_runs,
    people_of,
    plan_now,
    tokens_of,
)
from daemon.state_files import DATABASE
from judge.pairs import Answer, Liking, Pair
from judge.replay import Mix
from policies.config import TrainConfig
from store.db import Store
from store.judging import Licence
from store.records import Example, Message, Split, Stage
from tests.clock import Clock
from tests.store.conftest import completion, event

PROMPT = (Message("user", "1234"),)


def answer(name: str) -> Answer:
    return Answer(name, 0, PROMPT, "12345678", True)


def liking(name: str, *people: str, label: bool = True, weight: float = 1.0) -> Liking:
    events = tuple(event(f"{name}-{person}", name, principal=person) for person in people)
    return Liking(answer(name), label, weight, events)


def pair(name: str, person: str, weight: float = 1.0) -> Pair:
    return Pair(PROMPT, "1234", True, answer(name), 0.9, weight, (event(name, principal=person),))


def test_everybodys_share_is_of_the_weight_and_votes_given_together_are_divided() -> None:
    mix = Mix((liking("a", "ann"), liking("b", "ann", "bob", weight=0.5)), (pair("c", "bob", weight=0.5),))
    ann, bob = people_of(mix)
    assert (ann["principal"], ann["examples"], ann["weight"], ann["share"]) == ("ann", 2, 1.25, 0.625)
    assert (bob["principal"], bob["examples"], bob["weight"], bob["share"]) == ("bob", 2, 0.75, 0.375)
    assert people_of(Mix((), ())) == []


@settings(deadline=None)
@given(st.lists(st.tuples(st.sets(st.sampled_from("abcd"), min_size=1), st.floats(0.01, 1.0)), min_size=1))
def test_shares_sum_to_one(votes: list[tuple[set[str], float]]) -> None:
    mix = Mix(tuple(liking(str(n), *people, weight=weight) for n, (people, weight) in enumerate(votes)), ())
    assert sum(row["share"] for row in people_of(mix)) == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("ups", "downs", "weights"),
    [(2, 2, (1.0, 1.0)), (1, 3, (3.0, 1.0)), (4, 1, (1.0, 4.0)), (1, 20, (8.0, 1.0)), (3, 0, (1.0, 1.0))],
)
def test_class_weights_even_out_the_sides_up_to_the_cap(
    ups: int, downs: int, weights: tuple[float, float]
) -> None:
    likings = [liking(str(n), "ann", label=n < ups) for n in range(ups + downs)]
    row = balance_of(Mix(tuple(likings), ()), TrainConfig())
    assert (row["up"], row["down"]) == (ups, downs)
    assert (row["class_weight_up"], row["class_weight_down"]) == weights


def test_tokens_are_reckoned_from_characters_and_a_pair_reads_its_prompt_twice() -> None:
    assert tokens_of(Mix((liking("a", "ann"),), ())) == 3.0
    assert tokens_of(Mix((), (pair("a", "ann"),))) == 5.0
    assert tokens_of(Mix((), (), anchors=(answer("a"),))) == 3.0


def test_training_goes_by_the_example_and_the_rest_takes_as_long_as_it_took() -> None:
    past = [
        PastRun(10, {"collecting": 1.0, "training": 120.0, "evaluating": 50.0}, 100.0),
        PastRun(20, {"collecting": 3.0, "training": 260.0, "evaluating": 70.0}, 240.0),
        PastRun(40, {"collecting": 2.0, "training": 380.0, "judging": 30.0, "evaluating": 60.0}, 360.0),
    ]
    # 10, 12 and 9 seconds an example after 20 to start; the median is 20 + 10 * 30.
    assert from_past(past, 30) == {"collecting": 2.0, "judging": 0.0, "training": 320.0, "evaluating": 60.0}


def test_without_a_past_a_stated_rate_says_so() -> None:
    train = TrainConfig(epochs=3, probes=10, probe_tokens=50)
    # 3 epochs of 300 tokens at 300 a second, and twice 500 answered tokens at 25 a second.
    assert by_rate(300.0, train) == {"training": 23.0, "evaluating": 20.0}
    row = duration([], [Mix((liking("a", "ann"),), ())], train)
    assert "stated rates" in row["from"] and row["minutes"] == pytest.approx((20.03 + 20) / 60)


def test_a_second_candidate_is_trained_and_evaluated_too_but_collected_once() -> None:
    past = [PastRun(1, {"collecting": 5.0, "training": 10.0, "evaluating": 20.0}, 10.0)]
    one, two = Mix((liking("a", "ann"),), ()), Mix((liking("a", "ann"), liking("b", "ann")), ())
    row = duration(past, [one, two], TrainConfig())
    assert row["stages"] == {"collecting": 5.0, "training": 30.0, "evaluating": 40.0}
    assert "past iterations (1)" in row["from"]


def test_an_iteration_that_trained_nothing_says_nothing_of_time() -> None:
    assert (
        "stated rates" in duration([PastRun(0, {"training": 9.0}, 0.0)], [Mix((), ())], TrainConfig())["from"]
    )


@pytest.mark.parametrize(
    ("up", "down", "required", "enough", "otherwise"),
    [
        (5, 5, False, True, None),
        (4, 9, False, False, "says nothing, which is allowed"),
        (9, 4, True, False, "inconclusive: hold"),
    ],
)
def test_held_out_votes_are_enough_on_both_sides_or_not_at_all(
    up: int, down: int, required: bool, enough: bool, otherwise: str | None
) -> None:
    config = Config.model_validate({"daemon": {"gate": {"heldout_required": required}}})
    row = heldout_evidence(up, down, config)
    assert (row["enough"], row["otherwise"]) == (enough, otherwise)


@pytest.mark.parametrize(
    ("judging", "licensed", "prompts", "enough", "told"),
    [
        (True, ["relevance"], 100, True, "100 prompts for relevance"),
        (True, ["relevance"], 99, False, "99 prompts for relevance"),
        (True, [], 400, False, "no scorer held a licence"),
        (False, ["relevance"], 400, False, "switched off"),
    ],
)
def test_a_contest_needs_a_licence_and_prompts(
    judging: bool, licensed: list[str], prompts: int, enough: bool, told: str
) -> None:
    config = Config.model_validate({"judge": {"enabled": judging}})
    row = contest_evidence(licensed, prompts, config)
    assert row["enough"] is enough and told in row["detail"]


@pytest.mark.parametrize(("items", "enough"), [(None, False), (399.0, False), (400.0, True)])
def test_a_battery_has_enough_items_or_not(items: float | None, enough: bool) -> None:
    assert capability_evidence(items, Config())["enough"] is enough


@pytest.mark.parametrize(("needed", "enough"), [(0, True), (1, True), (2**40, False)])
def test_memory_is_looked_at_on_this_machine(
    needed: int, enough: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    row = memory_now(needed)
    assert row["enough"] is enough and row["where"] == "main memory" and row["free_mb"] > 0


@pytest.fixture
def config(tmp_path: Path) -> Config:
    return Config.model_validate(
        {"store": {"directory": tmp_path}, "feedback": {"never_train": 0.0, "min_examples": 3}}
    )


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store.open(tmp_path / DATABASE, clock=Clock(1_000.0)) as made:
        yield made


def vote(store: Store, *votes: tuple[str, bool], person: str = "ann") -> None:
    for name, up in votes:
        store.completions.begin(completion(f"c{name}", messages=(Message("user", f"About {name}?"),)))
        store.feedback.add(event(f"f{name}", f"c{name}", up, principal=person))


def enough_memory(needed_mb: int) -> dict[str, Any]:
    return {"needed_mb": needed_mb, "free_mb": 9999, "where": "main memory", "enough": True}


def planned(store: Store, config: Config) -> dict[str, Any]:
    return plan_now(Reader(config, store, lambda: 2_000.0), free=enough_memory)


def test_a_fresh_database_waits_for_votes(store: Store, config: Config) -> None:
    row = planned(store, config)
    assert (row["iteration"], row["incumbent"], row["start"]["trigger"]) == (1, "base", None)
    assert "0 training examples, 3 needed" in row["shortage"]
    shown = text(page(row), 120)
    assert shown.startswith("iteration 1 would train nothing: 0 training examples")
    assert "0 of 32 new feedback events" in shown and "It would end as soon as it has collected." in shown


def test_what_would_train_is_told_with_whose_it_is(store: Store, config: Config) -> None:
    vote(store, ("1", True), ("2", True), ("3", False))
    vote(store, ("4", True), person="bob")
    row = planned(store, config)
    assert row["shortage"] is None and row["kinds"] == {"thumb": 4}
    assert (row["balance"]["up"], row["balance"]["down"]) == (3, 1)
    assert [(one["principal"], one["examples"]) for one in row["people"]] == [("ann", 3), ("bob", 1)]
    assert row["rebuild"] is None and row["counts"]["replayed"] == 0
    shown = text(page(row), 120)
    assert "waits for: 4 of 32 new feedback events" in shown and "2 people;" in shown


def test_what_is_in_quarantine_is_counted_and_left_out(store: Store, config: Config) -> None:
    vote(store, ("1", True), ("2", True), ("3", True), ("4", True))
    begun = store.iterations.begin(trigger="test", incumbent=None, config={})
    store.iterations.add_examples([Example(begun.id, "f1", "c1", Split.TRAIN, "kto", True, 1.0)])
    store.iterations.move(begun.id, Stage.ROLLED_BACK)
    store.quarantine.hold([begun.id], kept=(), actor="ann", reason="why")
    row = planned(store, config)
    assert (row["quarantined"], row["balance"]["up"]) == (1, 3)
    assert "1 event in quarantine" in text(page(row), 120)


def test_past_iterations_tell_how_long_it_takes(store: Store, config: Config) -> None:
    clock = store._clock
    assert isinstance(clock, Clock)
    begun = store.iterations.begin(trigger="test", incumbent=None, config={})
    for stage, seconds in ((Stage.TRAINING, 20.0), (Stage.EVALUATING, 5.0), (Stage.EVALUATING, 5.0)):
        store.iterations.move(begun.id, stage, changes={"counts": {"kto_up": 3, "kto_down": 1}})
        clock.now += seconds
    store.iterations.save_report(begun.id, {"seconds": {"load": 9.0, "reference": 4.0, "train": 12.0}})
    store.iterations.move(begun.id, Stage.REJECTED)
    failed = store.iterations.begin(trigger="test", incumbent=None, config={})
    store.iterations.move(failed.id, Stage.FAILED)
    assert past_runs(store) == [PastRun(4, {"queued": 0.0, "training": 20.0, "evaluating": 10.0}, 16.0)]
    vote(store, *((str(n), True) for n in range(8)))
    row = planned(store, config)
    assert row["time"]["stages"] == {"queued": 0.0, "training": 36.0, "evaluating": 10.0}


def test_licences_and_prompts_are_looked_up(store: Store, config: Config) -> None:
    vote(store, ("1", True), ("2", True))
    begun = store.iterations.begin(trigger="test", incumbent=None, config={})
    licence = Licence(begun.id, "relevance", "v1", True, (), {}, {}, {}, 1.0)
    store.judgements.set_licences(begun.id, [licence])
    contest = planned(store, config)["evidence"][1]
    prompts = config.policies.train.probes + 2
    assert f"{prompts} prompts for relevance" in contest["detail"]


def test_the_command_writes_nothing(tmp_path: Path) -> None:
    with Store.open(tmp_path / DATABASE) as store:
        vote(store, ("1", True), ("2", False))
    file = tmp_path / "config.toml"
    file.write_text(f'[store]\ndirectory = "{tmp_path}"\n')
    before = hashlib.sha256((tmp_path / DATABASE).read_bytes()).hexdigest()
    ran = CliRunner().invoke(app, ["plan", "--json", "--config", str(file)])
    assert ran.exit_code == 0, ran.output
    assert json.loads(ran.output)["kinds"] == {"thumb": 2}
    assert hashlib.sha256((tmp_path / DATABASE).read_bytes()).hexdigest() == before
    shown = CliRunner().invoke(app, ["plan", "--config", str(file)])
    assert shown.exit_code == 0 and "EVIDENCE OF THE GATES" in shown.output
