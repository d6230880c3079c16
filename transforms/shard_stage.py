"""The keyed stage of a stream: deliveries of one shard -> usage rows, exact through crashes.

    bundle: nonce -> memory fits? --yes--> use it
                         no --> read the keyed state --absent or of other catalogs--> load
            delivery -> pending; flush where one is due; write what changed, then a new nonce

The keyed state of a shard:

    nonce    names the memory that equals the state
    about    what is no table: how far the shard is, as JSON
    pending  deliveries since the last flush, as they came
    cells    a log of partial cells of open buckets, written anew when it has grown
    seen     identities, a bag for each slice of record time, cleared as a whole
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from functools import partial
from typing import Any

import apache_beam as beam
import msgspec
import numpy as np
from apache_beam.coders import BytesCoder
from apache_beam.transforms.userstate import BagStateSpec, ReadModifyWriteStateSpec

from meters.identities import Keys
from meters.measure import Cells
from meters.stream_state import FLOORS, SLICES, ShardState, merged_log
from meters.timeline import Names, Timeline, first_difference
from meters.zones import LEAST_US
from transforms.batches import CellsCoder, pack, unpack
from transforms.connection import connect_patiently
from transforms.deliveries import Packed, decode
from transforms.shard_flush import Effects, ShardWork
from transforms.shard_memory import MEMORY, Shard
from transforms.stream_options import HOUR_US, StreamOptions
from warehouse.tracing import begin

_CELLS = CellsCoder()
_LEAST_LOG = 50_000


class _About(msgspec.Struct):
    """The part of a shard that is no table; `names` are those of its catalogs."""

    names: Names
    newest: int
    shards: int
    closed_until: int
    slice: int
    watermarks: dict[int, int]
    sent: dict[int, int]
    clock: int
    released: bool
    floors: bytes
    load_begun_at: int = 0
    doubtful_until: int = 0
    horizon_us: int = 72 * HOUR_US


class _LogEntry(msgspec.Struct, array_like=True):
    version: int
    cells: bytes


_PACKED = msgspec.msgpack.Decoder(Packed)
_LOGGED = msgspec.msgpack.Decoder(_LogEntry)
_ABOUT = msgspec.msgpack.Decoder(_About)


@beam.typehints.with_input_types(tuple[int, bytes])
class ShardStage(beam.DoFn):  # type: ignore[misc]
    """(shard, encoded `Delivery`) -> nothing; the shard is kept in keyed state."""

    NONCE = ReadModifyWriteStateSpec("nonce", BytesCoder())
    ABOUT = ReadModifyWriteStateSpec("about", BytesCoder())
    PENDING = BagStateSpec("pending", BytesCoder())
    CELLS = BagStateSpec("cells", BytesCoder())
    SEEN_0 = BagStateSpec("seen_0", BytesCoder())
    SEEN_1 = BagStateSpec("seen_1", BytesCoder())
    SEEN_2 = BagStateSpec("seen_2", BytesCoder())
    SEEN_3 = BagStateSpec("seen_3", BytesCoder())
    SEEN_4 = BagStateSpec("seen_4", BytesCoder())
    SEEN_5 = BagStateSpec("seen_5", BytesCoder())
    SEEN_6 = BagStateSpec("seen_6", BytesCoder())

    def __init__(self, options: StreamOptions, timeline: Timeline) -> None:
        self._options = options
        self._timeline = timeline

    def setup(self) -> None:
        """Open the warehouse once a worker."""
        warehouse = connect_patiently(self._options.warehouse, self._options.job)
        self._work = ShardWork(warehouse, self._options, self._timeline)
        begin()

    def process(
        self,
        element: tuple[int, bytes],
        nonce: Any = beam.DoFn.StateParam(NONCE),
        about: Any = beam.DoFn.StateParam(ABOUT),
        pending: Any = beam.DoFn.StateParam(PENDING),
        cells: Any = beam.DoFn.StateParam(CELLS),
        seen_0: Any = beam.DoFn.StateParam(SEEN_0),
        seen_1: Any = beam.DoFn.StateParam(SEEN_1),
        seen_2: Any = beam.DoFn.StateParam(SEEN_2),
        seen_3: Any = beam.DoFn.StateParam(SEEN_3),
        seen_4: Any = beam.DoFn.StateParam(SEEN_4),
        seen_5: Any = beam.DoFn.StateParam(SEEN_5),
        seen_6: Any = beam.DoFn.StateParam(SEEN_6),
    ) -> Iterator[None]:
        """One delivery."""
        number, encoded = element
        delivery = decode(encoded)
        seen = (seen_0, seen_1, seen_2, seen_3, seen_4, seen_5, seen_6)
        state = _KeyedState(nonce, about, pending, cells, seen)
        job = self._options.job
        shard = MEMORY.take(job, number, state.nonce.read())
        if shard is None:
            shard = self._restored(number, state)
        load = partial(self._loaded, number, state)
        shard, delivery = self._work.ready(shard, delivery, load)
        due = self._work.receive(shard, delivery)
        if due:
            [effects] = self._work.flush([(number, shard)], delivery.splits)
            state.flushed(shard, effects)
        else:
            state.appended(delivery.frames)
        if due or not delivery.frames:
            state.describe(shard, self._options)
        mark = uuid.uuid4().bytes
        state.nonce.write(mark)
        MEMORY.put(job, number, mark, shard)
        yield from ()

    def _restored(self, number: int, state: _KeyedState) -> Shard:
        """The shard of the keyed state; loaded anew where there is none that fits."""
        found = state.about.read()
        if found is None:
            return self._loaded(number, state, 0)
        known = _ABOUT.decode(found)
        timeline = self._work.timeline
        since = first_difference(known.names, timeline.names)
        # The horizon numbers the slices: under another one, identities stand in the wrong ones.
        cut = known.shards, known.horizon_us
        if known.released or cut != (self._options.shards, self._options.horizon_us):
            return self._loaded(number, state, known.closed_until, since)
        pending = state.pending()
        known.newest = max([known.newest, *(_newest_of(packed) for _, _, packed in pending)])
        if since is not None and known.newest >= since:
            return self._loaded(number, state, known.closed_until, since)
        return state.shard(known, timeline, pending)

    def _loaded(
        self, number: int, state: _KeyedState, closed_until: int, changed_from: int | None = None
    ) -> Shard:
        """Build the shard from raw events, and the keyed state from the shard."""
        shard = self._work.load(number, closed_until, changed_from)
        state.replace(shard)
        return shard


class _KeyedState:
    """Reads and writes the keyed state of one shard."""

    def __init__(
        self, nonce: Any, about: Any, pending: Any, cells: Any, seen: tuple[Any, ...]
    ) -> None:
        self.nonce = nonce
        self.about = about
        self._pending = pending
        self._cells = cells
        self._seen = seen

    def pending(self) -> list[Packed]:
        """What came since the last flush."""
        return [_PACKED.decode(entry) for entry in self._pending.read()]

    def shard(self, known: _About, timeline: Timeline, pending: list[Packed]) -> Shard:
        """The shard as the state has it."""
        state = ShardState(
            timeline, closed_until=known.closed_until, slice=known.slice, newest=known.newest
        )
        state.floors = unpack(known.floors)
        state.doubtful_until = known.doubtful_until
        for number in range(max(0, known.slice - SLICES + 1), known.slice + 1):
            for segment in self._seen[number % SLICES].read():
                state.identities.add(_keys(segment), number)
        entries = [_LOGGED.decode(entry) for entry in self._cells.read()]
        merged_log(state, [(entry.version, _CELLS.decode(entry.cells)) for entry in entries])
        return Shard(
            state,
            pending=pending,
            watermarks=known.watermarks,
            sent=known.sent,
            clock=known.clock,
            released=known.released,
            load_begun_at=known.load_begun_at,
            logged=sum(len(usage) for usage in state.open.values()),
        )

    def replace(self, shard: Shard) -> None:
        """Write a shard that was loaded."""
        self._pending.clear()
        for bag in self._seen:
            bag.clear()
        for number, keys in shard.state.identities.segments():
            self._seen[number % SLICES].add(_segment(keys))
        self._rewrite_log(shard)

    def appended(self, frames: list[Packed]) -> None:
        """Keep what waits for the next flush."""
        for frame in frames:
            self._pending.add(msgspec.msgpack.encode(frame))

    def flushed(self, shard: Shard, effects: Effects) -> None:
        """Keep what a flush has changed."""
        self._pending.clear()
        for number in effects.forgotten:
            self._seen[number % SLICES].clear()
        if effects.fresh is not None and len(effects.fresh):
            self._seen[shard.state.slice % SLICES].add(_segment(effects.fresh))
        for version, cells in effects.cells:
            shard.logged += cells.rows.height
            self._cells.add(_log_entry(version, cells))
        open_cells = sum(len(usage) for usage in shard.state.open.values())
        if shard.logged > 2 * open_cells + _LEAST_LOG:
            self._rewrite_log(shard)

    def describe(self, shard: Shard, options: StreamOptions) -> None:
        """Keep how far the shard is."""
        state = shard.state
        about = _About(
            names=state.timeline.names,
            newest=state.newest,
            shards=options.shards,
            closed_until=state.closed_until,
            slice=state.slice,
            watermarks=shard.watermarks,
            sent=shard.sent,
            clock=shard.clock,
            released=shard.released,
            floors=pack(state.floors.cast(FLOORS)),
            load_begun_at=shard.load_begun_at,
            doubtful_until=state.doubtful_until,
            horizon_us=options.horizon_us,
        )
        self.about.write(msgspec.msgpack.encode(about))

    def _rewrite_log(self, shard: Shard) -> None:
        self._cells.clear()
        shard.logged = 0
        for version, usage in shard.state.open.items():
            for cells in usage.cells():
                shard.logged += cells.rows.height
                self._cells.add(_log_entry(version, cells))


def _newest_of(packed: bytes) -> int:
    """The greatest time of the events in a packed slim frame."""
    at = unpack(packed)["timestamp"].to_numpy()
    return int(at.max()) if len(at) else LEAST_US


def _log_entry(version: int, cells: Cells) -> bytes:
    bare = Cells(cells.family, cells.rows, None)
    return msgspec.msgpack.encode(_LogEntry(version, _CELLS.encode(bare)))


def _segment(keys: Keys) -> bytes:
    """Identities as three columns of 64-bit words, 24 bytes each; hashes do not compress."""
    return np.concatenate([keys.high, keys.low, keys.content]).astype("<u8").tobytes()


def _keys(segment: bytes) -> Keys:
    words = np.frombuffer(segment, dtype="<u8").reshape(3, -1)
    return Keys(words[0], words[1], words[2])
