"""What one person's events say of an answer, and what several people's opinions come to. Pure."""

from collections.abc import Iterable, Sequence

from judge.config import SignalsConfig
from store.records import Feedback, FeedbackKind

#: Less agreement than this (0..1) is no opinion: three against two would train as a fifth of a vote.
DECIDED = 0.25


def person_opinion(events: Iterable[Feedback], signals: SignalsConfig) -> float:
    """One person's signed opinion of one answer, from -1 to 1; 0 when they said nothing that counts.

    What they said outright (thumb, stars) outranks what they did (retry, copy).
    """
    said, done = 0.0, 0.0
    for event in events:
        match event.kind, event.value:
            case FeedbackKind.THUMB, bool(up):
                said += signals.thumb if up else -signals.thumb
            case FeedbackKind.RATING, int(stars):
                said += signals.rating * (stars - 3) / 2
            case FeedbackKind.REGENERATE, _:
                done -= signals.regenerate
            case FeedbackKind.CLICK, "copy":
                done += signals.copy_click
            case FeedbackKind.CLICK, "share":
                done += signals.share
    return max(-1.0, min(1.0, said or done))


def combine(opinions: Sequence[float], worths: Sequence[float] | None = None) -> float:
    """Several people's opinions of one answer as one: disagreement lowers the weight, agreement does not raise it.

    `worths`: what each one's word counts, 0..1; all in full where not given. No more comes of it than the most
    reliable one's word counts.
    """
    counted = worths or [1.0] * len(opinions)
    total = sum(counted)
    if not total:
        return 0.0
    return max(counted) * sum(o * worth for o, worth in zip(opinions, counted, strict=True)) / total


def agreement(opinions: Sequence[float], worths: Sequence[float]) -> float:
    """How much people agree, 0 (as much against as for) to 1."""
    parts = [opinion * worth for opinion, worth in zip(opinions, worths, strict=True)]
    size = sum(abs(part) for part in parts)
    return abs(sum(parts)) / size if size else 0.0
