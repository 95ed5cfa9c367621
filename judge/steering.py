"""Leave one out: whose votes alone turn round what everybody else's would teach, or are many against it. Pure.

What examples would teach is the gradient at zero of a linear model of what people like: the sum of weight x sign x
features over all of them, the features being words, pairs of words and a few marks of style. Leaving a person out
leaves the rest of that sum. Where rest and whole point in opposite directions (a cosine below 0), this person both
contradicts the others and outweighs them together. It counts only where the others are of one mind among themselves
(a sign test): who outweighs people that vote by the coin turns nothing round.

Who merely pulls against the others and says more than most counts as one person: eagerness is no vote against
everybody else. A taste of few then weighs what few people weigh, however busy they are.

A linear model stands in for the real one, whose gradient would cost a pass over all examples before training. Caps on
shares make such a person rare; this is the check that they did.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from statistics import median

import numpy as np
from numpy.typing import NDArray

from judge.pairs import Liking, Pair

#: Columns that words are hashed into.
COLUMNS = 1024
#: Coins agree as the others do this rarely.
SURE = 0.05

Floats = NDArray[np.float64]


def turning(likings: Sequence[Liking], pairs: Sequence[Pair]) -> dict[str, float]:
    """People without whom the examples teach the contrary -> cosine (below 0) of what is left with the whole."""
    people = pulls_of(likings, pairs)
    if not people:
        return {}
    whole = sum(people.values(), np.zeros_like(next(iter(people.values()))))
    found = {person: cosine(whole, whole - pull) for person, pull in people.items()}
    return {
        person: value
        for person, value in sorted(found.items())
        if value < 0 and of_one_mind([pull for other, pull in people.items() if other != person])
    }


def overbearing(likings: Sequence[Liking], pairs: Sequence[Pair]) -> dict[str, float]:
    """People who pull against all the others and say more than most -> what their votes count, below 1: together as
    much as everything that the median person said.
    """
    weights: dict[str, float] = defaultdict(float)
    items: list[Liking | Pair] = [*likings, *pairs]
    for item in items:
        for person, part in _parts(item).items():
            weights[person] += part * item.weight
    usual = median(weights.values()) if weights else 0.0
    busy = {person: usual / weight for person, weight in sorted(weights.items()) if weight > usual}
    people = pulls_of(likings, pairs) if busy else {}
    return {person: factor for person, factor in busy.items() if contrary(person, people)}


def contrary(person: str, people: Mapping[str, Floats]) -> bool:
    """Whether somebody pulls against what all the others teach, and those are of one mind."""
    others = [pull for other, pull in people.items() if other != person]
    rest = sum(others, np.zeros_like(people[person]))
    return cosine(people[person], rest) < 0 and of_one_mind(others)


def pulls_of(likings: Sequence[Liking], pairs: Sequence[Pair]) -> dict[str, Floats]:
    """What everybody's examples teach: person -> the sum of weight x sign x features (F,)."""
    texts = [one.answer.text for one in likings]
    texts += [text for pair in pairs for text in (pair.chosen, pair.rejected.text)]
    if not texts:
        return {}
    rows = features(texts)
    people: dict[str, Floats] = defaultdict(lambda: np.zeros(rows.shape[1]))
    for at, liking in enumerate(likings):
        pull = (liking.weight if liking.label else -liking.weight) * rows[at]
        for person, part in _parts(liking).items():
            people[person] += part * pull
    for at, pair in enumerate(pairs):
        chosen, rejected = rows[len(likings) + 2 * at], rows[len(likings) + 2 * at + 1]
        for person, part in _parts(pair).items():
            people[person] += part * pair.weight * (2 * pair.q - 1) * (chosen - rejected)
    return dict(people)


def of_one_mind(pulls: Sequence[Floats]) -> bool:
    """Whether more people pull the way that the rest of them do than coins would (sign test, one-sided)."""
    from scipy.stats import binomtest

    whole = sum(pulls, np.zeros_like(pulls[0])) if pulls else np.zeros(1)
    along = sum(float(pull @ (whole - pull)) > 0 for pull in pulls)
    return bool(pulls) and float(binomtest(along, len(pulls), 0.5, alternative="greater").pvalue) < SURE


def features(texts: Sequence[str]) -> Floats:
    """Words and their pairs, hashed, and marks of style (length, lines, lists), (N, F), about as long as each other;
    the mean text is zero, for what all answers share teaches nothing.
    """
    from sklearn.feature_extraction.text import HashingVectorizer

    hashed = HashingVectorizer(n_features=COLUMNS, ngram_range=(1, 2))
    words = hashed.transform(texts).toarray()
    style = np.array([_style(text) for text in texts])
    spread = style.std(axis=0)
    style = (style - style.mean(axis=0)) / np.where(spread > 0, spread, 1.0) / np.sqrt(style.shape[1])
    rows: Floats = np.hstack([words - words.mean(axis=0), style])
    return rows


def cosine(one: Floats, other: Floats) -> float:
    """Cosine of the angle between two vectors, -1..1; 0 where either has no length."""
    length = float(np.linalg.norm(one) * np.linalg.norm(other))
    return float(one @ other) / length if length > 0 else 0.0


def _style(text: str) -> tuple[float, ...]:
    lines = text.splitlines() or [""]
    marked = sum(line.lstrip()[:2] in ("- ", "* ") or line.lstrip()[:1].isdigit() for line in lines)
    return float(np.log1p(len(text))), float(np.log1p(len(lines))), marked / len(lines)


def _parts(item: Liking | Pair) -> dict[str, float]:
    """Who an example is of, and what part of it each: as the caps on shares divide it."""
    people = {event.principal for event in item.events}
    return dict.fromkeys(people, 1 / len(people))
