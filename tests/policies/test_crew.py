"""Several processes that train one adapter: the adapter of one, and nothing where one of them is lost."""

import itertools
import os
import subprocess
import sys
from pathlib import Path

import pytest

from policies.crew import Place, part_of, too_few_gpus
from store.errors import TrainingFailed
from tests.policies.runs import ROOT, assert_same_run, make_crew_run, train_child


@pytest.mark.parametrize(
    ("costs", "size", "parts"),
    [
        ([], 2, [[], []]),
        ([5], 2, [[], [0]]),
        ([1, 1, 1, 1], 2, [[0, 1], [2, 3]]),
        ([1, 1, 1, 1], 1, [[0, 1, 2, 3]]),
        ([9, 1, 1, 1], 2, [[0], [1, 2, 3]]),
        ([1, 1, 1, 9], 2, [[0, 1, 2], [3]]),
        ([1, 1], 3, [[0], [], [1]]),
        ([2, 2, 2, 2, 2, 2], 3, [[0, 1], [2, 3], [4, 5]]),
    ],
)
def test_everybody_gets_about_as_much(costs: list[int], size: int, parts: list[list[int]]) -> None:
    assert [list(part_of(costs, rank, size)) for rank in range(size)] == parts


def test_everything_is_done_by_somebody_and_nothing_twice() -> None:
    for count, size in itertools.product(range(12), range(1, 6)):
        costs = [1 + (7 * index) % 5 for index in range(count)]
        done = [index for rank in range(size) for index in part_of(costs, rank, size)]
        assert done == list(range(count))


@pytest.mark.parametrize(
    ("size", "gpus", "refused"), [(2, 0, False), (2, 2, False), (1, 4, False), (3, 2, True)]
)
def test_every_process_needs_a_gpu_where_there_are_any(size: int, gpus: int, refused: bool) -> None:
    assert bool(too_few_gpus(size, gpus)) is refused


@pytest.mark.parametrize(("rank", "size", "meeting"), [(2, 2, "m"), (-1, 2, "m"), (0, 2, None), (0, 0, None)])
def test_a_place_that_is_none_is_refused(rank: int, size: int, meeting: str | None) -> None:
    with pytest.raises(TrainingFailed, match="--rank must be less than --size"):
        Place.of(rank, size, None if meeting is None else Path(meeting))


@pytest.mark.slow
def test_torchrun_may_start_them(tiny_model: Path, tmp_path: Path) -> None:
    alone, run_dir = (make_crew_run(tmp_path / name, tiny_model) for name in ("alone", "together"))
    assert train_child(alone).returncode == 0
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    child = subprocess.run(
        [sys.executable, *launch, "-m", "policies.train", str(run_dir)],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert child.returncode == 0, child.stderr
    assert_same_run(run_dir, alone)
