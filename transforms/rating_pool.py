"""Rating in several processes: parts go out, documents come back.

    part -> process of its own interpreter -> documents
                 |        ^
         statements of the warehouse, run by this process

An embedded warehouse belongs to one process, and passwords need not travel: so the
processes send the statements that they have to this one, and get tables back. Each part
is rated by one process alone; what comes of it depends on nothing else.
"""

from __future__ import annotations

import os
import queue
import signal
import subprocess
import sys
from concurrent.futures import Future, ThreadPoolExecutor
from multiprocessing.connection import Connection, Pipe
from typing import Any

from meters.errors import BeammeterError
from transforms.invoices import Documents, PackedPart, Rater, Rating
from warehouse.client import Warehouse
from warehouse.failures import Retries
from warehouse.remote import RemoteEngine, answer

_START = """
import sys
from multiprocessing.connection import Connection
connection = Connection(int(sys.argv[1]))
sys.path[:] = connection.recv()
from transforms.rating_pool import work
work(connection)
"""


def processors() -> int:
    """How many processors this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


class RatingPool:
    """So many processes that rate; they end with this one."""

    def __init__(self, rating: Rating, warehouse: Warehouse, workers: int) -> None:
        self._workers = [_Worker(rating, warehouse) for _ in range(workers)]
        self._idle: queue.SimpleQueue[_Worker] = queue.SimpleQueue()
        for worker in self._workers:
            self._idle.put(worker)
        self._threads = ThreadPoolExecutor(max_workers=workers)

    def submit(self, part: PackedPart) -> Future[Documents]:
        """Rate a part as soon as a process is idle."""
        return self._threads.submit(self._rate, part)

    def close(self) -> None:
        """End the processes; a part that is being rated is given up."""
        for worker in self._workers:
            worker.end()
        self._threads.shutdown(cancel_futures=True)
        for worker in self._workers:
            worker.close()

    def _rate(self, part: PackedPart) -> Documents:
        worker = self._idle.get()
        try:
            return worker.rate(part)
        finally:
            self._idle.put(worker)


class _Worker:
    """One process, as this one sees it."""

    def __init__(self, rating: Rating, warehouse: Warehouse) -> None:
        self._warehouse = warehouse
        self._connection, theirs = Pipe()
        # Neither a fork, which would copy the threads of the engine in an unknown state, nor
        # a process of `multiprocessing`, which would run the caller's script once more.
        self._process = subprocess.Popen(  # noqa: S603 (this interpreter, and constants)
            [sys.executable, "-c", _START, str(theirs.fileno())],
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
        )
        theirs.close()
        self._connection.send(sys.path)
        self._connection.send((rating, warehouse.name, warehouse.parameter_bytes))

    def rate(self, part: PackedPart) -> Documents:
        """The documents of a part; what fails there is raised here."""
        try:
            self._connection.send(part)
            while not isinstance(got := self._connection.recv(), Documents):
                if isinstance(got, BaseException):
                    raise got
                self._connection.send(answer(self._warehouse, got))
        except (EOFError, ConnectionError):
            code = self._process.wait()
            raise BeammeterError(
                f"a process that rates has ended early (exit code {code})"
            ) from None
        return got

    def end(self) -> None:
        """End the process; who waits for it is told so."""
        self._process.kill()
        self._process.wait()

    def close(self) -> None:
        """Give back what the process was reached by, once nobody waits for it."""
        self._connection.close()


def work(connection: Connection) -> None:
    """The life of a process that rates: until nobody is there any more to ask for parts."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    rating, name, parameter_bytes = connection.recv()

    def ask(request: Any) -> Any:
        connection.send(request)
        got = connection.recv()
        if isinstance(got, BaseException):
            raise got
        return got

    rater: Rater | None = None
    while True:
        try:
            part = connection.recv()
        except EOFError:
            return
        try:
            if rater is None:
                rater = Rater(
                    rating, Warehouse(RemoteEngine(ask, parameter_bytes), name, Retries(attempts=1))
                )
            connection.send(rater.rate(part))
        except BeammeterError as error:
            connection.send(error)
        except Exception as error:
            connection.send(BeammeterError(f"{type(error).__name__}: {error}"))
