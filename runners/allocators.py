"""How the memory allocators of this process keep what was freed.

A backfill and a stream take and free the same large buffers again and again. Four
allocators serve them (C, polars, Arrow, ClickHouse), most of them tuned to give memory
back to the system at once, which then clears every page anew: about a tenth of a run's
processor time. Here they keep it for some seconds.
"""

from __future__ import annotations

import ctypes
import os

_VARIABLES = {
    # polars' jemalloc: also for the largest buffers, which by default go back at once.
    "_RJEM_MALLOC_CONF": "oversize_threshold:0,dirty_decay_ms:5000,muzzy_decay_ms:-1",
    # Arrow's mimalloc, in milliseconds.
    "MIMALLOC_PURGE_DELAY": "3000",
}

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD = -1, -2, -3
_MIB = 1 << 20
_GLIBC = {
    _M_MMAP_THRESHOLD: 32 * _MIB,
    _M_TRIM_THRESHOLD: 512 * _MIB,
    _M_TOP_PAD: 16 * _MIB,
}


def keep_freed_memory() -> None:
    """Set what the environment does not set; to be called before polars and Arrow are loaded."""
    for name, value in _VARIABLES.items():
        os.environ.setdefault(name, value)
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None and not any(name.startswith("MALLOC_") for name in os.environ):
        for option, size in _GLIBC.items():
            mallopt(option, size)
