"""What a candidate is measured on, and what it is only asked: replayed prompts move no number but add answers."""

from pathlib import Path

from policies.batches import Encoder
from policies.chat import load_tokenizer
from policies.evaluate import evaluate, probes_of
from policies.learner import load_learner
from policies.spec import Probe, Snapshot
from tests.policies.runs import make_snapshot, make_spec, prompt
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
