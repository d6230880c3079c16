"""Stream on Prism, on Flink, and a backfill: `python -m benchmarks.same_rows.run --events N`.

Compares the usage tables row by row, and prints how long each way took.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from pathlib import Path

from tests.services import prism
from tests.services.flink import JobServer
from tests.services.kafka import Kafka
from tests.streaming.same_rows import SameRows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", type=int, default=1_000_000)
    parser.add_argument("--customers", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, Kafka() as kafka, JobServer() as server:
        same = SameRows(Path(folder), kafka, given.events, given.seed, given.customers, 3600)
        ways = {
            "backfill": same.by_backfill(),
            "prism": same.by_prism(prism.path()),
            "flink": same.by_flink(server),
        }
        expected = {_key(row): row for row in ways["backfill"]}
        for name, rows in ways.items():
            found = {_key(row): row for row in rows}
            print(
                json.dumps(
                    {
                        "way": name,
                        "rows": len(rows),
                        "events": sum(row["events"] for row in rows if row["meter"] == "tokens"),
                        "missing": len(expected.keys() - found.keys()),
                        "more": len(found.keys() - expected.keys()),
                        "different": sum(
                            found[key] != expected[key] for key in found.keys() & expected.keys()
                        ),
                    }
                )
            )
        print(json.dumps({**same.seconds, "load": os.getloadavg()[0]}))


def _key(row: dict[str, object]) -> tuple[object, ...]:
    names = ("external_customer_id", "meter", "external_subscription_id", "group_key", "start")
    return tuple(row[name] for name in names)


if __name__ == "__main__":
    main()
