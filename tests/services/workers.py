"""Python workers of a Flink job in processes of their own, as on a cluster, to be killed.

with WorkerPool() as pool:
    options = ["--environment_type=EXTERNAL", f"--environment_config={pool.endpoint}"]
"""

from __future__ import annotations

import os
import signal
import sys
import tempfile
from pathlib import Path

from tests.services.process import LOCALHOST, Process, Service, children, free_port, listens

LONGEST_START = 60.0


class WorkerPool(Service):
    """Beam's worker pool: starts a worker for each that Flink asks for."""

    def __init__(self) -> None:
        self._port = free_port()
        self._folder = tempfile.TemporaryDirectory(prefix="beammeter-workers-")
        module = "apache_beam.runners.worker.worker_pool_main"
        command = [sys.executable, "-m", module, "--service_port", str(self._port)]
        # The pool starts `python`, whichever that is.
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
        log = Path(self._folder.name) / "workers.log"
        self._process = Process("worker pool", command, log, {"PATH": path})

    @property
    def options(self) -> list[str]:
        """Options of Beam that make a job use these workers."""
        place = f"{LOCALHOST}:{self._port}"
        return ["--environment_type=EXTERNAL", f"--environment_config={place}"]

    def start(self) -> None:
        """Start the pool and wait until it takes requests.

        Raises:
            ServiceError: it did not start; with the last lines of its log.
        """
        self._process.start(lambda: listens(self._port), LONGEST_START)

    def workers(self) -> list[int]:
        """The process ids of the workers that run now."""
        return children(self._process.pid)

    def kill_workers(self) -> int:
        """Kill all workers (SIGKILL); returns how many. Flink asks for new ones."""
        found = self.workers()
        for pid in found:
            os.kill(pid, signal.SIGKILL)
        return len(found)

    def stop(self) -> None:
        """End the pool with its workers."""
        self._process.kill()
        self._folder.cleanup()
