"""The nouns of judging: scores, operators' labels, licences, and the pairs that judges propose."""

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from store.records import Message


@dataclass(frozen=True, slots=True)
class Judgement:
    """One scorer's opinion of one answer.

    `answer` digests the prompt, the answers judged together and which of them this is; `version` everything else
    the score depends on. `completion_id` and `choice_index` name the recorded answer where it is one.
    """

    answer: str
    scorer: str
    version: str
    score: float
    at: float
    completion_id: str | None = None
    choice_index: int | None = None
    iteration: int | None = None
    details: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Label:
    """An operator's opinion, kept to measure judges by; it never trains.

    `good` says whether the answer `completion_id`/`choice_index` is good; or that answer is better than
    `other_id`/`other_index`, or with `same` neither is. Texts that honed never gave become a completion (source
    `label`) first.
    """

    id: str
    created_at: float
    principal: str
    reason: str
    completion_id: str
    choice_index: int = 0
    good: bool | None = None
    other_id: str | None = None
    other_index: int = 0
    same: bool = False


@dataclass(frozen=True, slots=True)
class Shown:
    """One of two answers that an operator is asked to compare."""

    completion_id: str
    choice_index: int
    text: str


@dataclass(frozen=True, slots=True)
class QueueItem:
    """Two answers to one prompt, in the order in which they are shown. Nothing tells who gave or judged them."""

    id: str
    prompt: tuple[Message, ...]
    left: Shown
    right: Shown


@dataclass(frozen=True, slots=True)
class Queue:
    """What operators are asked to compare, the next first; `reason` says why there is nothing."""

    items: tuple[QueueItem, ...]
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class Licence:
    """Whether one scorer's opinions trained in one iteration, and every number that decided it.

    `measures`: what could be measured; `calibration`: how scores became probabilities; `texts`: digests by name.
    """

    iteration: int
    scorer: str
    version: str
    licensed: bool
    reasons: tuple[str, ...]
    measures: dict[str, float]
    calibration: dict[str, Any]
    texts: dict[str, str]
    at: float


class PairOrigin(StrEnum):
    CANDIDATES = "candidates"
    REVISION = "revision"


@dataclass(frozen=True, slots=True)
class JudgedPair:
    """Two recorded answers a judge compared, and whether that trained. `dropped` says why it did not.

    `q`: calibrated probability that `chosen` is the better one. Answers are (completion id, choice index).
    """

    iteration: int
    origin: PairOrigin
    chosen: tuple[str, int]
    rejected: tuple[str, int]
    q: float
    weight: float
    dropped: str | None = None
    details: dict[str, Any] = field(default_factory=dict)

    @property
    def id(self) -> str:
        return f"judge/{self.chosen[0]}/{self.chosen[1]}/{self.rejected[0]}/{self.rejected[1]}"
