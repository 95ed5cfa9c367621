"""The engine seam: what honed needs of anything that serves the model.

An adapter version is immutable and newly named. A request pins one version from first token to last, and a
load or unload never touches a running request. `hf`, `vllm` and `fake` implement this, and one contract suite
(tests/policies/test_engine_contract.py) runs against each.
"""

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import Protocol, runtime_checkable

from store.records import Message, Sampling


class Priority(IntEnum):
    """Who waits for whom: background sampling and judging never starve a chat."""

    CHAT = 0
    BACKGROUND = 1


@dataclass(frozen=True, slots=True)
class KnownText:
    """A text and its tokens' log-probabilities (nats), as the trainer measured them under adapter and base."""

    prompt: tuple[Message, ...]
    continuation: str
    logprobs: tuple[float, ...]
    base_logprobs: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Proof:
    """What a copy of an adapter must compute; `tolerance` is the mean absolute gap allowed, nats per token."""

    texts: tuple[KnownText, ...]
    tolerance: float


@dataclass(frozen=True, slots=True)
class AdapterRef:
    """Where an adapter lies and what it must digest to. The digest is checked at every load."""

    version: str
    path: Path
    digest: str
    proof: Proof | None = None
    """For engines with several copies, or copies that come and go: each is held against this before it answers."""


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """A drawn token, its log-probability (nats) before temperature, and the likeliest alternatives."""

    token: str
    logprob: float
    top: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True, slots=True)
class Usage:
    prompt_tokens: int
    completion_tokens: int


@dataclass(frozen=True, slots=True)
class Delta:
    """A piece of an answer. The last one has a `finish_reason` ("stop" or "length") and the `usage`.

    `text` never ends inside a UTF-8 character and never holds a part of a stop string.
    """

    text: str
    logprobs: tuple[TokenLogprob, ...] = ()
    finish_reason: str | None = None
    usage: Usage | None = None


@dataclass(frozen=True, slots=True)
class EngineHealth:
    """`ready`: it answers now. `waiting` and `running` count requests."""

    ready: bool
    running: int
    waiting: int
    adapters: tuple[str, ...]
    detail: str = ""


@runtime_checkable
class Metered(Protocol):
    """An engine that has metrics of its own beside what `health` tells."""

    async def metrics(self) -> str:
        """Prometheus exposition text; empty where nobody answers."""
        ...


class Engine(Protocol):
    """A served model. `adapter` None is the untouched base everywhere."""

    @property
    def name(self) -> str:
        """The kind: "hf", "vllm" or "fake"."""
        ...

    @property
    def fingerprint(self) -> str:
        """Short hex digest of base weights, tokenizer, chat template and engine kind."""
        ...

    async def start(self) -> None:
        """Load the base model and warm it; returns when a request would be answered."""
        ...

    async def close(self) -> None:
        """Stop: running requests end with `EngineUnavailable`."""
        ...

    async def load(self, adapter: AdapterRef) -> None:
        """Make a version available. Loading a resident version again does nothing.

        Raises:
            AdapterInvalid: files, digest, shapes or base do not verify; nothing changed.
            AttestationFailed: there is a proof and no copy of the engine computes it; nothing changed.
        """
        ...

    async def unload(self, version: str) -> None:
        """Take no new request for this version; drop it when its last running request has ended.

        Unloading a version that is not resident does nothing.
        """
        ...

    async def resident(self) -> tuple[str, ...]:
        """Versions that take new requests."""
        ...

    async def generate(
        self,
        messages: Sequence[Message],
        sampling: Sampling,
        *,
        adapter: str | None,
        priority: Priority = Priority.CHAT,
    ) -> AsyncIterator[Delta]:
        """Admit a request, then stream its answer. Closing the iterator cancels the request.

        Raises (before the first delta, from the await):
            EngineBusy: the queue is full.
            EngineUnavailable: not started, or closing.
            NotFound: the adapter is not resident (`param` "model").
            Invalid: the prompt and `max_tokens` exceed the context (`param` "messages").
        """
        ...

    async def score(
        self,
        prompts: Sequence[Sequence[Message]],
        continuations: Sequence[str],
        *,
        adapter: str | None,
    ) -> list[list[float]]:
        """Log-probabilities (nats) of each continuation's tokens after its prompt, no end token added.

        Same length as `prompts`; rows differ in length. Runs between chat steps, at background priority.
        """
        ...

    async def health(self) -> EngineHealth:
        """How it is doing; never waits for a running request."""
        ...

    async def yield_compute(self) -> None:
        """Make room for a trainer on the same machine (threads, device memory) while still answering."""
        ...

    async def reclaim_compute(self) -> None:
        """Take back what `yield_compute` gave. Neither call is counted: the last one holds."""
        ...
