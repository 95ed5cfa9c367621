"""How far the candidate has moved, in nats: exact KL per position to the incumbent and to the base.

The answers decide where KL is measured; at each position it is exact, a sum over the whole vocabulary (2504.10637).
During training a few fixed answers are enough to know when to stop. The numbers the gate sees come from the
candidate's own samples (`measure_kl`): drift shows where the candidate goes, not where others went.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from policies.batches import Row
from policies.learner import Learner
from policies.logprobs import exact_kl

#: Answers, and tokens of each, that the early stop watches.
WATCHED_ROWS = 8
WATCHED_TOKENS = 32
#: Checks per run: about one part in twenty of the training time with the sizes above.
CHECKS = 6


def watched(rows: Sequence[Row]) -> list[Row]:
    """The first few rows, each answer cut short."""
    return [
        Row(row.ids[: row.start + WATCHED_TOKENS], row.start) for row in rows[:WATCHED_ROWS] if row.answer
    ]


class Watch:
    """KL of the candidate to the incumbent on fixed answers, for the early stop.

    Keeps the incumbent's final states (tokens x width), not its distributions (tokens x vocabulary).
    """

    def __init__(self, learner: Learner, rows: Sequence[Row]) -> None:
        self._learner = learner
        self._rows = watched(rows)
        self._incumbent = learner.answer_states(self._rows, view="incumbent") if self._rows else []

    def measure(self) -> float:
        """Nats per token now; 0 without rows."""
        if not self._rows:
            return 0.0
        now = torch.cat(self._learner.answer_states(self._rows, view="candidate"))
        (kl,) = exact_kl(now, [torch.cat(self._incumbent)], self._learner.head)
        return float(kl.mean())


def is_check(step: int, total: int) -> bool:
    """Whether to measure after step `step` (from 1) of `total`: every few steps, and after the last."""
    return step == total or step % max(1, -(-total // CHECKS)) == 0


@dataclass(frozen=True, slots=True)
class Divergence:
    """KL of the candidate per answer on its own samples: tensors of nats, one value per token."""

    to_incumbent: list[Tensor]
    to_base: list[Tensor]

    def metrics(self) -> dict[str, float]:
        """The four numbers that have budgets; all 0 without a sampled token."""
        step, base = [t for t in self.to_incumbent if t.numel()], [t for t in self.to_base if t.numel()]
        if not step:
            step = base = [torch.zeros(1)]
        per_prompt = torch.stack([kl.mean() for kl in step])
        return {
            "kl/step_token": float(torch.cat(step).mean()),
            "kl/base_token": float(torch.cat(base).mean()),
            "kl/base_sequence": float(torch.stack([kl.sum() for kl in base]).mean()),
            "kl/step_p99": float(per_prompt.quantile(0.99)),
        }


def measure_kl(learner: Learner, rows: Sequence[Row]) -> Divergence:
    """Exact KL(candidate || incumbent) and KL(candidate || base) at every token of the candidate's samples."""
    candidate = learner.answer_states(rows, view="candidate")
    base = learner.answer_states(rows, view="base")
    incumbent = base if learner.from_base else learner.answer_states(rows, view="incumbent")
    sizes = [len(row.answer) for row in rows]
    if not sum(sizes):
        return Divergence([], [])
    others = [torch.cat(base)] if learner.from_base else [torch.cat(base), torch.cat(incumbent)]
    kl = exact_kl(torch.cat(candidate), others, learner.head)
    return Divergence(list(kl[-1].split(sizes)), list(kl[0].split(sizes)))
