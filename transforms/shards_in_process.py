"""The shards of a stream whose runner keeps no state beyond its process.

    deliveries of a bundle -> lock -> receive, flush the shards where it is due

Prism and the DirectRunner lose keyed state when they end, so a start loads the shards
from the raw events whatever they kept. Here shards are kept in the memory of the one
process, and a lock does what keys do elsewhere. Prism 2.77 is not asked for
keyed state for another reason as well: where it splits a slow bundle between two
elements of one key, it gives that key to two bundles at once, and one loses its writes
(`splitBundle` in its elementmanager.go frees the key). A bundle that fails ends the job.
"""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import apache_beam as beam

from meters.timeline import Timeline
from transforms.connection import connect_patiently
from transforms.deliveries import Delivery, decode
from transforms.shard_flush import ShardWork
from transforms.shard_memory import MEMORY, Shard
from transforms.stream_options import StreamOptions

_NONCE = b"process"
_AT_ONCE = 4
_LOADING = threading.Lock()
"""Shards load one by one: the engine needs memory for all raw events of one."""


@beam.typehints.with_input_types(tuple[int, bytes])
@beam.typehints.with_output_types(int)
class ShardsInProcess(beam.DoFn):  # type: ignore[misc]
    """(shard, encoded `Delivery`) -> nothing; fused with the ingest of the delivery."""

    def __init__(self, options: StreamOptions, timeline: Timeline) -> None:
        self._options = options
        self._timeline = timeline

    def setup(self) -> None:
        """Open the warehouse once a worker."""
        warehouse = connect_patiently(self._options.warehouse, self._options.job)
        self._work = ShardWork(warehouse, self._options, self._timeline)
        self._threads = ThreadPoolExecutor(max_workers=_AT_ONCE)

    def start_bundle(self) -> None:
        """A bundle that failed leaves nothing behind."""
        self._waiting: dict[int, list[Delivery]] = {}

    def process(self, element: tuple[int, bytes]) -> None:
        """One delivery; a shard's are received in their order, when the bundle ends."""
        number, encoded = element
        self._waiting.setdefault(number, []).append(decode(encoded))

    def finish_bundle(self) -> None:
        """Shards are counted side by side; then what has changed in all is written."""
        if not self._waiting:
            return
        job = self._options.job
        splits = next(iter(self._waiting.values()))[0].splits
        with MEMORY.lock(job):
            received = list(self._threads.map(self._receive, self._waiting.items()))
            due = [(number, shard) for number, shard, is_due in received if is_due]
            self._work.flush(due, splits, self._threads.map)
            for number, shard, _ in received:
                MEMORY.put(job, number, _NONCE, shard)

    def teardown(self) -> None:
        """Stop the threads."""
        self._threads.shutdown()

    def _receive(self, entry: tuple[int, list[Delivery]]) -> tuple[int, Shard, bool]:
        """The shard with its deliveries, and whether a flush is due."""
        number, deliveries = entry
        work, job = self._work, self._options.job
        shard = MEMORY.take(job, number, _NONCE) or self._load(number)
        is_due = False
        for brought in deliveries:
            shard, delivery = work.ready(shard, brought, partial(self._load, number))
            is_due = work.receive(shard, delivery) or is_due
        return number, shard, is_due

    def _load(self, number: int, at_least: int = 0, changed_from: int | None = None) -> Shard:
        with _LOADING:
            return self._work.load(number, at_least, changed_from)


@beam.typehints.with_input_types(int)
class End(beam.DoFn):  # type: ignore[misc]
    """Nothing -> nothing: the other side of an output that never has any."""

    def process(self, element: int) -> None:
        """Never called."""
