"""The scorer seam: what the learning loop needs of anything that says how good an answer is.

A scorer sees a prompt and its answers and nothing else: not who asked, not who voted, not which version answered.
Its scores need no common scale; `judge.calibrate` gives them one, from what people said.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from store.records import Message


@dataclass(frozen=True, slots=True)
class Question:
    """One prompt and the answers to judge: a single one, or several to hold against each other."""

    prompt: tuple[Message, ...]
    answers: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Score:
    """A scorer's opinion of one answer; larger is better.

    `consistency`: share of this answer's comparisons (0..1) in which both orders named the same winner; None for
    scorers that look at one answer at a time. `details`: what produced it (principles, rubric versions, option
    log-probabilities), plain JSON values, written down with the judgement.
    """

    value: float
    consistency: float | None = None
    details: Mapping[str, Any] = field(default_factory=dict)


#: The scores of one question's answers, in their order; None where the scorer abstains.
Scores = tuple[Score | None, ...]


class Scorer(Protocol):
    """One way of judging."""

    @property
    def name(self) -> str:
        """As in `[judge] scorers`: "relevance", "rubric", "pairwise", "principles", "external"."""
        ...

    @property
    def version(self) -> str:
        """Short hex digest of everything its scores depend on: its texts, its settings, the judge's weights.

        Two scores of one answer under one version are interchangeable, so they are computed once and kept.
        """
        ...

    @property
    def texts(self) -> Mapping[str, str]:
        """The versioned texts it reads, by name: kept with the iteration, so that a score can be explained."""
        ...

    async def score(
        self, questions: Sequence[Question], *, on_progress: Callable[[int], None] | None = None
    ) -> list[Scores]:
        """Judge every answer of every question, in order.

        Args:
            questions: what to judge.
            on_progress: told how many questions are judged so far.
        """
        ...
