"""The production engine: `vllm serve` processes, spoken to over HTTP. vLLM itself is never imported.

honed admits (`admission`), chooses a server (`vllm_rotation`), keeps adapters right on each (`vllm_fleet`) and
translates (`vllm_stream`). A request that no server has begun to answer moves to the next server when its own goes
away; one that has begun ends with `EngineUnavailable`, because another server would go on with other words.
"""

import asyncio
import hashlib
import json
import logging
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from policies.adapters import verify_adapter
from policies.admission import Admission
from policies.chat import encode_completion, encode_prompt, end_token, load_tokenizer, refuse_hopeless
from policies.config import EngineConfig
from policies.engine import AdapterRef, Delta, EngineHealth, KnownText, Priority
from policies.streams import DeltaStream
from policies.vllm_attempts import Attempts, failure
from policies.vllm_client import AWAY, Patience, ServerRefused, VllmClient
from policies.vllm_fleet import Fleet, FleetLimits, Host
from policies.vllm_metrics import merged
from policies.vllm_replica import BASE_SALT, COPIES_AGREE, Expected, Replica, Served
from policies.vllm_rotation import Rotation
from policies.vllm_stream import Writer, deltas, request_body
from store.errors import EngineUnavailable, HonedError, Invalid
from store.records import Message, Sampling

log = logging.getLogger(__name__)

#: Characters that are tokenized on the spot; more are handed to a thread so that the loop goes on.
SHORT = 8192
#: What every copy of the model is asked to score where no trainer has left numbers.
PROBE = [Message("user", "Which river flows through the city?")]
PROBE_ANSWER = "The river is called the Danube; it is wide, slow and grey in winter."


@dataclass(eq=False)
class _Request:
    """One answer under way."""

    prompt: list[int]
    sampling: Sampling
    served: Served | None
    priority: Priority
    conversation: object
    task: asyncio.Task[None] | None = None
    counted: bool = True


class VllmEngine:
    """Implements `policies.engine.Engine`."""

    name = "vllm"

    def __init__(
        self,
        config: EngineConfig,
        model_directory: Path,
        base_digest: str,
        *,
        host: Host | None = None,
        key: str | None = None,
    ) -> None:
        """`host`: the process behind the first URL, where honed owns it. `key`: what the servers ask for."""
        self._config, self._directory = config, model_directory
        self.fingerprint = hashlib.sha256(f"vllm {base_digest}".encode()).hexdigest()[:16]
        self._admission = Admission(config.max_batch, config.max_queue)
        patience = Patience(config.load_timeout, config.stall_timeout)
        self._rotation = Rotation(
            [Replica(VllmClient(url, patience, key=key)) for url in config.servers()],
            slack=max(1, config.max_batch // 4),
            changed=self._admission.resize,
        )
        growth = config.recycle_growth_mb * 2**20
        self._fleet = Fleet(self._rotation, FleetLimits(config.load_timeout, config.max_loras, growth), host)
        self._running: set[_Request] = set()
        self._started = False
        self._tokenizer: Any = None
        self._ends: frozenset[int] = frozenset()

    async def start(self) -> None:
        if self._started:
            return
        self._tokenizer = await asyncio.to_thread(load_tokenizer, self._directory)
        self._ends = await asyncio.to_thread(end_tokens, self._directory, self._tokenizer)
        await self._fleet.start(self._text(PROBE, PROBE_ANSWER), self._config.start_timeout)
        self._started = True

    async def close(self) -> None:
        self._started = False
        for request in list(self._running):
            if request.task is not None:
                request.task.cancel("closing")
        await self._fleet.close()

    async def load(self, adapter: AdapterRef) -> None:
        self._require_started()
        await self._fleet.load(adapter, self._verified)

    async def unload(self, version: str) -> None:
        await self._fleet.unload(version)

    async def resident(self) -> tuple[str, ...]:
        return self._fleet.open()

    async def generate(
        self,
        messages: Sequence[Message],
        sampling: Sampling,
        *,
        adapter: str | None,
        priority: Priority = Priority.CHAT,
    ) -> DeltaStream:
        self._require_started()
        prompt = await self._encode(messages)
        context = self._context()
        if len(prompt) + sampling.max_tokens > context:
            raise Invalid(
                f"the prompt has {len(prompt)} tokens; with max_tokens {sampling.max_tokens} that is more than "
                f"the context of {context}",
                param="messages",
            )
        if not self._rotation.serving():
            raise self._rotation.nobody()
        self._admission.count_in(priority)
        try:
            served = None if adapter is None else self._fleet.hold(adapter)
        except BaseException:
            self._admission.count_out(priority)
            raise
        # The opening turns stay while a conversation grows, so its later requests are found to be the same.
        opening = (adapter, *((turn.role, turn.content) for turn in messages[:2]))
        request = _Request(prompt, sampling, served, priority, opening)
        stream = DeltaStream(lambda: self._cancel(request))
        self._running.add(request)
        request.task = asyncio.create_task(self._answer(request, stream))
        # A task that is cancelled before it ever ran has no `finally`.
        request.task.add_done_callback(lambda _: self._leave(request, stream))
        return stream

    async def score(
        self, prompts: Sequence[Sequence[Message]], continuations: Sequence[str], *, adapter: str | None
    ) -> list[list[float]]:
        self._require_started()
        rows = [self._text(prompt, text) for prompt, text in zip(prompts, continuations, strict=True)]
        # One token less than the context: vLLM scores a prompt only together with drawing a token.
        if any(len(row.prompt) + len(row.answer) >= self._context() for row in rows):
            raise Invalid(
                f"a row to score does not fit into the context of {self._context()}", param="messages"
            )
        served = None if adapter is None else self._fleet.hold(adapter)
        # However many rows a caller has, others' find their turn between them.
        share = asyncio.Semaphore(max(1, self._admission.capacity // 4))
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(self._score(row, served, share)) for row in rows]
        except ExceptionGroup as errors:
            raise errors.exceptions[0] from None
        finally:
            if served is not None:
                self._fleet.release(served)
        return [task.result() for task in tasks]

    async def health(self) -> EngineHealth:
        return EngineHealth(
            ready=self._started and bool(self._rotation.serving()),
            running=self._admission.running,
            waiting=self._admission.waiting,
            adapters=self._fleet.open(),
            detail=self._rotation.details(),
        )

    async def metrics(self) -> str:
        """The servers' own metrics, those of servers that answer now."""
        serving = self._rotation.serving()
        found = await asyncio.gather(*(one.client.metrics() for one in serving), return_exceptions=True)
        return merged(
            {one.url: text for one, text in zip(serving, found, strict=True) if isinstance(text, str)}
        )

    async def yield_compute(self) -> None:
        if self._config.share == "sleep":
            await self._fleet.put_to_sleep()

    async def reclaim_compute(self) -> None:
        if self._config.share == "sleep":
            await self._fleet.wake()

    def _require_started(self) -> None:
        if not self._started:
            raise EngineUnavailable("the engine is not running", retry_after=AWAY)

    def _context(self) -> int:
        return min(self._config.max_context, self._rotation.context or self._config.max_context)

    async def _encode(self, messages: Sequence[Message]) -> list[int]:
        characters = refuse_hopeless(messages, self._config.max_context)
        if characters < SHORT:
            return encode_prompt(self._tokenizer, messages)
        return await asyncio.to_thread(encode_prompt, self._tokenizer, messages)

    def _text(self, prompt: Sequence[Message], answer: str, logprobs: tuple[float, ...] = ()) -> Expected:
        ids = encode_completion(self._tokenizer, answer, ended=False)
        return Expected(encode_prompt(self._tokenizer, prompt), ids, logprobs)

    async def _verified(self, ref: AdapterRef) -> Served:
        """The adapter as the servers will hold it, its files verified."""
        await asyncio.to_thread(verify_adapter, ref.path, ref.digest)
        item = Served(ref)
        if ref.proof is not None:
            texts: tuple[KnownText, ...] = ref.proof.texts
            item.expected = [self._text(text.prompt, text.continuation, text.logprobs) for text in texts]
            item.base = [self._text(text.prompt, text.continuation, text.base_logprobs) for text in texts]
            item.tolerance = ref.proof.tolerance if texts else COPIES_AGREE
        return item

    async def _answer(self, request: _Request, stream: DeltaStream) -> None:
        last: Delta | Exception
        try:
            async with self._admission.row(request.priority), aclosing(self._pieces(request)) as pieces:
                async for delta in pieces:
                    if delta.finish_reason is None:
                        stream.put(delta)
                    last = delta
        except HonedError as error:
            last = error
        except Exception:  # whatever it is, its reader must not wait for ever
            log.exception("an answer failed")
            last = EngineUnavailable("the engine failed", retry_after=AWAY)
        # Its place is free before its reader knows, who may well ask again at once.
        self._leave(request, stream)
        stream.put(last)

    async def _pieces(self, request: _Request) -> AsyncGenerator[Delta, None]:
        """The answer, from the first server that begins it."""
        body = request_body(request.prompt, request.sampling, sorted(self._ends))
        attempts = Attempts(self._rotation, request.served)
        while True:
            replica = attempts.next(request.conversation)
            begun = False
            replica.running += 1
            try:
                named = {**body, **self._addressed(replica, request.served)}
                writer = Writer(len(request.prompt), request.sampling, self._tokenizer, self._ends)
                async with aclosing(deltas(replica.client.stream(named), writer)) as found:
                    async for delta in found:
                        begun = True
                        yield delta
                return
            except (EngineUnavailable, ServerRefused) as error:
                await attempts.failed(replica, error)
                if begun:
                    raise failure() from error
            finally:
                replica.running -= 1

    async def _score(self, row: Expected, served: Served | None, share: asyncio.Semaphore) -> list[float]:
        attempts = Attempts(self._rotation, served)
        async with share, self._admission.row(Priority.BACKGROUND):
            while True:
                replica = attempts.next(None)
                replica.running += 1
                try:
                    name = self._addressed(replica, served)
                    return await replica.client.score(
                        name["model"], row.prompt, row.answer, name["cache_salt"]
                    )
                except (EngineUnavailable, ServerRefused) as error:
                    await attempts.failed(replica, error)
                finally:
                    replica.running -= 1

    def _addressed(self, replica: Replica, served: Served | None) -> dict[str, str]:
        """The name a server knows a version by, and the salt of its cached keys and values."""
        if served is None:
            return {"model": replica.base, "cache_salt": BASE_SALT}
        return {"model": served.name, "cache_salt": served.ref.digest}

    def _cancel(self, request: _Request) -> None:
        if request.task is not None:
            request.task.cancel()

    def _leave(self, request: _Request, stream: DeltaStream) -> None:
        """Count a request out, once, however it ended."""
        if not request.counted:
            return
        request.counted = False
        self._running.discard(request)
        self._admission.count_out(request.priority)
        if request.served is not None:
            self._fleet.release(request.served)
        if not self._started:
            stream.put(EngineUnavailable("the engine was closed", retry_after=AWAY))


def end_tokens(directory: Path, tokenizer: Any) -> frozenset[int]:
    """What ends an answer: the model's own, the tokenizer's EOS, and the chat template's end of turn."""
    found: set[int | None] = {tokenizer.eos_token_id, end_token(tokenizer)}
    for name in ("generation_config.json", "config.json"):
        file = directory / name
        ends = json.loads(file.read_text()).get("eos_token_id") if file.is_file() else None
        if ends is not None:
            found |= set(ends) if isinstance(ends, list) else {ends}
            break  # as transformers does: the generation settings, where there are any, decide
    return frozenset(token for token in found if token is not None)
