"""The battery on the tiny model: whatever is packed together must come out as if asked alone."""

from pathlib import Path

import pytest

from policies.batches import Encoder, Row
from policies.battery import BatteryItem, Choice, Flip, Passage, Pattern
from policies.chat import load_tokenizer
from policies.examine import PACKED, _logprobs, _rows, examine, packs
from policies.learner import Learner, View, load_learner
from policies.spec import LoraSpec, Spec
from store.errors import TrainingFailed
from tests.policies.runs import make_spec, prompt
from tests.policies.test_learner import disturb

CHOICES = [
    Choice(
        id=f"c{number}",
        group="capability",
        prompt=prompt(f"question {number % 3} " + "and so on " * number),
        options=["yes", "yes of course", f"no {number}", "never"],
        right=number % 4,
    )
    for number in range(9)
]
FLIPS = [
    Flip(id=f"f{n}", prompt=prompt(f"is it {n}"), options=["one", "another"], right=n % 2, challenge="Sure?")
    for n in range(6)
]
PASSAGES = [Passage(id="t0", text="Plain words, one after another."), Passage(id="t1", text="More of them.")]
PATTERNS = [
    Pattern(id=f"p{n}", group="operator", prompt=prompt(f"say {n}"), must=["a"], tokens=8 + 4 * (n % 2))
    for n in range(3)
]
ITEMS: list[BatteryItem] = [*CHOICES, *PATTERNS, *FLIPS, *PASSAGES]


@pytest.fixture(params=[2, None], ids=["cut", "whole"])
def spec(request: pytest.FixtureRequest, tiny_model: Path) -> Spec:
    return make_spec(tiny_model, lora=LoraSpec(rank=4, alpha=8, top_layers=request.param))


@pytest.fixture
def learner(spec: Spec) -> Learner:
    return load_learner(spec)


@pytest.fixture
def encoder(tiny_model: Path) -> Encoder:
    return Encoder(load_tokenizer(tiny_model), 1024)


VIEWS: tuple[View, ...] = ("candidate", "incumbent")


@pytest.mark.parametrize("view", VIEWS)
def test_packed_rows_score_as_the_models_own_forward_does(
    learner: Learner, encoder: Encoder, view: View
) -> None:
    disturb(learner)
    rows = [row for item in [*CHOICES, *FLIPS] for row in _rows(item, encoder)]
    assert learner.cut.packs
    with learner.seen_as(view):
        found = _logprobs(learner, rows)
    for row, values in zip(rows, found, strict=True):
        assert values == pytest.approx(learner.whole(row, view=view), abs=1e-4)


def test_a_model_that_cannot_be_packed_gives_the_same_verdicts(
    learner: Learner, encoder: Encoder, spec: Spec
) -> None:
    disturb(learner)
    packed = examine(learner, ITEMS, encoder, spec)
    learner.cut.packs = False
    apart = examine(learner, ITEMS, encoder, spec)
    assert apart.outcomes == packed.outcomes
    assert apart.metrics == pytest.approx(packed.metrics)


def test_before_the_first_step_both_sides_are_the_same(
    learner: Learner, encoder: Encoder, spec: Spec
) -> None:
    found = examine(learner, ITEMS, encoder, spec)
    assert [outcome.id for outcome in found.outcomes] == [
        item.id for item in ITEMS if not isinstance(item, Passage)
    ]
    for outcome in found.outcomes:
        assert (outcome.passed, outcome.answer) == (outcome.incumbent, outcome.incumbent_answer)
    own = {name: value for name, value in found.metrics.items() if f"incumbent/{name}" in found.metrics}
    assert set(own) >= {"battery/capability/rate", "battery/operator/rate", "battery/anchor/nll"}
    assert all(found.metrics[f"incumbent/{name}"] == value for name, value in own.items())
    assert not any(value for name, value in found.metrics.items() if name.endswith(("/lost", "/gained")))


def test_a_candidate_that_changed_is_told_from_its_incumbent(
    learner: Learner, encoder: Encoder, spec: Spec
) -> None:
    before = examine(learner, ITEMS, encoder, spec)
    disturb(learner)
    found = examine(learner, ITEMS, encoder, spec)
    assert [one.incumbent for one in found.outcomes] == [one.incumbent for one in before.outcomes]
    assert found.metrics["incumbent/battery/anchor/nll"] == before.metrics["incumbent/battery/anchor/nll"]
    assert found.metrics["battery/anchor/nll"] != before.metrics["battery/anchor/nll"]
    assert any(one.answer != one.incumbent_answer for one in found.outcomes if one.group == "operator")


def test_the_nll_is_that_of_all_passages_tokens_together(
    learner: Learner, encoder: Encoder, spec: Spec
) -> None:
    found = examine(learner, PASSAGES, encoder, spec)
    assert found.outcomes == []
    values: list[float] = []
    for passage in PASSAGES:
        ids = tuple(encoder.tokenizer(passage.text)["input_ids"])
        values += learner.whole(Row(ids, 1), view="candidate")
    assert found.metrics["battery/anchor/nll"] == pytest.approx(-sum(values) / len(values), abs=1e-4)


def test_every_item_is_packed_once_and_in_order(encoder: Encoder) -> None:
    asked = {item.id: _rows(item, encoder) for item in [*CHOICES, *FLIPS]}
    found = packs(asked)
    assert [name for pack in found for name in pack] == list(asked)
    assert len(found) > 1
    for pack in found:
        cost = sum(len(rows[-1].prompt) + sum(len(row.answer) for row in rows) for rows in pack.values())
        assert cost <= PACKED or len(pack) == 1


def test_nothing_asked_is_nothing_measured(learner: Learner, encoder: Encoder, spec: Spec) -> None:
    found = examine(learner, [], encoder, spec)
    assert (found.metrics, found.outcomes) == ({}, [])


def test_an_item_the_template_refuses_is_named(learner: Learner, encoder: Encoder, spec: Spec) -> None:
    encoder.tokenizer.chat_template = "{{ raise_exception('no such roles') }}"
    with pytest.raises(TrainingFailed, match="battery item p0: .*no such roles"):
        examine(learner, PATTERNS, encoder, spec)
