"""Pages of a weights file that a process has mapped and needs no more.

safetensors maps its file, so a weight's pages are the system's cache of the file. Those that were only read can be
handed back at any time: a later look reads them again. Pages that were written to are the process's own and would be
lost, so only mappings without any such page are touched.
"""

import ctypes
import mmap
import re
from pathlib import Path

from torch import Tensor

SMAPS = Path("/proc/self/smaps")
_HEADER = re.compile(r"([0-9a-f]+)-([0-9a-f]+) \S+ \S+ \S+ (\d+)\b")


def clean_mappings(smaps: str) -> list[tuple[int, int]]:
    """Address ranges that map a file and hold no page of the process's own, from the text of /proc/PID/smaps."""
    found: list[tuple[int, int]] = []
    last: tuple[int, int] | None = None
    for line in smaps.splitlines():
        if header := _HEADER.match(line):
            last = (int(header[1], 16), int(header[2], 16)) if int(header[3]) else None
        elif last and line.startswith("Anonymous:") and line.split()[1] == "0":
            found.append(last)
    return found


def give_back(tensors: list[Tensor]) -> int:
    """Hand back the pages that lie wholly inside these tensors. Returns the bytes; 0 where nothing is mapped so."""
    if not SMAPS.is_file():
        return 0
    ranges, total = clean_mappings(SMAPS.read_text()), 0
    libc = ctypes.CDLL(None, use_errno=True)
    for tensor in tensors:
        begin = -(-tensor.data_ptr() // mmap.PAGESIZE) * mmap.PAGESIZE
        end = (tensor.data_ptr() + tensor.nbytes) // mmap.PAGESIZE * mmap.PAGESIZE
        if begin >= end or not any(low <= begin and end <= high for low, high in ranges):
            continue
        if libc.madvise(ctypes.c_void_p(begin), ctypes.c_size_t(end - begin), mmap.MADV_DONTNEED) == 0:
            total += end - begin
    return total
