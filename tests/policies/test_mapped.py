import mmap
from pathlib import Path

import pytest
import torch

from policies.mapped import SMAPS, clean_mappings, give_back

TEXT = """\
00400000-00452000 r-xp 00000000 08:02 173521      /usr/bin/program
Rss:                 100 kB
Anonymous:             0 kB
7f0000000000-7f0000010000 rw-p 00000000 08:02 99    /model.safetensors
Anonymous:             8 kB
7f1000000000-7f1000010000 rw-p 00000000 00:00 0
Anonymous:             0 kB
7f2000000000-7f2000010000 r--p 00000000 08:02 99    /model.safetensors
Anonymous:             0 kB
"""


def test_only_files_without_own_pages_are_clean() -> None:
    assert clean_mappings(TEXT) == [(0x400000, 0x452000), (0x7F2000000000, 0x7F2000010000)]


@pytest.mark.skipif(not SMAPS.is_file(), reason="no /proc on this system")
def test_pages_of_a_mapped_file_go_and_come_back(tmp_path: Path) -> None:
    file = tmp_path / "weights"
    wanted = torch.arange(64 * 1024, dtype=torch.float32)
    file.write_bytes(wanted.numpy().tobytes())
    with file.open("rb") as opened:
        mapped = mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_COPY)
    tensor = torch.frombuffer(mapped, dtype=torch.float32)
    assert float(tensor.sum()) == float(wanted.sum())
    assert give_back([tensor]) == tensor.nbytes
    assert torch.equal(tensor, wanted)
    tensor[0] = 5.0  # written to: a page of the process's own
    assert give_back([tensor]) == 0
    assert float(tensor[0]) == 5.0


def test_memory_of_the_process_is_left_alone() -> None:
    tensor = torch.ones(64 * 1024)
    assert give_back([tensor]) == 0
    assert bool((tensor == 1).all())
