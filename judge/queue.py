"""Which pairs of answers an operator should look at next. Pure.

Four in five are worth the most: scorers disagree about them, and people ask for such things often; one from each
subject before a second from any. One in five is drawn uniformly from all there is, so that what is measured on those
labels alone says something about every pair (`uniform`), and not about the hard ones only. Which pair is which is a
hash's choice, for ever: whoever has the label can tell, and whoever looks at the pair cannot.

Left out: a bonus for pairs that a model of the labels would learn most from, which needs the answers' features.
"""

import hashlib
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

from judge.prompts import prompt_key
from store.records import Message

#: Share of pairs that are drawn whatever scorers say of them.
UNIFORM = 0.2
#: One slot of so many is theirs.
EVERY = 5
#: Answers to one prompt that are held against each other at the most, the newest.
MAX_ANSWERS = 6
#: (completion id, choice index)
Place = tuple[str, int]


@dataclass(frozen=True, slots=True)
class Given:
    """A recorded answer."""

    place: Place
    prompt: tuple[Message, ...]
    text: str


@dataclass(frozen=True, slots=True)
class Candidate:
    """Two different answers to one prompt, in the order in which they are shown.

    `opinions`: each scorer's probability that the first is the better one. `traffic`: share of what people ask that
    is about the prompt's subject, `cluster`.
    """

    left: Given
    right: Given
    opinions: tuple[float, ...] = ()
    cluster: str = ""
    traffic: float = 0.0

    @property
    def id(self) -> str:
        return pair_id(self.left.place, self.right.place)

    @property
    def worth(self) -> float:
        return disagreement(self.opinions) * self.traffic


def lot(text: str) -> float:
    """A number in 0..1 that a text has for ever."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") / 2**64


def pair_id(one: Place, other: Place) -> str:
    """The same for both orders."""
    names = sorted(f"{completion_id}/{index}" for completion_id, index in (one, other))
    return hashlib.sha256("\n".join(names).encode()).hexdigest()[:16]


def uniform(id: str) -> bool:
    """Whether this pair is one of those that are drawn uniformly."""
    return lot(f"uniform/{id}") < UNIFORM


def disagreement(opinions: Sequence[float]) -> float:
    """How much a person's word would settle, 0..1: how far scorers are apart, then how unsure they are together.

    0 where all are certain of the same answer, 1 where they are certain of opposite ones, one half where none has a
    view.
    """
    mean = sum(opinions) / len(opinions) if opinions else 0.5
    spread = max(opinions) - min(opinions) if opinions else 0.0
    return spread + (1 - spread) * 4 * mean * (1 - mean) / 2


def pairs_of(answers: Sequence[Given], *, settled: Collection[Place]) -> list[Candidate]:
    """Every pair of different answers to one prompt, by prompt in the order these first appear.

    Args:
        answers: newest first.
        settled: answers that somebody labelled already; each counts once only.
    """
    by_prompt: dict[object, list[Given]] = {}
    for one in answers:
        group = by_prompt.setdefault(prompt_key(one.prompt), [])
        fresh = one.text.strip() and all(one.text != other.text for other in group)
        # An operator compares answers to one prompt: to the letter, as the label must.
        if fresh and len(group) < MAX_ANSWERS and (not group or group[0].prompt == one.prompt):
            group.append(one)
    return [
        shuffled(one, other)
        for group in by_prompt.values()
        for one, other in combinations(group, 2)
        if one.place not in settled and other.place not in settled
    ]


def shuffled(one: Given, other: Given) -> Candidate:
    """Which stands left is the pair's own lot: neither the newer nor the better one."""
    first, second = sorted((one, other), key=lambda given: given.place)
    flipped = lot(f"side/{pair_id(first.place, second.place)}") < 0.5
    return Candidate(second, first) if flipped else Candidate(first, second)


def choose(candidates: Sequence[Candidate], limit: int, *, given: int = 0) -> list[Candidate]:
    """The next pairs to label, at most one for each prompt.

    Args:
        candidates: what there is.
        limit: how many at the most.
        given: how many labels were given before; it says whose turn it is, so that one pair asked for at a time are
            drawn like many at once.
    """
    known = {one.id: one for one in candidates}
    drawn = sorted((id for id in known if uniform(id)), key=lambda id: lot(f"turn/{id}"))
    ranked = [(known[id].worth, id) for id in known if not uniform(id)]
    keys = {id: prompt_key(one.left.prompt) for id, one in known.items()}
    taken: Counter[str] = Counter()
    chosen: list[Candidate] = []
    while len(chosen) < limit and (drawn or ranked):
        turn = (given + len(chosen)) % EVERY == EVERY - 1
        if ranked and not (turn and drawn):
            # Of a subject that is there already each further pair is worth a part less.
            next_ = max((worth / (1 + taken[known[id].cluster]), id) for worth, id in ranked)[1]
        else:
            next_ = drawn[0]
        chosen.append(known[next_])
        taken[known[next_].cluster] += 1
        drawn = [id for id in drawn if keys[id] != keys[next_]]
        ranked = [(worth, id) for worth, id in ranked if keys[id] != keys[next_]]
    return chosen


def traffic_of(clusters: Sequence[str]) -> Mapping[str, float]:
    """Each cluster's share of what people asked."""
    count = Counter(clusters)
    return {cluster: number / len(clusters) for cluster, number in count.items()}


#: Probability that the first of two answers is the better one, from a scorer's two scores.
Scale = Callable[[float, float], float]


def opinions_of(
    pair: Candidate, scores: Mapping[Place, Mapping[tuple[str, str], float]], scales: Mapping[str, Scale]
) -> tuple[float, ...]:
    """What every scorer with a scale says of a pair.

    Args:
        pair: the two answers.
        scores: by answer, then by (scorer, question): scores given within one question can be compared.
        scales: by scorer.
    """
    one, other = scores.get(pair.left.place, {}), scores.get(pair.right.place, {})
    latest = {scorer: (one[scorer, question], other[scorer, question]) for scorer, question in one
              if (scorer, question) in other}  # fmt: skip
    return tuple(scales[scorer](*latest[scorer]) for scorer in sorted(latest) if scorer in scales)
