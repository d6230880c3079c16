"""The identities of one shard as they grow: `python -m benchmarks.streaming.state [MILLIONS ...]`.

Adds batches of random identities, as a flush does, and prints at each size: bytes of
memory for an identity, the processor time of an identity, and the longest batch on the
way there, which is what an event may have had to wait for.
"""

from __future__ import annotations

import json
import sys
import time

import numpy as np

from meters.identities import Identities, Keys

_BATCH = 2500
_MILLION = 1_000_000


def main() -> None:
    """Grow one table to each size in turn."""
    wanted = [int(word) * _MILLION for word in sys.argv[1:]] or [_MILLION, 10 * _MILLION]
    random = np.random.default_rng(1)
    table = Identities()
    for size in sorted(wanted):
        spent: list[float] = []
        began = time.process_time()
        most = 0
        while len(table) < size:
            words = random.integers(0, 1 << 64, (3, _BATCH), dtype=np.uint64)
            before = time.perf_counter()
            table.add(Keys(words[0], words[1], words[2]), 0)
            spent.append(time.perf_counter() - before)
            most = max(most, table.bytes)
        found = {
            "identities": len(table),
            "bytes_each": round(table.bytes / len(table), 1),
            "most_mb": round(most / 1e6),
            "us_each": round((time.process_time() - began) / len(spent) / _BATCH * 1e6, 2),
            "ms_p50": round(float(np.median(spent)) * 1e3, 2),
            "ms_p99": round(float(np.quantile(spent, 0.99)) * 1e3, 2),
            "ms_max": round(max(spent) * 1e3, 2),
        }
        print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
