"""One chat request under way: several choices drawn at once, gathered, and written down however it ends."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field

from api.deps import Services
from api.spans import attributes
from policies.engine import Delta, Engine, TokenLogprob, Usage
from store.errors import EngineError, EngineLost
from store.records import BASE, Choice, Completion, CompletionStatus, Message, Sampling


@dataclass(slots=True)
class Draft:
    """A choice as far as it has come."""

    index: int
    parts: list[str] = field(default_factory=list)
    logprobs: list[TokenLogprob] = field(default_factory=list)
    finish_reason: str | None = None
    usage: Usage | None = None

    def add(self, delta: Delta) -> None:
        self.parts.append(delta.text)
        self.logprobs.extend(delta.logprobs)
        self.finish_reason = delta.finish_reason or self.finish_reason
        self.usage = delta.usage or self.usage

    @property
    def text(self) -> str:
        return "".join(self.parts)

    def choice(self, *, stored: bool) -> Choice:
        tokens = self.usage.completion_tokens if self.usage else 0
        return Choice(self.index, self.text if stored else "", self.finish_reason, tokens)


@dataclass(frozen=True, slots=True)
class Piece:
    """What one choice said next."""

    index: int
    delta: Delta


@dataclass(slots=True)
class Run:
    """`completion` is the row as begun; `first_token_at` by the services' clock; `traceparent` as it came."""

    completion: Completion
    streams: list[AsyncIterator[Delta]]
    drafts: list[Draft]
    first_token_at: float | None = None
    traceparent: str | None = None

    @property
    def usage(self) -> Usage:
        """The prompt counts once, however many choices were drawn from it."""
        known = [draft.usage for draft in self.drafts if draft.usage]
        return Usage(
            max((u.prompt_tokens for u in known), default=0), sum(u.completion_tokens for u in known)
        )


async def close(stream: AsyncIterator[Delta]) -> None:
    """Cancel a request at the engine. The protocol promises an iterator; those with a request behind can close."""
    closer = getattr(stream, "aclose", None)
    if closer is not None:
        await closer()


async def admit(
    engine: Engine, messages: Sequence[Message], samplings: Sequence[Sampling], adapter: str | None
) -> list[AsyncIterator[Delta]]:
    """Ask the engine for one stream per sampling; all of them or none."""
    streams: list[AsyncIterator[Delta]] = []
    try:
        for sampling in samplings:
            streams.append(await engine.generate(messages, sampling, adapter=adapter))
    except BaseException:
        for stream in streams:
            await close(stream)
        raise
    return streams


async def begin(services: Services, completion: Completion, streams: list[AsyncIterator[Delta]]) -> Run:
    """Write the row, so that feedback finds it from the first token on."""
    try:
        await asyncio.to_thread(services.store.completions.begin, completion)
    except BaseException:
        for stream in streams:
            await close(stream)
        raise
    return Run(completion, streams, [Draft(index) for index in range(len(streams))])


async def _pump(
    index: int, stream: AsyncIterator[Delta], out: "asyncio.Queue[Piece | Exception | None]"
) -> None:
    finished = False
    try:
        async for delta in stream:
            finished = finished or delta.finish_reason is not None
            out.put_nowait(Piece(index, delta))
        out.put_nowait(None if finished else EngineError("the engine ended an answer without finishing it"))
    except Exception as error:
        out.put_nowait(error)


async def merge(streams: list[AsyncIterator[Delta]], *, tick: float) -> AsyncGenerator[Piece | None, None]:
    """The pieces of all streams as they come, and None after every `tick` seconds of silence.

    Raises the first error of any stream; the others are closed on the way out.
    """
    out: asyncio.Queue[Piece | Exception | None] = asyncio.Queue()
    pumps = [asyncio.create_task(_pump(index, stream, out)) for index, stream in enumerate(streams)]
    left = len(pumps)
    try:
        while left:
            try:
                async with asyncio.timeout(tick):
                    piece = await out.get()
            except TimeoutError:
                yield None
                continue
            if isinstance(piece, Exception):
                raise piece
            if piece is None:
                left -= 1
            else:
                yield piece
    finally:
        for pump in pumps:
            pump.cancel()
        await asyncio.gather(*pumps, return_exceptions=True)
        # Here and not in the pumps: one that is cancelled before it ever ran has no `finally`.
        for stream in streams:
            await close(stream)


async def follow(run: Run, services: Services) -> AsyncGenerator[Piece | None, None]:
    """Yield the pieces (None: silence). However it ends, the row is on disk when this generator has closed."""
    status, cut_off = CompletionStatus.CANCELLED, False
    try:
        async with aclosing(merge(run.streams, tick=services.settings.keepalive_s)) as pieces:
            async for piece in pieces:
                if piece is not None:
                    if run.first_token_at is None:
                        run.first_token_at = services.clock()
                    run.drafts[piece.index].add(piece.delta)
                yield piece
        status = CompletionStatus.DONE
    except Exception as error:
        status, cut_off = CompletionStatus.FAILED, isinstance(error, EngineLost)
        raise
    finally:
        # Shielded: a client that leaves cancels this task, and what it already read must still be written.
        await asyncio.shield(asyncio.create_task(settle(run, status, services, cut_off=cut_off)))


async def settle(run: Run, status: CompletionStatus, services: Services, *, cut_off: bool = False) -> None:
    """Finish the row, then count it.

    An answer that was cut off, because the engine went away under it, has no latency: what is held against its
    version must be the version's doing (`store.outcomes`).
    """
    began, first, usage = run.completion.created_at, run.first_token_at, run.usage
    latency = services.clock() - began
    await asyncio.to_thread(
        services.store.completions.finish,
        run.completion.id,
        status=status,
        choices=[services.privacy.choice(draft.choice(stored=run.completion.stored)) for draft in run.drafts],
        usage=(usage.prompt_tokens, usage.completion_tokens),
        first_token_s=None if first is None else first - began,
        latency_s=None if cut_off else latency,
    )
    services.spans.answered(
        attributes(
            run.completion,
            status,
            model=run.completion.adapter or BASE,
            reasons=tuple(draft.finish_reason or status.value for draft in run.drafts),
            tokens=(usage.prompt_tokens, usage.completion_tokens),
        ),
        began=began,
        until=began + latency,
        parent=run.traceparent,
    )
    meters = services.meters
    meters.completions.labels(status.value).inc()
    meters.tokens.labels("prompt").inc(usage.prompt_tokens)
    meters.tokens.labels("completion").inc(usage.completion_tokens)
    meters.duration.observe(latency)
    if first is not None:
        meters.first_token.observe(first - began)
