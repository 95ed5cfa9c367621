"""The losses, as pure functions: KTO for thumbs and DPO for pairs, of log-ratios; likelihood for anchors.

A log-ratio rho(y|x) = log p_policy(y|x) - log p_reference(y|x) is summed over the answer's tokens, in nats.
Left out: reference-free losses (SimPO, ORPO), which have no anchor and so no brake.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True, slots=True)
class LossOutput:
    """Per-example losses with their weights already applied (differentiable), and what explains them."""

    losses: Tensor
    """(N,)"""
    rewards: Tensor
    """(N,) beta * rho for KTO, beta * (rho_chosen - rho_rejected) for DPO, nothing (0,) for anchors; detached."""
    baseline: float = 0.0
    """KTO's z0 in nats."""


def kto_baseline(kl_rho: Tensor) -> Tensor:
    """z0: the mean log-ratio of mismatched pairs, at least 0, without gradient; 0 where there are none."""
    if kl_rho.numel() == 0:
        return torch.zeros((), dtype=kl_rho.dtype, device=kl_rho.device)
    return kl_rho.detach().mean().clamp(min=0)


def kto_loss(
    policy_rho: Tensor,
    kl_rho: Tensor,
    labels: Tensor,
    weights: Tensor,
    *,
    beta: float,
    balance: tuple[float, float],
) -> LossOutput:
    """Kahneman-Tversky optimisation (2402.01306, equations 7 and 8) with per-example weights.

    up: w * balance_up * (1 - sigmoid(beta * (rho - z0))); down: w * balance_down * (1 - sigmoid(beta * (z0 - rho))).

    Args:
        policy_rho: (N,) log-ratios of the rated answers.
        kl_rho: (M,) log-ratios of mismatched pairs (y of one example after x of another); sets z0.
        labels: (N,) bool, True for up.
        weights: (N,) non-negative.
        balance: class weights (up, down), from `policies.balance.class_weights`.
    """
    z0 = kto_baseline(kl_rho)
    sign = torch.where(labels, 1.0, -1.0)
    per_class = torch.where(labels, balance[0], balance[1])
    losses = weights * per_class * torch.sigmoid(-beta * sign * (policy_rho - z0))
    return LossOutput(losses, (beta * policy_rho).detach(), float(z0))


def dpo_loss(
    chosen_rho: Tensor,
    rejected_rho: Tensor,
    q: Tensor,
    weights: Tensor,
    *,
    beta: float,
    nll: Tensor,
) -> LossOutput:
    """Direct preference optimisation (2305.18290) with soft labels (cDPO) and a likelihood term (RPO, 2405.16436).

    w * (q * l(h) + (1 - q) * l(-h) + nll), with h = beta * (rho_chosen - rho_rejected) and l(h) = -log sigmoid(h).
    For q < 1 the optimum h = logit q is finite, which is the brake.

    Args:
        chosen_rho, rejected_rho: (P,) log-ratios.
        q: (P,) probability that the chosen answer is the better.
        weights: (P,) non-negative.
        nll: (P,) the chosen answer's token-mean negative log-likelihood, already times its coefficient.
    """
    h = beta * (chosen_rho - rejected_rho)
    losses = weights * (-q * F.logsigmoid(h) - (1 - q) * F.logsigmoid(-h) + nll)
    return LossOutput(losses, h.detach())


def anchor_loss(nll: Tensor, weights: Tensor) -> LossOutput:
    """Likelihood of base's own answers: w * nll.

    In expectation over base's answers that is KL(base || policy) plus base's entropy, which is constant: the distance
    that goes with forgetting (2509.04259).

    Args:
        nll: (A,) token-mean negative log-likelihood, nats per token.
        weights: (A,) non-negative.
    """
    return LossOutput(weights * nll, nll.new_zeros(0))


#: The loss of each form of example (`spec.TrainingExample.form`).
LOSSES: dict[str, Callable[..., LossOutput]] = {"kto": kto_loss, "dpo": dpo_loss, "anchor": anchor_loss}
