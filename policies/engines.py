"""Which engine serves: a literal table. Importing this loads no tensor library; building an engine may."""

from collections.abc import Callable
from pathlib import Path

from policies.config import EngineConfig
from policies.engine import Engine


def resolve_base(config: EngineConfig, state_directory: Path) -> tuple[Path, str]:
    """The base model's local directory and its digest; fetched or converted if need be.

    Raises:
        ConfigError: there is no such model.
    """
    from transformers.utils.logging import disable_progress_bar

    from policies.models import base_digest, resolve_model

    disable_progress_bar()  # a service's log is no terminal
    directory = resolve_model(config.model, state_directory)
    return directory, base_digest(directory)


def locate_model(config: EngineConfig, state_directory: Path) -> str:
    """Where the base model would come from, in words, without fetching anything.

    Raises:
        ConfigError: it is nowhere.
    """
    from policies.models import locate

    return locate(config.model, state_directory)


def _hf(config: EngineConfig, model: Path, digest: str) -> Engine:
    from policies.hf_engine import HfEngine

    return HfEngine(config, model, digest)


def _fake(config: EngineConfig, model: Path, digest: str) -> Engine:
    from policies.fake_engine import FakeEngine, FakeLimits

    del model, digest
    return FakeEngine(FakeLimits(config.max_batch, config.max_queue, config.max_context))


ENGINES: dict[str, Callable[[EngineConfig, Path, str], Engine]] = {"hf": _hf, "fake": _fake}


def build_engine(config: EngineConfig, model: Path, digest: str) -> Engine:
    """The engine of the configured kind on a resolved model, not started yet."""
    return ENGINES[config.kind](config, model, digest)
