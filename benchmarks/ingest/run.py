"""Events through `beammeter serve` into a real broker, loaded by wrk over loopback.

python -m benchmarks.ingest.run --seconds 8

Server, broker and load tool share the machine. p99 at half the load is measured with as many
connections as give about half of the rate.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.service.servers import Server
from tests.services.kafka import Kafka

LOADS = ((1, 32), (1, 4), (100, 8), (100, 1), (1000, 4), (1000, 1))
"""Events of a request, connections."""


def main() -> None:
    """Measure each load in turn."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=int, default=8)
    parser.add_argument("--local", action="store_true", help="into the local log, no broker")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if given.local:
            server = Server(folder, "--clickhouse", f"chdb://{folder / 'data'}")
            server.process._command += ["--catalog", str(server.catalog)]
            measure(server, given.seconds)
            return
        with Kafka() as kafka:
            kafka.create_topic("events", partitions=4)
            measure(Server(folder, "--bootstrap-servers", kafka.bootstrap), given.seconds)


def measure(server: Server, seconds: int) -> None:
    """Print a line for each load."""
    server.start()
    script = str(Path(__file__).with_name("bulk.lua"))
    for events, connections in LOADS:
        before = times(server.process.pid)
        done = subprocess.run(
            ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "-s", script, server.url],
            env=os.environ | {"EVENTS": str(events), "KEY": server.key},
            capture_output=True,
            text=True,
            check=True,
        )
        spent = times(server.process.pid) - before
        lines = [line for line in done.stdout.splitlines() if line.startswith("RESULT")]
        print(f"connections {connections} server {spent:.1f} s of processor {lines[0]}")
        sys.stdout.flush()
    print("exit", server.end())


def times(pid: int) -> float:
    """The processor time that a process has used, in seconds."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


if __name__ == "__main__":
    main()
