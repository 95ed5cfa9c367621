"""Who votes on what is no fair draw: answers that hardly anybody speaks of count for more of those who do. Pure.

e(x), the probability that an answer is spoken of, is a logistic regression on the log: how long the answer, the
question and the conversation are, and how often the same person spoke of earlier answers. What was said of an answer
weighs mean(e) / e, clipped and then self-normalised (inverse propensity scoring, Swaminathan and Joachims, NeurIPS
2015). A fair sample of answers would need none of it.

Two things it cannot mend: votes given because of how the answer was (that is what votes are for), and answers nobody
like whose reader ever votes.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from judge.config import PropensityConfig

#: Answers somebody is taken to have been given before, spoken of as often as anybody's.
PRIOR = 5.0
#: scikit-learn's inverse strength of the ridge, on standardised features.
RIDGE_C = 1.0


@dataclass(frozen=True, slots=True)
class Shown:
    """An answer that somebody was given, and whether they said anything of it. Lengths in words."""

    completion_id: str
    person: str
    answer_words: int
    question_words: int
    turns: int
    spoken: bool


def weights(shown: Sequence[Shown], config: PropensityConfig) -> dict[str, float]:
    """Weight of each answer that was spoken of, by completion id: 1 on average. Empty where too little is known.

    Args:
        shown: oldest first.
        config: bounds, and how many are needed.
    """
    spoken = [index for index, one in enumerate(shown) if one.spoken]
    if min(len(spoken), len(shown) - len(spoken)) < config.least or not config.enabled:
        return {}
    chance = spoken_of(shown)
    raw = np.clip(chance.mean() / chance[spoken], config.smallest, config.largest)
    normal = raw / raw.mean()
    return {shown[index].completion_id: float(weight) for index, weight in zip(spoken, normal, strict=True)}


def spoken_of(shown: Sequence[Shown]) -> NDArray[np.float64]:
    """The fitted probability of each answer to be spoken of, (N,)."""
    from sklearn.linear_model import LogisticRegression

    columns = np.array([_features(one, habit) for one, habit in zip(shown, habits(shown), strict=True)])
    spread = columns.std(axis=0)
    scaled = (columns - columns.mean(axis=0)) / np.where(spread > 0, spread, 1.0)
    model = LogisticRegression(C=RIDGE_C, tol=1e-6, max_iter=1000)
    model.fit(scaled, np.array([one.spoken for one in shown]))
    chances: NDArray[np.float64] = model.predict_proba(scaled)[:, 1]
    return chances


def habits(shown: Sequence[Shown]) -> list[float]:
    """How often each answer's reader spoke of the answers they had before it, 0..1, shrunk towards everybody's share.

    Of those before: counting the answer itself tells the model what it is to predict, and so does taking it out of a
    count of all, for then who has the same count stands lower wherever they spoke.
    """
    overall = sum(one.spoken for one in shown) / max(1, len(shown))
    given: Counter[str] = Counter()
    spoke: Counter[str] = Counter()
    found = []
    for one in shown:
        found.append((spoke[one.person] + PRIOR * overall) / (given[one.person] + PRIOR))
        given[one.person] += 1
        spoke[one.person] += one.spoken
    return found


def _features(one: Shown, habit: float) -> tuple[float, ...]:
    lengths = (one.answer_words, one.question_words, one.turns)
    return (*(float(np.log1p(length)) for length in lengths), float(np.log(habit / (1 - habit))))


def effective(found: Mapping[str, float]) -> float:
    """Kish's effective sample size of the weights, as a share of their number, 0..1; 1 where there are none."""
    values = np.array(list(found.values()))
    return float(values.sum() ** 2 / (len(values) * (values**2).sum())) if len(values) else 1.0
