"""The nouns honed is about, as frozen values: what crosses from one room to another is one of these.

Facts only. What a fact is worth (a weight, a label, a pair) is an opinion, recomputed by `judge`.
Times are seconds since the epoch (float, UTC).
"""

from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

#: How the untouched model is named where an adapter version is expected.
BASE = "base"
#: The alias clients use for whatever is active now.
ACTIVE_ALIAS = "honed"


class Role(StrEnum):
    SYSTEM = "system"
    DEVELOPER = "developer"
    USER = "user"
    ASSISTANT = "assistant"


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation."""

    role: str
    content: str

    def as_dict(self) -> dict[str, str]:
        return {"role": self.role, "content": self.content}


@dataclass(frozen=True, slots=True)
class Sampling:
    """How to draw an answer. `temperature` 0 means greedy; `seed` makes it repeatable."""

    max_tokens: int = 160
    temperature: float = 0.7
    top_p: float = 0.95
    seed: int | None = None
    stop: tuple[str, ...] = ()
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    logprobs: bool = False
    top_logprobs: int = 0


class Source(StrEnum):
    """Where a completion comes from. Only `chat` was asked here, by a person, for its own sake.

    `import`: read from a file together with what somebody said of it. `label`: texts an operator wrote to compare.
    """

    CHAT = "chat"
    TASK = "task"
    SAMPLE = "sample"
    IMPORT = "import"
    LABEL = "label"


class CompletionStatus(StrEnum):
    STREAMING = "streaming"
    DONE = "done"
    CANCELLED = "cancelled"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Choice:
    """One answer of a completion."""

    index: int
    text: str
    finish_reason: str | None
    tokens: int = 0


@dataclass(frozen=True, slots=True)
class Completion:
    """A logged answer (or `n` of them) and everything needed to learn from it.

    `stored` False means the person opted out: messages and texts are empty, and it never trains.
    `adapter` is None for the base model.
    """

    id: str
    created_at: float
    principal: str
    source: Source
    messages: tuple[Message, ...]
    sampling: Sampling
    adapter: str | None
    engine: str
    status: CompletionStatus
    choices: tuple[Choice, ...] = ()
    stored: bool = True
    prompt_tokens: int = 0
    completion_tokens: int = 0
    first_token_s: float | None = None
    latency_s: float | None = None
    metadata: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Target:
    """What a vote on an answer is held against: who received it, and which choices it has; none of its words."""

    id: str
    principal: str
    adapter: str | None
    stored: bool
    choices: tuple[int, ...]


class FeedbackKind(StrEnum):
    THUMB = "thumb"
    RATING = "rating"
    PREFERENCE = "preference"
    EDIT = "edit"
    REGENERATE = "regenerate"
    CLICK = "click"
    COMMENT = "comment"


CLICKS = ("copy", "share", "link", "follow_up", "abandon", "dwell")


@dataclass(frozen=True, slots=True)
class Feedback:
    """One thing a person did about an answer. Never edited; a later event of the same kind supersedes it.

    `value`: bool or None (thumb), int (rating), completion id or choice index (preference), text (edit,
    comment), completion id (regenerate), one of `CLICKS` (click).
    """

    id: str
    created_at: float
    completion_id: str
    choice_index: int
    principal: str
    kind: FeedbackKind
    value: bool | int | str | None
    reason: str | None = None
    comment: str | None = None
    metadata: dict[str, Any] = field(default_factory=dict)
    supersedes: str | None = None


@dataclass(frozen=True, slots=True)
class Evidence:
    """A live feedback event joined with the answer it is about, and whether it is set aside for ever."""

    feedback: Feedback
    completion: Completion


class AdapterStatus(StrEnum):
    """`candidate` until settled; `canary` answers some people; `active` is the one served; `superseded` was active
    and may come back.
    """

    CANDIDATE = "candidate"
    HELD = "held"
    CANARY = "canary"
    ACTIVE = "active"
    SUPERSEDED = "superseded"
    REJECTED = "rejected"
    ROLLED_BACK = "rolled_back"
    RETIRED = "retired"


#: Statuses of adapters that passed a gate (or a person) and may be served again.
SERVABLE = frozenset({AdapterStatus.ACTIVE, AdapterStatus.SUPERSEDED, AdapterStatus.ROLLED_BACK})


@dataclass(frozen=True, slots=True)
class Adapter:
    """A LoRA adapter: immutable files under a server-made name. `digest` covers its manifest."""

    version: str
    parent: str | None
    iteration: int | None
    path: Path
    digest: str
    status: AdapterStatus
    scale: float
    created_at: float


@dataclass(frozen=True, slots=True)
class Activation:
    """One move of the pointer to the active adapter; None is the base model.

    `left_as` is what became of `previous`, told of the base too, which has no status of its own.
    """

    id: int
    at: float
    version: str | None
    previous: str | None
    actor: str
    reason: str
    left_as: AdapterStatus

    @property
    def backwards(self) -> bool:
        """Whether it was a rollback: nobody chose `version` for being better."""
        return self.left_as is not AdapterStatus.SUPERSEDED


class CanaryOutcome(StrEnum):
    """How a canary ended."""

    PROMOTED = "promoted"
    ROLLED_BACK = "rolled_back"
    HELD = "held"


@dataclass(frozen=True, slots=True)
class Canary:
    """A version that answers a share of the people, beside the incumbent (None: the base) that answers the others.

    `step` counts from 0, `step_at` is when it began. Open until it has an `outcome`.
    """

    id: int
    version: str
    incumbent: str | None
    iteration: int | None
    step: int
    share: float
    began_at: float
    step_at: float
    ended_at: float | None = None
    outcome: CanaryOutcome | None = None
    reason: str | None = None


class Stage(StrEnum):
    """Where an iteration stands. Those in `FINISHED_STAGES` are final but for a later rollback."""

    QUEUED = "queued"
    COLLECTING = "collecting"
    SAMPLING = "sampling"
    JUDGING = "judging"
    TRAINING = "training"
    EVALUATING = "evaluating"
    REJECTED = "rejected"
    HELD = "held"
    CANARY = "canary"
    ACTIVE = "active"
    ROLLED_BACK = "rolled_back"
    FAILED = "failed"
    ABORTED = "aborted"


FINISHED_STAGES = frozenset(
    {Stage.REJECTED, Stage.HELD, Stage.ACTIVE, Stage.ROLLED_BACK, Stage.FAILED, Stage.ABORTED}
)
#: Stages in which the loop has no work of its own left: a canary only waits for people's votes.
SETTLED_STAGES = FINISHED_STAGES | {Stage.CANARY}
#: Iterations that used their feedback up. A rolled back one did too: learning the same again would bring the same
#: adapter back. A held one has not yet: what nobody promotes should not cost people their votes.
SPENT_STAGES = frozenset({Stage.CANARY, Stage.ACTIVE, Stage.ROLLED_BACK})


@dataclass(frozen=True, slots=True)
class Iteration:
    """One turn of the loop. `config` is the resolved configuration it ran with."""

    id: int
    stage: Stage
    trigger: str
    incumbent: str | None
    candidate: str | None
    created_at: float
    updated_at: float
    finished_at: float | None
    attempt: int
    snapshot_digest: str | None
    reason: str | None
    config: dict[str, Any] = field(default_factory=dict)
    counts: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class StageEntry:
    """One move of an iteration: appended, never edited, so durations can be read off."""

    iteration: int
    stage: Stage
    at: float
    note: str | None = None


class Split(StrEnum):
    TRAIN = "train"
    NEVER_TRAIN = "never_train"


@dataclass(frozen=True, slots=True)
class Example:
    """Exact lineage: one feedback event in one iteration, on which side, as what, how heavy.

    `version`: the only one of the iteration's candidates that learned from it; None is all of them. `replayed`: an
    earlier iteration learned from it too.
    """

    iteration: int
    feedback_id: str
    completion_id: str
    split: Split
    form: str
    label: bool | None
    weight: float
    version: str | None = None
    replayed: bool = False


@dataclass(frozen=True, slots=True)
class AnchorUse:
    """One of base's answers that an iteration kept likely; `version` as in `Example`."""

    iteration: int
    completion_id: str
    version: str | None = None


class Verdict(StrEnum):
    """`insufficient`: too little evidence to say; whether that blocks is the gate's configuration."""

    PASS = "pass"  # noqa: S105 - a verdict, not a password
    SOFT = "soft"
    FAIL = "fail"
    INSUFFICIENT = "insufficient"


@dataclass(frozen=True, slots=True)
class GateResult:
    """One metric held against its limits. `value` is None where nothing could be measured."""

    iteration: int
    metric: str
    value: float | None
    soft: float | None
    hard: float | None
    verdict: Verdict
    reason: str


class IntentKind(StrEnum):
    TRAIN = "train"
    PROMOTE = "promote"
    ROLLBACK = "rollback"
    PAUSE = "pause"
    RESUME = "resume"
    LABEL = "label"
    FORGET = "forget"
    RELEASE = "release"


class IntentStatus(StrEnum):
    PENDING = "pending"
    RUNNING = "running"
    DONE = "done"
    REFUSED = "refused"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Intent:
    """What an operator wants. The loop alone acts on it, and writes the outcome here."""

    id: str
    created_at: float
    kind: IntentKind
    principal: str
    reason: str
    arguments: dict[str, Any]
    status: IntentStatus
    outcome: dict[str, Any] = field(default_factory=dict)
    updated_at: float | None = None


@dataclass(frozen=True, slots=True)
class AuditEntry:
    """Who did what, why; append-only."""

    id: int
    at: float
    actor: str
    action: str
    subject: str
    reason: str
    details: dict[str, Any] = field(default_factory=dict)
