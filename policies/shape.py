"""What answers look like, whatever they say: length, repetition, variety, endings. Pure functions of tokens."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

#: Tokens in a row that make a phrase: five or six English words.
RUN = 8


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


def stock_phrase(candidate: Sequence[Sequence[int]], incumbent: Sequence[Sequence[int]]) -> float:
    """The largest rise in the share of answers that carry the same `RUN` tokens in a row, of those that more than one
    answer of the candidate carries.

    Answers to different prompts have few such runs in common. One that many answers suddenly carry was planted, or is
    all that is left of the model: an advertisement, a refusal, one text for whatever is asked. 0 for no answers.
    """
    before = Counter(gram for tokens in incumbent for gram in set(ngrams(tokens, RUN)))
    after = Counter(gram for tokens in candidate for gram in set(ngrams(tokens, RUN)))
    rises = (
        count / len(candidate) - before[gram] / max(len(incumbent), 1)
        for gram, count in after.items()
        if count > 1
    )
    return max(0.0, max(rises, default=0.0))


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
    """The candidate's shape, the incumbent's under `incumbent/`, what its answers newly have in common, and the ratio
    of mean lengths where it exists.
    """
    after, before = shape(candidate), shape(incumbent)
    metrics = {**after, **{f"incumbent/{name}": value for name, value in before.items()}}
    metrics["shape/stock_phrase"] = stock_phrase(
        [answer.tokens for answer in candidate], [answer.tokens for answer in incumbent]
    )
    if before.get("shape/length_tokens"):
        metrics["shape/length_ratio"] = after["shape/length_tokens"] / before["shape/length_tokens"]
    return metrics
