"""From hidden states to log-probabilities, entropies and divergences, a piece of the vocabulary product at a time.

The logits of a whole batch would be the largest tensor of a run by far (tokens x vocabulary in float32), and only
answer positions need them. So callers pick the positions, and everything here walks over them in pieces.
"""

from typing import Any

import torch
from torch import Tensor, nn

from policies.mapped import give_back
from policies.products import Product

#: Vocabulary entries and rows whose logits are held at once (8 MiB in float32): they stay in a CPU's cache while the
#: softmax goes over them, and the products are large enough for full speed.
TILE, ROWS = 4096, 512


class Head:
    """The output head, frozen, a tile of the vocabulary at a time.

    Args:
        packed: whether its products are packed ones (`products.Product`).
    """

    def __init__(self, linear: nn.Linear, *, packed: bool = False) -> None:
        self.weight = linear.weight.detach()
        weights = self.weight.split(TILE)
        biases = [None] * len(weights) if linear.bias is None else linear.bias.detach().split(TILE)
        self.tiles = [
            Product(weight, bias, packed=packed, backward=True)
            for weight, bias in zip(weights, biases, strict=True)
        ]
        if packed:
            give_back([self.weight])

    def logits(self, hidden: Tensor) -> Tensor:
        """All logits (..., V) of hidden states (..., H)."""
        rows = hidden.reshape(-1, hidden.shape[-1])
        logits = torch.cat([tile.forward(rows) for tile in self.tiles], dim=-1)
        return logits.view(*hidden.shape[:-1], -1)


class _Softmax:
    """exp(logits) of some rows summed over tiles seen so far, relative to the largest of them.

    A larger one changes what all is relative to: sums kept outside are to be multiplied by what `add` returns (the
    online softmax of 1805.02867).
    """

    def __init__(self, hidden: Tensor) -> None:
        self.top = torch.full((len(hidden),), -torch.inf, device=hidden.device)
        self.total = torch.zeros(len(hidden), device=hidden.device)

    def add(self, logits: Tensor) -> Tensor:
        """Turn a tile's logits (N, tile) into exponentials, in place. Returns the factor (N, 1) on older sums."""
        top = torch.maximum(self.top, logits.amax(-1))
        factor = (self.top - top).exp_()
        # In place throughout: a second tensor of this size costs more in page faults than the arithmetic.
        logits.sub_(top[:, None]).exp_()
        self.total.mul_(factor).add_(logits.sum(-1))
        self.top = top
        return factor[:, None]

    def log_total(self) -> Tensor:
        return self.top + self.total.log()


def _within(local: Tensor, logits: Tensor) -> tuple[Tensor, Tensor]:
    """Which targets (N,), counted from a tile's first entry, it has; and their logits (anything for the others).

    Taken from the logits that are summed, not made anew: in half precision a probability would exceed 1.
    """
    size = logits.shape[1]
    return (local >= 0) & (local < size), logits.gather(-1, local.clamp(0, size - 1)[:, None])[:, 0]


class _TokenLogprobs(torch.autograd.Function):
    """log softmax(h W' + b)[target], with the gradient to h found in the forward pass.

    d/dh = W[target] - softmax(h W') W needs the softmax that the forward just made, so computing it there costs two
    matrix products where recomputing under checkpointing costs three, and stores only a row of h's width per token.
    The head is frozen: there is no gradient to W.
    """

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, targets: Tensor, head: Head) -> Tensor:
        wanted = ctx.needs_input_grad[0]
        out = torch.empty(len(hidden), dtype=torch.float32, device=hidden.device)
        slope = torch.empty_like(hidden) if wanted else None
        for at in range(0, len(hidden), ROWS):
            rows, chosen = hidden[at : at + ROWS], targets[at : at + ROWS]
            softmax, mean = _Softmax(rows), torch.zeros_like(rows, dtype=torch.float32)
            picked = torch.zeros_like(softmax.top)
            for tile in head.tiles:
                logits = tile.forward(rows).float()
                picked = torch.where(*_within(chosen, logits), picked)
                chosen = chosen - logits.shape[1]
                factor = softmax.add(logits)
                if wanted:
                    mean.mul_(factor).add_(tile.backward(logits.to(tile.weight.dtype)))
            out[at : at + ROWS] = picked - softmax.log_total()
            if slope is not None:
                mean.div_(softmax.total[:, None])
                slope[at : at + ROWS] = head.weight[targets[at : at + ROWS]] - mean
        if slope is not None:
            ctx.save_for_backward(slope)
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, None, None]:
        (slope,) = ctx.saved_tensors
        return (gradients[0][:, None] * slope).to(slope.dtype), None, None


def token_logprobs(hidden: Tensor, targets: Tensor, head: Head) -> Tensor:
    """Log-probability (nats, float32) of each target under the head, differentiable in `hidden`.

    Args:
        hidden: (N, H) final hidden states, each of the position before its target.
        targets: (N,) token ids.
    """
    result: Tensor = _TokenLogprobs.apply(hidden, targets, head)
    return result


@torch.no_grad()
def exact_kl(hidden: Tensor, others: list[Tensor], head: Head) -> list[Tensor]:
    """KL(p || q) in nats at each position, summed over the whole vocabulary, for p against each other q.

    The Rao-Blackwell estimate (2504.10637): given the position, no sampling noise is left. Of logits l under p and k
    under q it is sum(p (l - k)) - log sum exp l + log sum exp k. In float32 it may end a rounding error below zero;
    equal hidden states give exactly zero.

    Args:
        hidden: (N, H) final hidden states under p. others: the same under each q.
    """
    results = [torch.empty(len(hidden), dtype=torch.float32, device=hidden.device) for _ in others]
    for at in range(0, len(hidden), ROWS):
        piece = slice(at, at + ROWS)
        ours, theirs = _Softmax(hidden[piece]), [_Softmax(other[piece]) for other in others]
        gaps = [torch.zeros_like(ours.total) for _ in others]
        for tile in head.tiles:
            logits = tile.forward(hidden[piece]).float()
            p = logits.clone()
            factor = ours.add(p)[:, 0]
            for other, softmax, gap in zip(others, theirs, gaps, strict=True):
                q = tile.forward(other[piece]).float()
                gap.mul_(factor).add_((p * (logits - q)).sum(-1))
                softmax.add(q)
        for result, softmax, gap in zip(results, theirs, gaps, strict=True):
            result[piece] = gap / ours.total - ours.log_total() + softmax.log_total()
    return results


def entropy(logits: Tensor) -> Tensor:
    """Entropy in nats of each row of logits (..., V)."""
    log_p = logits.float().log_softmax(-1)
    return -(log_p.exp() * log_p).sum(-1)
