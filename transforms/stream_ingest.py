"""Ingest of a stream: messages -> raw rows in the warehouse, slim columns by shard.

    Messages -> decode -> meter --> deliveries by shard (and ticks to every shard)
                  |         |
                  v         v
              events   quarantine, dead letters

Fused with the source. An offset is committed to the consumer group when every message
before it is a durable row, of events or of quarantine; nothing is handed on earlier.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import copy_context

import apache_beam as beam
import polars as pl
import pyarrow as pa
from apache_beam.transforms.window import GlobalWindow
from apache_beam.utils.timestamp import Timestamp
from apache_beam.utils.windowed_value import WindowedValue

from meters.collection import collect_seldom, keep_what_is_there
from meters.decode import Decoded, decode
from meters.timeline import Timeline
from meters.zones import LEAST_US
from transforms import progress
from transforms.batches import pack
from transforms.catalogs import CATALOGS
from transforms.connection import connect_patiently
from transforms.dead_letters import DeadLetters
from transforms.deliveries import Delivery, Packed, encode
from transforms.kafka_messages import MessageReader, Messages, RawMessages
from transforms.kafka_source import CONSUMERS
from transforms.raw import quarantined
from transforms.stream_counts import STATS
from transforms.stream_options import StreamOptions
from transforms.stream_watermarks import WATERMARKS
from warehouse.stats import Stats, insert_stats
from warehouse.tracing import Traced, begin, span
from warehouse.writes import insert_events, insert_quarantine


@beam.typehints.with_output_types(tuple[int, bytes])
class IngestMessages(beam.DoFn):  # type: ignore[misc]
    """`Messages` -> (shard, encoded `Delivery`)."""

    def __init__(self, options: StreamOptions, timeline: Timeline) -> None:
        self._options = options
        self._first = timeline

    def setup(self) -> None:
        """Open the warehouse once a worker."""
        self._warehouse = connect_patiently(self._options.warehouse, self._options.job)
        self._reader = MessageReader(self._options.kafka.topic, self._options.tenant)
        self._dead = DeadLetters(self._options.kafka, self._options.dead_letters)
        self._writer = ThreadPoolExecutor(max_workers=1)
        self._catalogs = CATALOGS.of(self._options.job, self._options.tenant, self._first)
        _collect_seldom()
        begin()

    def start_bundle(self) -> None:
        """A bundle that failed leaves nothing behind; its catalogs are those of now."""
        self._timeline = self._catalogs.current(self._warehouse)
        self._events: list[pa.Table] = []
        self._refused: list[pa.Table] = []
        self._stats: list[Stats] = []
        self._deliveries: list[WindowedValue] = []
        self._reached: dict[int, dict[int, int]] = {}
        self._ticked = False
        self._began: int | None = None
        self._traced: list[Traced] = []

    def teardown(self) -> None:
        """Stop the thread."""
        self._writer.shutdown()

    def process(self, messages: Messages) -> None:
        """One batch; what comes of it is handed on when its raw rows are written."""
        options = self._options
        self._reached[messages.split] = messages.next
        self._ticked |= messages.tick
        mark = WATERMARKS.of(options.job, messages.split, options.disorder_us)
        by_shard: dict[int, list[Packed]] = {}
        newest: dict[int, int] = {}
        if messages.values:
            self._began = self._began or time.time_ns() // 1000
            self._traced += messages.traced
            for shard, at, packed in self._ingest(messages):
                by_shard.setdefault(shard, []).append(packed)
                newest[shard] = max(at, newest.get(shard, at))
        for shard in range(options.shards) if messages.tick else sorted(by_shard):
            delivery = Delivery(
                split=messages.split,
                splits=options.kafka.splits,
                sent=messages.now,
                clock=mark.clock,
                watermark=mark.at(messages),
                tick=messages.tick,
                drained=messages.drained,
                signature=self._timeline.signature,
                newest=newest.get(shard, LEAST_US),
                frames=by_shard.get(shard, []),
                traced=messages.traced if shard in by_shard else (),
                behind=messages.behind,
            )
            at = Timestamp(micros=messages.now)
            element = WindowedValue((shard, encode(delivery)), at, (GlobalWindow(),))
            self._deliveries.append(element)

    def finish_bundle(self) -> Iterator[WindowedValue]:
        """Nothing is handed on, or committed, before all raw rows of the bundle are written."""
        if self._began is None:
            self._store()
        else:
            read = sum(entry.read for entry in self._stats)
            refused = sum(entry.quarantined for entry in self._stats)
            about = {"beammeter.events": read, "beammeter.refused": refused}
            with span("ingest", about, kind="consumer", links=self._traced, since=self._began):
                self._store()
        yield from self._deliveries

    def _store(self) -> None:
        """Write the raw rows, and then tell the source how far it may commit."""
        writes: list[Future[None]] = []
        rows = 0
        if self._events:
            events = pa.concat_tables(self._events)
            rows += events.num_rows
            insert = functools.partial(insert_events, self._warehouse, events)
            writes.append(self._writer.submit(copy_context().run, insert))
        if self._refused:
            refused = pa.concat_tables(self._refused)
            rows += refused.num_rows
            insert_quarantine(self._warehouse, refused)
            self._dead.send(refused)
        STATS.add(self._options.job, self._stats)
        STATS.worked(self._options.job, rows=rows)
        if self._ticked and (stats := STATS.take_seldom(self._options.job)):
            insert_stats(self._warehouse, self._options.tenant, stats)
        for write in writes:
            write.result()
        progress.advance("stored", sum(table.num_rows for table in self._events))
        progress.advance("quarantined", sum(entry.quarantined for entry in self._stats))
        progress.advance("rounded", sum(entry.rounded for entry in self._stats))
        for split, offsets in self._reached.items():
            CONSUMERS.commit(self._options.job, split, offsets)

    def _ingest(self, messages: Messages) -> Iterator[tuple[int, int, Packed]]:
        options = self._options
        raw = self._reader.read(messages)
        decoded = decode(raw.columns, options.tenant, raw.origins, raw.rows)
        self._note(messages, raw, decoded)
        progress.advance("read", len(messages.values) - raw.foreign)
        metered = self._timeline.meter(options.tenant, decoded.events)
        if metered.events.num_rows:
            self._events.append(metered.events)
        refused = (quarantined(raw.bad, options.tenant), decoded.quarantine, metered.quarantine)
        self._refused += [table for table in refused if table.num_rows]
        self._stats.append(
            Stats(
                origin=self._reader.origin(int(messages.partitions[0])),
                row=int(messages.offsets[0]),
                at=messages.now,
                read=len(messages.values) - raw.foreign,
                accepted=metered.events.num_rows,
                quarantined=len(raw.bad) + decoded.quarantine.num_rows + metered.broken,
                rounded=metered.rounded,
            )
        )
        for version, slim in metered.frames:
            for shard, part in _by_shard(slim, options.shards):
                at = int(part["timestamp"].to_numpy().max())
                yield shard, at, (version, part.height, pack(part))

    def _note(self, messages: Messages, raw: RawMessages, decoded: Decoded) -> None:
        """Move the watermark by the events that were decoded, and by no others."""
        if not decoded.events.num_rows:
            return
        kept = slice(None) if decoded.kept is None else decoded.kept.to_numpy(zero_copy_only=False)
        at = decoded.events.column("timestamp").cast(pa.int64()).to_numpy()
        mark = WATERMARKS.of(self._options.job, messages.split, self._options.disorder_us)
        mark.update(raw.partitions[kept], at, raw.recorded[kept])


@functools.cache
def _collect_seldom() -> None:
    """A poll makes thousands of objects: the collector would look at all others as often."""
    keep_what_is_there()
    collect_seldom()


def _by_shard(slim: pl.DataFrame, shards: int) -> Iterator[tuple[int, pl.DataFrame]]:
    if shards == 1:
        yield 0, slim
        return
    numbered = slim.with_columns((pl.col("owner") % shards).alias("shard"))
    for key, part in numbered.partition_by("shard", as_dict=True, include_key=False).items():
        yield int(key[0]), part
