"""The bodies clients send. Unknown keys are ignored, since front ends send extras; a known key whose meaning
cannot be honoured is refused, since silently ignoring `tools` is worse than saying no.
"""

from collections.abc import Callable
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    ValidationInfo,
    field_validator,
)
from pydantic_core import CoreSchema
from pydantic_core.core_schema import no_info_after_validator_function

from api.config import ApiConfig
from store.records import CLICKS, FeedbackKind, Message, Sampling

MAX_TEXT = 100_000


class Wire(BaseModel):
    # Strict: "0.7" is not a temperature. Nulls mean "not given", as openai-python sends them.
    model_config = ConfigDict(extra="ignore", strict=True, allow_inf_nan=False, frozen=True)


def _unicode(text: str) -> str:
    """JSON can spell half a surrogate pair, which no file and no database can hold."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError("has a lone surrogate, which is not text") from error
    return text


Text = Annotated[str, AfterValidator(_unicode)]


class Only:
    """Accept what is the default anyway, and say that nothing else is."""

    def __init__(self, *allowed: Any) -> None:
        self.allowed = allowed

    def check(self, value: Any) -> Any:
        # Types first: 0 and False are not the same to a client.
        if not any(type(value) is type(one) and value == one for one in self.allowed):
            shown = " or ".join(repr(one) for one in self.allowed)
            raise ValueError(f"is not supported by this server; leave it out or send {shown}")
        return value

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return no_info_after_validator_function(self.check, handler(source))

    def __get_pydantic_json_schema__(self, _: CoreSchema, __: GetJsonSchemaHandler) -> dict[str, Any]:
        return {"enum": list(self.allowed)}


def _list(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


def _text(content: Any) -> Any:
    """A list of text parts as one string, joined by newlines as vLLM does."""
    if not isinstance(content, list):
        return content
    for index, part in enumerate(content):
        kind = part.get("type") if isinstance(part, dict) else None
        if not isinstance(part, dict) or kind != "text" or not isinstance(part.get("text"), str):
            raise ValueError(
                f'part {index} must be {{"type": "text", "text": "..."}}; images, audio and files are not served'
            )
    return "\n".join(part["text"] for part in content)


def _small(values: dict[str, Any]) -> dict[str, Any]:
    # Looked at by hand: pydantic would name the members of a union in the error's path.
    for key, value in values.items():
        scalar = isinstance(value, str | int | float | bool | None)
        if not scalar:
            raise ValueError(f"the value of {key!r} must be text, a number, true, false or null")
        if len(key) > 64 or (isinstance(value, str) and len(_unicode(value)) > 512):
            raise ValueError("keys have at most 64 characters and values at most 512")
    return values


Metadata = Annotated[dict[Text, Any], Field(max_length=16), AfterValidator(_small)]
Refused = Annotated[Any, Only(None, [], {})]


class ChatMessage(Wire):
    role: Literal["system", "developer", "user", "assistant"]
    content: Annotated[Text, BeforeValidator(_text)]
    tool_calls: Refused = None
    function_call: Refused = None
    audio: Refused = None


class StreamOptions(Wire):
    include_usage: bool | None = None


class ChatRequest(Wire):
    """`POST /v1/chat/completions`."""

    model: Text
    messages: list[ChatMessage] = Field(min_length=1)
    max_tokens: int | None = Field(default=None, ge=1, le=1_000_000)
    max_completion_tokens: int | None = Field(default=None, ge=1, le=1_000_000)
    temperature: float | None = Field(default=None, ge=0, le=2)
    top_p: float | None = Field(default=None, gt=0, le=1)
    n: int | None = Field(default=None, ge=1, le=128)
    seed: int | None = Field(default=None, ge=-(2**63), lt=2**63)
    stop: Annotated[
        list[Annotated[Text, Field(min_length=1)]] | None, Field(max_length=4), BeforeValidator(_list)
    ] = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = Field(default=None, ge=0, le=20)
    frequency_penalty: float | None = Field(default=None, ge=-2, le=2)
    presence_penalty: float | None = Field(default=None, ge=-2, le=2)
    user: Text | None = Field(default=None, max_length=512)
    safety_identifier: Text | None = Field(default=None, max_length=512)
    metadata: Metadata | None = None
    store: bool | None = None
    # Known to OpenAI's clients, and not to us.
    tools: Refused = None
    functions: Refused = None
    tool_choice: Annotated[Any, Only(None, "none")] = None
    function_call: Annotated[Any, Only(None, "none")] = None
    response_format: Annotated[Any, Only(None, {"type": "text"})] = None
    logit_bias: Refused = None
    audio: Refused = None
    modalities: Annotated[Any, Only(None, [], ["text"])] = None
    prediction: Refused = None
    web_search_options: Annotated[Any, Only(None)] = None
    reasoning_effort: Annotated[Any, Only(None, "none")] = None
    verbosity: Annotated[Any, Only(None, "medium")] = None

    @field_validator("stream_options")
    @classmethod
    def _needs_stream(cls, value: StreamOptions | None, info: ValidationInfo) -> StreamOptions | None:
        if value is not None and not info.data.get("stream"):
            raise ValueError("is only allowed with stream: true")
        return value

    @field_validator("top_logprobs")
    @classmethod
    def _needs_logprobs(cls, value: int | None, info: ValidationInfo) -> int | None:
        if value and not info.data.get("logprobs"):
            raise ValueError("is only allowed with logprobs: true")
        return value

    @property
    def include_usage(self) -> bool:
        return bool(self.stream_options and self.stream_options.include_usage)

    def turns(self) -> tuple[Message, ...]:
        return tuple(Message(message.role, message.content) for message in self.messages)

    def sampling(self, settings: ApiConfig) -> Sampling:
        """What was asked, with the server's defaults where it was silent."""
        return Sampling(
            max_tokens=self.max_completion_tokens or self.max_tokens or settings.max_tokens,
            temperature=settings.temperature if self.temperature is None else self.temperature,
            top_p=self.top_p or settings.top_p,
            seed=self.seed,
            stop=tuple(self.stop or ()),
            frequency_penalty=self.frequency_penalty or 0.0,
            presence_penalty=self.presence_penalty or 0.0,
            logprobs=bool(self.logprobs),
            top_logprobs=self.top_logprobs or 0,
        )


def _integer(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _words(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip()) and len(value) <= MAX_TEXT


#: kind -> (what is allowed, in words, and as a test).
VALUES: dict[FeedbackKind, tuple[str, Callable[[Any], bool]]] = {
    FeedbackKind.THUMB: ("true, false, or null to take it back", lambda v: v is None or isinstance(v, bool)),
    FeedbackKind.RATING: ("a whole number from 1 to 5", lambda v: _integer(v) and 1 <= v <= 5),
    FeedbackKind.PREFERENCE: (
        "the id of the completion, or the index of the choice, that this answer is preferred over",
        lambda v: (_integer(v) and 0 <= v < 128) or _words(v),
    ),
    FeedbackKind.EDIT: (f"the corrected text, not empty, at most {MAX_TEXT} characters", _words),
    FeedbackKind.REGENERATE: ("the id of the new completion", _words),
    FeedbackKind.CLICK: ("one of " + ", ".join(CLICKS), lambda v: isinstance(v, str) and v in CLICKS),
    FeedbackKind.COMMENT: (f"text, not empty, at most {MAX_TEXT} characters", _words),
}


class FeedbackRequest(Wire):
    """`POST /v1/feedback`. `choice_index` None: the completion's only choice."""

    id: str | None = Field(default=None, pattern=r"^[A-Za-z0-9_.:-]{1,128}$")
    completion_id: Text = Field(min_length=1, max_length=128)
    choice_index: int | None = Field(default=None, ge=0, lt=128)
    kind: Literal["thumb", "rating", "preference", "edit", "regenerate", "click", "comment"]
    value: Any
    reason: Text | None = Field(default=None, max_length=1000)
    comment: Text | None = Field(default=None, max_length=MAX_TEXT)
    metadata: Metadata | None = None

    @field_validator("value")
    @classmethod
    def _fits_its_kind(cls, value: Any, info: ValidationInfo) -> Any:
        kind = info.data.get("kind")
        if kind is not None:
            allowed, fits = VALUES[FeedbackKind(kind)]
            if not fits(value):
                raise ValueError(f"for kind {kind!r} must be {allowed}")
        return _unicode(value) if isinstance(value, str) else value


class OperatorRequest(Wire):
    """`POST /v1/operator/{kind}`. `version` is for promote and rollback, `quarantine` for rollback, `iteration` and
    `all` for release, `user` for forget, everything after them for label.
    """

    reason: Text | None = Field(default=None, max_length=1000)
    version: Text | None = Field(default=None, max_length=64)
    quarantine: bool | None = None
    iteration: int | None = Field(default=None, ge=1, lt=2**63)
    all: bool | None = None
    user: Text | None = Field(default=None, min_length=1, max_length=512)
    completion_id: Text | None = Field(default=None, min_length=1, max_length=128)
    choice_index: int = Field(default=0, ge=0, lt=128)
    good: bool | None = None
    over: Text | None = Field(default=None, min_length=1, max_length=128)
    over_index: int = Field(default=0, ge=0, lt=128)
    same: bool | None = None
    prompt: Text | None = Field(default=None, min_length=1, max_length=MAX_TEXT)
    better: Text | None = Field(default=None, min_length=1, max_length=MAX_TEXT)
    worse: Text | None = Field(default=None, min_length=1, max_length=MAX_TEXT)
