"""A million events through everything that dies: `python -m benchmarks.faults.run --seed N`.

    --runner flink   Kafka -> stream on a Flink cluster, workers in processes of their own
    --runner prism   Kafka -> stream on Prism, which keeps nothing

Faults come one after another, in an order and at moments that the seed decides. Recovery
is the time from the fault until everything that was sent before it, and more, is stored.
At the end usage must equal what was sent: none missing, none twice.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Self

from benchmarks.faults.events import CATALOG, Sender, difference
from tests.services import prism
from tests.services.flink import FlinkCluster, JobServer
from tests.services.kafka import Kafka
from tests.services.workers import WorkerPool

ROOT = Path(__file__).parents[2]
TOPIC = "events"
LONGEST = 300.0
_UNIQUE = "SELECT count() FROM events FINAL"


Inject = Callable[[Callable[[], None]], None]


class Front:
    """The warehouse: the engine behind HTTP, which fails when asked to."""

    def __init__(self, folder: Path) -> None:
        command = [sys.executable, "-m", "tests.warehouse.http_front", str(folder)]
        # Clients that are killed leave their connections, of which the server complains.
        self._process = subprocess.Popen(
            command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        assert self._process.stdout is not None
        self._place = f"localhost:{int(self._process.stdout.readline())}"
        self.url = f"clickhouse://default@{self._place}/default"

    def stored(self) -> int:
        """How many different events are stored."""
        query = urllib.parse.urlencode({"query": _UNIQUE})
        try:
            with urllib.request.urlopen(f"http://{self._place}/safe?{query}", timeout=60) as answer:
                return int(answer.read())
        except OSError:
            return 0

    def fault(self, **how: int) -> None:
        """Fail the next requests."""
        place = f"http://{self._place}/fault?{urllib.parse.urlencode(how)}"
        urllib.request.urlopen(place, data=b"", timeout=10).close()

    def stop(self) -> None:
        """End it."""
        self._process.kill()
        self._process.wait()


class Command:
    """The stream's command, which is killed and started again."""

    def __init__(self, folder: Path, kafka: Kafka, front: Front, options: list[str]) -> None:
        self._catalog = folder / "catalog.yaml"
        self._catalog.write_text(CATALOG, encoding="utf-8")
        self._front = front
        self._where = ["--bootstrap-servers", kafka.bootstrap, "--topic", TOPIC, *options]
        self._log = (folder / "stream.log").open("ab")
        self._running: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        if self._running is not None and self._running.poll() is None:
            self.kill()
        self._log.close()

    def start(self, *more: str, behind: tuple[str, ...] = ()) -> None:
        """Start it; `behind` are options of Beam."""
        words = self._words("stream", *self._where, *more, *(("--", *behind) if behind else ()))
        self._running = subprocess.Popen(
            words, cwd=ROOT, stdout=self._log, stderr=self._log, start_new_session=True
        )

    def kill(self) -> None:
        """SIGKILL, to Prism as well where it runs in the command."""
        assert self._running is not None
        os.killpg(self._running.pid, signal.SIGKILL)
        self._running.wait()

    def end(self) -> None:
        """SIGTERM, and its end."""
        assert self._running is not None
        self._running.terminate()
        self._running.wait(LONGEST)

    def drained(self, seconds: int = 8, behind: tuple[str, ...] = ()) -> None:
        """Run it to the end of the topic. Raises where it fails."""
        self.start("--until-idle", str(seconds), behind=behind)
        assert self._running is not None
        code = self._running.wait(2 * LONGEST)
        if code:
            raise RuntimeError(f"the stream must end with 0 (got {code})")

    def usage(self) -> list[dict[str, Any]]:
        """Usage by hour, after a repair."""
        for command in (["repair"], ["usage", "--granularity", "hour"]):
            words = self._words(*command, "--format", "json")
            done = subprocess.run(words, cwd=ROOT, stdout=subprocess.PIPE, check=True)
        found: list[dict[str, Any]] = json.loads(done.stdout)
        return found

    def _words(self, command: str, *options: str) -> list[str]:
        where = ["--catalog", str(self._catalog), "--clickhouse", self._front.url]
        return [sys.executable, "-m", "runners.cli", command, *where, *options]


class Faults:
    """Injects faults while events flow, and notes how long each took to be over."""

    def __init__(self, sender: Sender, front: Front, rng: random.Random, count: int) -> None:
        self._count = count
        self._sender = sender
        self._front = front
        self._random = rng
        self.table: list[tuple[str, float]] = []

    def run(self, name: str, inject: Inject) -> None:
        """Wait for a random moment, inject, wait until it is over.

        `inject` is called with what it must call once the thing is down.
        """
        # Each has its share of the events, half of it kept for when the thing is down.
        self._wait(lambda: self._front.stored() > 0)
        self._sender.allow((len(self.table) + 0.5) / (self._count + 1))
        time.sleep(self._random.uniform(1, 6))
        down: list[tuple[int, float]] = []

        def is_down() -> None:
            down.append((self._sender.unique, time.monotonic()))
            self._sender.allow((len(self.table) + 1) / (self._count + 1))

        inject(is_down)
        [(before, began)] = down
        self._wait(lambda: self._front.stored() > before)
        self.table.append((name, time.monotonic() - began))
        sys.stderr.write(f"{name}: {self.table[-1][1]:.1f} s\n")

    def _wait(self, done: Callable[[], bool]) -> None:
        until = time.monotonic() + LONGEST
        while not done():
            if time.monotonic() > until:
                raise RuntimeError("the stream did not recover")
            time.sleep(0.2)


def on_flink(given: argparse.Namespace, folder: Path, kafka: Kafka, front: Front) -> None:
    """Workers, TaskManager, job, broker and warehouse."""
    rng = random.Random(given.seed)
    with ExitStack() as stack:
        cluster = stack.enter_context(FlinkCluster())
        server = stack.enter_context(JobServer(cluster=cluster))
        pool = stack.enter_context(WorkerPool())
        options = ["--runner", "flink", "--job-endpoint", server.endpoint]
        options += ["--flink-rest", cluster.rest, "--checkpoints", f"file://{folder / 'state'}"]
        command = stack.enter_context(Command(folder, kafka, front, options))
        behind = (*pool.options, "--retain_externalized_checkpoints_on_cancellation")
        command.start(behind=behind)
        sender = Sender(kafka.bootstrap, TOPIC, given.events, given.seed, given.rate)
        faults = Faults(sender, front, rng, 8)
        sender.start()

        def taskmanager(down: Callable[[], None]) -> None:
            cluster.kill_taskmanager()
            down()
            cluster.start_taskmanager()

        def job(down: Callable[[], None], restore: bool) -> None:
            path = _checkpoint(cluster) if restore else None
            command.kill()
            cluster.cancel_jobs()
            down()
            command.start(*(("--restore", path) if path else ()), behind=behind)

        def broker(down: Callable[[], None]) -> None:
            kafka.kill()
            down()
            time.sleep(rng.uniform(1, 4))
            kafka.start()

        def workers(down: Callable[[], None]) -> None:
            if not pool.kill_workers():
                raise RuntimeError("no worker was there to be killed")
            down()

        def warehouse(**how: int) -> Inject:
            def inject(down: Callable[[], None]) -> None:
                front.fault(**how)
                down()

            return inject

        every: list[tuple[str, Inject]] = [
            ("Python workers killed", workers),
            ("TaskManager killed", taskmanager),
            ("job killed, restored from its checkpoint", lambda down: job(down, restore=True)),
            ("job killed, started without state", lambda down: job(down, restore=False)),
            ("broker killed", broker),
            ("warehouse: errors", warehouse(status=500, code=202, times=20)),
            ("warehouse: time-outs", warehouse(status=0, times=4, seconds=3)),
            (
                "warehouse: half-written batches",
                warehouse(status=500, code=210, times=15, written=50),
            ),
        ]
        rng.shuffle(every)
        for name, inject in every:
            faults.run(name, inject)
        sender.join()
        command.end()
        command.drained(behind=tuple(pool.options))
        _report(given, faults, command, sender)


def on_prism(given: argparse.Namespace, folder: Path, kafka: Kafka, front: Front) -> None:
    """SIGKILL and a fresh start, and two runs to idle whose events share hours."""
    rng = random.Random(given.seed)
    options = ["--runner", "prism", "--prism-location", str(prism.path())]
    with Command(folder, kafka, front, options) as command:
        command.start()
        sender = Sender(kafka.bootstrap, TOPIC, given.events, given.seed, given.rate)
        faults = Faults(sender, front, rng, 3)
        sender.start()

        def killed(down: Callable[[], None]) -> None:
            command.kill()
            down()
            command.start()

        for number in range(1, 4):
            faults.run(f"SIGKILL and a fresh start ({number})", killed)
        command.kill()
        command.drained()
        sender.join()
        command.drained()
        _report(given, faults, command, sender)


def _checkpoint(cluster: FlinkCluster) -> str:
    """The newest completed checkpoint of the job; waits for the first one."""
    until = time.monotonic() + LONGEST
    while time.monotonic() < until:
        for job in cluster.running_jobs():
            known = cluster.get(f"/jobs/{job}/checkpoints") or {"latest": {}}
            found = known["latest"].get("completed")
            if found:
                return str(found["external_path"])
        time.sleep(0.2)
    raise RuntimeError("the job made no checkpoint")


def _report(given: argparse.Namespace, faults: Faults, command: Command, sender: Sender) -> None:
    found = difference(sender.truth, command.usage())
    print(f"\n| fault on {given.runner} | recovery |\n|---|---|")
    for name, seconds in faults.table:
        print(f"| {name} | {seconds:.1f} s |")
    print(f"\n{json.dumps({**found, 'sent': sender.sent, 'seed': given.seed})}")
    print(json.dumps({"load": os.getloadavg()[0]}))
    if found["missing"] or found["twice"] or found["wrong_sums"]:
        raise SystemExit("usage differs from what was sent")


@contextmanager
def _front(folder: Path) -> Iterator[Front]:
    front = Front(folder)
    try:
        yield front
    finally:
        front.stop()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runner", choices=["flink", "prism"], default="flink")
    parser.add_argument("--events", type=int, default=1_000_000)
    parser.add_argument("--rate", type=float, default=5000, help="events a second")
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, Kafka() as kafka:
        folder = Path(name)
        kafka.create_topic(TOPIC, partitions=4)
        with _front(folder / "warehouse") as front:
            run = on_flink if given.runner == "flink" else on_prism
            run(given, folder, kafka, front)


if __name__ == "__main__":
    main()
