"""Threads fit what the kernel grants, not what the machine has."""

import os
from pathlib import Path

import pytest

from policies.cores import granted, least, limits, usable_cores


@pytest.mark.parametrize(
    ("allowed", "quotas", "cores"),
    [
        (64, [], 64),
        (64, ["max 100000\n"], 64),
        (64, ["200000 100000\n", "max 100000\n"], 2),
        (64, ["800000 100000\n", "350000 100000\n"], 3),
        (2, ["800000 100000\n"], 2),
        (8, ["50000 100000\n"], 1),
    ],
)
def test_the_smallest_quota_counts_and_one_core_is_always_there(
    allowed: int, quotas: list[str], cores: int
) -> None:
    assert least(allowed, quotas) == cores


def test_quotas_of_all_groups_around_the_process_are_read(tmp_path: Path) -> None:
    root, cgroup = tmp_path / "fs", tmp_path / "cgroup"
    (root / "system.slice" / "honed.service").mkdir(parents=True)
    (root / "system.slice" / "cpu.max").write_text("300000 100000\n")
    (root / "system.slice" / "honed.service" / "cpu.max").write_text("max 100000\n")
    cgroup.write_text("4:memory:/other\n0::/system.slice/honed.service\n")
    assert limits(cgroup, root) == ["max 100000\n", "300000 100000\n"]
    (tmp_path / "cpu.max").write_text("100000 100000\n")
    assert len(limits(cgroup, root)) == 2, "beyond the root is nobody's group"
    assert limits(tmp_path / "none", root) == []


def test_this_process_may_use_one_at_least_and_no_more_than_there_are() -> None:
    assert 1 <= usable_cores() <= (os.cpu_count() or 1)
    assert (granted("auto"), granted(3)) == (usable_cores(), 3)
