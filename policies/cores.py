"""How many cores this process may use: in a container that is fewer than the machine has.

OpenMP threads beyond what the kernel grants wait for each other at the end of every product, with the quota spent.
"""

import os
from pathlib import Path
from typing import Literal

CGROUP, ROOT = Path("/proc/self/cgroup"), Path("/sys/fs/cgroup")


def granted(threads: int | Literal["auto"]) -> int:
    """What a setting of threads comes to."""
    return usable_cores() if threads == "auto" else threads


def usable_cores() -> int:
    """Cores the process may run on, and no more than the quota of any control group around it (cgroup v2)."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return least(allowed, limits(CGROUP, ROOT))


def limits(cgroup: Path, root: Path) -> list[str]:
    """The `cpu.max` of the process's group and of all above it; empty where there are no such groups."""
    if not cgroup.is_file():
        return []
    own = next((line[3:] for line in cgroup.read_text().splitlines() if line.startswith("0::")), "/")
    folder = root / own.strip("/")
    folders = [folder, *(parent for parent in folder.parents if parent.is_relative_to(root))]
    return [(path / "cpu.max").read_text() for path in folders if (path / "cpu.max").is_file()]


def least(allowed: int, quotas: list[str]) -> int:
    """`allowed`, or the whole cores of the smallest quota; each is "max PERIOD" or "QUOTA PERIOD", microseconds."""
    granted = [quota.split() for quota in quotas]
    whole = [int(quota) // int(period) for quota, period in granted if quota != "max"]
    return max(1, min([allowed, *whole]))
