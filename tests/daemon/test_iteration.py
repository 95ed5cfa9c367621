"""Parts of an iteration that need neither a trainer nor a judge."""

import time
from dataclasses import replace

from daemon.iteration import until_ready
from daemon.runtime import Runtime
from policies.engine import EngineHealth
from policies.fake_engine import FakeEngine, FakeLimits
from tests.daemon.conftest import run


class Away(FakeEngine):
    """Not ready until it was looked at so many times."""

    def __init__(self, looks: int) -> None:
        super().__init__(FakeLimits(verify=False))
        self.looks = looks

    async def health(self) -> EngineHealth:
        self.looks -= 1
        return replace(await super().health(), ready=self.looks < 0)


def test_a_trained_candidate_waits_for_an_engine_that_comes_back(runtime: Runtime) -> None:
    engine = Away(3)
    run(lambda: until_ready(replace(runtime, engine=engine), patience=5.0), replace(runtime, engine=engine))
    assert engine.looks == -1


def test_but_not_for_ever(runtime: Runtime) -> None:
    engine = Away(10**9)
    began = time.monotonic()
    run(lambda: until_ready(replace(runtime, engine=engine), patience=0.3), replace(runtime, engine=engine))
    assert 0.3 <= time.monotonic() - began < 5
