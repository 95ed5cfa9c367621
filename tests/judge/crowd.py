"""People and judges made up: answers of known quality, labels drawn from it, scores of known noise."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from judge.humans import HumanItem, Origin
from judge.scorer import Question, Score, Scores
from store.records import Message

#: What a judge says of an answer, seeing its true quality and its text; None abstains.
Opinion = Callable[[float, str], float | None]

#: How sharply people tell one standard deviation of quality.
SHARPNESS = 2.0


@dataclass(frozen=True)
class Crowd:
    """Labelled questions, and each answer's true quality (standard normal) beside them."""

    items: list[HumanItem]
    quality: list[list[float]]

    def judged(self, opinion: Opinion) -> list[Scores]:
        """Scores of a judge that sees true quality and text; None abstains."""
        return [
            tuple(
                None if (value := opinion(quality, text)) is None else Score(value)
                for quality, text in zip(row, item.question.answers, strict=True)
            )
            for item, row in zip(self.items, self.quality, strict=True)
        ]


def sigmoid(x: float) -> float:
    return float(1 / (1 + np.exp(-x)))


def crowd(seed: int, *, comparisons: int = 60, singles: int = 80, longer_is_liked: float = 0.0) -> Crowd:
    """So many comparisons and single votes; lengths follow quality by `longer_is_liked` (0: not at all)."""
    rng = np.random.default_rng(seed)
    items, qualities = [], []
    for number in range(comparisons + singles):
        pair = number < comparisons
        quality = rng.standard_normal(2 if pair else 1).tolist()
        first = rng.random() < sigmoid(SHARPNESS * (quality[0] - (quality[1] if pair else 0.0)))
        lengths = [200 + 40 * (longer_is_liked * q + rng.standard_normal()) for q in quality]
        answers = tuple("x" * max(1, round(length)) for length in lengths)
        goods = (bool(first), not first) if pair else (bool(first),)
        prompt = (Message("user", f"Question {number}?"),)
        source: Origin = "comparison" if pair else "thumb"
        items.append(HumanItem(Question(prompt, answers), goods, source, str(number)))
        qualities.append(quality)
    return Crowd(items, qualities)


def noisy(seed: int, noise: float, *, scale: float = 1.0) -> Callable[[float, str], float]:
    """A judge that sees quality through noise (standard deviations), on a scale of its own."""
    rng = np.random.default_rng([seed, 1])  # not the stream that drew the quality
    return lambda quality, text: scale * (quality + noise * float(rng.standard_normal()))
