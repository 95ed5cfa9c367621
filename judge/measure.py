"""How far a scorer agrees with people, as numbers: what a licence is decided on.

Agreement is AUC over all labelled answers, liked against disliked, with a bootstrap over prompts (answers to one
prompt are not independent, however many times it was asked). The rest looks for agreement that comes from the wrong
place: length, position, or a scale on which everything is the same.

What cannot be measured is left out of the result: an absent key, never NaN.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from judge import calibrate
from judge.humans import TIE, HumanItem, Scored, scored
from judge.scorer import Scores

RESAMPLES = 1000
#: Below this many labels of the rarer kind there is no interval: a bootstrap that draws the same two answers over
#: and over is narrow about nothing.
MIN_OF_EACH = 5
#: Below this many prompts there is none either: they are what is drawn, and from a handful of them a bootstrap says
#: nothing of the next one. From ten on its 90% interval is still a little too narrow, which `min_auc_lower` bears.
MIN_PROMPTS = 10
#: With fewer pairs within questions than this, ties are counted over liked against disliked answers anywhere.
MIN_WITHIN = 10

Floats = npt.NDArray[np.float64]


def measure(
    items: Sequence[HumanItem], scores: Sequence[Scores], *, confidence: float, seed: int
) -> dict[str, float]:
    """Everything measured about one scorer against people.

    labels: labelled answers it scored. prompts: how many prompts they are about. balance: share of them that are
    good. asked, beyond: labelled answers it was and could not be asked about (see `judge.humans.scored`). abstained:
    share of those asked that it did not score. auc, auc_lower, auc_upper: see `agreement`. accuracy, n_comparisons:
    see `comparisons`. length_correlation, tie_rate: see there. swap_consistency: mean of `Score.consistency` where it
    is given. spread: standard deviation of its calibrated scores (probabilities). calibration/brier,
    calibration/ece: see `judge.calibrate.validate`.

    Args:
        items: labelled questions.
        scores: the scorer's, one tuple per item.
        confidence: coverage of the interval of AUC, two-sided.
        seed: of the bootstrap and the folds.
    """
    answers = scored(items, scores)
    found = {
        "labels": float(len(answers.value)),
        "asked": float(answers.asked),
        "beyond": float(answers.beyond),
        "prompts": float(len(np.unique(answers.prompt))),
    }
    if answers.asked:
        found["abstained"] = 1 - len(answers.value) / answers.asked
    if not len(answers.value):
        return found
    found["balance"] = float(answers.good.mean())
    found |= agreement(answers, confidence=confidence, seed=seed)
    found |= comparisons(answers)
    given = [score.consistency for row in scores for score in row if score is not None]
    consistent = [share for share in given if share is not None]
    optional = {
        "length_correlation": length_correlation(answers),
        "tie_rate": tie_rate(answers),
        "swap_consistency": float(np.mean(consistent)) if consistent else None,
    }
    found |= {name: value for name, value in optional.items() if value is not None}
    calibration = calibrate.fit_scored(answers)
    found["spread"] = float(np.std([calibration.probability(value) for value in answers.value]))
    return found | calibrate.validate(answers, seed=seed)


def _wins(liked: Floats, disliked: Floats) -> Floats:
    """(P, N): 1 where the liked answer scores higher, 0 where lower, one half on a tie."""
    gap = liked[:, None] - disliked[None, :]
    return np.where(np.abs(gap) <= TIE, 0.5, (gap > 0).astype(np.float64))


def agreement(answers: Scored, *, confidence: float, seed: int) -> dict[str, float]:
    """AUC: how often a liked answer scores above a disliked one, ties half; with a percentile bootstrap interval.

    Prompts are drawn with replacement, `RESAMPLES` times. A resampled AUC depends only on how often each prompt was
    drawn, so all of them are two matrix products over W (Q, Q): W[a, b] sums the wins of a's liked answers over
    b's disliked ones.
    """
    liked, disliked = answers.value[answers.good], answers.value[~answers.good]
    if not len(liked) or not len(disliked):
        return {}
    wins = _wins(liked, disliked)
    found = {"auc": float(wins.mean())}
    prompts, index = np.unique(answers.prompt, return_inverse=True)
    if min(len(liked), len(disliked)) < MIN_OF_EACH or len(prompts) < MIN_PROMPTS:
        return found
    of_liked = np.eye(len(prompts))[index[answers.good]]  # (P, Q)
    of_disliked = np.eye(len(prompts))[index[~answers.good]]  # (N, Q)
    by_prompt = of_liked.T @ wins @ of_disliked  # (Q, Q)
    draws = np.random.default_rng(seed).multinomial(
        len(prompts), np.full(len(prompts), 1 / len(prompts)), size=RESAMPLES
    )  # (R, Q)
    pairs = (draws @ of_liked.sum(axis=0)) * (draws @ of_disliked.sum(axis=0))
    won = ((draws @ by_prompt) * draws).sum(axis=1)
    resampled = won[pairs > 0] / pairs[pairs > 0]
    tail = (1 - confidence) / 2
    lower, upper = np.quantile(resampled, [tail, 1 - tail])
    return found | {"auc_lower": float(lower), "auc_upper": float(upper)}


def comparisons(answers: Scored) -> dict[str, float]:
    """Accuracy where pairs are made: on a better and a worse answer to the same question, ties half."""
    won = [_wins(value[good], value[~good]).ravel() for value, good in answers.by_question()]
    outcomes = np.concatenate(won) if won else np.empty(0)
    if not len(outcomes):
        return {"n_comparisons": 0.0}
    return {"n_comparisons": float(len(outcomes)), "accuracy": float(outcomes.mean())}


def length_correlation(answers: Scored) -> float | None:
    """Rank correlation of score with length (characters) among answers people judge alike.

    Spearman's, stratified by label: within the liked and within the disliked, scores and lengths become average
    ranks, centred and divided by the stratum's size; then Pearson's correlation over both strata together. So a
    preference for length that people share does not count, and one they do not share does. None where all scores
    or all lengths are equal within both strata, or no stratum has two answers.
    """
    from scipy.stats import rankdata

    ranks = [
        np.stack([rankdata(values[stratum]), rankdata(answers.length[stratum])])
        for values in (np.round(answers.value / TIE) * TIE,)
        for stratum in (answers.good, ~answers.good)
        if stratum.sum() >= 2
    ]
    if not ranks:
        return None
    x, y = np.concatenate([(r - r.mean(axis=1, keepdims=True)) / r.shape[1] for r in ranks], axis=1)
    scale = float(np.sqrt((x @ x) * (y @ y)))
    return float(x @ y) / scale if scale > 0 else None


def tie_rate(answers: Scored) -> float | None:
    """Share of comparable pairs scored the same (within `TIE`).

    Comparable are two answers to one question, whatever people said of them: that is where pairs are made. With
    fewer than `MIN_WITHIN` of those it is a liked and a disliked answer anywhere, the pairs AUC is made of. None
    without any.
    """
    gaps = [
        (values[:, None] - values[None, :])[np.triu_indices(len(values), 1)]
        for values, _ in answers.by_question()
    ]
    within = np.concatenate(gaps) if gaps else np.empty(0)
    if len(within) < MIN_WITHIN:
        within = (answers.value[answers.good][:, None] - answers.value[~answers.good][None, :]).ravel()
    return float((np.abs(within) <= TIE).mean()) if len(within) else None
