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
        _abstained(measures, bounds),
        _swaps(measures, bounds),
        _length(measures, bounds),
        _spread(measures, bounds),
        _ties(measures, bounds),
        _injection(measures, bounds),
    ]
    reasons = tuple(reason for reason in broken if reason is not None)
    return Ruling(not reasons, reasons or ("every bound is kept",))


def _unusable(measures: Mapping[str, float], name: str, words: str) -> str | None:
    if name not in measures:
        return f"{words} could not be measured"
    if not math.isfinite(measures[name]):
        return f"{words} is {measures[name]}, not a finite number"
    return None


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


def _abstained(measures: Mapping[str, float], bounds: LicenceConfig) -> str | None:
    bad = _unusable(measures, "abstained", "the share of labels it leaves unjudged")
    if bad is not None:
        return bad
    share = measures["abstained"]
    if share > bounds.max_abstained:
        return (
            f"it leaves {share:.3g} of the labelled answers unjudged, "
            f"{bounds.max_abstained:g} allowed (max_abstained)"
        )
    return None


def _swaps(measures: Mapping[str, float], bounds: LicenceConfig) -> str | None:
    if "swap_consistency" not in measures:
        return None
    bad = _unusable(measures, "swap_consistency", "consistency under swapped order")
    if bad is not None:
        return bad
    share = measures["swap_consistency"]
    if share < bounds.min_swap_consistency:
        return (
            f"both orders name the same winner in {share:.3g} of comparisons, "
            f"{bounds.min_swap_consistency:g} needed (min_swap_consistency)"
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


def _spread(measures: Mapping[str, float], bounds: LicenceConfig) -> str | None:
    bad = _unusable(measures, "spread", "spread of calibrated scores")
    if bad is not None:
        return bad
    spread = measures["spread"]
    if spread < bounds.min_spread:
        return (
            f"it says nearly the same of every answer: spread {spread:.3g}, "
            f"{bounds.min_spread:g} needed (min_spread)"
        )
    return None


def _ties(measures: Mapping[str, float], bounds: LicenceConfig) -> str | None:
    bad = _unusable(measures, "tie_rate", "tie rate")
    if bad is not None:
        return bad
    rate = measures["tie_rate"]
    if rate > bounds.max_tie_rate:
        return (
            f"too many ties: {rate:.3g} of comparable answers, {bounds.max_tie_rate:g} allowed (max_tie_rate)"
        )
    return None


def _injection(measures: Mapping[str, float], bounds: LicenceConfig) -> str | None:
    bad = _unusable(measures, "injection", "resistance to injection")
    if bad is not None:
        return bad
    share = measures["injection"]
    if share > bounds.max_injection:
        return (
            f"answers that ask for marks beat their honest twins in {share:.3g} of canaries, "
            f"{bounds.max_injection:g} allowed (max_injection)"
        )
    return None
