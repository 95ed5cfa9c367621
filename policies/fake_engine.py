"""A deterministic engine without a model: answers follow from (messages, adapter, seed) by hashing.

It ships with the product so that everything that is not an engine is tested against real engine manners:
queueing, priorities, pinning, cancellation, stop strings, errors. What it says means nothing.
"""

import asyncio
import hashlib
import heapq
import itertools
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from policies.engine import AdapterRef, Delta, EngineHealth, Priority, TokenLogprob, Usage
from policies.spec import verify_manifest
from policies.streams import DeltaStream, StopGate
from store.errors import (
    AdapterInvalid,
    EngineBusy,
    EngineLost,
    EngineUnavailable,
    Invalid,
    NotFound,
    TrainingFailed,
)
from store.records import Message, Sampling

# fmt: off
WORDS = (
    "the", "sun", "rises", "over", "a", "quiet", "harbour", "while", "café", "doors", "open", "and",
    "boats", "drift", "out", "slowly", "past", "old", "stone", "walls", "where", "gulls", "argue",
    "about", "bread", "and", "nobody", "minds", "the", "naïve", "little", "tune", "of", "rain",
)
# fmt: on
SHORTEST, LONGEST = 6, 40


def digest_of(*parts: object) -> bytes:
    """A stable hash of JSON-like values: the only randomness there is."""
    return hashlib.sha256(json.dumps(parts, ensure_ascii=False).encode()).digest()


def answer_tokens(messages: Sequence[Message], adapter: str | None, seed: int | None) -> list[str]:
    """The whole answer as words, each but the first with its leading space."""
    key = digest_of([message.as_dict() for message in messages], adapter, seed).hex()
    length = SHORTEST + int(key[:8], 16) % (LONGEST - SHORTEST)
    picks = [digest_of(key, index)[0] % len(WORDS) for index in range(length)]
    return [(" " if index else "") + WORDS[pick] for index, pick in enumerate(picks)]


def word_logprob(*parts: object) -> float:
    """A log-probability in (-4, 0], from the hash of what it is for."""
    return -4.0 * digest_of(*parts)[0] / 256


def count_tokens(messages: Sequence[Message]) -> int:
    """Words, plus one for each turn's role."""
    return sum(1 + len(message.content.split()) for message in messages)


@dataclass(frozen=True, slots=True)
class FakeLimits:
    """`token_delay` in seconds; `max_batch` answers run at once, `max_queue` more wait."""

    max_batch: int = 8
    max_queue: int = 64
    max_context: int = 2048
    token_delay: float = 0.0
    verify: bool = True
    """Whether `load` checks files and digest; False lets a test name adapters that do not exist."""


@dataclass(eq=False)
class _Request:
    """One answer: what it needs, where it goes, and the task that writes it while it runs."""

    priority: Priority
    messages: Sequence[Message]
    sampling: Sampling
    adapter: str | None
    stream: DeltaStream
    task: asyncio.Task[None] | None = None


@dataclass
class _Queue:
    """Waiting requests: chat before background, then in order of arrival."""

    order: Iterator[int] = field(default_factory=itertools.count)
    heap: list[tuple[int, int, _Request]] = field(default_factory=list)

    def push(self, request: _Request) -> None:
        heapq.heappush(self.heap, (int(request.priority), next(self.order), request))

    def pop(self) -> _Request:
        return heapq.heappop(self.heap)[2]

    def drop(self, request: _Request) -> None:
        self.heap = [entry for entry in self.heap if entry[2] is not request]
        heapq.heapify(self.heap)


class FakeEngine:
    """Implements `policies.engine.Engine` on the event loop alone."""

    name = "fake"
    fingerprint = hashlib.sha256(b"honed fake engine").hexdigest()[:16]

    def __init__(self, limits: FakeLimits | None = None) -> None:
        self._limits = limits or FakeLimits()
        self._started = False
        self._yielded = False
        self._adapters: dict[str, AdapterRef] = {}
        self._queue = _Queue()
        self._running: set[_Request] = set()

    async def start(self) -> None:
        self._started = True

    async def close(self) -> None:
        self._started = False
        running, self._running = self._running, set()
        waiting, self._queue = [entry[2] for entry in self._queue.heap], _Queue()
        for request in [*running, *waiting]:
            if request.task:
                request.task.cancel()
            request.stream.put(EngineLost("the engine was closed"))

    async def load(self, adapter: AdapterRef) -> None:
        if adapter.version in self._adapters:
            return
        if self._limits.verify:
            await asyncio.to_thread(_verify, adapter)
        self._adapters[adapter.version] = adapter

    async def unload(self, version: str) -> None:
        self._adapters.pop(version, None)

    async def resident(self) -> tuple[str, ...]:
        return tuple(self._adapters)

    async def generate(
        self,
        messages: Sequence[Message],
        sampling: Sampling,
        *,
        adapter: str | None,
        priority: Priority = Priority.CHAT,
    ) -> DeltaStream:
        self._require(adapter)
        if count_tokens(messages) + sampling.max_tokens > self._limits.max_context:
            raise Invalid(
                f"the prompt has {count_tokens(messages)} tokens; with max_tokens {sampling.max_tokens} "
                f"that is more than the context of {self._limits.max_context}",
                param="messages",
            )
        if self._live(priority) >= self._limits.max_batch + self._limits.max_queue:
            raise EngineBusy("too many requests wait for an answer", retry_after=1.0)
        stream = DeltaStream(lambda: self._cancel(request))
        request = _Request(priority, messages, sampling, adapter, stream)
        self._queue.push(request)
        self._admit()
        return stream

    async def score(
        self, prompts: Sequence[Sequence[Message]], continuations: Sequence[str], *, adapter: str | None
    ) -> list[list[float]]:
        self._require(adapter)
        rows = []
        for prompt, continuation in zip(prompts, continuations, strict=True):
            key = [message.as_dict() for message in prompt]
            words = continuation.split()
            rows.append([word_logprob(key, adapter, words[: at + 1]) for at in range(len(words))])
        await asyncio.sleep(0)
        return rows

    async def health(self) -> EngineHealth:
        return EngineHealth(
            ready=self._started,
            running=len(self._running),
            waiting=len(self._queue.heap),
            adapters=tuple(self._adapters),
            detail="yielding compute" if self._yielded else "",
        )

    async def yield_compute(self) -> None:
        self._yielded = True

    async def reclaim_compute(self) -> None:
        self._yielded = False

    def _require(self, adapter: str | None) -> None:
        if not self._started:
            raise EngineUnavailable("the engine is not running")
        if adapter is not None and adapter not in self._adapters:
            raise NotFound(f"adapter {adapter} is not loaded", param="model")

    def _live(self, priority: Priority) -> int:
        """Requests of a priority, each counted by itself: background work never fills the queue for people."""
        return sum(
            request.priority is priority for request in [*self._running, *(e[2] for e in self._queue.heap)]
        )

    def _admit(self) -> None:
        while self._queue.heap and len(self._running) < self._limits.max_batch:
            request = self._queue.pop()
            self._running.add(request)
            request.task = asyncio.get_running_loop().create_task(self._answer(request))

    def _cancel(self, request: _Request) -> None:
        if request.task:
            request.task.cancel()
        self._queue.drop(request)
        self._leave(request)

    def _leave(self, request: _Request) -> None:
        self._running.discard(request)
        if self._started:
            self._admit()

    async def _answer(self, request: _Request) -> None:
        """Write one answer, a word per step, then free its row."""
        for delta in answer_deltas(request.messages, request.sampling, request.adapter):
            await asyncio.sleep(self._limits.token_delay)
            if delta.finish_reason:
                # The row is free before the reader learns that the answer ended.
                self._leave(request)
            request.stream.put(delta)


def answer_deltas(messages: Sequence[Message], sampling: Sampling, adapter: str | None) -> Iterator[Delta]:
    """One answer as deltas: pure, so a test can say beforehand what the engine will stream."""
    tokens = answer_tokens(messages, adapter, sampling.seed)
    gate = StopGate(sampling.stop)
    drawn = 0
    met = False
    for token in tokens[: sampling.max_tokens]:
        drawn += 1
        text, met = gate.push(token)
        logprobs = (_token_logprob(token, drawn, sampling),) if sampling.logprobs else ()
        if text or logprobs:
            yield Delta(text, logprobs)
        if met:
            break
    reason = "stop" if met or len(tokens) <= sampling.max_tokens else "length"
    yield Delta(gate.flush(), finish_reason=reason, usage=Usage(count_tokens(messages), drawn))


def _token_logprob(token: str, position: int, sampling: Sampling) -> TokenLogprob:
    own = word_logprob(token, position)
    others = [(f" {word}", own - 1.0 - rank) for rank, word in enumerate(WORDS[: sampling.top_logprobs])]
    return TokenLogprob(token, own, tuple([(token, own), *others][: sampling.top_logprobs]))


def _verify(adapter: AdapterRef) -> None:
    try:
        digest = verify_manifest(adapter.path)
    except (TrainingFailed, ValueError, OSError) as error:
        raise AdapterInvalid(f"{adapter.version}: {error}") from error
    if digest != adapter.digest:
        raise AdapterInvalid(f"{adapter.version}: digest {digest} is not the recorded {adapter.digest}")
