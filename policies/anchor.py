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
from policies.learner import Learner, View
from policies.logprobs import exact_kl
from policies.spec import KlSpec

#: Answers, and tokens of each, that the early stop watches.
WATCHED_ROWS = 8
WATCHED_TOKENS = 32
#: Checks per run: about one part in twenty of the training time with the sizes above.
CHECKS = 6
#: Prompts a cluster needs before its mean says anything.
CLUSTER_PROMPTS = 3


def watched(rows: Sequence[Row]) -> list[Row]:
    """The first few rows, each answer cut short."""
    return [
        Row(row.ids[: row.start + WATCHED_TOKENS], row.start) for row in rows[:WATCHED_ROWS] if row.answer
    ]


@dataclass(frozen=True, slots=True)
class Distance:
    """Nats per token on the watched answers: from what training started from, and from the base all began with."""

    step: float
    base: float

    def within(self, budget: KlSpec) -> bool:
        """Whether training may go on: neither soft budget is reached."""
        return self.step < budget.step_soft and self.base < budget.base_soft


class Watch:
    """KL of the candidate to its reference and to the base on fixed answers, for the early stop.

    Both, because small steps in one direction add up faster than they look: KL grows with the square of the way.
    Keeps the others' final states (tokens x width), not their distributions (tokens x vocabulary).
    """

    def __init__(self, learner: Learner, rows: Sequence[Row]) -> None:
        self._learner = learner
        self._rows = watched(rows)
        views: tuple[View, ...] = ("base",) if learner.reference == "base" else ("incumbent", "base")
        self._others = [
            torch.cat(learner.answer_states(self._rows, view=view)) for view in views if self._rows
        ]

    def measure(self) -> Distance:
        """Where the candidate is now; no distance without rows."""
        if not self._rows:
            return Distance(0.0, 0.0)
        now = torch.cat(self._learner.answer_states(self._rows, view="candidate"))
        found = exact_kl(now, self._others, self._learner.head)
        return Distance(float(found[0].mean()), float(found[-1].mean()))


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


def cluster_metrics(to_incumbent: Sequence[Tensor], clusters: Sequence[str]) -> dict[str, float]:
    """Mean step KL (nats per token) of every cluster of at least three prompts, and the largest of them.

    A mean over all prompts hides a candidate that left the incumbent on one subject only. Nothing where no cluster
    is large enough.

    Args:
        to_incumbent: per answer its KL at every token (`Divergence.to_incumbent`).
        clusters: the name of each answer's cluster; "" belongs to none.
    """
    if not to_incumbent:  # nobody said anything
        to_incumbent = [torch.zeros(1)] * len(clusters)
    members: dict[str, list[Tensor]] = {}
    for name, kl in zip(clusters, to_incumbent, strict=True):
        if name:
            members.setdefault(name, []).append(kl)
    means = {
        f"kl/cluster/{name}": float(torch.cat(kls).mean()) if sum(map(len, kls)) else 0.0
        for name, kls in members.items()
        if len(kls) >= CLUSTER_PROMPTS
    }
    return {**means, "kl/cluster_max": max(means.values())} if means else {}


def measure_forward(learner: Learner, rows: Sequence[Row]) -> float:
    """Mean exact KL(base || candidate) over the tokens of base's own answers, nats per token; 0 without a token.

    The other direction than the budgets': what base would have said and the candidate no longer would. It goes with
    forgetting (2509.04259), which a KL on the candidate's samples cannot see: a mode that is gone is never sampled.
    """
    rows = [row for row in rows if row.answer]
    if not rows:
        return 0.0
    base = torch.cat(learner.answer_states(rows, view="base"))
    candidate = torch.cat(learner.answer_states(rows, view="candidate"))
    return float(exact_kl(base, [candidate], learner.head)[0].mean())
