"""What one piece of a step costs: from log-probabilities of rows to the weighted KTO, DPO and anchor losses.

The piece's divisor and KTO's baseline belong to the whole step, so pieces add up to exactly the step's gradient.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

import torch
from torch import Tensor

from policies.balance import class_weights
from policies.batches import Anchor, Item, Pair, Row, Thumb, mismatched
from policies.learner import Learner
from policies.losses import LOSSES
from policies.spec import LossSpec, Spec
from store.errors import TrainingFailed


@dataclass(frozen=True, slots=True)
class Lesson:
    """What a run learns from, and the reference's view of it."""

    items: Sequence[Item]
    pairs: Sequence[Row]
    """Mismatched pairs for KTO's baseline."""
    reference: Mapping[Row, float]
    """Log-probability (nats) of every row that has a log-ratio, under what training starts from."""
    balance: tuple[float, float]
    """KTO class weights (up, down)."""
    mean_weight: float
    """Divides every loss, so that weights matter against each other and not to the rate."""


def prepare(learner: Learner, items: Sequence[Item], spec: Spec) -> Lesson:
    """Everything that is computed once: mismatched pairs, reference log-probabilities, class weights.

    Called before the first step, when the candidate still is what it starts from: the incumbent, or base.

    Raises:
        TrainingFailed: no example has weight and text.
    """
    preferred = [item for item in items if not isinstance(item, Anchor)]
    if not preferred:
        raise TrainingFailed("nothing to train on: no example has a weight and an answer")
    pairs = mismatched(items, seed=spec.seed, max_length=spec.max_length)
    rows = list(dict.fromkeys([row for item in preferred for row in item.rows] + pairs))
    reference = dict(zip(rows, learner.sums(rows).tolist(), strict=True))
    thumbs = [item for item in items if isinstance(item, Thumb)]
    balance = class_weights(
        sum(thumb.weight for thumb in thumbs if thumb.label),
        sum(thumb.weight for thumb in thumbs if not thumb.label),
        ratio=spec.loss.kto_ratio,
        cap=spec.loss.kto_weight_cap,
    )
    return Lesson(items, pairs, reference, balance, fmean(item.weight for item in items))


def log_ratio(lesson: Lesson, row: Row, logprobs: Tensor) -> Tensor:
    """rho of one row: its tokens' log-probabilities summed, less the reference's."""
    return logprobs.sum() - lesson.reference[row]


def piece_losses(
    lesson: Lesson, piece: Sequence[Item], logprobs: Mapping[Row, Tensor], *, kl_rho: Tensor, loss: LossSpec
) -> Tensor:
    """Weighted losses (items of the piece; KTO, DPO, anchors), differentiable, not yet divided by anything.

    Args:
        logprobs: per row, log-probabilities of its answer tokens under the policy.
        kl_rho: (M,) the step's mismatched log-ratios.
    """
    device = kl_rho.device
    thumbs = [item for item in piece if isinstance(item, Thumb)]
    pairs = [item for item in piece if isinstance(item, Pair)]
    anchors = [item for item in piece if isinstance(item, Anchor)]
    compared: list[Thumb | Pair] = [*thumbs, *pairs]
    rho = {row: log_ratio(lesson, row, logprobs[row]) for item in compared for row in item.rows}
    terms: list[Tensor] = []
    if thumbs:
        out = LOSSES["kto"](
            torch.stack([rho[item.row] for item in thumbs]),
            kl_rho,
            torch.tensor([item.label for item in thumbs], device=device),
            torch.tensor([item.weight for item in thumbs], device=device),
            beta=loss.beta,
            balance=lesson.balance,
        )
        terms.append(out.losses)
    if pairs:
        out = LOSSES["dpo"](
            torch.stack([rho[item.chosen] for item in pairs]),
            torch.stack([rho[item.rejected] for item in pairs]),
            torch.tensor([item.q for item in pairs], device=device),
            torch.tensor([item.weight for item in pairs], device=device),
            beta=loss.beta,
            nll=torch.stack([-loss.dpo_nll * logprobs[item.chosen].mean() for item in pairs]),
        )
        terms.append(out.losses)
    if anchors:
        out = LOSSES["anchor"](
            torch.stack([-logprobs[item.row].mean() for item in anchors]),
            torch.tensor([item.weight for item in anchors], device=device),
        )
        terms.append(out.losses)
    return torch.cat(terms)
