"""What `[api]` in config.toml may say. Secrets are not here: keys lie in `keys_file`, as digests."""

from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field


class ApiConfig(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    host: str = "127.0.0.1"
    """Address to listen on. Without `keys_file` only loopback names are answered."""
    port: int = Field(default=8000, ge=0, le=65535)
    """Port to listen on; 0 lets the system choose."""
    keys_file: Path | None = None
    """TOML file of `[[key]]` tables (name, sha256, scopes). Absent: open mode, everyone has every scope."""
    otlp_endpoint: str | None = Field(default=None, pattern=r"^https?://\S+$")
    """Where answers are told as OpenTelemetry spans, without a word of them: OTLP over HTTP, such as
    http://127.0.0.1:4318/v1/traces. Needs `pip install 'honed[otel]'`. Unset: nowhere."""
    requests_per_minute: int = Field(default=0, ge=0)
    """Requests that each key (in open mode, each name) may make in a minute, ten seconds' worth of them at once; more
    are 429 with Retry-After. 0: any number. A key's own `requests_per_minute` goes before this one."""
    max_tokens: int = Field(default=160, ge=1, le=131_072)
    """Longest answer, in tokens, where a request does not say."""
    temperature: float = Field(default=0.7, ge=0, le=2)
    """Sampling temperature where a request does not say; 0 is greedy."""
    top_p: float = Field(default=0.95, gt=0, le=1)
    """Nucleus mass where a request does not say."""
    max_choices: int = Field(default=8, ge=1, le=128)
    """Largest `n` a request may ask for; each choice takes one place in the engine's queue."""
    max_body_bytes: int = Field(default=4 * 1024 * 1024, ge=1024)
    """Largest request body in bytes; more is 413."""
    max_connections: int = Field(default=2000, ge=1, le=100_000)
    """Open connections at the same time; further ones are 503 with Retry-After, and closed. Never more than there are
    descriptors for (`ulimit -n`)."""
    head_seconds: float = Field(default=20.0, gt=0)
    """Seconds that a request's head may take from the connection's begin, or from the answer before; then 408."""
    body_seconds: float = Field(default=60.0, gt=0)
    """Seconds that a request's body may take after its head; then 408."""
    unread_seconds: float = Field(default=60.0, gt=0)
    """Seconds for which a client may read nothing of an answer that waits for it; then the connection is cut."""
    keepalive_s: float = Field(default=10.0, gt=0)
    """Seconds of silence after which a stream carries a comment, so that no proxy gives up on a slow machine."""
    receipt_days: float = Field(default=90.0, gt=0)
    """Days for which `x-honed-receipt` lets a browser vote on the answer it came with."""
    session_hours: float = Field(default=12.0, gt=0)
    """Hours for which an operator stays logged in to the pages, where there is a `keys_file`."""
    events_poll_s: float = Field(default=1.0, gt=0)
    """Seconds between two looks at the store for `GET /v1/events`."""
    drain_seconds: int = Field(default=20, ge=1, le=3600)
    """Seconds that running answers have to finish when the service is told to stop."""
