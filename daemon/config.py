"""The whole of `config.toml`: every room's section in one tree, and the sections of the daemon itself.

Precedence: `HONED_<SECTION>__<KEY>` in the environment, then the file, then the defaults. Unknown keys are
errors. Importing this loads no tensor library, so `honed --help` stays quick.
"""

import os
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError, field_validator

from api.config import ApiConfig
from daemon.limits import GateConfig
from daemon.rollout import CanaryConfig, WatchConfig
from daemon.section import Section
from judge.config import FeedbackConfig, JudgeConfig
from policies.config import EngineConfig, TrainConfig
from store.config import StoreConfig
from store.errors import ConfigError
from store.failpoints import ARMED, PARENT, TRACE
from store.reading import read_bytes, told_as

ENVIRONMENT_PREFIX = "HONED_"
#: Bytes of a configuration at the most.
MOST = 2**20
#: Environment variables that begin with the prefix but are not configuration.
NOT_CONFIG = frozenset(
    {ARMED, TRACE, PARENT, "HONED_API_KEY", "HONED_CONFIG", "HONED_URL", "HONED_JUDGE_KEY"}
)


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
    quiet_hours: tuple[str, ...] = ()
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
    def _spans(cls, value: tuple[str, ...]) -> tuple[str, ...]:
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


class DaemonConfig(Section):
    """`[daemon]`: the loop."""

    schedule: ScheduleConfig = ScheduleConfig()
    """When iterations start."""
    gate: GateConfig = GateConfig()
    """What a candidate must keep to."""
    canary: CanaryConfig = CanaryConfig()
    """Serving a candidate to some people first."""
    watch: WatchConfig = WatchConfig()
    """Watching what was promoted."""
    keep_loaded: int = Field(default=2, ge=1, le=16)
    """Adapters kept in the engine: the active one and those served before it, ready for an instant rollback."""
    engine_patience: float = Field(default=900.0, ge=0)
    """Seconds a trained candidate waits for an engine that is away, before its iteration fails."""


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
            if not isinstance(node, dict):
                raise ConfigError(f"{name}: {section} is given as a whole by another variable", param=section)
        try:
            node[key] = tomllib.loads(f"value = {text}")["value"]
        except (ValueError, RecursionError):
            node[key] = text
    return tree


def merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Nested tables merged, `over` winning."""
    merged = dict(base)
    for key, value in over.items():
        nested = isinstance(value, Mapping) and isinstance(merged.get(key), Mapping)
        merged[key] = merge(merged[key], value) if nested else value
    return merged


#: Characters of a value that an error shows, and problems that it tells of.
SHOWN, PROBLEMS = 400, 50
#: What stands before the host of an address that should not hold it: refused, and not to be shown when it is.
USER_INFO = r"//[^/\s'\"]*@"


def explain(error: ValidationError) -> str:
    """Every problem on a line: the key, the value found, what is allowed."""
    lines = []
    for problem in error.errors():
        key = cut(".".join(str(part) for part in problem["loc"]))
        if problem["type"] == "extra_forbidden":
            lines.append(f"{key}: unknown key; docs/configuration.md lists those allowed")
        else:
            told = cut(problem["msg"].removeprefix("Value error, "))
            lines.append(f"{key} = {cut(repr(problem['input']))}: {told}")
    return "\n".join(lines[:PROBLEMS])


def cut(text: str) -> str:
    """The beginning of a text, without what stands before the host of an address in it."""
    text = re.sub(USER_INFO, "//***@", text)
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}..."


def load(path: Path | None, environment: Mapping[str, str] | None = None) -> Config:
    """Read, override and check the configuration.

    Raises:
        ConfigError: the file cannot be read or parsed, or a key or value is not allowed.
    """
    table: dict[str, Any] = {}
    if path is not None:
        with told_as(ConfigError, "cannot read "):
            content = read_bytes(path, most=MOST)
        try:
            table = tomllib.loads(content.decode())
        except (ValueError, RecursionError) as error:  # TOML has numbers that are too long for Python
            why = "nested too deeply" if isinstance(error, RecursionError) else error
            raise ConfigError(f"{path} is not valid TOML: {why}") from None
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
