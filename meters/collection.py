"""How often the collector of cycles looks through all that is loaded.

Most objects here are made by the thousand and are garbage of no cycle.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def without_collection() -> Iterator[None]:
    """Among a million objects the search takes more time than the work itself."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def collect_seldom() -> None:
    """Look for cycles once for many new objects."""
    gc.set_threshold(50_000, 20, 20)


def keep_what_is_there() -> None:
    """Never look again at what is there now, which is never collected then."""
    gc.collect()
    gc.freeze()
