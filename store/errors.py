"""The errors honed raises on purpose. They know nothing of HTTP; `api.errors` maps each to a status.

HonedError
├── Invalid            a value outside what is allowed; names the field
│   └── ConfigError    the same, in config.toml or the environment
├── NotFound           no such completion, adapter, iteration or intent
├── Forbidden          the principal may not do this
├── Conflict           an id or idempotency key used again with another body
├── AlreadyRunning     another service holds the state directory
├── StoreUnavailable   the disk is full or failing, or the store closed; nothing was stored
├── SchemaTooNew       the database was written by a newer honed
├── AdapterInvalid     files that fail verification; never served
├── AttestationFailed  an engine that does not compute what the trainer measured
├── RefusedByGate      an action the gate or an adapter's status forbids
├── TrainingFailed     the trainer child ended without a verified report
│   └── ProcessLost    one of several that train together lost the others
└── EngineError
    ├── EngineBusy         the queue is full; retry after a moment
    └── EngineUnavailable  starting, restarting or gone; retry after a moment
"""


class HonedError(Exception):
    """Base of every error honed raises on purpose."""


class Invalid(HonedError):
    """A value outside what is allowed; `param` names the field."""

    def __init__(self, message: str, *, param: str | None = None) -> None:
        super().__init__(message)
        self.param = param


class ConfigError(Invalid):
    """A configuration key or value that is not allowed."""


class NotFound(HonedError):
    """There is no such record."""

    def __init__(self, message: str, *, param: str | None = None) -> None:
        super().__init__(message)
        self.param = param


class Forbidden(HonedError):
    """The principal may not do this."""


class Conflict(HonedError):
    """An id or idempotency key came again with another body."""


class AlreadyRunning(HonedError):
    """Another service holds this state directory."""


class StoreUnavailable(HonedError):
    """Nothing can be stored, or read, at present; `retry_after` is in seconds."""

    def __init__(self, message: str, *, retry_after: float = 5.0) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class SchemaTooNew(HonedError):
    """The database was written by a newer honed."""


class AdapterInvalid(HonedError):
    """An adapter directory that fails verification."""


class AttestationFailed(HonedError):
    """The engine's log-probabilities differ from those the trainer measured."""


class RefusedByGate(HonedError):
    """The gate, or what it said earlier, forbids this."""


class TrainingFailed(HonedError):
    """The trainer child ended without a verified report."""


class ProcessLost(TrainingFailed):
    """The processes that train together could not go on together; why, is most often for another one to tell."""


class EngineError(HonedError):
    """The engine cannot serve this now; `retry_after` is in seconds."""

    def __init__(self, message: str, *, retry_after: float = 1.0) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class EngineBusy(EngineError):
    """The engine's queue is full."""


class EngineUnavailable(EngineError):
    """The engine is starting, restarting or gone."""


class EngineLost(EngineUnavailable):
    """The engine went away under an answer, which says nothing about the version that was answering."""
