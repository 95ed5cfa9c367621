"""Runs of words: what a prompt dictated, and what only one person ever says. Pure.

Against a user who makes the model say something, likes it, and has it taught to everybody (LLM Hypnosis, 2507.02850).
Left out: meaning. A phrase asked for backwards, in another language or by description passes here; what then recurs
in one person's liked answers is still found by its own words.
"""

import math
import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

#: Scripts that write no spaces. A character stands for itself there, and is a part of a word: about half of one in
#: kana and ideographs, about a quarter in Thai, Lao, Burmese and Khmer.
HALVES = "\u3040-\u30ff\u3400-\u9fff"
QUARTERS = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff"
#: What a whole word weighs, and a character of those scripts.
WHOLE, HALF, QUARTER = 4, 2, 1
HALVED, QUARTERED = re.compile(f"[{HALVES}]"), re.compile(f"[{QUARTERS}]")
#: Vowel signs and accents that are characters of their own: they belong to the word (Hindi would fall to pieces).
MARKS = "".join(
    character for character in map(chr, range(0x300, 0x10000)) if unicodedata.category(character)[0] == "M"
)
WORD = re.compile(rf"[{HALVES}{QUARTERS}]|(?:[^\W{HALVES}{QUARTERS}]|(?![{HALVES}{QUARTERS}])[{MARKS}])+")
#: Characters that nobody sees; between the letters of a word they would hide it.
UNSEEN = re.compile("[\u00ad\u180e\u200b-\u200f\u202a-\u202e\u2060-\u2064\ufeff]")
#: A quotation inside a longer answer (an error message, a line of code) dictates nothing until it is this share of
#: all its words, or `QUOTED` times what is long.
QUOTATION, QUOTED = 0.2, 3
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
    if not text.isascii():
        text = UNSEEN.sub("", unicodedata.normalize("NFKC", text))
    return WORD.findall(text.casefold())


def weights(found: Iterable[str]) -> list[int]:
    """What each weighs: `WHOLE` for a word, less for a character of a script without spaces."""
    return [HALF if HALVED.match(one) else QUARTER if QUARTERED.match(one) else WHOLE for one in found]


def count(text: str) -> float:
    """How many words it has; parts of words as parts."""
    return sum(weights(words(text))) / WHOLE


def runs(text: str, length: int) -> set[str]:
    """Every run of `length` words; none where there are fewer."""
    return set(_runs(words(text), length))


def _runs(found: list[str], length: int) -> Iterator[str]:
    """From each word on, as many as make up `length`."""
    weight, wanted = weights(found), length * WHOLE
    end = held = 0
    for start, first in enumerate(weight):
        while held < wanted and end < len(found):
            held, end = held + weight[end], end + 1
        if held < wanted:
            return
        yield " ".join(found[start:end])
        held -= first


def runs_of_all(texts: Iterable[str], length: int) -> set[str]:
    return set().union(*(runs(text, length) for text in texts))


def dictated(text: str, prompt: Iterable[str], *, longest: int, share: float, besides: str = "") -> bool:
    """Whether a text says what its prompt said: a run of `longest` words, or of `share` of all its words.

    Args:
        text: the answer.
        prompt: the turns it answers.
        longest: words. In a longer answer as many more as make up `QUOTATION` of it: else whoever likes answers
            that quote an error message would teach nothing, and whoever dislikes them that quoting is bad.
        share: 0..1, of at least `SHORTEST` words.
        besides: a text whose runs do not count: a pair does not teach what its rejected answer says too.
    """
    turns, size = list(prompt), count(text)
    part = max(SHORTEST, math.ceil(share * size))
    length = min(part, max(longest, min(QUOTED * longest, math.ceil(QUOTATION * size))))
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
        people: how many people must have it for it to be everybody's (`needed`). All who would have it trained
            count as one beside others who were given it: a few who collude do not need fewer of these.
    """
    if people <= 1:
        return frozenset()
    liked = list(said)
    often = _repeated(liked, length, repeats)
    texts: dict[str, int] = defaultdict(int)
    holders: dict[str, set[str]] = defaultdict(set)
    for one in liked:
        for run in _own(one, length):
            if hash(run) in often:
                texts[run] += 1
                holders[run] |= one.people
    open_ = {run for run, times in texts.items() if times >= repeats and len(holders[run]) < people}
    given: dict[str, set[str]] = defaultdict(set)
    for other in heard:
        if not open_:
            break
        for run in (runs(other.text, length) & open_) - runs_of_all(other.prompt, length):
            if other.person not in holders[run]:
                given[run].add(other.person)
            if len(given[run]) >= people - 1:
                open_.discard(run)
    return frozenset(open_)


def _own(one: Said, length: int) -> set[str]:
    return runs(one.text, length) - runs(one.besides, length)


def _repeated(said: Iterable[Said], length: int, repeats: int) -> frozenset[int]:
    """Hashes of the runs that are in so many texts. A log of 100,000 votes has tens of millions of runs, nearly all
    of them once: eight bytes of each are kept, and two that share a hash are told apart afterwards.
    """
    hashes = [np.fromiter(map(hash, _own(one, length)), dtype=np.int64) for one in said]
    if not hashes:
        return frozenset()
    found, times = np.unique(np.concatenate(hashes), return_counts=True)
    return frozenset(found[times >= repeats].tolist())


def shares(text: str, besides: str, found: frozenset[str]) -> bool:
    """Whether a text, without what `besides` says, holds one of these runs (all of one length)."""
    if not found:
        return False
    length = int(count(next(iter(found))))
    return not found.isdisjoint(runs(text, length) - runs(besides, length))
