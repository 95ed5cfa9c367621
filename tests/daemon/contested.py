"""A service's part in a contest, in a process of its own that may be killed: `python -m tests.daemon.contested DIR`.

Takes up the running iteration it finds, or begins one. Prints what was asked of the judge and what came of it.
"""

import asyncio
import json
import sys
from pathlib import Path
from unittest.mock import patch

from daemon import judging
from daemon.contest import contest
from daemon.iteration import preferences_now
from policies.fake_engine import FakeEngine, FakeLimits
from policies.spec import Report, Sample, Turn
from store.db import Store
from store.records import Iteration, Stage
from tests.daemon.conftest import report_of, runtime_with
from tests.daemon.taste import Made, fake_text, good, people_with_taste, quality

VERSION = "it0001-00000001"


def contested_report(count: int = 24, *, better: bool = True, version: str = VERSION) -> Report:
    """Answers of a candidate that words them better than the incumbent does, or worse, on two kinds of prompt."""
    samples = []
    for number in range(count):
        one, other = sorted((fake_text(2 * number), fake_text(2 * number + 1)), key=quality)
        before, after = (one, other) if better else (other, one)
        prompt = [Turn(role="user", content=f"What of matter {number}, item {number * 13}?")]
        kind = "odd" if number % 2 else "even"
        samples.append(Sample(id=f"s{number}", prompt=prompt, before=before, after=after, cluster=kind))
    return report_of(version, []).model_copy(update={"samples": samples})


async def main(directory: Path) -> None:
    made = Made(good)
    with patch.object(judging, "build", lambda *_: (made,)):
        await hold(directory, made)


async def hold(directory: Path, made: Made) -> None:
    store = Store.open(directory / "honed.db")
    runtime = runtime_with(store, FakeEngine(FakeLimits(verify=False)), directory)
    await runtime.engine.start()
    iteration = store.iterations.running() or await begun(store, runtime)
    made.asked = 0
    metrics = await contest(runtime, iteration, contested_report())
    print(json.dumps({"asked": made.asked, "metrics": metrics}))
    store.close()


async def begun(store: Store, runtime: judging.Runtime) -> Iteration:
    people_with_taste(store)
    iteration = store.iterations.begin(trigger="test", incumbent=None, config={})
    await judging.judge(runtime, iteration, preferences_now(runtime)[2])
    return store.iterations.move(iteration.id, Stage.EVALUATING)


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1])))
