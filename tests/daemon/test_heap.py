"""Libraries keep little of what nobody uses: measured in processes of their own, for the settings hold for good."""

import os
import platform
import subprocess
import sys

import pytest

from daemon import heap

THREADS = """
import ctypes, threading
from daemon import heap
{begin}
together = threading.Barrier(8)
def work():
    together.wait()
    kept = [bytes(5000) for _ in range(200)]
    together.wait()
    return kept
threads = [threading.Thread(target=work) for _ in range(8)]
for thread in threads: thread.start()
for thread in threads: thread.join()
libc = ctypes.CDLL(None)
libc.fopen.restype = ctypes.c_void_p
file = ctypes.c_void_p(libc.fopen(b"/dev/stdout", b"w"))
libc.malloc_info(0, file)
libc.fclose(file)
"""
SHAPES = """
from daemon import heap
{begin}
import torch
from policies.packing import Mode, PackedLinear
def resident():
    return int(open("/proc/self/statm").read().split()[1]) * 4096 / 2**20
torch.set_num_threads(1)
layers = [PackedLinear([torch.zeros(n, m)], None, Mode()) for n, m in ((96, 48), (48, 48), (192, 48), (48, 96))]
before = resident()
with torch.inference_mode():
    for rows in range(1, 200):
        for layer in layers:
            layer(torch.zeros(rows, layer.in_features))
print(resident() - before)
"""


def ran(code: str, begin: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code.format(begin=begin)], capture_output=True, text=True, check=True
    )
    return done.stdout


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc has arenas")
def test_threads_share_their_arenas() -> None:
    assert ran(THREADS, "").count("<heap nr") > heap.ARENAS
    assert ran(THREADS, "heap.spare_memory()").count("<heap nr") <= heap.ARENAS


def test_products_of_ever_new_shapes_take_no_ever_more_memory() -> None:
    """800 shapes, as prompts and batches of other lengths are; half a megabyte each if all were kept."""
    assert float(ran(SHAPES, "heap.spare_memory()")) < 200


def test_what_the_environment_says_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    for cache in heap.CACHES:
        monkeypatch.setenv(cache, "7")
    heap.spare_memory()
    assert all(os.environ[cache] == "7" for cache in heap.CACHES)


def test_a_heap_can_be_trimmed_at_any_time() -> None:
    kept = [bytes(10_000) for _ in range(5000)]
    del kept[::2]
    heap.trim()
    assert all(len(each) == 10_000 for each in kept)
