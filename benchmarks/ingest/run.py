"""Events through `beammeter serve` into a real broker, over loopback.

python -m benchmarks.ingest.run --seconds 8
python -m benchmarks.ingest.run --seconds 6 --load 4    # that one alone

Server, broker and load (`load.go`) share the machine. First as many requests as are answered,
then constant rates, where the time of an answer counts from when its request was due. Each load
has some seconds before it is measured, as the broker's first ones compile its code.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.service.servers import Server
from tests.services.kafka import Kafka

LOADS = (
    (1, 64, 0),
    (1, 64, 1250),
    (100, 8, 0),
    (100, 16, 200),
    (1000, 4, 0),
    (1000, 8, 20),
)
"""Events of a request, connections, requests a second (0: as many as are answered)."""


def main() -> None:
    """Measure each load in turn."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=8)
    parser.add_argument("--local", action="store_true", help="into the local log, no broker")
    numbers = range(1, len(LOADS) + 1)
    parser.add_argument("--load", type=int, choices=numbers, nargs="+", default=[*numbers])
    given = parser.parse_args()
    loads = [LOADS[number - 1] for number in given.load]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        load = build(folder)
        if given.local:
            server = Server(folder, "--clickhouse", f"chdb://{folder / 'data'}")
            server.process._command += ["--catalog", str(server.catalog)]
            measure(load, server, loads, given.seconds)
            return
        with Kafka() as kafka:
            kafka.create_topic("events", partitions=4)
            server = Server(folder, "--bootstrap-servers", kafka.bootstrap)
            measure(load, server, loads, given.seconds)


def build(folder: Path) -> Path:
    """The load program, compiled."""
    program = folder / "load"
    source = Path(__file__).with_name("load.go")
    subprocess.run(["go", "build", "-o", str(program), str(source)], check=True)
    return program


def measure(
    load: Path, server: Server, loads: Sequence[tuple[int, int, int]], seconds: float
) -> None:
    """Print a line for each load."""
    server.start()
    for events, connections, rate in loads:
        before = times(server.process.pid)
        found = sent(load, server, events, connections, rate, seconds)
        spent = times(server.process.pid) - before
        print(
            f"{events} events, {connections} connections, "
            f"{f'{rate} requests/s asked for' if rate else 'closed loop'}: "
            f"{found['requests_per_second']:.0f} requests/s, "
            f"{events * found['requests_per_second']:.0f} events/s, "
            f"p50 {found['p50_ms']:.1f}, p99 {found['p99_ms']:.1f}, p99.9 {found['p999_ms']:.1f}, "
            f"most {found['most_ms']:.1f} ms, wrong {found['wrong']}, "
            f"server {spent:.1f} s of processor"
        )
        sys.stdout.flush()
    print("exit", server.end())


def sent(
    load: Path, server: Server, events: int, connections: int, rate: float, seconds: float
) -> dict[str, Any]:
    """What the load program says of one load."""
    options = {
        "address": server.url.removeprefix("http://"),
        "events": events,
        "connections": connections,
        "rate": rate,
        "seconds": seconds,
    }
    command = [str(load), *(f"-{name}={value}" for name, value in options.items())]
    done = subprocess.run(
        command, env=os.environ | {"KEY": server.key}, capture_output=True, text=True, check=True
    )
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def times(pid: int) -> float:
    """The processor time that a process has used, in seconds."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


if __name__ == "__main__":
    main()
