"""Runs of words: what a prompt dictated, and what only one person ever says. Pure.

Against a user who makes the model say something, likes it, and has it taught to everybody (LLM Hypnosis, 2507.02850).
Left out: meaning. A phrase asked for backwards, in another language or by description passes here; what then recurs
in one person's liked answers is still found by its own words.
"""

import math
import re
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

#: Scripts that write no spaces: each of their characters is a word.
UNSPACED = "\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af"
WORD = re.compile(rf"[{UNSPACED}]|[^\W{UNSPACED}]+")
#: Fewer words than this are nobody's phrase, however large a part of an answer they are.
SHORTEST = 4


@dataclass(frozen=True, slots=True)
class Said:
    """A text that would train as good, without what `besides` already says. `people`: who would have it so."""

    text: str
    people: frozenset[str]
    besides: str = ""


@dataclass(frozen=True, slots=True)
class Heard:
    """An answer somebody was given, and the prompt it was given to."""

    text: str
    prompt: tuple[str, ...]
    person: str


def words(text: str) -> list[str]:
    """Its words, whatever their case and what stands between them."""
    return WORD.findall(text.casefold())


def runs(text: str, length: int) -> set[str]:
    """Every run of `length` words; none where there are fewer."""
    found = words(text)
    return {" ".join(found[at : at + length]) for at in range(len(found) - length + 1)}


def runs_of_all(texts: Iterable[str], length: int) -> set[str]:
    return set().union(*(runs(text, length) for text in texts))


def dictated(text: str, prompt: Iterable[str], *, longest: int, share: float, besides: str = "") -> bool:
    """Whether a text says what its prompt said: a run of `longest` words, or of `share` of all its words.

    Args:
        text: the answer.
        prompt: the turns it answers.
        longest: words.
        share: 0..1, of at least `SHORTEST` words.
        besides: a text whose runs do not count: a pair does not teach what its rejected answer says too.
    """
    turns = list(prompt)
    part = max(SHORTEST, math.ceil(share * len(words(text))))
    length = min(longest, part)
    return bool((runs(text, length) - runs(besides, length)) & runs_of_all(turns, length))


def needed(people: int, *, least: int, share: float) -> int:
    """How many people must have a phrase before it trains: `least`, or `share` of them.

    Everybody but one at the most. With one or two people nobody can vouch for anybody, and one is enough.
    """
    return max(1, min(people - 1, max(least, math.ceil(share * people - 1e-9))))


def private(
    said: Iterable[Said], heard: Iterable[Heard], *, length: int, repeats: int, people: int
) -> frozenset[str]:
    """Runs of `length` words that recur in what some few people would have trained, and in nobody else's answers.

    Args:
        said: what would train as good.
        heard: answers given to anybody. What their own prompt says does not count: who asks for the phrase under
            a second name vouches for nothing.
        length: words of a run.
        repeats: texts a run must be in; what is said less often is chance.
        people: how many people must have it, or have been given it, for it to be everybody's (`needed`).
    """
    if people <= 1:
        return frozenset()
    texts: dict[str, int] = defaultdict(int)
    holders: dict[str, set[str]] = defaultdict(set)
    for one in said:
        for run in runs(one.text, length) - runs(one.besides, length):
            texts[run] += 1
            holders[run] |= one.people
    open_ = {run for run, count in texts.items() if count >= repeats and len(holders[run]) < people}
    for other in heard:
        if not open_:
            break
        for run in (runs(other.text, length) & open_) - runs_of_all(other.prompt, length):
            holders[run].add(other.person)
            if len(holders[run]) >= people:
                open_.discard(run)
    return frozenset(open_)


def shares(text: str, besides: str, found: frozenset[str]) -> bool:
    """Whether a text, without what `besides` says, holds one of these runs (all of one length)."""
    if not found:
        return False
    length = len(next(iter(found)).split())
    return not found.isdisjoint(runs(text, length) - runs(besides, length))
