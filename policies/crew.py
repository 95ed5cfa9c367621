"""Several processes that train one adapter: one for each GPU, each with a part of every step.

All hold the same weights and go through the same steps. What they compute apart is added up: the reference's
log-probabilities, and each step's gradient, after which every process takes the same optimiser step. The first one
writes, evaluates and talks to the service, as a trainer of one process does; the others end when training has.

The service starts them, and ends them all where one is lost: a collective operation may wait for it for minutes. They
meet through a file in the run directory, so no port is opened for it. `torchrun -m policies.train RUN_DIR` works as
well; then it is torchrun that starts them and where they meet.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from itertools import accumulate
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from policies.room import is_out_of_memory
from store.errors import ProcessLost, TrainingFailed

#: Addresses that processes of one machine talk over. They must not be reachable from anywhere else.
LOOPBACK = {"GLOO_SOCKET_IFNAME": "lo", "NCCL_SOCKET_IFNAME": "lo"}
#: For a step of the slowest process, the others waiting.
PATIENCE = timedelta(minutes=30)


def part_of(costs: Sequence[int], rank: int, size: int) -> range:
    """Indices of what process `rank` of `size` does: pieces in order, of about equal cost, one for each process."""
    ends = list(accumulate(costs))
    total = ends[-1] if ends else 0
    # What has its middle before the boundary belongs to the earlier process.
    middles = [(2 * end - cost) * size for end, cost in zip(ends, costs, strict=True)]
    low, high = (sum(middle < 2 * total * edge for middle in middles) for edge in (rank, rank + 1))
    return range(low, high if rank < size - 1 else len(costs))


@dataclass(frozen=True, slots=True)
class Place:
    """Which of the processes this one is."""

    rank: int = 0
    size: int = 1
    meeting: Path | None = None
    """A file that all of them name and nobody else does; None where torchrun says where they meet."""
    gpu: int = 0
    """Which of this machine's GPUs is its own, if there are any."""
    here: int = 1
    """Processes on this machine."""

    @classmethod
    def of(cls, rank: int, size: int, meeting: Path | None) -> "Place":
        """Torchrun's, where it started this process, or what the command line says.

        Raises:
            TrainingFailed: there is no such place.
        """
        if "TORCHELASTIC_RUN_ID" in os.environ:
            names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
            ours, all_of_us, gpu, here = (int(os.environ[name]) for name in names)
            return cls(ours, all_of_us, gpu=gpu, here=here)
        if not 0 <= rank < size or (size > 1 and meeting is None):
            raise TrainingFailed("--rank must be less than --size, and several processes need a --meeting")
        return cls(rank, size, meeting, gpu=rank, here=size)


class Crew:
    """This process among those that train together; alone unless `join` says otherwise."""

    def __init__(self) -> None:
        self.rank, self.size = 0, 1

    def part(self, costs: Sequence[int]) -> range:
        """Indices of what this process does: see `part_of`."""
        return part_of(costs, self.rank, self.size)

    def add(self, values: Tensor) -> Tensor:
        """The sum over all processes, in place; the same numbers, to the bit, in each of them."""
        if self.size > 1:
            with _together():
                dist.all_reduce(values)
        return values

    def told(self, values: Sequence[float]) -> list[float]:
        """The first process's values, in all of them: what decides must not differ by a rounding."""
        if self.size == 1:
            return list(values)
        held = torch.tensor(values, dtype=torch.float64, device=device())
        with _together():
            dist.broadcast(held, src=0)
        return held.tolist()

    def all(self, value: Any) -> list[Any]:
        """Everybody's value, in the order of ranks."""
        if self.size == 1:
            return [value]
        found: list[Any] = [None] * self.size
        with _together():
            dist.all_gather_object(found, value)
        return found

    def join(self, where: Place) -> None:
        """Meet the others, and go on when all are there."""
        if where.size == 1:
            return
        if where.meeting is not None:
            os.environ.update({**LOOPBACK, **os.environ})
        gpu = torch.cuda.is_available()
        with _together():
            dist.init_process_group(
                "nccl" if gpu else "gloo",
                init_method="env://" if where.meeting is None else f"file://{where.meeting.resolve()}",
                rank=where.rank,
                world_size=where.size,
                timeout=PATIENCE,
                # With it NCCL takes its memory now, not after the model has taken what there is.
                device_id=torch.device("cuda", where.gpu) if gpu else None,
            )
        self.rank, self.size = where.rank, where.size

    def part_ways(self) -> None:
        """Training is done: from here on this process is alone."""
        if self.size > 1:
            with _together():
                dist.barrier()
                dist.destroy_process_group()
        self.rank, self.size = 0, 1


@contextmanager
def _together() -> Iterator[None]:
    """Around what needs everybody.

    Raises:
        ProcessLost: it did not work, most often because somebody is gone.
    """
    try:
        yield
    except RuntimeError as error:
        if is_out_of_memory(error):
            raise
        # NCCL puts the cause behind these words, after lines that are the same for every cause.
        said = str(error).rpartition("Last error:")[2].strip().splitlines()
        raise ProcessLost(
            f"could not go on with the other processes: {said[0] if said else error!r}"
        ) from error


def too_few_gpus(size: int, gpus: int) -> str | None:
    """Why so many processes cannot have a GPU each; None where they can, or where there are none to have."""
    if 0 < gpus < size:
        return f"{size} processes (policies.train.processes) need a GPU each, and there are {gpus}"
    return None


def device() -> torch.device:
    """Where this process computes."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def use_gpu(where: Place) -> None:
    """Compute on the GPU that is this process's own, if there are any.

    Raises:
        TrainingFailed: there are fewer GPUs than processes.
    """
    if refused := too_few_gpus(where.here, torch.cuda.device_count()):
        raise TrainingFailed(refused)
    if torch.cuda.is_available():
        torch.cuda.set_device(where.gpu)
