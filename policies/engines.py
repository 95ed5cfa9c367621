"""Which engine serves: a literal table. Importing this loads no tensor library; building an engine may."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from policies.config import EngineConfig
from policies.engine import Engine
from store.errors import ConfigError, HonedError

if TYPE_CHECKING:
    from policies.vllm_fleet import Host


def resolve_base(config: EngineConfig, state_directory: Path) -> tuple[Path, str]:
    """The base model's local directory and its digest; fetched or converted if need be.

    Raises:
        ConfigError: there is no such model, or its weights are damaged or none that carry no code (safetensors).
    """
    from transformers.utils.logging import disable_progress_bar

    from policies.models import PARAM, base_digest, resolve_model
    from policies.weights import check_weights

    disable_progress_bar()  # a service's log is no terminal
    directory = resolve_model(config.model, state_directory)
    try:
        check_weights(directory)
    except HonedError as error:
        raise ConfigError(f"{PARAM}: {error}", param=PARAM) from error
    return directory, base_digest(directory)


def locate_model(config: EngineConfig, state_directory: Path) -> str:
    """Where the base model would come from, in words, without fetching anything.

    Raises:
        ConfigError: it is nowhere.
    """
    from policies.models import locate

    return locate(config.model, state_directory)


def served_dtype(config: EngineConfig) -> str:
    """What a vLLM server computes with, by its name in vLLM and torch alike."""
    if config.dtype != "auto":
        return config.dtype
    import torch

    return "bfloat16" if torch.cuda.is_available() else "float32"


def _hf(config: EngineConfig, model: Path, digest: str, host: "Host | None") -> Engine:
    from policies.hf_engine import HfEngine

    del host
    return HfEngine(config, model, digest)


def _vllm(config: EngineConfig, model: Path, digest: str, host: "Host | None") -> Engine:
    from policies.vllm_engine import VllmEngine

    # vLLM's own name for it: the server honed starts reads the same variable.
    return VllmEngine(config, model, digest, host=host, key=os.environ.get("VLLM_API_KEY"))


def _fake(config: EngineConfig, model: Path, digest: str, host: "Host | None") -> Engine:
    from policies.fake_engine import FakeEngine, FakeLimits

    del model, digest, host
    return FakeEngine(FakeLimits(config.max_batch, config.max_queue, config.max_context))


ENGINES: dict[str, Callable[[EngineConfig, Path, str, "Host | None"], Engine]] = {
    "hf": _hf,
    "vllm": _vllm,
    "fake": _fake,
}


def build_engine(config: EngineConfig, model: Path, digest: str, host: "Host | None" = None) -> Engine:
    """The engine of the configured kind on a resolved model, not started yet.

    `host` is the process of a vLLM server that honed started itself.
    """
    return ENGINES[config.kind](config, model, digest, host)
