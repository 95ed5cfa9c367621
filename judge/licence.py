"""The licence: a judge's opinions train only while it agrees with people. Pure, so that every edge is in a table.

Every bound that is not kept is named, not only the first: an operator mends them one by one. A number that a
bound needs and that is missing or not finite refuses, as in the gate: absence of evidence never trains. A value
exactly at a bound keeps it.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from judge.calibrate import FEW_COMPARISONS
from judge.config import LicenceConfig
from judge.measure import MIN_PROMPTS


@dataclass(frozen=True, slots=True)
class Ruling:
    """Whether a scorer may train, and why not; licensed, `reasons` says that every bound is kept."""

    licensed: bool
    reasons: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Bound:
    """One number against one setting: a floor where the setting begins with min_, else a ceiling.

    `what` names the number where it could not be measured, `broken` says what its value means where it is out of
    bounds. Not `always`: nothing is asked where it was not measured.
    """

    measure: str
    setting: str
    what: str
    broken: str
    always: bool = True


BOUNDS = (
    Bound(
        "abstained",
        "max_abstained",
        "the share of labels it leaves unjudged",
        "it leaves {value:.3g} of the labelled answers unjudged",
    ),
    Bound(
        "swap_consistency",
        "min_swap_consistency",
        "consistency under swapped order",
        "both orders name the same winner in {value:.3g} of comparisons",
        always=False,
    ),
    Bound(
        "spread",
        "min_spread",
        "spread of calibrated scores",
        "it says nearly the same of every answer: spread {value:.3g}",
    ),
    Bound("tie_rate", "max_tie_rate", "tie rate", "too many ties: {value:.3g} of comparable answers"),
    Bound(
        "injection",
        "max_injection",
        "resistance to injection",
        "answers that ask for marks beat their honest twins in {value:.3g} of canaries",
    ),
)


def decide(measures: Mapping[str, float], bounds: LicenceConfig) -> Ruling:
    """Hold every number against its bound.

    Args:
        measures: what `judge.measure.measure` found, and `injection` (`judge.injection.injection_rate`).
        bounds: `[judge.licence]`. The bound on swaps applies only where swap_consistency is among the measures: to
            scorers that compare.
    """
    broken = [
        _labels(measures, bounds),
        _agreement(measures, bounds),
        _within(measures),
        _length(measures, bounds),
        *(_held(bound, measures, bounds) for bound in BOUNDS if bound.always or bound.measure in measures),
    ]
    reasons = tuple(reason for reason in broken if reason is not None)
    return Ruling(not reasons, reasons or ("every bound is kept",))


def _unusable(measures: Mapping[str, float], name: str, words: str) -> str | None:
    if name not in measures:
        return f"{words} could not be measured"
    if not math.isfinite(measures[name]):
        return f"{words} is {measures[name]}, not a finite number"
    return None


def _held(bound: Bound, measures: Mapping[str, float], bounds: LicenceConfig) -> str | None:
    bad = _unusable(measures, bound.measure, bound.what)
    if bad is not None:
        return bad
    value, limit, floor = (
        measures[bound.measure],
        getattr(bounds, bound.setting),
        bound.setting.startswith("min_"),
    )
    if value >= limit if floor else value <= limit:
        return None
    return (
        f"{bound.broken.format(value=value)}, {limit:g} {'needed' if floor else 'allowed'} ({bound.setting})"
    )


def _labels(measures: Mapping[str, float], bounds: LicenceConfig) -> str | None:
    bad = _unusable(measures, "labels", "the number of human labels")
    if bad is not None:
        return bad
    labels, asked, beyond = measures["labels"], measures.get("asked", 0.0), measures.get("beyond", 0.0)
    if labels >= bounds.min_labels:
        return None
    # More labels would mend the last of these alone.
    if asked >= bounds.min_labels:
        return f"it judged {labels:g} of {asked:g} labels, {bounds.min_labels} needed (min_labels)"
    alone = f"; it compares, and cannot judge the {beyond:g} about single answers" if beyond else ""
    return f"too few human labels: {labels:g}, {bounds.min_labels} needed (min_labels){alone}"


def _agreement(measures: Mapping[str, float], bounds: LicenceConfig) -> str | None:
    labels, balance = measures.get("labels", math.nan), measures.get("balance", math.nan)
    if "auc" not in measures and balance in (0, 1):
        return f"all labels agree ({labels:g} {'liked' if balance else 'disliked'}): AUC cannot be measured"
    prompts = measures.get("prompts", math.inf)
    if "auc" in measures and "auc_lower" not in measures and prompts < MIN_PROMPTS:
        return f"labels are about {prompts:g} prompts, {MIN_PROMPTS} needed: AUC has no interval"
    if "auc" in measures and "auc_lower" not in measures and math.isfinite(labels * balance):
        rarer = round(labels * min(balance, 1 - balance))
        return f"labels are too one-sided ({rarer} of {labels:g} differ): AUC has no interval"
    bad = _unusable(measures, "auc_lower", "agreement with people (lower bound of AUC)")
    if bad is not None:
        return bad
    lower = measures["auc_lower"]
    if lower < bounds.min_auc_lower:
        middle = f" (estimate {measures['auc']:.3g})" if "auc" in measures else ""
        return (
            f"agreement with people may be as low as AUC {lower:.3g}{middle}, "
            f"{bounds.min_auc_lower:g} needed (min_auc_lower)"
        )
    return None


def _within(measures: Mapping[str, float]) -> str | None:
    """Pairs are made between answers to one question, where AUC over all answers may come from easy questions alone.

    Below chance there refuses, from as many comparisons on as say anything. No interval is asked for: that would
    take hundreds of them, and up to then calibration (`judge.calibrate`) lets q be no bolder than they are.
    """
    compared = measures.get("n_comparisons", 0.0)
    if compared < FEW_COMPARISONS:
        return None
    bad = _unusable(measures, "accuracy", "agreement on answers to one question")
    if bad is not None:
        return bad
    accuracy = measures["accuracy"]
    if accuracy < 0.5:
        return (
            f"of two answers to one question it prefers the better in {accuracy:.3g} of {compared:g} comparisons: "
            "worse than chance"
        )
    return None


def _length(measures: Mapping[str, float], bounds: LicenceConfig) -> str | None:
    bad = _unusable(measures, "length_correlation", "correlation of scores with length")
    if bad is not None:
        return bad
    correlation, most = measures["length_correlation"], bounds.max_length_correlation
    if abs(correlation) > most:
        return (
            f"scores follow {'length' if correlation > 0 else 'brevity'}: correlation {correlation:.3g} among "
            f"answers people judge alike, {most:g} either way allowed (max_length_correlation)"
        )
    return None
