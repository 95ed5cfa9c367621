"""Scores into probabilities of being liked, fitted to what people said, so that a pair's q means what it says.

Three fits, chosen by what there is:

- `pairwise` from 40 questions with a better and a worse answer: Bradley-Terry, P(a over b) = sigmoid(slope * (s_a -
  s_b)), fitted to score differences within questions. Pairs are made within questions, and there a score's offset
  from prompt to prompt (an easy question, a long one) cancels. Fitted across questions that offset is noise,
  which makes q too modest, or a confounder, which makes it too bold. It outranks isotonic for the same reason.
- `platt` below 500 labels: logistic, with Platt's smoothed targets (1999) and a light ridge. Where votes follow p,
  q = sigmoid(logit p_a - logit p_b) is exactly the probability that a is the liked one, given that one is. Asked to
  choose, people are a little less sure than that: one more reason to prefer comparisons once there are enough.
- `isotonic` from 500 labels: any rising shape.

From 10 comparisons on they already bound the other two: what is fitted across questions is flattened until it is no
bolder than the Bradley-Terry slope of its log-odds within them, and where that is not positive nothing is left.

The slope is never negative. A scorer that goes against people, or says nothing, is `constant`: every q is one half
and no pair is made of it. Turning its sign would train on the opposite of its opinions, which nobody wrote.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from judge.humans import TIE, HumanItem, Scored, scored
from judge.scorer import Scores

Kind = Literal["constant", "platt", "pairwise", "isotonic"]
Floats = npt.NDArray[np.float64]

#: Nothing people like is more certain than this: they agree with each other 65-77% of the time.
LEAST, MOST = 0.02, 0.98
MIN_COMPARISONS = 40
#: Comparisons from which they have a say in fits that are not made of them, and in the licence.
FEW_COMPARISONS = 10
MIN_ISOTONIC = 500
#: Inverse strength of the ridge on a slope per standard deviation: about 1% of shrinkage at 40 labels.
RIDGE_C = 10.0
FOLDS = 5
BINS = 10


def _sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x)) if x >= 0 else math.exp(x) / (1 + math.exp(x))


def _logit(p: float) -> float:
    return math.log(p / (1 - p))


def _clip(p: float) -> float:
    return min(MOST, max(LEAST, p))


@dataclass(frozen=True, slots=True)
class Calibration:
    """One scorer's scale. `knots`: (score, probability) in rising order, for `isotonic` alone.

    `labels` and `comparisons`: how much it was fitted to.
    """

    kind: Kind
    slope: float
    intercept: float
    knots: tuple[tuple[float, float], ...] = ()
    labels: int = 0
    comparisons: int = 0

    def probability(self, score: float) -> float:
        """Probability that people like an answer of this score, among labelled answers; 0.02 to 0.98."""
        if self.kind == "isotonic":
            scores, probabilities = zip(*self.knots, strict=True)
            return _clip(float(np.interp(score, scores, probabilities)))
        return _clip(_sigmoid(self.slope * score + self.intercept))

    def q(self, score_a: float, score_b: float) -> float:
        """Probability that a is the better of two answers to one question; 0.02 to 0.98.

        sigmoid(logit p_a - logit p_b). Where p is logistic the difference is taken before clipping: two answers to an
        easy prompt may both be near certain to be liked and still differ.
        """
        if self.kind == "isotonic":
            return _clip(_sigmoid(_logit(self.probability(score_a)) - _logit(self.probability(score_b))))
        return _clip(_sigmoid(self.slope * (score_a - score_b)))

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values, as the licence keeps them."""
        return {
            "kind": self.kind,
            "slope": self.slope,
            "intercept": self.intercept,
            "knots": [list(knot) for knot in self.knots],
            "labels": self.labels,
            "comparisons": self.comparisons,
        }

    @classmethod
    def from_json(cls, kept: Mapping[str, Any]) -> "Calibration":
        """A scale as a licence kept it.

        Raises:
            KeyError: not one of `to_json`.
        """
        return cls(
            kept["kind"],
            float(kept["slope"]),
            float(kept["intercept"]),
            tuple((float(score), float(probability)) for score, probability in kept["knots"]),
            int(kept["labels"]),
            int(kept["comparisons"]),
        )


def fit(items: Sequence[HumanItem], scores: Sequence[Scores]) -> Calibration:
    """The scale of one scorer from people's labels.

    Args:
        items: labelled questions.
        scores: the scorer's, one tuple per item; abstentions are left out.
    """
    return fit_scored(scored(items, scores))


def fit_scored(answers: Scored) -> Calibration:
    """`fit` of labels and scores already lined up."""
    labels, good = len(answers.value), int(answers.good.sum())
    gaps, weights = _within(answers)
    # Each question counts once, however many pairs its answers make.
    compared = round(float(weights.sum()))
    constant = Calibration(
        "constant", 0.0, _logit(_clip((good + 1) / (labels + 2))), labels=labels, comparisons=compared
    )
    if good in (0, labels) or float(np.ptp(answers.value)) <= TIE:
        return constant
    within = _bradley_terry(gaps, weights) if compared >= FEW_COMPARISONS else math.inf
    if within <= 0:
        return constant
    rate = (good + 1) / (labels + 2)
    if compared >= MIN_COMPARISONS:
        intercept = _intercept(answers.value, within, rate)
        return Calibration("pairwise", within, intercept, labels=labels, comparisons=compared)
    if labels >= MIN_ISOTONIC:
        knots = _isotonic(answers)
        if compared >= FEW_COMPARISONS:
            knots = _flattened(knots, answers, rate)
        if knots[0][1] >= knots[-1][1]:
            return constant
        return Calibration("isotonic", 0.0, 0.0, knots, labels=labels, comparisons=compared)
    slope, intercept = _platt(answers)
    if slope <= 0:
        return constant
    if slope > within:
        slope, intercept = within, _intercept(answers.value, within, rate)
    return Calibration("platt", slope, intercept, labels=labels, comparisons=compared)


def _flattened(
    knots: tuple[tuple[float, float], ...], answers: Scored, rate: float
) -> tuple[tuple[float, float], ...]:
    """Knots whose log-odds are scaled down to the slope that comparisons give them; never up, flat below 0."""
    from scipy.special import logit

    scores, probabilities = zip(*knots, strict=True)
    odds = logit(np.interp(answers.value, scores, probabilities))
    factor = min(1.0, max(0.0, _bradley_terry(*_within(replace(answers, value=odds)))))
    if factor == 1:
        return knots
    intercept = _intercept(odds, factor, rate)
    return tuple((score, _clip(_sigmoid(factor * _logit(p) + intercept))) for score, p in knots)


def validate(answers: Scored, *, seed: int) -> dict[str, float]:
    """How well probabilities fitted on some prompts hold on others: five folds by prompt.

    calibration/brier: mean squared error of p; 0.25 is what "one half, always" gets. calibration/ece: distance
    between mean p and the share of good ones, over ten bins of equal width, weighted by size. Absent below five
    prompts.
    """
    prompts = np.unique(answers.prompt)
    if len(prompts) < FOLDS:
        return {}
    fold = np.random.default_rng(seed).permutation(len(prompts)) % FOLDS
    said, good = [], []
    for number in range(FOLDS):
        calibration = fit_scored(answers.of(prompts[fold != number]))
        tested = answers.of(prompts[fold == number])
        said += [calibration.probability(value) for value in tested.value]
        good += tested.good.tolist()
    p, y = np.array(said), np.array(good, dtype=np.float64)
    bins = np.minimum((p * BINS).astype(int), BINS - 1)
    ece = sum(abs(float((p[bins == b] - y[bins == b]).sum())) for b in np.unique(bins)) / len(p)
    return {"calibration/brier": float(np.mean((p - y) ** 2)), "calibration/ece": ece}


def _within(answers: Scored) -> tuple[Floats, Floats]:
    """Score differences, better minus worse, within questions; and weights that sum to 1 for each such question."""
    gaps, weights = [np.empty(0)], [np.empty(0)]
    for values, good in answers.by_question():
        gap = (values[good][:, None] - values[~good][None, :]).ravel()
        if len(gap):
            gaps.append(gap)
            weights.append(np.full(len(gap), 1 / len(gap)))
    return np.concatenate(gaps), np.concatenate(weights)


def _logistic(
    x: Floats, target: Floats, *, weights: Floats | None = None, intercept: bool
) -> tuple[float, float]:
    """Ridge logistic regression on one column towards soft targets: slope, intercept.

    scikit-learn takes classes, so each row stands twice, as a yes weighing `target` and a no weighing the rest.
    """
    from sklearn.linear_model import LogisticRegression

    each = np.ones(len(x)) if weights is None else weights
    model = LogisticRegression(C=RIDGE_C, fit_intercept=intercept, tol=1e-6, max_iter=1000)
    model.fit(
        np.concatenate([x, x])[:, None],
        np.repeat([1, 0], len(x)),
        sample_weight=np.concatenate([each * target, each * (1 - target)]),
    )
    return float(model.coef_[0, 0]), float(model.intercept_[0]) if intercept else 0.0


def _platt(answers: Scored) -> tuple[float, float]:
    centre, scale = float(answers.value.mean()), float(answers.value.std())
    goods = int(answers.good.sum())
    bads = len(answers.good) - goods
    target = np.where(answers.good, (goods + 1) / (goods + 2), 1 / (bads + 2))
    slope, intercept = _logistic((answers.value - centre) / scale, target, intercept=True)
    return slope / scale, intercept - slope * centre / scale


def _bradley_terry(gaps: Floats, weights: Floats) -> float:
    scale = float(np.sqrt(np.average(gaps**2, weights=weights)))
    if scale <= TIE:
        return 0.0
    compared = float(weights.sum())
    target = np.full(len(gaps), (compared + 1) / (compared + 2))
    slope, _ = _logistic(gaps / scale, target, weights=weights, intercept=False)
    return slope / scale


def _intercept(values: Floats, slope: float, rate: float) -> float:
    """The intercept at which the mean probability over `values` is `rate`."""
    from scipy.optimize import brentq
    from scipy.special import expit

    reach = float(np.abs(slope * values).max()) + 40
    return float(brentq(lambda b: float(expit(slope * values + b).mean()) - rate, -reach, reach))


def _isotonic(answers: Scored) -> tuple[tuple[float, float], ...]:
    from sklearn.isotonic import IsotonicRegression

    model = IsotonicRegression(y_min=LEAST, y_max=MOST, out_of_bounds="clip")
    model.fit(answers.value, answers.good.astype(np.float64))
    return tuple(zip(model.X_thresholds_.tolist(), model.y_thresholds_.tolist(), strict=True))
