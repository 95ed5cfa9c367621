"""From hidden states to log-probabilities, entropies and divergences, a piece of the vocabulary product at a time.

The logits of a whole batch would be the largest tensor of a run by far (tokens x vocabulary in float32), and only
answer positions need them. So callers pick the positions, and everything here walks over them in pieces.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

#: Logits held at once (32 MiB in float32): large enough for full speed, small enough for the allocator to reuse.
PIECE = 2**23


def _rows(vocabulary: int) -> int:
    return max(16, PIECE // vocabulary)


class _TokenLogprobs(torch.autograd.Function):
    """log softmax(h W' + b)[target], with the gradient to h found in the forward pass.

    d/dh = W[target] - softmax(h W') W needs the softmax that the forward just made, so computing it there costs two
    matrix products where recomputing under checkpointing costs three, and stores only a row of h's width per token.
    The head is frozen: there is no gradient to W.
    """

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, targets: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        wanted = ctx.needs_input_grad[0]
        out = torch.empty(len(hidden), dtype=torch.float32, device=hidden.device)
        slope = torch.empty_like(hidden) if wanted else None
        step = _rows(len(weight))
        for at in range(0, len(hidden), step):
            piece = slice(at, at + step)
            logits = F.linear(hidden[piece], weight, bias).float()
            # In place throughout: a second tensor of this size costs more in page faults than the arithmetic.
            logits.sub_(logits.amax(-1, keepdim=True))
            picked = logits.gather(-1, targets[piece, None])
            total = logits.exp_().sum(-1, keepdim=True)
            out[piece] = (picked - total.log()).squeeze(-1)
            if slope is not None:
                probabilities = logits.div_(total).to(weight.dtype)
                slope[piece] = weight[targets[piece]] - probabilities @ weight
        if slope is not None:
            ctx.save_for_backward(slope)
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, None, None, None]:
        (slope,) = ctx.saved_tensors
        return (gradients[0][:, None] * slope).to(slope.dtype), None, None, None


def token_logprobs(hidden: Tensor, targets: Tensor, head: nn.Linear) -> Tensor:
    """Log-probability (nats, float32) of each target under the head, differentiable in `hidden`.

    Args:
        hidden: (N, H) final hidden states, each of the position before its target.
        targets: (N,) token ids.
    """
    result: Tensor = _TokenLogprobs.apply(hidden, targets, head.weight.detach(), head.bias)
    return result


@torch.no_grad()
def exact_kl(hidden: Tensor, others: list[Tensor], head: nn.Linear) -> list[Tensor]:
    """KL(p || q) in nats at each position, summed over the whole vocabulary, for p against each other q.

    The Rao-Blackwell estimate (2504.10637): given the position, no sampling noise is left. In float32 the sum may
    end a rounding error below zero; equal hidden states give exactly zero.

    Args:
        hidden: (N, H) final hidden states under p. others: the same under each q.
    """
    results = [torch.empty(len(hidden), dtype=torch.float32, device=hidden.device) for _ in others]
    step = _rows(len(head.weight))
    for at in range(0, len(hidden), step):
        piece = slice(at, at + step)
        log_p = head(hidden[piece]).float().log_softmax(-1)
        p = log_p.exp()
        for other, result in zip(others, results, strict=True):
            log_q = head(other[piece]).float().log_softmax(-1)
            result[piece] = (p * (log_p - log_q)).sum(-1)
    return results


def entropy(logits: Tensor) -> Tensor:
    """Entropy in nats of each row of logits (..., V)."""
    log_p = logits.float().log_softmax(-1)
    return -(log_p.exp() * log_p).sum(-1)
