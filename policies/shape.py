"""What answers look like, whatever they say: length, repetition, variety, endings. Pure functions of tokens."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean


@dataclass(frozen=True, slots=True)
class Answer:
    """A sampled answer: its tokens without the end token, whether it ended, entropy (nats) at each drawn token."""

    tokens: tuple[int, ...]
    text: str
    ended: bool
    entropies: tuple[float, ...]


def ngrams(tokens: Sequence[int], n: int) -> list[tuple[int, ...]]:
    return [tuple(tokens[i : i + n]) for i in range(len(tokens) - n + 1)]


def repetition(tokens: Sequence[int]) -> float:
    """Share of an answer's 4-grams that occurred in it before; 0 for answers shorter than that."""
    grams = ngrams(tokens, 4)
    return 1 - len(set(grams)) / len(grams) if grams else 0.0


def distinct(answers: Sequence[Sequence[int]], n: int) -> float:
    """Different n-grams over all n-grams, in all answers together; 0 where there are none."""
    grams = [gram for tokens in answers for gram in ngrams(tokens, n)]
    return len(set(grams)) / len(grams) if grams else 0.0


def shape(answers: Sequence[Answer]) -> dict[str, float]:
    """Shape metrics of a set of answers; empty for an empty set."""
    if not answers:
        return {}
    entropies = [value for answer in answers for value in answer.entropies]
    return {
        "shape/repetition": fmean(repetition(answer.tokens) for answer in answers),
        "shape/empty": fmean(not answer.text.strip() for answer in answers),
        "shape/ended": fmean(answer.ended for answer in answers),
        "shape/length_tokens": fmean(len(answer.tokens) for answer in answers),
        "shape/distinct_2": distinct([answer.tokens for answer in answers], 2),
        "shape/entropy_token": fmean(entropies) if entropies else 0.0,
    }


def compare_shapes(candidate: Sequence[Answer], incumbent: Sequence[Answer]) -> dict[str, float]:
    """The candidate's shape, the incumbent's under `incumbent/`, and the ratio of mean lengths where it exists."""
    after, before = shape(candidate), shape(incumbent)
    metrics = {**after, **{f"incumbent/{name}": value for name, value in before.items()}}
    if before.get("shape/length_tokens"):
        metrics["shape/length_ratio"] = after["shape/length_tokens"] / before["shape/length_tokens"]
    return metrics
