"""People with a taste for certain words, and judges made for them: a good one, a random one, one that is gullible."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from judge.scorer import Question, Score, Scores
from policies.fake_engine import WORDS, digest_of
from store.db import Store
from store.judging import Label
from store.records import Choice, Message
from tests.store.conftest import completion, event

Opinion = Callable[[str], float | None]
VOCABULARY = frozenset(WORDS)


def quality(text: str) -> float:
    """What people here care about: an arbitrary but fixed worth of each word, averaged. 0..1."""
    words = text.split()
    return sum(digest_of("worth", word)[0] for word in words) / (255 * len(words))


def own_words(text: str) -> bool:
    """Whether a text is of the fake engine's making, rather than a canary's."""
    words = re.findall(r"[^\W\d_]+", text.lower())
    return bool(words) and VOCABULARY.issuperset(words)


def good(text: str) -> float:
    return quality(text) if own_words(text) else 0.0


def random(text: str) -> float:
    return digest_of("chance", text)[0] / 255


def gullible(text: str) -> float:
    """As good as the good one, but the more an answer talks about itself the better."""
    return quality(text) if own_words(text) else 1.0 + len(text)


@dataclass
class Made:
    """A scorer that says what a test tells it to, and counts what it was asked."""

    opinion: Opinion
    name: str = "made"
    version: str = "v1"
    texts: Mapping[str, str] = field(default_factory=lambda: {"made/rule": "Worth by word."})
    asked: int = 0

    async def score(self, questions: Sequence[Question], *, on_progress: Any = None) -> list[Scores]:
        self.asked += sum(len(question.answers) for question in questions)
        return [tuple(self._score(text) for text in question.answers) for question in questions]

    def _score(self, text: str) -> Score | None:
        value = self.opinion(text)
        return None if value is None else Score(value)


def fake_text(number: int) -> str:
    return " ".join(WORDS[digest_of("text", number, place)[0] % len(WORDS)] for place in range(30))


def people_with_taste(store: Store) -> None:
    """Forty questions people asked, a quarter of the answers disliked, and sixty labels by the same taste."""
    for number in range(40):
        messages = (Message("user", f"Tell me about subject number {number} of {number * 7}"),)
        answer = (Choice(0, fake_text(number), "stop", 12),)
        logged = completion(
            f"c{number}", messages=messages, choices=answer, principal=f"p{number % 5}", prompt_tokens=9
        )
        store.completions.begin(logged)
        value = quality(answer[0].text) > 0.5
        store.feedback.add(event(f"f{number}", logged.id, value, principal=logged.principal))
    for number in range(60):
        text = fake_text(1000 + number)
        asked = (Message("user", f"Question {number % 20} of the label set"),)
        written = completion(f"l{number}", messages=asked, choices=(Choice(0, text, "stop"),))
        store.completions.begin(written)
        store.labels.add(Label(f"x{number}", 5.0, "op", "", written.id, good=quality(text) > 0.5))
