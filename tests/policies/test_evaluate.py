"""What a candidate is measured on, and what it is only asked: replayed prompts move no number but add answers."""

from pathlib import Path

import pytest

from policies.batches import Encoder
from policies.chat import load_tokenizer
from policies.evaluate import MOVED, displacement, evaluate, probes_of, training_answers
from policies.learner import load_learner
from policies.spec import Probe, Snapshot, TrainingExample
from tests.policies.runs import anchor, make_snapshot, make_spec, pair, prompt, thumb
from tests.policies.test_learner import disturb

REPLAYED = [
    Probe(id=f"r{number}", prompt=prompt(f"tell me of {number}"), cluster="asked", replay=True)
    for number in range(5)
]


def evaluated(tiny_model: Path, snapshot: Snapshot) -> tuple[dict[str, float], list[dict[str, object]]]:
    learner = load_learner(snapshot.spec)
    disturb(learner)
    encoder = Encoder(load_tokenizer(tiny_model), snapshot.spec.max_length)
    found = evaluate(learner, snapshot, encoder, on_step=lambda *_: None)
    return found.metrics, [sample.model_dump() for sample in found.samples]


def test_replayed_prompts_are_answered_by_both_sides_and_measure_nothing(tiny_model: Path) -> None:
    plain = make_snapshot(make_spec(tiny_model))
    metrics, samples = evaluated(tiny_model, plain)
    more, answers = evaluated(
        tiny_model, plain.model_copy(update={"probes": [*REPLAYED[:2], *plain.probes, *REPLAYED[2:]]})
    )
    assert more == metrics, "whatever is replayed, KL and shape stay comparable"
    assert answers[: len(samples)] == samples
    replayed = answers[len(samples) :]
    assert [row["id"] for row in replayed] == [probe.id for probe in REPLAYED]
    assert all(row["replay"] and row["cluster"] == "asked" for row in replayed)
    assert any(row["before"] != row["after"] for row in replayed)


def test_with_nothing_but_replayed_prompts_the_examples_own_are_measured(tiny_model: Path) -> None:
    snapshot = make_snapshot(make_spec(tiny_model)).model_copy(update={"probes": REPLAYED})
    assert not any(probe.replay for probe in probes_of(snapshot)) and len(probes_of(snapshot)) == 8


def test_some_answers_of_each_side_are_chosen_by_the_seed_alone(tiny_model: Path) -> None:
    examples: list[TrainingExample] = [*map(thumb, range(120)), *map(pair, range(3)), *map(anchor, range(9))]
    snapshot = make_snapshot(make_spec(tiny_model, seed=3), examples)
    encoder = Encoder(load_tokenizer(tiny_model), snapshot.spec.max_length)
    chosen = training_answers(snapshot, encoder)
    assert {name: len(set(rows)) for name, rows in chosen.items()} == {"winner": MOVED, "loser": MOVED}
    assert training_answers(snapshot, encoder) == chosen
    liked = {encoder.thumb(thumb(number)).row for number in range(0, 120, 2)}
    assert set(chosen["winner"]) <= liked | {encoder.pair(pair(number)).chosen for number in range(3)}


def test_displacement_is_the_candidates_at_its_scale_against_the_incumbent(tiny_model: Path) -> None:
    snapshot = make_snapshot(make_spec(tiny_model))
    learner = load_learner(snapshot.spec)
    encoder = Encoder(load_tokenizer(tiny_model), snapshot.spec.max_length)
    answers = training_answers(snapshot, encoder)
    assert displacement(learner, answers) == {"train/winner_dlogp": 0.0, "train/loser_dlogp": 0.0}
    disturb(learner)
    whole = displacement(learner, answers)
    row = answers["winner"][0]
    now, before = learner.whole(row, view="candidate"), learner.whole(row, view="incumbent")
    one = displacement(learner, {"winner": [row]})["train/winner_dlogp"]
    assert one == pytest.approx((sum(now) - sum(before)) / len(row.answer), abs=1e-5)
    learner.set_scale(0.0)
    assert displacement(learner, answers)["train/winner_dlogp"] == pytest.approx(0, abs=1e-6)
    assert abs(whole["train/winner_dlogp"]) > 1e-4
