import math

import pytest
import torch

from policies.balance import class_weights
from policies.losses import LOSSES, anchor_loss, dpo_loss, kto_baseline, kto_loss

NONE = torch.zeros(0)


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def test_kto_agrees_with_hand_arithmetic() -> None:
    rho = torch.tensor([3.0, -2.0, 1.0])
    out = kto_loss(
        rho,
        torch.tensor([4.0, -2.0]),  # mean 1: the baseline
        torch.tensor([True, False, False]),
        torch.tensor([1.0, 0.5, 2.0]),
        beta=0.1,
        balance=(1.0, 3.0),
    )
    wanted = [
        1.0 * 1.0 * (1 - sigmoid(0.1 * (3 - 1))),
        0.5 * 3.0 * (1 - sigmoid(0.1 * (1 + 2))),
        2.0 * 3.0 * (1 - sigmoid(0.1 * (1 - 1))),
    ]
    assert out.losses.tolist() == pytest.approx(wanted)
    assert out.baseline == 1.0
    assert out.rewards.tolist() == pytest.approx([0.3, -0.2, 0.1])


@pytest.mark.parametrize(
    ("kl", "z0"), [([], 0.0), ([-3.0, -1.0], 0.0), ([0.0], 0.0), ([2.0, 4.0], 3.0), ([-1.0, 5.0], 2.0)]
)
def test_the_baseline_is_the_mean_but_never_negative(kl: list[float], z0: float) -> None:
    assert float(kto_baseline(torch.tensor(kl))) == z0


def test_no_gradient_flows_through_the_baseline() -> None:
    kl = torch.tensor([5.0], requires_grad=True)
    rho = torch.tensor([1.0], requires_grad=True)
    out = kto_loss(rho, kl, torch.tensor([True]), torch.ones(1), beta=0.1, balance=(1, 1))
    out.losses.sum().backward()
    assert kl.grad is None and rho.grad is not None


@pytest.mark.parametrize("label", [True, False])
def test_kto_pulls_liked_answers_up_and_disliked_down_with_the_stated_force(label: bool) -> None:
    rho = torch.tensor([10.0], requires_grad=True)
    out = kto_loss(rho, NONE, torch.tensor([label]), torch.tensor([2.0]), beta=0.1, balance=(1.5, 1.5))
    out.losses.sum().backward()
    s = sigmoid(1.0)
    force = 2.0 * 1.5 * 0.1 * s * (1 - s)
    assert rho.grad is not None
    assert float(rho.grad) == pytest.approx(-force if label else force)


def test_an_answer_without_weight_moves_nothing() -> None:
    rho = torch.tensor([1.0, 1.0], requires_grad=True)
    labels, weights = torch.tensor([True, True]), torch.tensor([0.0, 1.0])
    kto_loss(rho, NONE, labels, weights, beta=0.1, balance=(1, 1)).losses.sum().backward()
    assert rho.grad is not None
    assert rho.grad[0] == 0 and rho.grad[1] != 0


def test_dpo_agrees_with_hand_arithmetic() -> None:
    out = dpo_loss(
        torch.tensor([4.0, 0.0]),
        torch.tensor([-6.0, 0.0]),
        torch.tensor([0.9, 1.0]),
        torch.tensor([0.5, 1.0]),
        beta=0.1,
        nll=torch.tensor([0.2, 0.3]),
    )
    first = 0.5 * (-0.9 * math.log(sigmoid(1.0)) - 0.1 * math.log(sigmoid(-1.0)) + 0.2)
    assert out.losses.tolist() == pytest.approx([first, math.log(2) + 0.3])
    assert out.rewards.tolist() == pytest.approx([1.0, 0.0])


def test_swapping_a_pair_flips_its_margin() -> None:
    a, b, one, zero = torch.tensor([2.0]), torch.tensor([-1.0]), torch.ones(1), torch.zeros(1)
    there = dpo_loss(a, b, one, one, beta=0.1, nll=zero)
    back = dpo_loss(b, a, one, one, beta=0.1, nll=zero)
    assert float(there.rewards) == -float(back.rewards) != 0
    assert float(there.losses) < float(back.losses)


def test_a_soft_label_stops_at_the_margin_of_its_logit() -> None:
    chosen = torch.tensor([math.log(9) / 0.1], requires_grad=True)  # h = logit 0.9
    zero = torch.zeros(1)
    dpo_loss(chosen, zero, torch.tensor([0.9]), torch.ones(1), beta=0.1, nll=zero).losses.sum().backward()
    assert chosen.grad is not None
    assert float(chosen.grad) == pytest.approx(0, abs=1e-7)


@pytest.mark.parametrize("rho", [1e4, -1e4])
def test_extreme_ratios_stay_finite(rho: float) -> None:
    x, one, zero = torch.tensor([rho]), torch.ones(1), torch.zeros(1)
    assert torch.isfinite(dpo_loss(x, -x, one, one, beta=0.1, nll=zero).losses).all()
    assert torch.isfinite(kto_loss(x, x, one.bool(), one, beta=0.1, balance=(1, 1)).losses).all()


@pytest.mark.parametrize(
    ("ups", "downs", "ratio", "cap", "wanted"),
    [
        (10, 10, 1.0, 8, (1.0, 1.0)),
        (10, 10, 4 / 3, 8, (4 / 3, 1.0)),
        (19, 1, 1.0, 8, (1.0, 8.0)),
        (19, 1, 1.0, 100, (1.0, 19.0)),
        (1, 4, 1.0, 8, (4.0, 1.0)),
        (1, 40, 1.0, 8, (8.0, 1.0)),
        (4, 3, 4 / 3, 8, (1.0, 1.0)),
        (0, 5, 1.0, 8, (1.0, 1.0)),
        (5, 0, 1.0, 8, (1.0, 1.0)),
    ],
)
def test_class_weights_reach_the_ratio_within_the_cap(
    ups: float, downs: float, ratio: float, cap: float, wanted: tuple[float, float]
) -> None:
    assert class_weights(ups, downs, ratio=ratio, cap=cap) == pytest.approx(wanted)


def test_an_anchor_pulls_with_its_weight_and_nothing_else() -> None:
    nll = torch.tensor([2.0, 0.5], requires_grad=True)
    out = anchor_loss(nll, torch.tensor([1.5, 0.0]))
    out.losses.sum().backward()
    assert out.losses.tolist() == [3.0, 0.0] and out.rewards.tolist() == []
    assert nll.grad is not None and nll.grad.tolist() == [1.5, 0.0]


def test_every_form_of_example_has_its_loss() -> None:
    assert dict(LOSSES, kto=kto_loss, dpo=dpo_loss, anchor=anchor_loss) == LOSSES
    assert set(LOSSES) == {"kto", "dpo", "anchor"}
