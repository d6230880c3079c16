"""The same work as a plain Beam pipeline on Prism: one Python element an event.

    topic -> events -> raw rows in batches
                    -> by identity -> the first copy, by Beam's state
                    -> by (customer, region) in hours -> CombineFns -> rows in batches

`python -m benchmarks.streaming.beam_peer --topic T` reads a topic that
`benchmarks.streaming.run fill` made; every state of Prism is in memory, so a few hundred
thousand messages are enough. The clock runs from the first message read to the last row
written. Events carry what the meters need and no more; nothing is quarantined, late or
billed, and there are no checkpoints.
"""

from __future__ import annotations

import argparse
import atexit
import json
import os
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import apache_beam as beam
import msgspec
import pyarrow as pa
from apache_beam.coders import BooleanCoder
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.transforms.combiners import CountCombineFn, TupleCombineFn
from apache_beam.transforms.userstate import ReadModifyWriteStateSpec
from apache_beam.transforms.window import FixedWindows, TimestampedValue
from confluent_kafka import Consumer, TopicPartition

from benchmarks.streaming.run import PARTITIONS
from tests.services import prism
from tests.services.kafka import Kafka
from warehouse.client import Warehouse

_COUNTED = """
SELECT (SELECT count() FROM peer_events) AS read,
    (SELECT uniqExact(customer, id) FROM peer_events) AS unique,
    (SELECT sum(calls) FROM peer_usage) AS counted
"""
_RAW = """
CREATE TABLE peer_events (id String, customer String, body String)
ENGINE MergeTree ORDER BY id
"""
_USAGE = """
CREATE TABLE peer_usage (customer String, region String, calls Int64, tokens String, top String)
ENGINE MergeTree ORDER BY customer
"""

Event = tuple[str, str, str, str]
"""(event id, customer, region, tokens)."""

BEGAN: list[float] = []
"""When each partition was begun; workers are threads of this process."""


class Read(beam.DoFn):  # type: ignore[misc]
    """Number of a partition -> its messages."""

    def __init__(self, bootstrap: str, topic: str) -> None:
        self._bootstrap = bootstrap
        self._topic = topic

    def process(self, partition: int) -> Iterator[bytes]:
        """One partition."""
        settings = {"bootstrap.servers": self._bootstrap, "group.id": uuid.uuid4().hex}
        consumer = Consumer(settings)
        consumer.assign([TopicPartition(self._topic, partition, 0)])
        _, left = consumer.get_watermark_offsets(TopicPartition(self._topic, partition))
        BEGAN.append(time.monotonic())
        while left:
            for message in consumer.consume(min(left, 1000), 1.0):
                left -= 1
                yield message.value()
        consumer.close()


def decoded(value: bytes) -> TimestampedValue:
    """One event at its time."""
    found = msgspec.json.decode(value)
    properties = found["properties"]
    at = datetime.fromisoformat(found["timestamp"]).timestamp()
    event = (
        found["event_id"],
        found["external_customer_id"],
        properties["region"],
        properties["tokens"],
    )
    return TimestampedValue(event, at)


class First(beam.DoFn):  # type: ignore[misc]
    """(identity, event) -> the event, where its identity is new."""

    SEEN = ReadModifyWriteStateSpec("seen", BooleanCoder())

    def process(
        self, element: tuple[str, Event], seen: Any = beam.DoFn.StateParam(SEEN)
    ) -> Iterator[Event]:
        """One copy."""
        if not seen.read():
            seen.write(True)
            yield element[1]


class Store(beam.DoFn):  # type: ignore[misc]
    """A batch of tuples -> rows of a table."""

    def __init__(self, url: str, table: str, names: list[str]) -> None:
        self._url = url
        self._table = table
        self._names = names

    def setup(self) -> None:
        """Open the warehouse."""
        self._warehouse = Warehouse.connect(self._url)

    def process(self, batch: list[tuple[Any, ...]]) -> None:
        """One insert."""
        columns = zip(*batch, strict=True)
        self._warehouse.insert(
            self._table, pa.table(dict(zip(self._names, map(list, columns), strict=True)))
        )


def usage(cell: tuple[tuple[str, str], tuple[int, Decimal, Decimal]]) -> tuple[Any, ...]:
    """One row."""
    (customer, region), (calls, tokens, top) = cell
    return customer, region, calls, str(tokens), str(top)


def build(pipeline: beam.Pipeline, read: Read, url: str) -> None:
    """Compose the pipeline."""
    events = (
        pipeline
        | beam.Create(range(PARTITIONS))
        | beam.Reshuffle()
        | beam.ParDo(read)
        | beam.Map(decoded)
    )
    _ = (
        events
        | "RawRows" >> beam.Map(lambda event: (event[0], event[1], event[3]))
        | "RawBatches" >> beam.BatchElements(5_000, 50_000)
        | "Raw" >> beam.ParDo(Store(url, "peer_events", ["id", "customer", "body"]))
    )
    combined = TupleCombineFn(CountCombineFn(), sum, max)
    _ = (
        events
        | beam.WindowInto(FixedWindows(3600))
        | beam.Map(lambda event: (f"{event[1]}/{event[0]}", event))
        | beam.ParDo(First())
        | beam.Map(lambda e: ((e[1], e[2]), (1, Decimal(e[3]), Decimal(e[3]))))
        | beam.CombinePerKey(combined)
        | "Rows" >> beam.Map(usage)
        | "Batches" >> beam.BatchElements(100, 10_000)
        | "Usage"
        >> beam.ParDo(Store(url, "peer_usage", ["customer", "region", "calls", "tokens", "top"]))
    )


def main() -> None:
    """Run it once and print the rate."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--topic", required=True)
    given = parser.parse_args()
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        kafka = stack.enter_context(Kafka())
        url = f"chdb://{Path(folder) / 'warehouse'}"
        warehouse = stack.enter_context(Warehouse.connect(url))
        warehouse.command(_RAW)
        warehouse.command(_USAGE)
        options = PipelineOptions(
            ["--runner=PrismRunner", f"--prism_location={prism.path()}"],
            environment_type="LOOPBACK",
        )
        with beam.Pipeline(options=options) as pipeline:
            build(pipeline, Read(kafka.bootstrap, given.topic), url)
        seconds = time.monotonic() - min(BEGAN)
        [counts] = warehouse.query_rows(_COUNTED)
    found = {name: int(str(count)) for name, count in counts.items()}
    exact = found["counted"] == found["unique"]
    rate = round(found["read"] / seconds)
    load = round(os.getloadavg()[0], 1)
    print(json.dumps({"seconds": round(seconds, 1), "rate": rate, **found, "exact": exact}))
    print(json.dumps({"load": load}), flush=True)
    # Prism ends with the interpreter; the engine would not survive its end.
    atexit._run_exitfuncs()
    os._exit(0)


if __name__ == "__main__":
    # What a worker gets by name needs no pickling, and a consumer has none.
    from benchmarks.streaming import beam_peer

    beam_peer.main()
