"""Work on a thread of its own, in order, while the caller prepares what comes next."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor


class Background:
    """One thread; while one piece of work is done, the next may wait.

    So at most three pieces are in memory: done, waiting, and being prepared. What a
    piece raises is raised by the next call of `submit` or `finish`.
    """

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(max_workers=1)
        self._pending: deque[Future[None]] = deque()

    def submit(self, work: Callable[[], None]) -> None:
        """Do `work` after what was submitted before; waits where too much is waiting."""
        self._wait(1)
        self._pending.append(self._thread.submit(work))

    def finish(self) -> None:
        """Wait until all is done."""
        self._wait(0)

    def close(self) -> None:
        """End the thread; what was not `finish`ed may be done or not."""
        self._thread.shutdown(cancel_futures=True)
        self._pending.clear()

    def _wait(self, left: int) -> None:
        while len(self._pending) > left:
            self._pending.popleft().result()
