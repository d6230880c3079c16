"""A service's processes: each in a process group of its own, with a log, and never left behind.

start -> wait until it answers -> kill, at the latest when this process ends

At its end a process group is killed by `atexit`; where this process is killed itself, by a guard
that waits for the end of a pipe which this process holds.
"""

from __future__ import annotations

import abc
import atexit
import contextlib
import os
import random
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Self

LOCALHOST = "127.0.0.1"
LINES = 60
# Below what systems give to outgoing connections: while a service is down, no client that
# tries to reach it can be given its port.
PORTS = (15_000, 32_000)


class ServiceError(Exception):
    """A service that did not start or did not answer; the message ends with its log."""


def free_port() -> int:
    """A port on which nothing listens."""
    while True:
        port = random.randrange(*PORTS)
        with socket.socket() as probe:
            try:
                probe.bind((LOCALHOST, port))
            except OSError:
                continue
        return port


def listens(port: int) -> bool:
    """Whether something takes connections on this port."""
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex((LOCALHOST, port)) == 0


def children(pid: int) -> list[int]:
    """The processes that a process has started and that are not reaped yet (Linux)."""
    found = Path(f"/proc/{pid}/task").glob("*/children")
    return sorted({int(child) for file in found for child in file.read_text().split()})


def runs(pid: int) -> bool:
    """Whether a process is there, and no zombie (Linux)."""
    try:
        return ") Z " not in Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return False


def await_end(pid: int, seconds: float = 20) -> None:
    """Until a process has ended. Raises ServiceError where it does not."""
    until = time.monotonic() + seconds
    while runs(pid):
        if time.monotonic() > until:
            raise ServiceError(f"process {pid} must end within {seconds:g} s")
        time.sleep(0.05)


class Service(abc.ABC):
    """What runs for the length of a `with` block."""

    @abc.abstractmethod
    def start(self) -> None:
        """Start it and wait until it answers."""

    @abc.abstractmethod
    def stop(self) -> None:
        """End it with all that it started."""

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.stop()


class Process:
    """One program, its output in a file. It can be started again after it was killed."""

    def __init__(
        self, name: str, command: Sequence[str], log: Path, more: Mapping[str, str] | None = None
    ) -> None:
        self.name = name
        self.log = log
        self._command = list(command)
        self._environment = os.environ | dict(more or {})
        self._running: subprocess.Popen[bytes] | None = None
        self._guard: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """The process id, which is the id of its group as well."""
        if self._running is None:
            raise ServiceError(f"{self.name} is not running")
        return self._running.pid

    def alive(self) -> bool:
        """Whether it runs."""
        return self._running is not None and self._running.poll() is None

    def start(self, ready: Callable[[], bool], seconds: float) -> None:
        """Start it and wait until `ready` says yes.

        Raises:
            ServiceError: it ended, or `seconds` have passed; with the last lines of its log.
        """
        if self.alive():
            raise ServiceError(f"{self.name} runs already")
        self.kill()
        with self.log.open("ab") as log:
            self._running = subprocess.Popen(
                self._command,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._guard = subprocess.Popen(
            ["/bin/sh", "-c", f"read _; kill -KILL -{self._running.pid}"],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        atexit.register(self.kill)
        self.wait(ready, seconds)

    def wait(self, ready: Callable[[], bool], seconds: float) -> None:
        """Wait until `ready` says yes; kills the process where it does not.

        Raises:
            ServiceError: it ended, or `seconds` have passed; with the last lines of its log.
        """
        deadline = time.monotonic() + seconds
        while not ready():
            ended = None if self._running is None else self._running.poll()
            if ended is not None or time.monotonic() > deadline:
                self.kill()
                why = f"did not answer in {seconds:g} s" if ended is None else f"ended with {ended}"
                raise ServiceError(f"{self.name} {why}; the end of {self.log}:\n{self.tail()}")
            time.sleep(0.1)

    def tail(self, lines: int = LINES) -> str:
        """The last lines of the log."""
        if not self.log.exists():
            return ""
        return "\n".join(self.log.read_text("utf-8", "replace").splitlines()[-lines:])

    def stop(self, seconds: float = 10) -> None:
        """Ask it to end (SIGTERM), and kill it where it does not."""
        if self._running is not None and self.alive():
            os.killpg(self._running.pid, signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._running.wait(seconds)
        self.kill()

    def kill(self) -> None:
        """Kill the whole group (SIGKILL) and wait for its end; nothing where it is not running."""
        guard, running = self._guard, self._running
        self._guard = self._running = None
        atexit.unregister(self.kill)
        if guard is not None:
            guard.kill()
            guard.wait()
            if guard.stdin:
                guard.stdin.close()
        if running is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(running.pid, signal.SIGKILL)
            running.wait()
