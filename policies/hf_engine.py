"""The embedded engine: transformers in this process, one thread that owns the model.

Asyncio talks to the thread through a queue and gets deltas back through the loop. Between two steps the thread
takes in what arrived: new requests, cancellations, loads, unloads, scoring. A chat is admitted before background
work and some rows are always kept for it.

Left out: running one batch across adapters. Each version has merged weights of its own (`policies.merging`), so
versions decode one after the other; that only costs while two are busy at once.
"""

import asyncio
import contextlib
import hashlib
import logging
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any, TypeVar

import torch
from transformers import AutoModelForCausalLM

from policies.chat import encode_prompt, end_tokens, load_tokenizer, refuse_hopeless
from policies.config import EngineConfig
from policies.cores import granted
from policies.decoder import Base, verified_decoder
from policies.decoding import Answer, Batch
from policies.detokenize import Detokenizer
from policies.engine import AdapterRef, Delta, EngineHealth, Priority
from policies.forward import Forward
from policies.pace import Pace
from policies.prefix_tree import grow_tree
from policies.prefixes import Prefixes
from policies.scoring import TOKENS, ScoreJob, TokenCount, encode_rows
from policies.streams import DeltaStream
from policies.work import Served, Work, refuse, resolve
from store.errors import EngineBusy, EngineLost, EngineUnavailable, Invalid, NotFound
from store.records import Message, Sampling

log = logging.getLogger(__name__)

#: Characters that are tokenized on the spot; more are handed to a thread so that the loop goes on.
SHORT = 8192

T = TypeVar("T")

#: While people chat, background work gets one turn in so many, and scoring this many tokens in it.
BACKGROUND_EVERY = 4
SCORED_BESIDE_CHAT = 64


class HfEngine:
    """Implements `policies.engine.Engine`."""

    name = "hf"

    def __init__(self, config: EngineConfig, model_directory: Path, base_digest: str) -> None:
        self._config, self._directory = config, model_directory
        self.fingerprint = hashlib.sha256(f"hf {base_digest}".encode()).hexdigest()[:16]
        self._work = Work()
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._served: dict[str | None, Served] = {}
        self._ready = False
        self._base: Base | None = None
        self._turns = 0
        self._pace: Pace
        self._prefixes = Prefixes()
        #: Of every scoring job so far.
        self.scored = TokenCount()
        self._tokenizer: Any = None
        self._ends: frozenset[int] = frozenset()
        self._context = config.max_context
        # One row in four stays free for people while background work runs.
        self._background_rows = max(1, config.max_batch - max(1, config.max_batch // 4))

    async def start(self) -> None:
        if self._thread is not None:
            return
        self._thread = threading.Thread(target=self._run, name="hf-engine", daemon=True)
        self._thread.start()
        await self._call(self._load_base)
        self._ready = True
        stream = await self.generate([Message("user", "Hello")], Sampling(max_tokens=2), adapter=None)
        async for _ in stream:
            pass

    async def close(self) -> None:
        thread, self._thread, self._ready = self._thread, None, False
        if thread is None:
            return
        with self._changed:
            self._work.closing = True
            self._changed.notify()
        await asyncio.to_thread(thread.join)

    async def load(self, adapter: AdapterRef) -> None:
        if adapter.version in self._served and not self._served[adapter.version].closed:
            return
        # Merging reads base weights only, so it can run beside a step; publishing happens between steps.
        model = await asyncio.to_thread(verified_decoder, self._base, adapter)
        await self._call(lambda: self._publish(adapter.version, model))

    async def unload(self, version: str) -> None:
        await self._call(lambda: self._retire(version))

    async def resident(self) -> tuple[str, ...]:
        return self._resident()

    async def generate(
        self,
        messages: Sequence[Message],
        sampling: Sampling,
        *,
        adapter: str | None,
        priority: Priority = Priority.CHAT,
    ) -> DeltaStream:
        if not self._ready:
            raise EngineUnavailable("the engine is not running")
        prompt = await self._encode(messages)
        if len(prompt) + sampling.max_tokens > self._context:
            raise Invalid(
                f"the prompt has {len(prompt)} tokens; with max_tokens {sampling.max_tokens} that is more than "
                f"the context of {self._context}",
                param="messages",
            )
        loop = asyncio.get_running_loop()
        stream = DeltaStream(lambda: self._cancel(answer))

        def emit(item: Delta | Exception) -> None:
            if isinstance(item, Exception) or item.finish_reason:
                # Its place is free before its reader knows, who may well ask again at once.
                self._release([answer])
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody listens any more
                loop.call_soon_threadsafe(stream.put, item)

        answer = Answer(prompt, sampling, adapter, priority, emit, Detokenizer(self._tokenizer))
        with self._changed:
            served = self._require(adapter)
            # Each priority by itself: background work never fills the queue for people.
            if self._work.live[priority] >= self._config.max_batch + self._config.max_queue:
                raise EngineBusy(
                    f"{self._work.live[priority]} requests run or wait already (policies.engine.max_queue)",
                    retry_after=1.0,
                )
            served.users += 1
            self._work.live[priority] += 1
            answer.counted = True
            self._work.waiting[priority].append(answer)
            self._changed.notify()
        return stream

    async def _encode(self, messages: Sequence[Message]) -> list[int]:
        """The prompt's tokens; a long text is read on a thread, so that the loop goes on."""
        characters = refuse_hopeless(messages, self._context)
        if characters < SHORT:
            return encode_prompt(self._tokenizer, messages)
        return await asyncio.to_thread(encode_prompt, self._tokenizer, messages)

    async def score(
        self, prompts: Sequence[Sequence[Message]], continuations: Sequence[str], *, adapter: str | None
    ) -> list[list[float]]:
        if not self._ready:
            raise EngineUnavailable("the engine is not running")
        rows = await encode_rows(prompts, continuations, self._tokenizer, self._encode)
        if any(len(prompt) + len(answer) > self._context for prompt, answer in rows):
            raise Invalid(f"a row to score is longer than the context of {self._context}", param="messages")
        # Sorting thousands of rows takes a while.
        tree = await asyncio.to_thread(grow_tree, rows)
        future: Future[list[list[float]]] = Future()
        with self._changed:
            served = self._require(adapter)
            served.users += 1
            self._work.scores.append((ScoreJob(served.model, tree, adapter, self._prefixes), future))
            self._changed.notify()
        return await asyncio.wrap_future(future)

    async def health(self) -> EngineHealth:
        running = sum(served.rows() for served in list(self._served.values()))
        alive = self._thread is not None and self._thread.is_alive()
        return EngineHealth(
            ready=self._ready and alive,
            running=running + len(self._work.joining),
            waiting=self._work.queued(),
            adapters=self._resident(),
            detail="" if alive else "the engine's thread is not running",
        )

    async def yield_compute(self) -> None:
        await self._call(lambda: self._pace.limit(1))

    async def reclaim_compute(self) -> None:
        await self._call(lambda: self._pace.limit(granted(self._config.threads)))

    # What follows runs on the engine's thread, except where it says otherwise.

    def _run(self) -> None:
        with torch.inference_mode():
            while self._wait_for_work():
                try:
                    self._turn()
                except Exception as error:  # a fault of one step must not leave every client waiting for ever
                    log.exception("a decoding step failed")
                    self._fail_all(EngineUnavailable(f"the engine failed: {error}"))
        self._fail_all(EngineLost("the engine was closed"))

    def _wait_for_work(self) -> bool:
        """Sleep until there is something to do; False when closing."""
        with self._changed:
            while not self._work.closing and not self._busy():
                self._changed.wait()
            return not self._work.closing

    def _busy(self) -> bool:
        work = self._work
        decoding = any(served.rows() for served in self._served.values())
        return bool(decoding or work.calls or work.scores or work.joining or work.queued())

    def _turn(self) -> None:
        """One round: what was asked of the engine, then people, then background work when it is its turn."""
        self._answer_calls()
        self._admit()
        self._turns += 1
        if chatting := self._has(Priority.CHAT):
            self._advance(Priority.CHAT)
        if not chatting or self._turns % BACKGROUND_EVERY == 0:
            self._advance(Priority.BACKGROUND)
            self._score_some(SCORED_BESIDE_CHAT if chatting else TOKENS)
        self._drop_unused()

    def _has(self, priority: Priority) -> bool:
        """Whether anybody of that priority has a row."""
        return any(served.batches[priority].answers for served in self._served.values()) or any(
            answer.priority is priority for answer in self._work.joining
        )

    def _advance(self, priority: Priority) -> None:
        """One piece of one prompt, and one step of every batch."""
        self._prefill_one(priority)
        for served in list(self._served.values()):
            batch = served.batches[priority]
            if batch.answers:
                before = list(batch.answers)
                batch.step()
                # After the step: an answer may be cancelled at any moment, and only the step drops it.
                self._release([answer for answer in before if answer not in batch.answers])

    def _release(self, answers: Sequence[Answer]) -> None:
        """Count requests out, each once. Under the lock: event loops count others in at the same time."""
        with self._changed:
            for answer in answers:
                if answer.counted:
                    answer.counted = False
                    self._served[answer.adapter].users -= 1
                    self._work.live[answer.priority] -= 1

    def _answer_calls(self) -> None:
        while self._work.calls:
            call, future = self._work.calls.popleft()
            resolve(future, call)

    def _admit(self) -> None:
        """Take waiting requests into free rows, people first."""
        with self._changed:
            for priority in Priority:
                queue = self._work.waiting[priority]
                while queue and (queue[0].cancelled or self._rows() < self._limit(priority)):
                    answer = queue.popleft()
                    if answer.cancelled:
                        self._release([answer])
                    else:
                        self._work.joining.append(answer)

    def _prefill_one(self, priority: Priority) -> None:
        answer = next((answer for answer in self._work.joining if answer.priority is priority), None)
        if answer is None:
            return
        if not answer.cancelled:
            self._served[answer.adapter].batches[priority].prefill(answer)
            if answer.chunks:
                return
        self._work.joining.remove(answer)
        if answer.cancelled:
            self._release([answer])

    def _score_some(self, tokens: int) -> None:
        """One forward of the oldest scoring job."""
        if not self._work.scores:
            return
        job, future = self._work.scores[0]
        try:
            finished = future.cancelled() or job.advance(tokens)
        except Exception as error:  # the caller's to handle
            refuse(future, error)
            finished = True
        else:
            if finished:
                self.scored.add(job.count)
                resolve(future, job.results)
        if finished:
            self._work.scores.popleft()
            with self._changed:
                self._served[job.adapter].users -= 1

    def _drop_unused(self) -> None:
        with self._changed:
            for version in [v for v, served in self._served.items() if served.closed and served.users == 0]:
                del self._served[version]
                self._prefixes.forget(version)

    def _fail_all(self, error: EngineUnavailable) -> None:
        with self._changed:
            work, self._work = self._work, Work(closing=self._work.closing)
            answers = [*work.joining, *(answer for queue in work.waiting.values() for answer in queue)]
            for served in self._served.values():
                answers += [answer for batch in served.batches.values() for answer in batch.answers]
                served.batches = self._batches(served.model)
                served.users = 0
            for answer in answers:
                answer.counted = False
                answer.emit(error)
            for _, future in [*work.calls, *work.scores]:
                refuse(future, error)

    def _batches(self, model: Forward) -> dict[Priority, Batch]:
        return {priority: Batch(model, self._tokenizer, self._ends, self._pace) for priority in Priority}

    def _load_base(self) -> None:
        threads = granted(self._config.threads)
        torch.set_num_threads(threads)
        device = self._config.device
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        dtype = torch.bfloat16 if device == "cuda" else torch.float32
        model = AutoModelForCausalLM.from_pretrained(
            self._directory, dtype=dtype, local_files_only=True, use_safetensors=True
        )
        model.requires_grad_(False).eval().to(device)
        self._tokenizer = load_tokenizer(self._directory)
        self._ends = end_tokens(model.generation_config.eos_token_id, self._tokenizer)
        self._context = min(self._config.max_context, model.config.max_position_embeddings)
        self._base = Base(model)
        self._pace = Pace(self._base.go, thin=self._base.thin)
        self._pace.limit(threads)
        self._served[None] = Served(self._batches(self._base.decoder))

    def _publish(self, version: str, model: Forward) -> None:
        with self._changed:
            served = self._served.get(version)
            if served is None:
                self._served[version] = Served(self._batches(model))
            else:
                served.closed = False

    def _retire(self, version: str) -> None:
        with self._changed:
            if version in self._served:
                self._served[version].closed = True
        self._drop_unused()

    def _rows(self) -> int:
        return sum(served.rows() for served in self._served.values()) + len(self._work.joining)

    def _limit(self, priority: Priority) -> int:
        return self._config.max_batch if priority is Priority.CHAT else self._background_rows

    def _resident(self) -> tuple[str, ...]:
        """Versions open for requests (any thread)."""
        return tuple(v for v, served in list(self._served.items()) if v is not None and not served.closed)

    def _require(self, adapter: str | None) -> Served:
        """The resident version (any thread, under the lock)."""
        if not self._ready:  # again, because it may have been closed while a prompt was being read
            raise EngineUnavailable("the engine is not running")
        served = self._served.get(adapter)
        if served is None or served.closed:
            raise NotFound(f"adapter {adapter} is not loaded", param="model")
        return served

    def _cancel(self, answer: Answer) -> None:
        """Mark an answer; its row is freed before the next step (any thread)."""
        with self._changed:
            answer.cancelled = True
            queue = self._work.waiting[answer.priority]
            if answer in queue:
                # It never began: its place in the queue is somebody else's at once.
                queue.remove(answer)
                self._release([answer])
            self._changed.notify()

    async def _call(self, call: Callable[[], T]) -> T:
        """Run something on the engine's thread between two steps (event loop)."""
        future: Future[T] = Future()
        with self._changed:
            if self._thread is None or self._work.closing:
                raise EngineUnavailable("the engine is not running")
            self._work.calls.append((call, future))
            self._changed.notify()
        return await asyncio.wrap_future(future)
