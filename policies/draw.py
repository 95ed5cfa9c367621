"""The next token from one row of logits: penalties, log-probabilities, temperature, nucleus, draw.

Pure but for the generator it is handed. The nucleus is looked for among the likeliest `CANDIDATES` first: sorting
a whole vocabulary for every row of every step costs more than the model's own step.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from store.records import Sampling

#: Tokens looked at before the whole vocabulary is sorted.
CANDIDATES = 512
#: Temperatures below this are greedy: dividing by them overflows before it changes a draw.
GREEDY_BELOW = 1e-4


@dataclass(frozen=True, slots=True)
class Drawn:
    """A token id, its log-probability before temperature and penalties (nats), and the likeliest others."""

    token: int
    logprob: float | None
    top: tuple[tuple[int, float], ...] = ()


def penalised(logits: Tensor, drawn: Sequence[int], sampling: Sampling) -> Tensor:
    """OpenAI's penalties: frequency per occurrence, presence once, over the answer's own tokens."""
    if not drawn or (sampling.frequency_penalty == 0 and sampling.presence_penalty == 0):
        return logits
    counts = Counter(drawn)
    ids = torch.tensor(list(counts), device=logits.device)
    times = torch.tensor(list(counts.values()), dtype=logits.dtype, device=logits.device)
    logits = logits.clone()
    logits[ids] -= sampling.frequency_penalty * times + sampling.presence_penalty
    return logits


def nucleus(logits: Tensor, top_p: float) -> tuple[Tensor, Tensor]:
    """The smallest set of likeliest tokens holding `top_p` of the mass: ids and probabilities, falling;
    the whole vocabulary in its own order for `top_p` 1.

    Args:
        logits: [vocabulary], temperature applied.
    """
    if top_p >= 1:
        # Everything is in: nothing needs sorting, and float32 sums would not reach 1 before the last token.
        return torch.arange(logits.shape[0], device=logits.device), torch.softmax(logits, dim=0)
    total = torch.logsumexp(logits, dim=0)
    count = min(CANDIDATES, logits.shape[0])
    while True:
        values, ids = torch.topk(logits, count)
        probabilities = torch.exp(values - total)
        mass = torch.cumsum(probabilities, dim=0)
        if count == logits.shape[0] or float(mass[-1]) >= top_p:
            break
        count = min(logits.shape[0], count * 8)
    # The first token that reaches top_p belongs to the set.
    keep = int((mass < top_p).sum()) + 1
    return ids[:keep], probabilities[:keep]


def draw(logits: Tensor, drawn: Sequence[int], sampling: Sampling, generator: torch.Generator) -> Drawn:
    """Draw the next token.

    Args:
        logits: [vocabulary], float32.
        drawn: the answer's tokens so far.
        sampling: how to draw; temperature 0 takes the likeliest.
        generator: on the CPU, so that a seed gives the same answer on every device.
    """
    scores = penalised(logits, drawn, sampling)
    if sampling.temperature < GREEDY_BELOW:
        token = int(torch.argmax(scores))
    else:
        ids, probabilities = nucleus(scores / sampling.temperature, sampling.top_p)
        steps = torch.cumsum(probabilities.double().cpu(), dim=0)
        at = torch.rand(1, generator=generator, dtype=torch.float64) * steps[-1]
        index = min(int(torch.searchsorted(steps, at, right=True)), len(steps) - 1)
        token = int(ids[index])
    if not sampling.logprobs:
        return Drawn(token, None)
    logprobs = torch.log_softmax(logits, dim=0)
    top = torch.topk(logprobs, sampling.top_logprobs) if sampling.top_logprobs else None
    pairs = zip(top.indices.tolist(), top.values.tolist(), strict=True) if top is not None else ()
    return Drawn(token, float(logprobs[token]), tuple(pairs))


def generator_for(sampling: Sampling) -> torch.Generator:
    """A generator of the request's own, so that its neighbours never change what it draws."""
    generator = torch.Generator()
    if sampling.seed is None:
        generator.seed()
    else:
        generator.manual_seed(sampling.seed & (2**63 - 1))
    return generator
