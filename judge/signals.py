"""What weak signals are worth, learned from people who did both: retried or copied, and said outright. Pure.

On answers of which somebody said something outright (a thumb, stars), the odds that they liked it are a logistic
regression on what they did besides. A signal's coefficient b says how far it moves the odds; at even odds that makes
a probability s(b), and a weight of |2 s(b) - 1|. Even odds, not those of the service: where nine thumbs of ten are
up, a signal that says nothing would else be worth 0.8. Everybody counts alike, and what is held back does not count.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np

from judge.config import SignalsConfig
from judge.opinions import person_opinion
from store.records import Evidence, Feedback, FeedbackKind

#: Fields of `SignalsConfig` that stand for a weak signal -> its sign, and the events that are one.
WEAK: Mapping[str, tuple[int, Callable[[Feedback], bool]]] = {
    "regenerate": (-1, lambda event: event.kind is FeedbackKind.REGENERATE),
    "copy_click": (1, lambda event: event.kind is FeedbackKind.CLICK and event.value == "copy"),
    "share": (1, lambda event: event.kind is FeedbackKind.CLICK and event.value == "share"),
}
OUTRIGHT = frozenset({FeedbackKind.THUMB, FeedbackKind.RATING})
#: scikit-learn's inverse strength of the ridge: a coefficient of 1 costs as much as half a vote.
RIDGE_C = 1.0
#: A weight is fitted once so many people sent the signal, or all there are: nobody says alone what others mean by it.
PEOPLE = 4


@dataclass(frozen=True, slots=True)
class Worth:
    """The signals as this service's people use them. `seen`: signal -> answers its weight was fitted on; the weights
    of others are the configured ones.
    """

    signals: SignalsConfig
    seen: Mapping[str, int] = field(default_factory=dict)


def refit(said: Iterable[Evidence], signals: SignalsConfig) -> Worth:
    """Weights of the weak signals by what people said outright of the same answers, where enough did."""
    rows, liked, people = observed(said, signals)
    counts = {name: sum(row[at] for row in rows) for at, name in enumerate(WEAK)}
    several = min(PEOPLE, len(set(people)))
    enough = [
        name
        for at, (name, count) in enumerate(counts.items())
        if signals.refit_min
        and min(count, len(rows) - count) >= signals.refit_min
        and len({who for row, who in zip(rows, people, strict=True) if row[at]}) >= several
    ]
    if not enough or len(set(liked)) < 2:
        return Worth(signals)
    moves = dict(zip(WEAK, _coefficients(rows, liked, people), strict=True))
    fitted = {name: _weight(moves[name] * WEAK[name][0], signals.refit_floor) for name in enough}
    return Worth(signals.model_copy(update=fitted), {name: counts[name] for name in enough})


def observed(
    said: Iterable[Evidence], signals: SignalsConfig
) -> tuple[list[tuple[bool, ...]], list[bool], list[str]]:
    """Per person and answer that was spoken of outright: which weak signals there were, whether it was liked, and who
    said so.
    """
    everything: dict[tuple[str, str, int], list[Feedback]] = defaultdict(list)
    for item in said:
        event = item.feedback
        everything[event.principal, event.completion_id, event.choice_index].append(event)
    rows, liked, people = [], [], []
    for (person, _, _), events in everything.items():
        opinion = person_opinion([event for event in events if event.kind in OUTRIGHT], signals)
        if opinion:
            rows.append(tuple(any(is_one(event) for event in events) for _, is_one in WEAK.values()))
            liked.append(opinion > 0)
            people.append(person)
    return rows, liked, people


def _coefficients(rows: list[tuple[bool, ...]], liked: list[bool], people: list[str]) -> list[float]:
    """Everybody counts alike, however many answers they spoke of; the ridge sees as many rows as there are."""
    from sklearn.linear_model import LogisticRegression

    each = Counter(people)
    share = [len(people) / (len(each) * each[person]) for person in people]
    model = LogisticRegression(C=RIDGE_C, tol=1e-6, max_iter=1000)
    model.fit(np.array(rows, dtype=np.float64), np.array(liked), sample_weight=np.array(share))
    return [float(value) for value in model.coef_[0]]


def _weight(coefficient: float, floor: float) -> float:
    """2 s(b) - 1 = tanh(b / 2); nothing below the floor, nor for a signal that says the contrary here."""
    weight = float(np.tanh(coefficient / 2))
    return weight if weight >= floor else 0.0
