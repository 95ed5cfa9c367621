"""Whether a text, a JSON value or a row quotes what somebody said. Pure."""

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

#: What stands where a text was.
GONE = "[forgotten]"
#: Words in a row that make a quotation. Shorter texts are looked for whole, single words (they are in every other
#: sentence) not at all, unless there is a figure in them.
RUN = 6
#: Characters from which on a single word with a figure in it is looked for: "1" is in every other version and path.
FIGURE = 3
#: Characters from which on the beginning of a text is taken for the text.
CUT = 120
#: Under these names JSON of honed's has what people and models said.
SAID = frozenset({"content", "before", "after", "continuation", "completion", "chosen", "rejected"})

_WORD = re.compile(r"\w+")


def words_of(text: str) -> tuple[str, ...]:
    return tuple(_WORD.findall(text.casefold()))


def telling(words: tuple[str, ...]) -> bool:
    """Whether a text of these words says something by itself."""
    one = words[0] if len(words) == 1 else ""
    return len(words) > 1 or (len(one) >= FIGURE and any(map(str.isdigit, one)))


@dataclass(frozen=True)
class Quotes:
    """Texts to be found again. `whole`: as they are; `runs`: their word runs, of at most `RUN` words; `ids`: names of
    what they belong to; `words`: every word in them; `heads`: how the long ones begin.
    """

    whole: frozenset[str]
    runs: frozenset[tuple[str, ...]]
    ids: frozenset[str]
    words: frozenset[str]
    heads: frozenset[str]

    @classmethod
    def of(cls, texts: Iterable[str], ids: Iterable[str] = ()) -> "Quotes":
        whole = frozenset(text for text in texts if text.strip())
        runs: set[tuple[str, ...]] = set()
        every: set[str] = set()
        for text in whole:
            found = words_of(text)
            every.update(found)
            if telling(found):
                runs.update(found[at : at + RUN] for at in range(max(1, len(found) - RUN + 1)))
        heads = frozenset(text[:CUT] for text in whole if len(text) >= CUT)
        return cls(whole, frozenset(runs - {()}), frozenset(ids), frozenset(every), heads)

    def but(self, others: "Quotes") -> "Quotes":
        """Those that `others` are not: what is common to both proves nothing."""
        return replace(
            self,
            whole=self.whole - others.whole,
            runs=self.runs - others.runs,
            heads=self.heads - others.heads,
        )

    def named(self, text: str) -> bool:
        """Whether a string names what a text belongs to: "ID", "ID/CHOICE", "ID/CHOICE/EVENT"."""
        return text in self.ids or text.partition("/")[0] in self.ids

    def within(self, text: str) -> bool:
        """Whether a text has one of the texts, or `RUN` words in a row of one, in it."""
        found = words_of(text)
        return any(
            found[at : at + length] in self.runs
            for length in range(1, RUN + 1)
            for at in range(len(found) - length + 1)
        )

    def mentioned(self, value: Any, *, under: str = "") -> bool:
        """Whether a JSON value names what a text belongs to, or has a text where it has what was said.

        Args:
            value: any JSON value.
            under: the name it has in the object that it is part of.
        """
        if isinstance(value, str):
            return self.named(value) or (under in SAID and self.repeats(value))
        if isinstance(value, dict):
            return any(self.named(key) or self.mentioned(inner, under=key) for key, inner in value.items())
        return isinstance(value, list) and any(self.mentioned(each, under=under) for each in value)

    def anywhere(self, value: Any, *, under: str = "") -> bool:
        """Whether any string of a JSON value is one of the texts or names what one belongs to, wherever it is.

        A single word counts only where it has what was said: "user" and "yes" stand in every other file.
        """
        if isinstance(value, str):
            said = under in SAID or telling(words_of(value))
            return self.named(value) or (said and self.repeats(value))
        if isinstance(value, dict):
            return any(self.named(key) or self.anywhere(inner, under=key) for key, inner in value.items())
        return isinstance(value, list) and any(self.anywhere(each, under=under) for each in value)

    def repeats(self, text: str) -> bool:
        """Whether it is one of the texts, or one cut short."""
        return text in self.whole or (len(text) >= CUT and text[:CUT] in self.heads)

    def without(self, value: Any, *, under: str = "") -> Any:
        """A JSON value without the objects in its lists that mention a text, and with `GONE` for what quotes one.

        What others said, or a model said to them, stays as it is to the letter, however much of it is alike: an
        engine is held against the log-probabilities of exactly that.
        """
        if isinstance(value, str):
            quoted = self.repeats(value) if under in SAID else self.within(value)
            return GONE if quoted else value
        if isinstance(value, dict):
            return {
                key: self.without(inner, under=key) for key, inner in value.items() if not self.named(key)
            }
        if isinstance(value, list):
            kept = (each for each in value if not (isinstance(each, dict) and self.mentioned(each)))
            return [self.without(each, under=under) for each in kept]
        return value


def renamed(text: str, names: dict[str, str]) -> str:
    """A text with names, where they stand as words of their own, replaced."""
    if not names:
        return text
    longest_first = sorted(names, key=len, reverse=True)
    pattern = rf"(?<![\w-])({'|'.join(map(re.escape, longest_first))})(?![\w-])"
    return re.sub(pattern, lambda match: names[match.group()], text)
