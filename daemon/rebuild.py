"""Rebuilding from base: when an iteration trains a second candidate that owes nothing to the incumbent, and which of
the two is kept.

An adapter that is only ever continued drifts, and sequential LoRA accumulates directions that forget (2410.21228).
One trained from base on replayed feedback goes as far as its data ask for, and holds nothing of data that are gone.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from daemon import ledger
from daemon.gate import Decision, Outcome
from daemon.limits import GateConfig
from daemon.promote import PassedOver
from daemon.runtime import Known
from policies.spec import Report
from store.db import Store
from store.records import SETTLED_STAGES, Adapter, Stage

#: Key of the request in the store's state; see `request`.
REBUILD = "rebuild"
#: Stages of iterations whose candidate came to a verdict, whatever it was and whatever became of it since.
JUDGED = SETTLED_STAGES - {Stage.FAILED, Stage.ABORTED}
#: Newest iterations among which the last rebuild is looked for.
LOOK_BACK = 500
FROM_BASE, KL_BASE, AUC_LOW = "train/from_base", "kl/base_token", "heldout/auc_low"


@dataclass(frozen=True, slots=True)
class Standing:
    """What is served, as far as a rebuild depends on it.

    `trained_since`: see there. `kl_base`: nats/token, where measured. `path`: nats/token from base by every step, NaN
    where it is not known. `asked_for`: why an operator or a deletion wants a rebuild that has not come about yet.
    """

    trained_since: int
    kl_base: float | None
    path: float
    asked_for: str | None = None


@dataclass(frozen=True, slots=True)
class Due:
    """Why an iteration trains a second candidate from base."""

    why: str
    asked_for: bool = False
    """So that something be gone: then a rebuilt candidate that passes is kept, however well the continued one does,
    which still holds it."""


def rebuild_due(standing: Standing | None, *, every: int, at: float, limits: GateConfig) -> Due | None:
    """Whether this iteration trains a second candidate from base, and why.

    A path only grows, and no candidate that continues one that is used up, or unknown, can pass the gate: a rebuild
    is the only way out, and due until one is served, whatever `every` and however large `at`.

    Args:
        standing: None where base is served: every candidate is from base then.
        every: candidates between rebuilds, 0 for never.
        at: share of the hard limits of distance and path from which on the incumbent is too far from base.
    """
    if standing is None:
        return None
    if standing.asked_for is not None:
        return Due(f"it was asked for ({standing.asked_for})", asked_for=True)
    distance, path = at * limits.kl_base_hard, min(at, 1.0) * limits.kl_path_hard
    if standing.kl_base is not None and standing.kl_base >= distance:
        return Due(
            f"the incumbent is {standing.kl_base:.3g} nats/token from base, {distance:.3g} is where one is due"
        )
    if not math.isfinite(standing.path):
        return Due("the incumbent's path from base is not known, and what continues it cannot pass")
    if standing.path >= path:
        return Due(
            f"the incumbent's path from base is {standing.path:.3g} nats/token, {path:.3g} is where one is due"
        )
    if every and standing.trained_since >= every:
        return Due(f"{standing.trained_since} candidates were trained since the last one from base")
    return None


def request(tx: Store, reason: str, *, at: float) -> None:
    """Ask for a rebuild, as after a deletion: due until an adapter trained from base later than `at` is served."""
    tx.state.set(REBUILD, {"reason": reason, "at": at})


def due_now(runtime: Known) -> Due | None:
    """Whether the iteration that is being collected trains two candidates."""
    train, limits = runtime.config.policies.train, runtime.config.daemon.gate
    found = standing(runtime.store)
    return rebuild_due(found, every=train.rebuild_every, at=train.rebuild_at, limits=limits)


def counts(due: Due | None) -> dict[str, Any]:
    """What is written down of it with the iteration."""
    return {} if due is None else {REBUILD: asdict(due)}


def due_of(counted: Mapping[str, Any]) -> Due | None:
    """What an iteration wrote into its counts when it was collected."""
    return Due(**counted[REBUILD]) if REBUILD in counted else None


def standing(store: Store) -> Standing | None:
    """Read where the served adapter stands; None for base."""
    active = store.adapters.active()
    if active is None:
        return None
    line = line_of(store, active)
    asked = store.state.get(REBUILD)
    begun = store.iterations.get(line[-1].iteration).created_at if line[-1].iteration is not None else 0.0
    metrics = store.metrics.get(active.iteration) if active.iteration is not None else {}
    path = ledger.path(ledger.ledger_of(store, active.version))
    return Standing(trained_since(store), metrics.get(KL_BASE), path, outstanding(asked, begun))


def trained_since(store: Store) -> int:
    """Iterations that came to a verdict since the last that kept a candidate from base; or since the last that kept
    another one over it, this one included.

    Whatever the verdict: if only promotions counted, a rebuild that was lost, or whose iteration was rejected, would
    wait for more of them, and where every continued candidate is rejected none ever comes. This way no more than one
    iteration in `every` pays for a second candidate, and none waits for ever.
    """
    count = 0
    for one in store.iterations.list(limit=LOOK_BACK):
        kept = store.adapters.find(one.candidate or "")
        if one.stage not in JUDGED or kept is None:
            continue
        if from_base(store, kept):
            break
        count += 1
        if REBUILD in one.counts:
            break
    return count


def line_of(store: Store, active: Adapter) -> list[Adapter]:
    """The served adapter and those it was continued from, back to the one that was trained from base."""
    line = [active]
    while not from_base(store, line[-1]):
        parent = store.adapters.find(line[-1].parent or "")
        if parent is None or parent in line:
            break
        line.append(parent)
    return line


def from_base(store: Store, adapter: Adapter) -> bool:
    """Whether it was trained from base; runs that did not say so were where they had no parent."""
    metrics = store.metrics.get(adapter.iteration) if adapter.iteration is not None else {}
    return metrics.get(FROM_BASE, float(adapter.parent is None)) == 1.0


def outstanding(asked: Any, last_from_base: float) -> str | None:
    """The reason of a request that no adapter trained from base has met since; without a time it never is."""
    if not asked:
        return None
    if not isinstance(asked, dict):
        return str(asked)
    return None if asked.get("at", math.inf) < last_from_base else str(asked.get("reason", asked))


@dataclass(frozen=True, slots=True)
class Trained:
    """A candidate with everything that was measured and decided of it."""

    candidate: Adapter
    report: Report
    metrics: dict[str, float]
    decision: Decision
    rebuilt: bool = False


def rank(one: Trained) -> tuple[int, float, float, bool]:
    """What is compared: verdict, lower bound of held-out agreement, nearness to base; last, being rebuilt."""
    outcome = list(Outcome).index(one.decision.outcome)
    return outcome, number(one, AUC_LOW, -math.inf), -number(one, KL_BASE, math.inf), one.rebuilt


def number(one: Trained, metric: str, otherwise: float) -> float:
    """A metric; what could not be measured counts as the worst."""
    value = one.metrics.get(metric, otherwise)
    return otherwise if math.isnan(value) else value


def passes(one: Trained) -> bool:
    return one.decision.outcome in (Outcome.PROMOTE, Outcome.CANARY)


def choose(a: Trained, b: Trained, *, asked_for: bool = False) -> tuple[Trained, Trained]:
    """The candidate to go on with, and the one passed over.

    Args:
        asked_for: as in `Due`.
    """
    if asked_for and a.rebuilt != b.rebuilt:
        renewed, other = (a, b) if a.rebuilt else (b, a)
        if passes(renewed):
            return renewed, other
    return (a, b) if rank(a) > rank(b) else (b, a)


def named(one: Trained) -> str:
    how = "rebuilt from base" if one.rebuilt else "continued"
    auc, kl = (number(one, metric, math.nan) for metric in (AUC_LOW, KL_BASE))
    numbers = f"held-out AUC from {auc:.2f}, {kl:.3g} nats/token from base"
    return f"{one.candidate.version} ({how}: {one.decision.outcome}, {numbers})"


def kept(trained: Sequence[Trained], due: Due | None) -> tuple[Trained, tuple[PassedOver, ...]]:
    """The candidate the iteration ends with, its reasons saying over what, and those it passes over."""
    if len(trained) == 1 or due is None:
        return trained[0], ()
    best, other = choose(trained[0], trained[1], asked_for=due.asked_for)
    said = f"kept {named(best)} over {named(other)}; two were trained, for {due.why}"
    decision = replace(best.decision, reasons=(*best.decision.reasons, said))
    return replace(best, decision=decision), (PassedOver(other.candidate, said),)
