"""The whole of `config.toml`: every room's section in one tree, and the sections of the daemon itself.

Precedence: `HONED_<SECTION>__<KEY>` in the environment, then the file, then the defaults. Unknown keys are
errors. Importing this loads no tensor library, so `honed --help` stays quick.
"""

import itertools
import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from api.config import ApiConfig
from judge.config import FeedbackConfig, JudgeConfig
from policies.config import EngineConfig, TrainConfig
from store.config import StoreConfig
from store.errors import ConfigError

ENVIRONMENT_PREFIX = "HONED_"
#: Environment variables that begin with the prefix but are not configuration.
NOT_CONFIG = frozenset(
    {"HONED_FAILPOINT", "HONED_PARENT_PID", "HONED_API_KEY", "HONED_CONFIG", "HONED_URL", "HONED_JUDGE_KEY"}
)


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True, allow_inf_nan=False)


class ScheduleConfig(Section):
    """`[daemon.schedule]`: when iterations start by themselves. All conditions must hold. Times are UTC."""

    enabled: bool = True
    """Whether iterations start by themselves at all; `honed train` works either way."""
    min_feedback: int = Field(default=32, ge=1)
    """New feedback events since the last iteration before the next one starts."""
    interval_minutes: float | None = Field(default=None, gt=0)
    """At least this long from one start to the next; unset: no interval."""
    cron: str | None = None
    """A five-field cron expression, Sunday being 0 or 7; an iteration starts at its times only. Unset: any time."""
    quiet_hours: list[str] = []
    """Spans like "22:00-06:00" in which none starts by itself."""
    tick_seconds: float = Field(default=1.0, gt=0, le=60)
    """How often the loop looks at intents and the schedule."""
    retry_minutes: float = Field(default=5.0, gt=0)
    """Wait after a failed iteration; doubles with each failure in a row."""
    retry_minutes_max: float = Field(default=360.0, gt=0)
    """The longest such wait."""
    max_attempts: int = Field(default=3, ge=1)
    """How often an iteration interrupted by a crash is taken up again before it is marked failed."""

    @field_validator("quiet_hours")
    @classmethod
    def _spans(cls, value: list[str]) -> list[str]:
        from daemon.schedule import parse_hours

        for span in value:
            parse_hours(span)
        return value

    @field_validator("cron")
    @classmethod
    def _crontab(cls, value: str | None) -> str | None:
        if value is not None:
            from daemon.schedule import next_fire

            if next_fire(value, 0.0) is None:
                raise ValueError(f"{value!r} never comes")
        return value


class GateConfig(Section):
    """`[daemon.gate]`: limits a candidate must keep. A soft limit warns; a hard one rejects. KL in nats/token."""

    kl_step_soft: float = Field(default=0.15, gt=0)
    """KL of the candidate to the incumbent; training stops early when it reaches this on watched answers."""
    kl_step_hard: float = Field(default=0.30, gt=0)
    """Above this at every scale, the candidate is rejected."""
    kl_base_soft: float = Field(default=0.25, gt=0)
    """Cumulative KL to the frozen base; training stops early at this too."""
    kl_base_hard: float = Field(default=0.45, gt=0)
    """The cumulative budget; a candidate over it is rejected."""
    scales: list[float] = [1.0, 0.75, 0.5, 0.25]
    """Adapter scales tried in turn while a hard KL limit is exceeded; must begin with 1."""
    repetition_soft: float = Field(default=0.10, ge=0)
    """Rise in the share of repeated 4-grams over the incumbent's."""
    repetition_hard: float = Field(default=0.25, ge=0)
    """The same, rejecting."""
    repetition_max: float = Field(default=0.45, ge=0, le=1)
    """Largest share of repeated 4-grams at all: small rises in every iteration must not add up."""
    empty_hard: float = Field(default=0.10, ge=0, le=1)
    """Largest share of empty answers."""
    length_ratio_soft: tuple[float, float] = (0.4, 2.0)
    """Mean answer length against the incumbent's: outside warns."""
    length_ratio_hard: tuple[float, float] = (0.15, 4.0)
    """The same, rejecting."""
    entropy_ratio_soft: float = Field(default=0.6, ge=0, le=1)
    """Token entropy against the incumbent's: lower warns (diversity is being lost)."""
    entropy_ratio_hard: float = Field(default=0.25, ge=0, le=1)
    """The same, rejecting."""
    winner_dlogp_soft: float = Field(default=-0.1, le=0)
    """Mean change of liked answers' log-probability, nats/token: lower warns (likelihood displacement)."""
    winner_dlogp_hard: float = Field(default=-0.5, le=0)
    """The same, rejecting."""
    heldout_min: int = Field(default=5, ge=1)
    """Never-train answers needed on each side (liked, disliked) before agreement is measured."""
    heldout_floor: float = Field(default=0.30, ge=0, le=1)
    """Lower 90% bound of the AUC of log-probability changes on never-train answers: lower is too uncertain."""
    heldout_required: bool = False
    """Whether too few never-train answers make a candidate inconclusive. Turn on once there are many users."""
    on_soft: Literal["promote", "hold"] = "promote"
    """What a soft breach does."""
    on_inconclusive: Literal["hold", "reject"] = "hold"
    """What too little or too uncertain evidence does; held candidates wait for `honed promote`."""
    attestation_tolerance: float = Field(default=0.01, gt=0)
    """Mean absolute gap in log-probability (nats/token) allowed between engine and trainer."""

    @model_validator(mode="after")
    def _soft_before_hard(self) -> Self:
        for name in ("kl_step", "kl_base", "repetition"):
            soft, hard = getattr(self, f"{name}_soft"), getattr(self, f"{name}_hard")
            if soft > hard:
                raise ValueError(
                    f"{name}_soft {soft:g} is above {name}_hard {hard:g}; the soft limit comes first"
                )
        (low, high), (hard_low, hard_high) = self.length_ratio_soft, self.length_ratio_hard
        if not 0 <= hard_low <= low < high <= hard_high:
            raise ValueError("length_ratio_soft must be a rising pair inside length_ratio_hard")
        for name in ("entropy_ratio", "winner_dlogp"):
            if getattr(self, f"{name}_soft") < getattr(self, f"{name}_hard"):
                raise ValueError(f"{name}_soft is below {name}_hard; the soft limit comes first")
        return self

    @field_validator("scales")
    @classmethod
    def _falling(cls, value: list[float]) -> list[float]:
        falling = all(a > b > 0 for a, b in itertools.pairwise(value))
        if not value or value[0] != 1.0 or not falling:
            raise ValueError("must begin with 1.0 and fall, all above 0")
        return value


class DaemonConfig(Section):
    """`[daemon]`: the loop."""

    schedule: ScheduleConfig = ScheduleConfig()
    """When iterations start."""
    gate: GateConfig = GateConfig()
    """What a candidate must keep to."""
    keep_loaded: int = Field(default=2, ge=1, le=16)
    """Adapters kept in the engine: the active one and those served before it, ready for an instant rollback."""


class PoliciesConfig(Section):
    """`[policies]`: engine and training."""

    engine: EngineConfig = EngineConfig()
    """What serves."""
    train: TrainConfig = TrainConfig()
    """How it learns."""


class Config(Section):
    """The whole configuration."""

    store: StoreConfig = StoreConfig()
    """Where state lives."""
    policies: PoliciesConfig = PoliciesConfig()
    """The model: serving and training."""
    api: ApiConfig = ApiConfig()
    """HTTP."""
    feedback: FeedbackConfig = FeedbackConfig()
    """What evidence is worth."""
    judge: JudgeConfig = JudgeConfig()
    """How the model judges itself, and when that counts."""
    daemon: DaemonConfig = DaemonConfig()
    """The loop."""


def environment_overrides(environment: Mapping[str, str]) -> dict[str, Any]:
    """`HONED_DAEMON__SCHEDULE__CRON=...` as the nested table it stands for; values are read as TOML, else text."""
    tree: dict[str, Any] = {}
    for name, text in environment.items():
        if not name.startswith(ENVIRONMENT_PREFIX) or name in NOT_CONFIG:
            continue
        *sections, key = name.removeprefix(ENVIRONMENT_PREFIX).lower().split("__")
        node = tree
        for section in sections:
            node = node.setdefault(section, {})
        try:
            node[key] = tomllib.loads(f"value = {text}")["value"]
        except tomllib.TOMLDecodeError:
            node[key] = text
    return tree


def merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Nested tables merged, `over` winning."""
    merged = dict(base)
    for key, value in over.items():
        nested = isinstance(value, Mapping) and isinstance(merged.get(key), Mapping)
        merged[key] = merge(merged[key], value) if nested else value
    return merged


def explain(error: ValidationError) -> str:
    """Every problem on a line: the key, the value found, what is allowed."""
    lines = []
    for problem in error.errors():
        key = ".".join(str(part) for part in problem["loc"])
        if problem["type"] == "extra_forbidden":
            lines.append(f"{key}: unknown key; docs/configuration.md lists those allowed")
        else:
            lines.append(f"{key} = {problem['input']!r}: {problem['msg'].removeprefix('Value error, ')}")
    return "\n".join(lines)


def load(path: Path | None, environment: Mapping[str, str] | None = None) -> Config:
    """Read, override and check the configuration.

    Raises:
        ConfigError: the file cannot be read or parsed, or a key or value is not allowed.
    """
    table: dict[str, Any] = {}
    if path is not None:
        try:
            table = tomllib.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise ConfigError(f"cannot read {path}: {error.strerror}") from error
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise ConfigError(f"{path} is not valid TOML: {error}") from error
    overrides = environment_overrides(os.environ if environment is None else environment)
    try:
        return Config.model_validate(merge(table, overrides))
    except ValidationError as error:
        raise ConfigError(f"configuration {path or '(defaults)'}:\n{explain(error)}") from error


def with_api(config: Config, *, host: str | None, port: int | None) -> Config:
    """The same configuration listening elsewhere, as the command line asked.

    Raises:
        ConfigError: not an address or port.
    """
    changes = {key: value for key, value in (("host", host), ("port", port)) if value is not None}
    try:
        api = ApiConfig.model_validate({**config.api.model_dump(), **changes})
    except ValidationError as error:
        raise ConfigError(f"command line:\n{explain(error)}") from error
    return config.model_copy(update={"api": api})
