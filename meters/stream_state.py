"""The state of one shard of a stream: what it has seen, what is open, how far it is.

    slim events --step--> changed cells   (to write)
                          late events     (to mark dirty)
                          doubtful events (to mark dirty)
                          differing copies (to quarantine and mark dirty)
                          new identities  (to keep)

Pure: reading, writing and Beam's state are elsewhere (`transforms.shard_stage`). The
first copy of an event that arrives counts, whatever its timestamp; deduplication stands
before any bucket.

An event is doubtful where it may be a copy of one that was forgotten before its time, as
there were too many. It is counted, and repair looks at it again.

An event is late where its customer's local hour has ended at or before `closed_until`:
repair owns that hour by then. Events of unknown customers are never late, as they have
no usage.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from operator import itemgetter

import numpy as np
import polars as pl

from meters.buckets import HOUR_US
from meters.identities import NUMBERS, Identities, Keys, Uint64s
from meters.measure import Cells
from meters.open_usage import OpenUsage
from meters.revisions import BUCKET
from meters.timeline import Timeline
from meters.touched import with_hours
from meters.usage import USAGE
from meters.zones import LEAST_US

HORIZON_SLICES = 6

SLICES = HORIZON_SLICES + 1
"""Slices of record time that are remembered: those of the horizon, and the current one."""

COPY = ["external_customer_id", "identity", "identity_low", "content", "timestamp"]
"""What is known of a copy that is late or says something else."""

FLOORS = pl.Schema({**{name: USAGE[name] for name in BUCKET}, "revision": pl.UInt32()})

_ODD = np.uint64(0x9E3779B97F4A7C15)

Frame = tuple[int, pl.DataFrame]
"""The version of the catalog, and slim events (with `owner`) that were made by it."""


@dataclass(frozen=True)
class Step:
    """What some events, delivered to a shard, amount to.

    `partial` are the cells of these events alone, `changed` the open cells that they
    changed; both by version of the catalog. `fresh` has the identities to keep.
    `differing` has pairs of copies: the content that counts, then another one. `doubtful`
    are events that, by their time, may be copies of forgotten ones.
    """

    partial: list[tuple[int, Cells]]
    changed: list[tuple[int, Cells]]
    fresh: Keys
    late: pl.DataFrame
    doubtful: pl.DataFrame
    differing: pl.DataFrame
    accepted: int
    duplicates: int


@dataclass
class ShardState:
    """One shard: identities within the horizon and accumulators of open buckets."""

    timeline: Timeline
    identities: Identities = field(default_factory=Identities)
    open: dict[int, OpenUsage] = field(default_factory=dict)
    closed_until: int = 0
    slice: int = 0
    newest: int = LEAST_US
    """The greatest time of an event that was taken in."""
    doubtful_until: int = 0
    """Events up to this time may be copies of what `shrink` has forgotten."""
    floors: pl.DataFrame = field(default_factory=lambda: FLOORS.to_frame())
    """Buckets that stand at a revision above the first, whose rows must stand there too."""

    def step(self, frames: Sequence[Frame]) -> Step:
        """Take in events in their order of arrival."""
        frames = _joined(frames)
        every = pl.concat([self._copies(*frame, n) for n, frame in enumerate(frames)])
        unique = every.unique(["high", "identity_low"], keep="first", maintain_order=True)
        keys = Keys(*(unique[name].to_numpy() for name in ("high", "identity_low", "content")))
        known, content = self.identities.add(keys, self.slice)
        counted = unique.with_columns(
            known=pl.Series(known), counts=pl.Series(np.where(known, content, keys.content))
        )
        fresh = counted.filter(~pl.col("known"))
        late = fresh.filter(pl.col("hour_end") <= self.closed_until)
        on_time = fresh.filter(pl.col("hour_end") > self.closed_until)
        partial: list[tuple[int, Cells]] = []
        changed: list[tuple[int, Cells]] = []
        for number, (version, slim) in enumerate(frames):
            rows = on_time.filter(pl.col("frame") == number)["row"]
            if rows.is_empty():
                continue
            cells = self.timeline.measurements[version].measure(slim[rows]).cells
            partial += [(version, part) for part in cells]
        for version in {version for version, _ in partial}:
            parts = [part for at, part in partial if at == version]
            changed += [(version, cells) for cells in self.accumulators(version).add(parts)]
        return Step(
            partial=partial,
            changed=changed,
            fresh=keys[~known],
            late=late.select(COPY),
            doubtful=on_time.filter(pl.col("timestamp") <= self.doubtful_until).select(COPY),
            differing=_differing(every, counted),
            accepted=fresh.height,
            duplicates=every.height - fresh.height,
        )

    def recount(self, frames: Sequence[Frame]) -> list[tuple[int, Cells]]:
        """Partial cells of stored events: of copies that count, in hours that are open.

        An event whose identity is not known was stored after the identities were read;
        it is left out, as it is still on its way to this shard.
        """
        found = []
        for version, slim in frames:
            copies = self._copies(version, slim, 0)
            keys = Keys(*(copies[name].to_numpy() for name in ("high", "identity_low", "content")))
            known, content = self.identities.find(keys)
            counts = pl.Series(known & (content == keys.content))
            chosen = copies.filter(counts & (copies["hour_end"] > self.closed_until))["row"]
            measured = self.timeline.measurements[version].measure(slim[chosen])
            found += [(version, cells) for cells in measured.cells]
        return found

    def still_open(self, frame: pl.DataFrame) -> pl.DataFrame:
        """Usage rows or values of known customers and meters in hours that are open."""
        catalog = self.timeline.everything
        zones = {customer.id: customer.time_zone for customer in catalog.customers}
        known = frame.filter(
            pl.col("external_customer_id").is_in(list(zones))
            & pl.col("meter").is_in([meter.id for meter in catalog.meters])
        )
        is_open = pl.col("hour_end").cast(pl.Int64) > self.closed_until
        return with_hours(known, "bucket_start", zones).filter(is_open).drop("hour", "hour_end")

    def go_on(self, timeline: Timeline) -> None:
        """Take other catalogs, which differ only for times beyond `newest`."""
        self.timeline = timeline
        self.open = {version: usage for version, usage in self.open.items() if len(usage)}

    def accumulators(self, version: int) -> OpenUsage:
        """The open cells under a version of the catalog."""
        if version not in self.open:
            self.open[version] = OpenUsage(self.timeline.measurements[version])
        return self.open[version]

    def close(self, until: int) -> bool:
        """Give the hours that are over by `until` away; whether that changed anything."""
        if until <= self.closed_until:
            return False
        self.closed_until = until
        for usage in self.open.values():
            usage.close(until)
        if not self.floors.is_empty():
            ends = pl.col("bucket_start").cast(pl.Int64) + 2 * HOUR_US
            self.floors = self.floors.filter(ends > until)
        return True

    def turn(self, number: int) -> list[int]:
        """Go on to a later slice of record time; returns those that are forgotten."""
        if number <= self.slice:
            return []
        oldest, kept = self.slice - HORIZON_SLICES, number - HORIZON_SLICES
        gone = list(range(max(0, oldest), min(self.slice + 1, kept)))
        self.identities.forget(set(gone))
        self.slice = number
        return gone

    def shrink(self, budget: int) -> list[int]:
        """Forget the oldest slices until the budget holds; returns those forgotten.

        The current slice is kept, however large it is. A copy of what is forgotten has the
        time of its event, which is not after the newest one, and is doubtful from then on. One
        that says a later time, or was sent again without any and has a later time of receipt,
        counts again and is not marked.
        """
        gone: list[int] = []
        counts = self.identities.counts()
        for number in range(self.slice - SLICES + 1, self.slice):
            if len(self.identities) <= budget:
                break
            if number >= 0 and counts.get(number % NUMBERS):
                self.identities.forget({number})
                gone.append(number)
        if gone:
            self.doubtful_until = self.newest
        return gone

    def _copies(self, version: int, slim: pl.DataFrame, frame: int) -> pl.DataFrame:
        """The columns of `slim` that do not depend on the version, with its place."""
        catalog = self.timeline.catalogs[version]
        customers = pl.Series([customer.id for customer in catalog.customers], dtype=pl.String)
        ends = self.timeline.measurements[version].hour_ends(slim["customer"], slim["timestamp"])
        high = high_words(slim["identity"].to_numpy(), slim["owner"].to_numpy())
        customer = pl.when(pl.col("customer").is_null()).then(pl.col("unknown"))
        return slim.select(
            customer.otherwise(customers.gather(slim["customer"])).alias("external_customer_id"),
            "identity",
            "identity_low",
            "content",
            "timestamp",
            pl.Series("high", high),
            pl.Series("hour_end", ends),
            pl.lit(frame, pl.Int32).alias("frame"),
        ).with_row_index("row")


def _joined(frames: Sequence[Frame]) -> list[Frame]:
    """Neighbours of one version as one frame: each frame has costs of its own."""
    found = []
    for version, run in groupby(frames, key=itemgetter(0)):
        found.append((version, pl.concat([slim for _, slim in run])))
    return found


def _differing(every: pl.DataFrame, counted: pl.DataFrame) -> pl.DataFrame:
    """Copies with another content hash than the copy that counts, behind that copy."""
    key = ["high", "identity_low"]
    copies = every.join(counted.select(*key, "counts"), on=key, maintain_order="left")
    other = copies.filter(pl.col("content") != pl.col("counts"))
    first = other.with_columns(pl.col("counts").alias("content"))
    paired = pl.concat([first.with_columns(order=0), other.with_columns(order=1)])
    return paired.sort(["high", "identity_low", "order"], maintain_order=True).select(COPY)


def stamped(frame: pl.DataFrame, floors: pl.DataFrame) -> pl.DataFrame:
    """Usage rows or values with the revision that their bucket stands at."""
    first = pl.lit(1, pl.UInt32)
    if floors.is_empty():
        return frame.with_columns(first.alias("revision"))
    joined = frame.join(floors, on=BUCKET, how="left", maintain_order="left")
    return joined.with_columns(pl.col("revision").fill_null(first))


def high_words(identity: Uint64s, owner: Uint64s) -> Uint64s:
    """The first word of a key: that of the event's identity, moved by its owner."""
    moved: Uint64s = owner * _ODD
    moved += identity
    return moved


def slice_of(clock: int, horizon: int) -> int:
    """The slice of record time (microseconds) that `clock` falls into."""
    return max(0, clock) // max(1, horizon // HORIZON_SLICES)


def merged_log(state: ShardState, parts: Iterable[tuple[int, Cells]]) -> None:
    """Build the open cells again from the log of partial cells."""
    by_version: dict[int, list[Cells]] = {}
    for version, cells in parts:
        by_version.setdefault(version, []).append(cells)
    for version, found in by_version.items():
        usage = state.accumulators(version)
        usage.add(found)
        usage.close(state.closed_until)
