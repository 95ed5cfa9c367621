"""Which scale is kept: every hard limit counts, and where none can be kept the nearest wins."""

import math
from pathlib import Path

import pytest

from policies.learner import load_learner
from policies.scale import Tried, excess, settle_scale
from policies.spec import KlSpec, Spec
from tests.policies.runs import make_spec

KEPT = {
    "kl/step_token": 0.1,
    "kl/base_token": 0.2,
    "kl/base_sequence": 10.0,
    "kl/step_p99": 0.4,
    "kl/cluster_max": 0.2,
    "kl/forward_base": 0.1,
}
LIMITS = KlSpec(
    step_hard=0.3,
    base_hard=0.45,
    prompt_hard=1.0,
    cluster_hard=0.6,
    sequence_hard=30.0,
    forward_hard=0.4,
    path_hard=1.5,
    path=0.5,
)
HARD = {
    "kl/step_token": 0.3,
    "kl/base_token": 0.45,
    "kl/base_sequence": 30.0,
    "kl/step_p99": 1.0,
    "kl/cluster_max": 0.6,
    "kl/forward_base": 0.4,
}
TO_INCUMBENT = {"kl/step_token", "kl/step_p99", "kl/cluster_max"}


def spec_of(start: str = "incumbent", *, served: bool = True, **kl: object) -> Spec:
    served_as = {"incumbent": "somewhere", "incumbent_digest": "d"} if served else {}
    return make_spec(Path("model"), start=start, kl=LIMITS.model_copy(update=kl), **served_as)


@pytest.mark.parametrize("metric", sorted(HARD))
def test_every_hard_limit_counts(metric: str) -> None:
    assert excess(KEPT, spec_of()) < 1
    assert excess({**KEPT, metric: HARD[metric]}, spec_of()) == 1
    assert excess({**KEPT, metric: 2 * HARD[metric]}, spec_of()) == 2
    for value in (math.nan, math.inf):
        assert excess({**KEPT, metric: value}, spec_of()) == math.inf


@pytest.mark.parametrize("metric", sorted(HARD))
def test_a_rebuilt_candidate_is_scaled_for_nothing_but_its_distance_to_base(metric: str) -> None:
    far = {**KEPT, metric: 5 * HARD[metric]}
    assert (excess(far, spec_of("base")) > 1) is (metric not in TO_INCUMBENT)
    assert excess(far, spec_of("base", served=False)) > 1, "where base is served the step is a distance to it"


def test_the_path_is_the_incumbents_and_the_step_or_the_distance_to_base() -> None:
    assert excess(KEPT, spec_of(path=1.4)) == 1
    assert excess({**KEPT, "kl/step_token": 0.2}, spec_of(path=1.4)) > 1
    assert excess({**KEPT, "kl/step_token": 0.2}, spec_of("base", path=1.4)) < 1
    assert excess(KEPT, spec_of(path=None)) < 1, "what nobody knows is for the gate to refuse"


def test_a_limit_or_metric_that_is_not_there_decides_nothing() -> None:
    old = make_spec(Path("model"), kl=KlSpec())
    assert excess({**KEPT, "kl/step_p99": 9.0, "kl/forward_base": 9.0}, old) < 1
    alone = {name: value for name, value in KEPT.items() if name != "kl/cluster_max"}
    assert excess(alone, spec_of()) < 1


@pytest.mark.parametrize(
    ("steps", "scale", "tries"),
    [
        ([0.1, 0.1, 0.1, 0.1], 1.0, 1),
        ([0.6, 0.2, 0.1, 0.1], 0.75, 2),
        ([0.9, 0.6, 0.4, 0.7], 0.5, 4),  # away from the incumbent again: the nearest
        ([math.nan, math.nan, 0.9, math.inf], 0.5, 4),
        ([math.nan] * 4, 0.25, 4),
    ],
)
def test_the_first_scale_within_the_limits_is_kept_or_else_the_nearest(
    tiny_model: Path, steps: list[float], scale: float, tries: int
) -> None:
    learner = load_learner(make_spec(tiny_model))
    found = {each: Tried([], {**KEPT, "kl/step_token": kl}) for each, kl in zip(SCALES, steps, strict=True)}
    kept, tried = settle_scale(learner, lambda: found[learner.scale], spec_of(scales=SCALES))
    assert (learner.scale, len(tried)) == (scale, tries)
    assert kept is found[scale]
    assert [row["scale"] for row in tried] == SCALES[:tries]


SCALES = [1.0, 0.75, 0.5, 0.25]
