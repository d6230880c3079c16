"""Numbers that lose digits on their way through a stream are counted."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from meters.catalog import Catalog
from meters.timeline import ALWAYS, Timeline
from meters.zones import microseconds
from tests.meters.chain import catalog_of, event, meter
from tests.pipelines.runs import Tenant
from transforms.event_log import EventLog
from transforms.log_source import LOGS, ReadLogRound, log_settings
from transforms.stream_ingest import IngestMessages
from transforms.stream_options import StreamOptions
from warehouse.condition import read_condition

CATALOG = catalog_of(meter("sum"), zone="UTC")
NEXT = catalog_of(meter("max"), zone="UTC")
LATER = microseconds(datetime(2026, 1, 31, 12, tzinfo=UTC))
NUMBERS = {
    "lost": ("0.1234567890123", True),
    "lost again": (0.1000000000000001, True),
    "lost later": ("-7.9999999999999", True),
    "kept": ("0.123456789012", False),
    "zeros": ("1.500000000000000000", False),
    "refused": ("a text", False),
}


@pytest.mark.parametrize("announced", [False, True])
def test_a_stream_counts_the_numbers_that_it_rounds(
    new_tenant: Callable[[Catalog], Tenant], tmp_path: Path, announced: bool
) -> None:
    tenant = new_tenant(CATALOG)
    timeline = Timeline([(ALWAYS, CATALOG), *([(LATER, NEXT)] if announced else [])])
    rows = [
        event(
            name,
            timestamp="2026-01-31T13:00:00Z" if name == "lost later" else "2026-01-31T11:00:00Z",
            properties={"x": number, "unmetered": "0.12345678901234567"},
        )
        for name, (number, _) in NUMBERS.items()
    ]
    log = EventLog(tmp_path / "log")
    LOGS.put(log)
    log.append([(f"{tenant.name}/c".encode(), json.dumps(row).encode()) for row in rows], 1)
    options = StreamOptions(uuid.uuid4().hex, tenant.name, tenant.url, log_settings(), shards=1)
    ingest = IngestMessages(options, timeline)
    ingest.setup()
    ingest.start_bundle()
    for messages in ReadLogRound(options, str(log.folder)).process(0):
        ingest.process(messages)
    assert list(ingest.finish_bundle())
    ingest.teardown()
    LOGS.forget(options.job)
    log.close()
    now = datetime.now(UTC)
    found = read_condition(tenant.warehouse, tenant.name, at=now, since=now - timedelta(minutes=5))
    assert found.counts["read"] == len(NUMBERS)
    assert found.counts["rounded"] == sum(lost for _, lost in NUMBERS.values()) == 3
