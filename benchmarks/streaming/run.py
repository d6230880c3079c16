"""Measures the stream: `python -m benchmarks.streaming.run rate|latency|fill|preload ...`.

rate      the clock runs from the first raw row stored to the last usage row written, as
          the warehouse has both. Raw rows are stored; what is counted is compared with
          them. Without --topic a topic is filled first.
latency   events are sent at a steady rate; an event is seen when the sum of a `count`
          meter, read from the warehouse every 50 ms, has reached its number.
fill      only fills a topic of the broker `$BEAMMETER_KAFKA`, for several runs of `rate`.
preload   puts `--preload N` raw events of closed hours into a new warehouse, the folder
          `--warehouse`. `rate` and `latency` with that folder work on a copy of it: the
          stream loads these identities when it starts, as after any restart.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import resource
import shutil
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from benchmarks.streaming.load import Steady, fill, preload, write_catalog
from tests.services import prism
from tests.services.flink import JobServer
from tests.services.kafka import Kafka
from warehouse.client import Warehouse

ROOT = Path(__file__).parents[2]
PARTITIONS = 4
_COUNTED = """
SELECT (SELECT count() FROM events FINAL WHERE startsWith(origin, 'kafka://')) AS raw,
    (SELECT sum(events) FROM usage FINAL WHERE meter = 'calls') AS counted,
    (SELECT sum(read) FROM ingest_stats FINAL) AS read,
    (SELECT toDateTime64(min(stored_at), 6, 'UTC') FROM events
        WHERE startsWith(origin, 'kafka://')) AS first,
    (SELECT max(updated_at) FROM usage) AS last
"""
_STORED = """
SELECT toUnixTimestamp(stored_at) AS at, count() AS raw FROM events
WHERE startsWith(origin, 'kafka://') GROUP BY at ORDER BY at
"""
_SEEN = "SELECT sum(events) AS n FROM usage FINAL WHERE meter = 'calls'"


@dataclass
class Setting:
    """Where one run takes place."""

    folder: Path
    kafka: Kafka
    runner: str
    options: list[str]

    def command(self, url: str, topic: str, *options: str) -> list[str]:
        """The command line of the stream."""
        words = ["stream", "--catalog", str(write_catalog(self.folder)), "--clickhouse", url]
        words += ["--topic", topic, "--bootstrap-servers", self.kafka.bootstrap]
        words += ["--group", uuid.uuid4().hex, "--lateness", "3600"]
        return [sys.executable, "-m", "runners.cli", *words, *self.options, *options]

    @property
    def checkpoints(self) -> int:
        """How many checkpoints Flink has completed."""
        found = (self.folder / "checkpoints").rglob("chk-*")
        return max((int(re.sub(r"\D", "", path.name)) for path in found), default=0)


@contextmanager
def setting(runner: str) -> Iterator[Setting]:
    """Broker and runner, all on this machine."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        kafka = stack.enter_context(Kafka())
        options = ["--runner", runner]
        if runner == "prism":
            options += ["--prism-location", str(prism.path())]
        else:
            server = stack.enter_context(JobServer(folder / "flink"))
            options += ["--job-endpoint", server.endpoint]
            options += ["--checkpoints", (folder / "checkpoints").as_uri()]
        yield Setting(folder, kafka, runner, options)


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """ClickHouse's HTTP protocol over the real engine, for more than one process."""
    front = [sys.executable, "-m", "tests.warehouse.http_front", str(folder / "server")]
    with subprocess.Popen(front, cwd=ROOT, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        yield f"clickhouse://default@localhost:{int(server.stdout.readline())}/default"
        server.kill()


def rate(
    runner: str, events: int, topic: str | None, warehouse_folder: Path | None
) -> dict[str, Any]:
    """Events a second from a full topic."""
    with setting(runner) as place, ExitStack() as stack:
        preloaded = _copy(
            warehouse_folder, place.folder / ("warehouse", "server")[runner != "prism"]
        )
        if topic is None:
            topic = f"events-{uuid.uuid4().hex[:8]}"
            place.kafka.create_topic(topic, partitions=PARTITIONS)
            fill(place.kafka.bootstrap, topic, events)
        url = f"chdb://{place.folder / 'warehouse'}"
        if runner != "prism":
            url = stack.enter_context(served(place.folder))
        command = place.command(url, topic, "--until-idle", "5")
        subprocess.run(command, cwd=ROOT, check=True)
        peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1e6
        with Warehouse.connect(url) as warehouse:
            (found,) = warehouse.query_rows(_COUNTED)
            rows = warehouse.query_rows(_STORED)
        checkpoints = place.checkpoints
    seconds = (found["last"] - found["first"]).total_seconds()  # type: ignore[operator]
    read = int(str(found["read"]))
    counts = {"read": read, "raw": found["raw"], "counted": found["counted"]}
    exact = {"exact": found["raw"] == found["counted"]}
    state = {"preloaded": preloaded, "peak_gb": round(peak, 2), "checkpoints": checkpoints}
    if preloaded:
        stored = [(int(str(row["at"])), int(str(row["raw"]))) for row in rows]
        state |= _after_loading(stored, found["last"].timestamp())  # type: ignore[union-attr]
    return {"seconds": seconds, "rate": round(read / seconds), **counts, **exact, **state}


def _after_loading(stored: list[tuple[int, int]], last: float) -> dict[str, int]:
    """The longest pause between raw rows, in which the shards loaded, and the rate behind it.

    `stored` has the raw rows of each second in which some were stored, `last` when the last
    usage row was written.
    """
    pauses = [(after[0] - at[0], after[0]) for at, after in pairwise(stored)]
    pause, began = max(pauses)
    rows = sum(raw for at, raw in stored if at >= began)
    return {"loading_seconds": pause, "rate_after": round(rows / (last - began))}


def latency(
    runner: str, per_second: int, seconds: int, warehouse_folder: Path | None
) -> dict[str, Any]:
    """Seconds from the producer's clock to a row read back."""
    topic = f"events-{uuid.uuid4().hex[:8]}"
    with setting(runner) as place, ExitStack() as stack:
        preloaded = _copy(warehouse_folder, place.folder / "server")
        url = stack.enter_context(served(place.folder))
        place.kafka.create_topic(topic, partitions=PARTITIONS)
        with Warehouse.connect(url) as warehouse:
            words = place.command(url, topic)
            with subprocess.Popen(words, cwd=ROOT) as stream:
                _await_start(warehouse, place.kafka, topic)
                sender = Steady(place.kafka.bootstrap, topic, per_second, seconds)
                sender.start()
                seen: list[float] = []
                until = time.time() + seconds + 20
                while time.time() < until and (sender.is_alive() or len(seen) < len(sender.sent)):
                    count = int(str(warehouse.query_rows(_SEEN)[0]["n"])) - 1
                    seen += [time.time()] * (min(count, len(sender.sent)) - len(seen))
                    time.sleep(0.05)
                sender.join()
                stream.terminate()
    delays = sorted(b - a for a, b in zip(sender.sent, seen, strict=False))
    points = {f"p{p}": round(delays[len(delays) * p // 100], 2) for p in (50, 95, 99)}
    counts = {"per_second": per_second, "sent": len(sender.sent), "seen": len(seen)}
    return {**counts, "preloaded": preloaded, **points, "max": round(delays[-1], 2)}


def _copy(source: Path | None, target: Path) -> int:
    """A warehouse of its own for one run; returns how many identities wait in it."""
    if source is None:
        return 0
    shutil.copytree(source, target, symlinks=True)
    return int((source.parent / f"{source.name}.identities").read_text())


def _await_start(warehouse: Warehouse, kafka: Kafka, topic: str) -> None:
    """Send one event and wait until it is counted: the state is loaded then."""
    Steady(kafka.bootstrap, topic, 1, 2, first=10**9).run()
    until = time.time() + 600
    while int(str(warehouse.query_rows(_SEEN)[0]["n"])) < 1:
        if time.time() > until:
            raise SystemExit("the stream must count its first event within ten minutes")
        time.sleep(0.5)
    time.sleep(3)


def main() -> None:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=["rate", "latency", "fill", "preload"])
    parser.add_argument("--runner", choices=["prism", "flink"], default="prism")
    parser.add_argument("--events", type=int, default=1_000_000)
    parser.add_argument("--topic", help="a topic that is filled already")
    parser.add_argument("--preload", type=int, default=1_000_000)
    parser.add_argument("--warehouse", type=Path, help="a folder that `preload` made")
    parser.add_argument("--per-second", type=int, default=10_000)
    parser.add_argument("--seconds", type=int, default=30)
    given = parser.parse_args()
    if given.what == "fill":
        with Kafka() as kafka:
            kafka.create_topic(given.topic, partitions=PARTITIONS)
            fill(kafka.bootstrap, given.topic, given.events)
        return
    if given.what == "preload":
        with Warehouse.connect(f"chdb://{given.warehouse.resolve()}") as warehouse:
            preload(warehouse, given.preload)
        note = given.warehouse.parent / f"{given.warehouse.name}.identities"
        note.write_text(str(given.preload))
        return
    if given.what == "rate":
        found = rate(given.runner, given.events, given.topic, given.warehouse)
    else:
        found = latency(given.runner, given.per_second, given.seconds, given.warehouse)
    load = round(os.getloadavg()[0], 1)
    print(json.dumps({"runner": given.runner, **found, "load": load}))


if __name__ == "__main__":
    main()
