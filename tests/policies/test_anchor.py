from pathlib import Path

import pytest
import torch

from policies.adapters import save_adapter
from policies.anchor import (
    WATCHED_ROWS,
    WATCHED_TOKENS,
    Distance,
    Divergence,
    Watch,
    cluster_metrics,
    is_check,
    measure_forward,
    measure_kl,
    watched,
)
from policies.batches import Row
from policies.learner import Learner, load_learner
from policies.spec import KlSpec
from tests.policies.runs import make_spec

ROWS = [Row(tuple(range(5, 30)), 10), Row(tuple(range(40, 52)), 3)]


@pytest.fixture
def learner(tiny_model: Path) -> Learner:
    return load_learner(make_spec(tiny_model))


def disturb(learner: Learner, by: float) -> None:
    torch.manual_seed(7)
    with torch.no_grad():
        for weight in learner.weights():
            weight.add_(torch.randn_like(weight) * by)


def test_before_the_first_step_every_kl_is_exactly_zero(learner: Learner) -> None:
    assert Watch(learner, ROWS).measure() == Distance(0.0, 0.0)
    assert set(measure_kl(learner, ROWS).metrics().values()) == {0.0}


def test_with_the_adapter_off_kl_to_the_base_is_zero(learner: Learner) -> None:
    disturb(learner, 0.5)
    learner.set_scale(0.0)
    assert measure_kl(learner, ROWS).metrics()["kl/base_token"] == pytest.approx(0, abs=1e-6)


def test_kl_equals_the_plain_sum_over_the_vocabulary(learner: Learner) -> None:
    disturb(learner, 0.5)
    row = ROWS[0]
    ids = torch.tensor([row.ids])
    with torch.no_grad():
        p = learner.causal(input_ids=ids).logits[0].log_softmax(-1)
        with learner.seen_as("base"):
            q = learner.causal(input_ids=ids).logits[0].log_softmax(-1)
    wanted = (p.exp() * (p - q)).sum(-1)[row.start - 1 : -1]
    found = measure_kl(learner, [row])
    torch.testing.assert_close(found.to_base[0], wanted, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(found.to_incumbent[0], wanted, atol=1e-5, rtol=1e-4)
    assert wanted.min() > 1e-3


def test_kl_grows_with_the_distance(learner: Learner) -> None:
    watch = Watch(learner, ROWS)
    disturb(learner, 0.1)
    near = watch.measure()
    disturb(learner, 0.4)
    far = watch.measure()
    assert 0 < near.step < far.step
    assert (near.base, far.base) == (near.step, far.step), "the incumbent is the base here"


def test_small_steps_from_a_moved_incumbent_are_far_from_the_base(tiny_model: Path, tmp_path: Path) -> None:
    first = load_learner(make_spec(tiny_model))
    disturb(first, 0.4)
    digest = save_adapter(first.tensors(), tmp_path / "adapter", shape=first.shape, base=str(tiny_model))
    spec = make_spec(tiny_model)
    incumbent = {"incumbent": str(tmp_path / "adapter"), "incumbent_digest": digest}
    second = load_learner(spec.model_copy(update=incumbent))
    watch = Watch(second, ROWS)
    start = watch.measure()
    assert start.step == 0.0
    assert start.base > 1e-3
    disturb(second, 0.01)
    assert watch.measure().step < watch.measure().base


@pytest.mark.parametrize(
    ("distance", "goes_on"),
    [
        (Distance(0.0, 0.0), True),
        (Distance(0.0999, 0.1999), True),
        (Distance(0.1, 0.0), False),
        (Distance(0.0, 0.2), False),
    ],
)
def test_training_goes_on_until_either_soft_budget_is_reached(distance: Distance, goes_on: bool) -> None:
    assert distance.within(KlSpec(step_soft=0.1, base_soft=0.2)) is goes_on


def test_metrics_weigh_tokens_answers_and_prompts_as_named() -> None:
    step = [torch.tensor([0.1, 0.3]), torch.tensor([0.8]), torch.zeros(0)]
    base = [torch.tensor([1.0, 2.0]), torch.tensor([3.0]), torch.zeros(0)]
    metrics = Divergence(step, base).metrics()
    assert metrics["kl/step_token"] == pytest.approx(0.4)
    assert metrics["kl/base_token"] == pytest.approx(2.0)
    assert metrics["kl/base_sequence"] == pytest.approx(3.0)
    assert metrics["kl/step_p99"] == pytest.approx(0.2 + 0.99 * 0.6)


def test_nothing_sampled_is_no_divergence(learner: Learner) -> None:
    assert set(measure_kl(learner, [Row((5, 6), 2)]).metrics().values()) == {0.0}


def test_one_subject_is_not_averaged_away() -> None:
    kls = [
        torch.full((length,), value) for length, value in [(2, 0.1), (1, 0.4), (1, 0.2), (3, 0.3), (1, 9.0)]
    ]
    found = cluster_metrics([*kls, *kls[:3]], ["a", "a", "a", "b", "", "b", "b", "b"])
    assert found == {
        "kl/cluster/a": pytest.approx(0.2),
        "kl/cluster/b": pytest.approx((0.9 + 0.2 + 0.4 + 0.2) / 7),
        "kl/cluster_max": pytest.approx((0.9 + 0.2 + 0.4 + 0.2) / 7),
    }


def test_clusters_too_small_or_silent_say_nothing_of_their_own() -> None:
    assert cluster_metrics([torch.ones(2)] * 4, ["a", "a", "b", ""]) == {}
    assert cluster_metrics([torch.zeros(0)] * 3, ["a"] * 3) == {"kl/cluster/a": 0.0, "kl/cluster_max": 0.0}
    assert cluster_metrics([], ["a"] * 3) == {"kl/cluster/a": 0.0, "kl/cluster_max": 0.0}


def test_forgetting_is_the_plain_sum_in_the_other_direction(learner: Learner) -> None:
    assert measure_forward(learner, ROWS) == 0.0
    disturb(learner, 0.5)
    wanted = []
    for row in ROWS:
        ids = torch.tensor([row.ids])
        with torch.no_grad():
            q = learner.causal(input_ids=ids).logits[0].log_softmax(-1)
            with learner.seen_as("base"):
                p = learner.causal(input_ids=ids).logits[0].log_softmax(-1)
        wanted.append((p.exp() * (p - q)).sum(-1)[row.start - 1 : -1])
    assert measure_forward(learner, ROWS) == pytest.approx(float(torch.cat(wanted).mean()), rel=1e-4)
    assert measure_forward(learner, [Row((5, 6), 2)]) == 0.0


def test_the_watch_is_small() -> None:
    rows = watched([Row(tuple(range(100)), 10)] * 20)
    assert len(rows) == WATCHED_ROWS
    assert all(len(row.answer) == WATCHED_TOKENS for row in rows)
    assert watched([Row((1, 2), 2)]) == []


@pytest.mark.parametrize("total", [1, 5, 6, 13, 100])
def test_checks_are_spread_over_the_run_and_include_its_end(total: int) -> None:
    checks = [step for step in range(1, total + 1) if is_check(step, total)]
    assert checks[-1] == total
    assert 1 <= len(checks) <= 7
