"""Measuring: deduplicated slim events become partial usage, and partials merge.

    slim events --attribute, bucket, group--> cells --merge--> cells --> usage rows

A cell is one (customer, subscription, bucket, group). Meters that look at the same
events in the same way (event name, filters, group_by, attribution) form a family and
share their cells, so that six aggregations of one event cost one pass. Cells of
different shards merge by the columnar algebra of `meters.aggregators`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import polars as pl

from meters.aggregators import (
    FIELDS,
    add_latest,
    add_points,
    check_sums,
    merge_fields,
    merge_points,
    partial,
)
from meters.attribution import Attribution
from meters.buckets import HOUR_US, bounds_columnar, hours_columnar
from meters.catalog import Catalog, Meter, Subscription
from meters.numbering import number_groups
from meters.periods import Periods
from meters.projection import (
    applies,
    counts,
    event_names,
    index_of,
    known_operation,
    operation_column,
    value_column,
)
from meters.texts import compact
from meters.zones import DAY_US, LEAST_US, MOST_US, Int64s, wall_clock

CELL = ["customer", "subscription", "bucket_start"]

_UNMEASURED = ["unknown", "identity", "identity_low", "content", "ingested_at"]
"""Slim columns that only deduplication needs."""

_MARGIN_US = 7 * DAY_US
_MOST_KEPT = 64

Segment = tuple[int, int, int, int]
Int32s = np.ndarray[tuple[int], np.dtype[np.int32]]


@dataclass(frozen=True)
class Cells:
    """Partial usage of one family: `rows`, one a cell, and the distinct `values`.

    `rows` has `CELL` (indexes into the catalog; subscription -1 where there is
    none), bucket_end, the group columns and `<field>:<index of the meter>`.
    `values` has `CELL`, the group columns, `meter` and `value_hash`.
    """

    family: int
    rows: pl.DataFrame
    values: pl.DataFrame | None


@dataclass(frozen=True)
class Measured:
    """What one shard of deduplicated events amounts to.

    `meter_errors` counts the values that were refused, `unattributed` the events of
    unknown customers.
    """

    cells: list[Cells]
    meter_errors: int
    unattributed: int


@dataclass
class Family:
    """Meters that share their cells, by their index in the catalog."""

    members: list[int]
    groups: list[str]
    subscribed: list[Segment]
    """Attribution: (customer, from, until, subscription), as segments."""

    @property
    def columns(self) -> list[str]:
        """The slim columns of the groups, in the order of the group's canonical text."""
        return [f"j:{name}" for name in self.groups]


@dataclass
class Measurement:
    """The meters of a catalog, prepared for columns. Picklable."""

    catalog: Catalog
    families: list[Family] = field(default_factory=list, init=False)

    def __post_init__(self) -> None:
        catalog = self.catalog
        self._names = {name: i for i, name in enumerate(event_names(catalog))}
        self._customers = {c.id: i for i, c in enumerate(catalog.customers)}
        self._subscriptions = {s.id: i for i, s in enumerate(catalog.subscriptions)}
        self._owner_of = np.array(
            [self._customers[s.customer] for s in catalog.subscriptions], dtype=np.int32
        )
        self._bounds: dict[int, tuple[int, int, Int64s]] = {}
        self._odd = np.array([self._is_odd(s) for s in catalog.subscriptions], dtype=bool)
        zones = sorted({c.time_zone for c in catalog.customers})
        self._zones = zones
        index = {zone: i for i, zone in enumerate(zones)}
        self._zone_of = np.array([index[c.time_zone] for c in catalog.customers], dtype=np.int32)
        self.families = self._build_families()

    def __getstate__(self) -> Catalog:
        return self.catalog

    def __setstate__(self, catalog: Catalog) -> None:
        self.__init__(catalog)  # type: ignore[misc]

    def _build_families(self) -> list[Family]:
        attribution = Attribution(self.catalog)
        families: dict[object, Family] = {}
        for index, meter in enumerate(self.catalog.meters):
            segments = [
                (self._customers[customer], start, until, self._subscriptions[subscription])
                for customer in attribution.charged(meter.id)
                for start, until, subscription in attribution.segments(customer, meter.id)
                if subscription is not None
            ]
            filters = tuple(sorted((k, tuple(sorted(v))) for k, v in meter.allowed.items()))
            groups = tuple(sorted(meter.group_by))
            key = (meter.event_name, filters, groups, tuple(segments))
            family = families.setdefault(key, Family([], list(groups), segments))
            family.members.append(index)
        return list(families.values())

    def measure(self, events: pl.DataFrame) -> Measured:
        """Partial usage of deduplicated slim events."""
        known = events.select(pl.exclude(_UNMEASURED)).filter(pl.col("customer").is_not_null())
        # Every step below visits each chunk; a shard comes in hundreds of them.
        known = known.rechunk()
        unattributed = events.height - known.height
        errors = 0
        cells: list[Cells] = []
        located: dict[tuple[Segment, ...], pl.DataFrame] = {}
        for number, family in enumerate(self.families):
            first = self.catalog.meters[family.members[0]]
            signature = tuple(family.subscribed)
            if signature not in located:
                located[signature] = self._locate(known, family)
            rows = _where(located[signature], applies(first, self._names))
            if rows.is_empty():
                continue
            refused = (
                (~counts(self.catalog.meters[index])).sum().alias(str(index))
                for index in family.members
            )
            errors += sum(rows.select(refused).row(0))
            cells.append(self._cells(rows, number))
        return Measured(cells, errors, unattributed)

    def _cells(self, rows: pl.DataFrame, number: int) -> Cells:
        family = self.families[number]
        groups = family.columns
        first = self.catalog.meters[family.members[0]]
        if groups:
            scalar = counts(
                first.model_copy(update={"aggregation": "count", "operation_property": None})
            )
            rows = _where(rows, scalar)
        keys = [*CELL, *groups]
        rows = rows.with_columns(number_groups(rows, keys).alias("cell"))
        fields = [pl.col(name).first() for name in (*keys, "bucket_end")]
        columns = {index: value_column(self.catalog.meters[index]) for index in family.members}
        for index in family.members:
            meter = self.catalog.meters[index]
            if meter.operation_property is not None:
                value, columns[index] = columns[index], f"operated:{index}"
                chosen = pl.when(known_operation(meter)).then(pl.col(value or ""))
                rows = rows.with_columns(chosen.alias(f"operated:{index}"))
            fields += partial(meter.kind, columns[index], str(index))
        cells = rows.group_by("cell").agg(fields).sort("cell")
        distinct: list[pl.DataFrame] = []
        for index in family.members:
            meter = self.catalog.meters[index]
            value = columns[index] or ""
            if meter.kind == "unique_count":
                distinct.append(_values(rows, cells.select(keys), meter, index))
            if meter.kind == "latest":
                named = ("timestamp", "event_id", value)
                cells = add_latest(cells, rows, named, str(index))
            if "points" in FIELDS[meter.kind]:
                operation = operation_column(meter)
                cells = add_points(meter.kind, cells, rows, ["cell"], value, str(index), operation)
        cells = compact(cells.drop("cell"))
        return Cells(number, cells, compact(pl.concat(distinct)) if distinct else None)

    def _locate(self, events: pl.DataFrame, family: Family) -> pl.DataFrame:
        """Add subscription, bucket_start and bucket_end to each event."""
        frame = events.with_columns(self._attribute(events, family.subscribed))
        at = frame["timestamp"].to_numpy()
        zone = self._zone_of[frame["customer"].to_numpy()] if frame.height else np.empty(0, int)
        start = np.empty(len(at), dtype=np.int64)
        end = np.empty(len(at), dtype=np.int64)
        for index, name in enumerate(self._zones):
            here = zone == index if len(self._zones) > 1 else slice(None)
            start[here], end[here] = hours_columnar(at[here], name)
        self._cut(frame["subscription"].to_numpy(), at, start, end)
        return frame.with_columns(pl.Series("bucket_start", start), pl.Series("bucket_end", end))

    def hour_ends(self, customer: pl.Series, timestamp: pl.Series) -> Int64s:
        """The end of the local hour around each timestamp; never, for unknown customers."""
        return self.hours(customer, timestamp)[1]

    def hours(self, customer: pl.Series, timestamp: pl.Series) -> tuple[Int64s, Int64s]:
        """Start and end of the local hour around each timestamp.

        For unknown customers they are those of the UTC hour, and never.
        """
        at = timestamp.to_numpy()
        starts = at // HOUR_US * HOUR_US
        ends = np.full(len(customer), MOST_US, dtype=np.int64)
        zone = np.append(self._zone_of, -1)[customer.fill_null(-1).to_numpy()]
        for index, name in enumerate(self._zones):
            here = zone == index
            starts[here], ends[here] = hours_columnar(at[here], name)
        return starts, ends

    def _attribute(self, events: pl.DataFrame, segments: list[Segment]) -> pl.Series:
        """The subscription of each event by its index, -1 where there is none."""
        customer, at = events["customer"].to_numpy(), events["timestamp"].to_numpy()
        result = np.full(len(at), -1, dtype=np.int32)
        timeline = np.array(sorted(segments), dtype=np.int64).reshape(-1, 4)
        if len(timeline):
            # (customer, time) as one number, by the rank of the time among the starts.
            ranks = np.unique(timeline[:, 1])
            width = len(ranks) + 1
            begins = timeline[:, 0] * width + np.searchsorted(ranks, timeline[:, 1], "right")
            wanted = customer.astype(np.int64) * width + np.searchsorted(ranks, at, "right")
            found = timeline[np.maximum(np.searchsorted(begins, wanted, "right") - 1, 0)]
            inside = (found[:, 0] == customer) & (found[:, 1] <= at) & (at < found[:, 2])
            result = np.where(inside, found[:, 3], -1).astype(np.int32)
        explicit = events["subscription"]
        if explicit.null_count() < explicit.len():
            named = index_of(explicit, self._subscriptions).fill_null(-1).to_numpy()
            owner = np.append(self._owner_of, -1)[named]
            named = np.where(owner == customer, named, -1)
            result = np.where(explicit.is_not_null().to_numpy(), named, result)
        return pl.Series("subscription", result, dtype=pl.Int32)

    def _cut(self, subscription: Int32s, at: Int64s, start: Int64s, end: Int64s) -> None:
        """Cut buckets at those period boundaries that do not fall on an hour."""
        rows = np.flatnonzero(np.append(self._odd, False)[subscription])
        if not len(rows):
            return
        rows = rows[np.argsort(subscription[rows], kind="stable")]
        owners = subscription[rows]
        first, last = int(at[rows].min()), int(at[rows].max())
        for here in np.split(rows, np.flatnonzero(np.diff(owners)) + 1):
            bounds = self._odd_bounds(int(subscription[here[0]]), first, last)
            before = np.searchsorted(bounds, at[here], side="right")
            padded = np.concatenate([[LEAST_US], bounds, [MOST_US]])
            start[here] = np.maximum(start[here], padded[before])
            end[here] = np.minimum(end[here], padded[before + 1])

    def _odd_bounds(self, subscription: int, first: int, last: int) -> Int64s:
        """Period boundaries within an hour, at least those around `first` to `last`.

        A few are kept for the next shard, which mostly spans about the same time.
        """
        known = self._bounds.get(subscription)
        if known is None or first - HOUR_US < known[0] or known[1] < last + HOUR_US:
            low, high = first - _MARGIN_US, last + _MARGIN_US
            zone, periods = self.periods_of(subscription)
            us = bounds_columnar(periods, low, high)
            known = low, high, us[hours_columnar(us, zone)[0] != us]
            if len(known[2]) <= _MOST_KEPT:
                self._bounds[subscription] = known
        return known[2]

    def _is_odd(self, subscription: Subscription) -> bool:
        """Whether boundaries of its periods may fall within an hour."""
        zone = self.catalog.customers_by_id[subscription.customer].time_zone
        bounds = [subscription.start, subscription.end or subscription.start]
        local = [wall_clock(bound, zone) for bound in bounds]
        return any((x.minute, x.second, x.microsecond) != (0, 0, 0) for x in local)

    def periods_of(self, subscription: int) -> tuple[str, Periods]:
        """The time zone and the billing periods of a subscription, by its index."""
        entry = self.catalog.subscriptions[subscription]
        plan = self.catalog.plans_by_id[entry.plan]
        zone = self.catalog.customers_by_id[entry.customer].time_zone
        return zone, Periods(entry.start, zone, plan.period, entry.end)

    def merge(self, parts: Sequence[Cells]) -> Cells:
        """Partial usage of one family from several shards, together."""
        if len(parts) == 1:
            return parts[0]
        family = self.families[parts[0].family]
        keys = [*CELL, *family.columns]
        fields = [pl.col(name).first() for name in (*keys, "bucket_end")]
        for index in family.members:
            fields += merge_fields(self.catalog.meters[index].kind, str(index))
        every = pl.concat([part.rows for part in parts], rechunk=True)
        every = every.with_columns(number_groups(every, keys).alias("cell"))
        rows = every.group_by("cell").agg(fields)
        for index in family.members:
            kind = self.catalog.meters[index].kind
            if "points" in FIELDS[kind]:
                rows = merge_points(rows, every, ["cell"], str(index))
            if kind == "latest":
                columns = (f"latest_at:{index}", f"latest_id:{index}", f"latest_value:{index}")
                rows = add_latest(rows, every, columns, str(index))
        rows = rows.drop("cell")
        check_sums(rows, *(f"events:{index}" for index in family.members))
        values = [part.values for part in parts if part.values is not None]
        return Cells(parts[0].family, rows, pl.concat(values).unique() if values else None)

    def of(self, cells: Cells) -> tuple[Measurement, Cells]:
        """The measurement whose own cells these are, and they as it knows them."""
        return self, cells

    def split(
        self, cells: Cells, shards: int, numbers: pl.Series | None = None
    ) -> Iterator[tuple[int, Cells]]:
        """The cells by shard of the customer, so that one key has one writer.

        `numbers` has another number for each customer, where these are numbered otherwise.
        """
        if shards == 1:
            yield 0, cells
            return

        def owner(frame: pl.DataFrame) -> pl.Series:
            customer = frame["customer"]
            return ((customer if numbers is None else numbers.gather(customer)) % shards).alias(
                "shard"
            )

        rows, values = (
            {}
            if frame is None
            else frame.with_columns(owner(frame)).partition_by(
                "shard", as_dict=True, include_key=False
            )
            for frame in (cells.rows, cells.values)
        )
        for key, mine in rows.items():
            yield int(key[0]), Cells(cells.family, mine, values.get(key))


def _where(rows: pl.DataFrame, wanted: pl.Expr) -> pl.DataFrame:
    """The rows that are `wanted`; mostly these are all, and then nothing is copied."""
    mask = rows.select(wanted.alias("wanted")).to_series()
    return rows if mask.all() else rows.filter(mask)


def _values(rows: pl.DataFrame, keys: pl.DataFrame, meter: Meter, index: int) -> pl.DataFrame:
    """The distinct values of each cell; `keys` has the keys of cell n in row n."""
    column = pl.col(value_column(meter) or "").alias("value_hash")
    found = rows.select("cell", column).filter(pl.col("value_hash").is_not_null()).unique()
    return keys[found["cell"]].with_columns(
        found["value_hash"], pl.lit(index, pl.Int32).alias("meter")
    )
