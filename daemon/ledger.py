"""The KL ledger: what every step from the base to an adapter has cost, and what is left of the budgets.

KL to the base can stay small while the steps go round in circles, and small steps that all go one way add up faster
than their sum. So both are kept: the distance to the base, and the path, the sum of the steps. An adapter trained
from the base again begins a new path; its only step is its distance to the base.

The budgets also steer the next iteration: `next_beta`.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from daemon.limits import GateConfig
from store.db import Store
from store.records import Adapter, Iteration

#: Metrics of an iteration that the ledger is made of.
STEP, BASE, PATH, BETA, FROM_BASE = (
    "kl/step_token",
    "kl/base_token",
    "kl/path_token",
    "train/beta",
    "train/from_base",
)
#: The same two before any scaling down; runs of earlier versions have none.
UNSCALED_STEP, UNSCALED_BASE = "kl/unscaled_step_token", "kl/unscaled_base_token"
#: How far beta may go from the configured one, either way.
REACH = 4.0


@dataclass(frozen=True, slots=True)
class Entry:
    """One adapter of a chain. KL in nats per token, NaN where it is not known.

    `step`: KL to `parent`, what was served before (None: the base). `base`: KL to the base. `path`: sum of the steps
    from the base to here. `outcome`: the stage its iteration is in. `pull`: the beta it trained with over the one
    configured then. `unscaled_step`, `unscaled_base`: the same KL before the candidate was scaled down to fit the
    budgets, which is what its training cost; None where no run said.
    """

    iteration: int
    version: str
    parent: str | None
    scale: float
    step: float
    base: float
    outcome: str
    from_base: bool
    pull: float = 1.0
    path: float = math.nan
    unscaled_step: float | None = None
    unscaled_base: float | None = None

    def used(self, limits: GateConfig) -> float:
        """Share of the soft budgets it used: of the step's or the cumulative one's, whichever is more; or NaN.

        Of what training asked for, not of what scaling left of it: a run that overshot would else look thrifty.
        One trained from the base again takes the whole way in one run, and has the cumulative budget only.
        """
        base = self.base if self.unscaled_base is None else self.unscaled_base
        step = self.step if self.unscaled_step is None else self.unscaled_step
        distance, step = base / limits.kl_base_soft, step / limits.kl_step_soft
        if self.from_base and self.parent is not None:
            return distance
        return math.nan if math.isnan(distance + step) else max(distance, step)


@dataclass(frozen=True, slots=True)
class Budget:
    """What was spent of a cumulative budget, nats per token."""

    metric: str
    spent: float
    soft: float
    hard: float

    @property
    def left(self) -> float:
        """Until the hard limit; 0 where it is used up, and where nobody knows what was spent."""
        return max(0.0, self.hard - self.spent) if math.isfinite(self.spent) else 0.0

    @property
    def share(self) -> float:
        """Share of the hard limit that is spent; infinite where nobody knows."""
        return self.spent / self.hard if math.isfinite(self.spent) else math.inf


def with_paths(chain: Sequence[Entry]) -> tuple[Entry, ...]:
    """A chain, oldest first, with the path up to each entry. One step that is not known makes the rest unknown."""
    done: list[Entry] = []
    for entry in chain:
        so_far = entry.base if entry.from_base else (done[-1].path if done else 0.0) + entry.step
        done.append(replace(entry, path=so_far))
    return tuple(done)


def path(chain: Sequence[Entry]) -> float:
    """Sum of the steps of a chain, oldest first, since it last began at the base; 0 for the base itself."""
    return with_paths(chain)[-1].path if chain else 0.0


def budgets(chain: Sequence[Entry], limits: GateConfig) -> tuple[Budget, Budget]:
    """The two cumulative budgets after a chain: distance to the base, and path."""
    distance = chain[-1].base if chain else 0.0
    return (
        Budget(BASE, distance, limits.kl_base_soft, limits.kl_base_hard),
        Budget(PATH, path(chain), limits.kl_path_soft, limits.kl_path_hard),
    )


def next_beta(beta: float, rows: Sequence[Entry], limits: GateConfig) -> float:
    """Beta of the next iteration, from what the last one cost: beta * pull * exp(clip(KL / target - 1, +-0.5) / 2).

    The proportional controller of Ziegler et al. (arXiv 1909.08593, section 2.2), in larger steps. The target is the
    soft step budget, or the soft base budget where that one is nearer: more KL than it means a larger beta, which
    holds the next step back. Never above `REACH` times the configured beta, nor below it by more than that factor.

    Args:
        beta: as configured.
        rows: what was trained, oldest first, whatever became of it; only the last one speaks. None: beta as it is.
    """
    if not rows:
        return beta
    used = rows[-1].used(limits)
    error = min(0.5, max(-0.5, used - 1)) if math.isfinite(used) else 0.5
    pull = rows[-1].pull * math.exp(0.5 * error)
    return beta * min(REACH, max(1 / REACH, pull))


def entry_of(store: Store, iteration: Iteration) -> Entry | None:
    """What an iteration's candidate cost; None where none was trained and measured."""
    metrics = store.metrics.get(iteration.id)
    adapter = store.adapters.find(iteration.candidate) if iteration.candidate else None
    if adapter is None or "train/steps" not in metrics:
        return None
    configured = iteration.config.get("policies", {}).get("train", {}).get("beta", metrics.get(BETA))
    return Entry(
        iteration=iteration.id,
        version=adapter.version,
        parent=adapter.parent,
        scale=adapter.scale,
        step=metrics.get(STEP, math.nan),
        base=metrics.get(BASE, math.nan),
        outcome=iteration.stage.value,
        from_base=metrics.get(FROM_BASE) == 1.0 or adapter.parent is None,
        pull=metrics[BETA] / configured if BETA in metrics else 1.0,
        unscaled_step=metrics.get(UNSCALED_STEP),
        unscaled_base=metrics.get(UNSCALED_BASE),
    )


def ledger_of(store: Store, version: str | None) -> tuple[Entry, ...]:
    """The chain from the base to an adapter, oldest first, with its path; nothing for None, the base.

    Raises:
        NotFound: no such version.
    """
    chain: list[Entry] = []
    while version is not None and version not in [entry.version for entry in chain]:
        chain.append(entry_for(store, store.adapters.get(version)))
        version = None if chain[-1].from_base else chain[-1].parent
    return with_paths(chain[::-1])


def entry_for(store: Store, adapter: Adapter) -> Entry:
    """An adapter's entry; without numbers where its iteration measured none, or kept another candidate's."""
    found = None
    if adapter.iteration is not None:
        found = entry_of(store, store.iterations.get(adapter.iteration))
    if found is not None and found.version == adapter.version:
        return found
    return Entry(
        iteration=adapter.iteration or 0,
        version=adapter.version,
        parent=adapter.parent,
        scale=adapter.scale,
        step=math.nan,
        base=math.nan,
        outcome=adapter.status.value,
        from_base=adapter.parent is None,
    )


def latest(store: Store, *, look_back: int = 20) -> tuple[Entry, ...]:
    """The newest candidate that was trained and measured, as rows for `next_beta`; its path is not looked up."""
    for iteration in store.iterations.list(limit=look_back):
        found = entry_of(store, iteration)
        if found is not None:
            return (found,)
    return ()


def path_with(store: Store, incumbent: str | None, metrics: Mapping[str, float]) -> float:
    """Path of a candidate that is not recorded yet: its incumbent's and its own step, or its distance to the base."""
    if incumbent is None or metrics.get(FROM_BASE) == 1.0:
        return metrics.get(BASE, math.nan)
    return path(ledger_of(store, incumbent)) + metrics.get(STEP, math.nan)
