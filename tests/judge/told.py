"""An engine whose log-probabilities a test writes down, and questions to ask with it."""

import asyncio
from collections.abc import Callable, Sequence
from typing import TypeVar

from judge.scorer import Question, Score, Scorer, Scores
from policies.fake_engine import FakeEngine
from store.errors import Invalid
from store.records import Message

SECRET = b"a secret of tests"

Rule = Callable[[str, str], list[float]]
T = TypeVar("T")


class ToldEngine(FakeEngine):
    """Scores by a rule of (last message, continuation), refuses rows over `longest` characters, remembers calls."""

    def __init__(self, rule: Rule, *, longest: int = 100_000) -> None:
        super().__init__()
        self.rule, self.longest = rule, longest
        self.calls: list[list[tuple[str, str]]] = []

    async def score(
        self, prompts: Sequence[Sequence[Message]], continuations: Sequence[str], *, adapter: str | None
    ) -> list[list[float]]:
        rows = [(prompt[-1].content, text) for prompt, text in zip(prompts, continuations, strict=True)]
        self.calls.append(rows)
        if any(len(prompt) + len(text) > self.longest for prompt, text in rows):
            raise Invalid("a row to score is longer than the context", param="messages")
        return [self.rule(*row) for row in rows]


def asking(text: str, *answers: str) -> Question:
    return Question((Message("user", text),), answers)


def scores(scorer: Scorer, *questions: Question) -> list[Scores]:
    return asyncio.run(scorer.score(questions))


def given(score: Score | None) -> Score:
    """The score, of an answer that must have one."""
    assert score is not None
    return score
