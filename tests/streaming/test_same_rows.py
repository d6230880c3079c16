"""Stream on Prism, stream on Flink and backfill: one usage table.

`BEAMMETER_SAME_ROWS` says how many messages; `benchmarks/same_rows` does it with a million.
"""

from __future__ import annotations

import os
from pathlib import Path

from tests.conftest import or_skip
from tests.services.flink import JobServer
from tests.services.kafka import Kafka
from tests.streaming.same_rows import SameRows

MESSAGES = int(os.environ.get("BEAMMETER_SAME_ROWS", "60000"))


def test_prism_flink_and_backfill_have_the_same_rows(
    kafka: Kafka, prism: Path, tmp_path: Path
) -> None:
    same = SameRows(tmp_path, kafka, MESSAGES)
    expected = same.by_backfill()
    assert sum(row["events"] for row in expected if row["meter"] == "tokens") > 0.9 * MESSAGES * (
        same.customers / (same.customers + 1)
    )
    assert same.refused("batch")["conflict"] > 0
    # Levels and percentiles keep state of their own, which is compared too.
    assert any(int(row["moment"]) for row in expected if row["meter"] == "level")
    assert all(row["points"] != "[]" for row in expected if row["meter"] in ("read", "p95"))
    assert same.by_prism(prism) == expected
    assert same.refused("prism") == same.refused("batch")
    server = JobServer()
    or_skip(server.start)
    try:
        assert same.by_flink(server) == expected
    finally:
        server.stop()
