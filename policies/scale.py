"""At which scale a candidate is kept: the first whose KL is within every hard limit of the gate.

Scaling one LoRA interpolates the whole update to the base exactly, so each try costs samples, not training. It goes
towards the base, not towards the incumbent: the distance to a served adapter may grow when the scale falls. So where
no scale fits, the one nearest to its limits is kept, which need not be the smallest.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from policies.learner import Learner
from policies.sampling import Drawn
from policies.spec import Spec


@dataclass(frozen=True, slots=True)
class Tried:
    """The candidate at one scale: its answers, and KL in nats by the gate's names."""

    drawn: list[Drawn]
    metrics: dict[str, float]


def hard_limits(spec: Spec) -> dict[str, float | None]:
    """The limit of every KL metric that decides a scale; None: no limit.

    A candidate rebuilt from base beside an incumbent has none to the incumbent, from which it may well differ.
    """
    kl = spec.kl
    limits: dict[str, float | None] = {
        "kl/base_token": kl.base_hard,
        "kl/base_sequence": kl.sequence_hard,
        "kl/forward_base": kl.forward_hard,
        "kl/path_token": kl.path_hard,
    }
    if not spec.rebuilt:
        limits |= {
            "kl/step_token": kl.step_hard,
            "kl/step_p99": kl.prompt_hard,
            "kl/cluster_max": kl.cluster_hard,
        }
    return limits


def excess(metrics: Mapping[str, float], spec: Spec) -> float:
    """The largest share of a hard limit that is used: up to 1 all are kept. Infinite for what is not a number.

    A metric that was not measured (no cluster is large enough, nobody knows the incumbent's path) has no share.
    """
    known = dict(metrics)
    if spec.from_base:
        known["kl/path_token"] = metrics["kl/base_token"]
    elif spec.kl.path is not None:
        known["kl/path_token"] = spec.kl.path + metrics["kl/step_token"]
    limits = hard_limits(spec)
    shares = [known[name] / limit for name, limit in limits.items() if limit is not None and name in known]
    return max((share if math.isfinite(share) else math.inf for share in shares), default=0.0)


def settle_scale(
    learner: Learner, measure: Callable[[], Tried], spec: Spec
) -> tuple[Tried, list[dict[str, float]]]:
    """Leave the learner at the first scale within the limits, or else at the one nearest to them.

    Args:
        measure: the candidate at the learner's scale.

    Returns:
        What is kept, and every try: its scale and metrics.
    """
    tried: list[tuple[float, float, Tried]] = []
    for scale in spec.kl.scales or [1.0]:
        learner.set_scale(scale)
        found = measure()
        tried.append((excess(found.metrics, spec), scale, found))
        if tried[-1][0] <= 1:
            break
    # Of equals the smaller scale: where nothing is a number, less is safer.
    _, scale, kept = min(tried, key=lambda one: one[:2])
    learner.set_scale(scale)
    return kept, [{"scale": scale, **found.metrics} for _, scale, found in tried]
