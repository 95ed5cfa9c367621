"""What the loop works with, and where its files lie. One value, made at start, passed as an argument."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from daemon.config import Config
from daemon.state_files import ITERATIONS
from policies import spec
from policies.engine import AdapterRef, Engine
from store.db import Store
from store.records import Adapter


class Known(Protocol):
    """What there is to know without an engine: enough to say what an iteration would do."""

    @property
    def config(self) -> Config: ...
    @property
    def store(self) -> Store: ...
    @property
    def clock(self) -> Callable[[], float]: ...


@dataclass(frozen=True)
class Runtime:
    """Store, engine and configuration of one service.

    `model` is the resolved local model directory. `attested` holds the versions whose log-probabilities this
    engine process was seen to reproduce; it starts empty with every process, so a restart attests again.
    `swapping` is held from choosing what to serve until the pointer has moved and surplus adapters are gone: an
    iteration that settles and an operator who rolls back must not unload each other's choice.
    """

    config: Config
    store: Store
    engine: Engine
    model: Path
    base_digest: str
    clock: Callable[[], float] = time.time
    attested: set[str] = field(default_factory=set)
    swapping: asyncio.Lock = field(default_factory=asyncio.Lock)

    @property
    def directory(self) -> Path:
        return self.config.store.directory

    def run_directory(self, iteration: int, *, rebuilt: bool = False) -> Path:
        return self.directory / run_path(iteration, rebuilt=rebuilt)

    def reference(self, adapter: Adapter) -> AdapterRef:
        """What the engine needs to load a recorded adapter."""
        return AdapterRef(adapter.version, self.directory / adapter.path, adapter.digest)


def run_path(iteration: int, *, rebuilt: bool = False) -> Path:
    """Where a run lies below the state directory. Recorded paths are relative, so that state can be moved.

    `rebuilt`: the run of the second candidate, trained from base, that some iterations have.
    """
    return Path(ITERATIONS) / (f"{iteration:04d}-rebuild" if rebuilt else f"{iteration:04d}")


def adapter_path(iteration: int, *, rebuilt: bool = False) -> Path:
    """Where a run leaves its adapter, below the state directory."""
    return run_path(iteration, rebuilt=rebuilt) / spec.ADAPTER
