"""Answers as OpenTelemetry spans, by its conventions for generative AI: names, numbers and times, never a word said.

Off unless `[api] otlp_endpoint` says where they go. The SDK sends them in batches from a thread of its own; a
collector that is away costs spans, never an answer.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol

from store.errors import ConfigError
from store.records import Completion, CompletionStatus

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider

#: Nanoseconds in a second.
NANO = 1_000_000_000
#: Seconds a collector may take for a batch, retries and the end of the service among them.
PATIENCE = 5


class Spans(Protocol):
    """Where finished answers are told."""

    def answered(self, answer: Mapping[str, Any], *, began: float, until: float, parent: str | None) -> None:
        """Tell one answer. `began`, `until`: Unix seconds; `parent`: the client's `traceparent` header."""
        ...

    def close(self) -> None:
        """Send what waits."""
        ...


class NoSpans:
    """Nobody wants to know."""

    def answered(self, answer: Mapping[str, Any], *, began: float, until: float, parent: str | None) -> None:
        pass

    def close(self) -> None:
        pass


class OtlpSpans:
    """Spans to a collector, over OTLP and HTTP."""

    def __init__(self, provider: "TracerProvider") -> None:
        self._provider = provider
        self._tracer = provider.get_tracer("honed")

    def answered(self, answer: Mapping[str, Any], *, began: float, until: float, parent: str | None) -> None:
        from opentelemetry.trace import SpanKind, Status, StatusCode
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        context = TraceContextTextMapPropagator().extract({"traceparent": parent} if parent else {})
        span = self._tracer.start_span(
            f"chat {answer['gen_ai.response.model']}",
            context=context,
            kind=SpanKind.SERVER,
            attributes=dict(answer),
            start_time=int(began * NANO),
        )
        if "error.type" in answer:
            span.set_status(Status(StatusCode.ERROR))
        span.end(end_time=int(until * NANO))

    def close(self) -> None:
        self._provider.shutdown()


def spans_to(endpoint: str | None) -> Spans:
    """Where spans go.

    Raises:
        ConfigError: an endpoint is named and OpenTelemetry is not installed.
    """
    if endpoint is None:
        return NoSpans()
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError as error:
        message = f"api.otlp_endpoint = {endpoint!r} needs OpenTelemetry: pip install 'honed[otel]'"
        raise ConfigError(message, param="api.otlp_endpoint") from error
    provider = TracerProvider(resource=Resource.create({"service.name": "honed"}))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint=endpoint, timeout=PATIENCE)))
    return OtlpSpans(provider)


def attributes(
    completion: Completion,
    status: CompletionStatus,
    *,
    model: str,
    reasons: tuple[str, ...],
    tokens: tuple[int, int],
) -> dict[str, Any]:
    """A finished answer by the GenAI conventions (gen_ai.*), and honed's own.

    Args:
        completion: its row; settings are told only where the answer is kept.
        status: how it ended.
        model: the version that answered, or "base".
        reasons: why each choice ended.
        tokens: of the prompt, and written.
    """
    told: dict[str, Any] = {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "honed",
        "gen_ai.response.id": completion.id,
        "gen_ai.response.model": model,
        "gen_ai.response.finish_reasons": list(reasons),
        "gen_ai.usage.input_tokens": tokens[0],
        "gen_ai.usage.output_tokens": tokens[1],
        "honed.engine": completion.engine,
        "honed.source": completion.source.value,
    }
    if completion.stored:
        told |= {
            "gen_ai.request.temperature": completion.sampling.temperature,
            "gen_ai.request.top_p": completion.sampling.top_p,
            "gen_ai.request.max_tokens": completion.sampling.max_tokens,
        }
    if status is not CompletionStatus.DONE:
        told["error.type"] = status.value
    return told
