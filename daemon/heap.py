"""What libraries keep of memory that nobody uses any more.

glibc gives every thread an arena of its own, and what is freed in one is rarely of use to another: an iteration reads
everything people said, on whatever thread is free, and leaves a hole of that size behind. Over hours the process
would grow with the number of threads and the size of its history, although what is in use stays the same.

oneDNN compiles a matrix product for each shape, and a prompt of another length is another shape: half a megabyte
each, of which it and torch would keep 1024 each. Compiling one again takes a fifth of a millisecond.
"""

import ctypes
import os

#: `mallopt`'s name for it, from malloc.h.
ARENA_MAX = -8
#: One for the main thread, one for all others. Python's own lock keeps them from allocating at once anyhow.
ARENAS = 2
#: Enough for decoding: a few products a layer, the same in all layers, by how many rows are decoded together.
PRODUCTS = 128
#: Torch's own, and oneDNN's beneath it.
CACHES = ("LRU_CACHE_CAPACITY", "ONEDNN_PRIMITIVE_CACHE_CAPACITY")
#: Seconds between two times that free pages are given back.
TRIM_SECONDS = 60.0


def spare_memory() -> None:
    """Before threads begin and torch loads. What the environment says already holds."""
    few_arenas()
    for cache in CACHES:
        os.environ.setdefault(cache, str(PRODUCTS))


def few_arenas() -> bool:
    """Have threads share. Returns whether the C library knows how."""
    try:
        return bool(ctypes.CDLL(None).mallopt(ARENA_MAX, ARENAS))
    except (AttributeError, OSError):  # not glibc
        return False


def trim() -> bool:
    """Give free pages back to the system. Returns whether there were any."""
    try:
        return bool(ctypes.CDLL(None).malloc_trim(0))
    except (AttributeError, OSError):  # not glibc
        return False
