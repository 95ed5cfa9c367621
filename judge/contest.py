"""Two versions' answers to the same prompts as numbers: how often the panel prefers the candidate's, and how surely.

Pure functions. What is drawn with replacement is prompts, and length is held against whoever profits from it: judges
like long answers for being long, and a candidate must not be promoted for having learned that.

Lengths are in characters: they need no tokenizer, and answers of an engine and of a trainer are counted alike.

Left out: how hard each prompt is, which AlpacaEval 2 regresses on too; that takes many models on the same prompts.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from judge import defence
from judge.measure import MIN_PROMPTS, RESAMPLES
from judge.scorer import Question
from store.records import Message
from store.shares import wilson

#: Coverage of the intervals, two-sided.
CONFIDENCE = 0.9
#: Prompts a cluster needs before it is looked at by itself.
MIN_CLUSTER = 5
#: Prior standard deviations of quality (log-odds) and of length's pull (log-odds per unit of `longer_by`). Where the
#: data cannot tell the two apart, length takes most of the credit beyond their ratio: answers a tenth longer.
QUALITY, LENGTH = 2.0, 40.0
#: Newton steps; a fit of two parameters is exact after about ten.
STEPS = 40

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Match:
    """One prompt, answered by the candidate and by its opponent.

    `q`: probability, 0..1, that the candidate's answer is the better; None where the panel has no view. `lengths`:
    characters of the candidate's answer and of the other. `cluster`: the kind of prompt; "" is none.
    """

    id: str
    q: float | None
    lengths: tuple[int, int]
    cluster: str = ""


@dataclass(frozen=True, slots=True)
class Answered:
    """One prompt with the candidate's answer and its opponent's, before anybody has judged them."""

    id: str
    prompt: tuple[Message, ...]
    candidate: str
    other: str
    cluster: str = ""

    @property
    def same(self) -> bool:
        """Whether there is nothing to judge."""
        return self.candidate.strip() == self.other.strip()

    @property
    def question(self) -> Question:
        """What scorers are asked: the opponent's answer is number 0, the candidate's number 1."""
        return Question(self.prompt, (self.other, self.candidate))

    def judged(self, q: float | None) -> Match:
        """With the panel's view; two answers that are the same are a tie, and known to be one."""
        lengths = (len(self.candidate), len(self.other))
        known = 0.5 if self.same else 0.0 if self.forfeited else q
        return Match(self.id, known, lengths, self.cluster)

    @property
    def forfeited(self) -> bool:
        """Whether the candidate's answer, and not the other, is one that no judge may see (`judge.defence`).

        That is the answer's own doing, and no outage: without a view it would count for nothing, and a candidate
        could avoid every contest it would lose. The other way round there is no view, and no win either.
        """
        mine, theirs = (defence.refusal(text, self.prompt) for text in (self.candidate, self.other))
        return mine is not None and theirs is None


def outcome(q: float, band: float) -> float:
    """1 where the candidate wins, 0 where it loses, one half where q is within `band` of one half."""
    # The last digits of q and of 1 - q differ: neither side may win by rounding.
    if abs(q - 0.5) <= band + 1e-9:
        return 0.5
    return float(q > 0.5)


def longer_by(lengths: tuple[int, int]) -> float:
    """Relative difference of two lengths, (a - b) / (a + b): -1..1, the tanh of half the logarithm of their ratio.

    Bounded as in AlpacaEval 2 (arXiv 2404.04475), but on a scale of its own: the standard deviation of
    the differences, which is used there, makes much of a few characters where all answers are about as long.
    """
    one, other = lengths
    return (one - other) / (one + other) if one + other else 0.0


def contest_metrics(
    matches: Sequence[Match], *, band: float, seed: int, name: str = "contest"
) -> dict[str, float]:
    """Every number of a contest, as `name`/metric; nothing without a match.

    prompts: those the panel has a view on; every other number but the next is of these alone, and absent without
    any. unjudged: the others, for the gate to see how much evidence is missing. win_rate: mean outcome, ties
    one half; win_low, win_high: its interval. win_lc: what it would be at equal lengths; win_lc_low, win_lc_high: its
    interval. cluster/<name>: win rate of each cluster of at least `MIN_CLUSTER` prompts. worst_cluster: the
    smallest of these, less one half; worst_cluster_high: upper end of its interval (Wilson's), less one half.

    Intervals are of 90% (`CONFIDENCE`), two-sided, and absent below `MIN_PROMPTS` judged prompts.

    Args:
        matches: one for each prompt.
        band: how far from one half q is still a tie.
        seed: of the bootstrap.
        name: of the group.
    """
    if not matches:
        return {}
    judged = [match for match in matches if match.q is not None]
    found = {"prompts": float(len(judged)), "unjudged": float(len(matches) - len(judged))}
    if judged:
        outcomes = np.array([outcome(match.q, band) for match in judged if match.q is not None])
        differences = np.array([longer_by(match.lengths) for match in judged])
        found["win_rate"] = float(outcomes.mean())
        found["win_lc"] = float(at_equal_length(outcomes, differences, np.ones((1, len(judged))))[0])
        if len(judged) >= MIN_PROMPTS:
            found |= intervals(outcomes, differences, seed=seed)
        found |= clusters(judged, outcomes)
    return {f"{name}/{key}": value for key, value in found.items()}


def intervals(outcomes: Floats, differences: Floats, *, seed: int) -> dict[str, float]:
    """Both ends of win_rate's and win_lc's intervals: percentile bootstrap over prompts, `RESAMPLES` times."""
    count = len(outcomes)
    draws = np.random.default_rng(seed).multinomial(
        count, np.full(count, 1 / count), size=RESAMPLES
    )  # (R, N)
    tails = [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2]
    low, high = np.quantile(draws @ outcomes / count, tails)
    equal_low, equal_high = np.quantile(
        at_equal_length(outcomes, differences, draws.astype(np.float64)), tails
    )
    return {
        "win_low": float(low),
        "win_high": float(high),
        "win_lc_low": float(equal_low),
        "win_lc_high": float(equal_high),
    }


def at_equal_length(outcomes: Floats, differences: Floats, weights: Floats) -> Floats:
    """Win rates, (R,), at no difference in length: sigmoid(a) of P(win) = sigmoid(a + b * difference).

    AlpacaEval 2's length control (arXiv 2404.04475). Its b has any sign; here it is at least 0, so that being the
    longer one never excuses losing: whatever is added to the candidate's answers, the result is at most what it is
    at equal lengths. A ridge (`QUALITY`, `LENGTH`) keeps the fit finite where one side always wins or all lengths
    are alike, at the price of drawing it a little towards one half.

    Args:
        outcomes: (N,) 0..1.
        differences: (N,) of `longer_by`.
        weights: (R, N) how often each prompt counts in each fit.
    """
    both = np.stack([np.ones_like(differences), differences], axis=1)
    ridge = np.array([QUALITY**-2, LENGTH**-2])
    fitted = _logistic(both, outcomes, weights, ridge)
    alone = _logistic(both[:, :1], outcomes, weights, ridge[:1])
    quality = np.where(fitted[:, 1] > 0, fitted[:, 0], alone[:, 0])
    return _sigmoid(quality)


def clusters(matches: Sequence[Match], outcomes: Floats) -> dict[str, float]:
    """Win rates by cluster, and the worst one's distance from one half; nothing without a large enough cluster."""
    members: dict[str, list[float]] = defaultdict(list)
    for match, value in zip(matches, outcomes.tolist(), strict=True):
        if match.cluster:
            members[match.cluster].append(value)
    large = {name: values for name, values in sorted(members.items()) if len(values) >= MIN_CLUSTER}
    if not large:
        return {}
    rates = {name: sum(values) / len(values) for name, values in large.items()}
    worst = min(rates, key=lambda name: rates[name])
    _, high = wilson(rates[worst], len(large[worst]), CONFIDENCE)
    found = {f"cluster/{name}": rate for name, rate in rates.items()}
    return found | {"worst_cluster": rates[worst] - 0.5, "worst_cluster_high": high - 0.5}


def _sigmoid(x: Floats) -> Floats:
    return 0.5 * (1 + np.tanh(x / 2))


def _logistic(rows: Floats, target: Floats, weights: Floats, ridge: Floats) -> Floats:
    """Ridge logistic regressions towards soft targets, one for each row of weights: coefficients (R, P).

    Newton's method on all of them at once; a step that would move any log-odds by d is taken log(1 + d) / d of the
    way, with which it converges from anywhere (Sun and Tran-Dinh, arXiv 1703.04599, for generalised self-concordance
    of order 2).

    Args:
        rows: (N, P).
        target: (N,) 0..1.
        weights: (R, N).
        ridge: (P,) inverse prior variances, all above 0.
    """
    found = np.zeros((len(weights), rows.shape[1]))
    for _ in range(STEPS):
        p = _sigmoid(found @ rows.T)  # (R, N)
        gradient = (weights * (target - p)) @ rows - ridge * found
        curvature = np.einsum("rn,np,nq->rpq", weights * p * (1 - p), rows, rows) + np.diag(ridge)
        step = np.linalg.solve(curvature, gradient[:, :, None])[:, :, 0]
        moved = np.abs(step @ rows.T).max(axis=1)
        found += step * np.where(moved > 0, np.log1p(moved) / np.maximum(moved, 1e-300), 1.0)[:, None]
        if moved.max() < 1e-10:
            break
    return found
