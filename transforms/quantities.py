"""Quantities: what rating needs of the warehouse, for many spans with few queries.

spans (customer, subscription, from, until)
    -> usage merged by ClickHouse                     for most charges
    -> usage by group, reduced to a charge's keys     where the price depends on it
    -> usage by bucket, priced as the sum of buckets  for meters with a bucket
    -> usage in the span and before it                for levels and recurring meters
    -> effective events                               where single events are priced
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from decimal import Decimal
from functools import cache
from typing import Any, Self

import pyarrow as pa
from msgspec import structs

from billing.quantities import UsageOf, reduce_group
from billing.single_events import Single
from billing.slots import Slot
from meters.aggregators import extract, merge_all
from meters.attribution import Attribution
from meters.buckets import hour_of
from meters.catalog import Aggregation, Catalog, Charge, DynamicPrice, Meter, UsageCharge
from meters.errors import Rejected
from meters.numbers import from_scaled, parse_number
from meters.periods import Span
from meters.readings import reading_of_row
from meters.scalars import parse_json
from meters.timeline import Timeline
from meters.usage import state_of
from meters.zones import local_date
from transforms.carried import Carried
from transforms.catalogs import stored_timeline
from warehouse.client import Warehouse
from warehouse.effective import effective_events
from warehouse.merging import (
    UsageSpan,
    bucket_usage,
    distinct_values,
    merged_usage,
    usage_over_spans,
)

Row = dict[str, Any]
Usage = dict[str, UsageOf]


class Quantities:
    """Reads usage for the charges of one catalog.

    `timeline` gives the catalogs of the tenant in time, or None: single events are metered
    by the one of their hour, as usage was.
    """

    def __init__(
        self,
        catalog: Catalog,
        warehouse: Warehouse,
        tenant: str,
        timeline: Callable[[], Timeline | None] = lambda: None,
    ) -> None:
        self._catalog = catalog
        self._timeline = timeline
        self._warehouse = warehouse
        self._tenant = tenant
        self._attributions: dict[int, Attribution] = {}

    @classmethod
    def in_time(cls, catalog: Catalog, warehouse: Warehouse, tenant: str) -> Self:
        """By the catalogs that the warehouse has of the tenant, which is asked where they count."""
        return cls(catalog, warehouse, tenant, cache(lambda: stored_timeline(warehouse, tenant)))

    def of(
        self,
        spans: Sequence[UsageSpan],
        charges: Sequence[Sequence[Charge]],
        wholes: Sequence[Span] | None = None,
    ) -> list[Usage]:
        """The usage of each span by meter, as its `charges` need it.

        `wholes` are the billing periods that the spans are parts of (left out: each is
        whole). A level is divided by their length, and what is not recurring is carried
        from their start.
        """
        usage: list[Usage] = [{} for _ in spans]
        if not spans:
            return usage
        self._add_merged(spans, usage)
        needs = [self._metered(each) for each in charges]
        self._add_buckets(spans, needs, usage)
        self._add_groups(spans, needs, usage)
        self._add_carried(spans, needs, usage, wholes)
        self._add_singles(spans, needs, usage, wholes)
        return usage

    def hours(self, slots: Sequence[Slot]) -> list[set[datetime]]:
        """The ends of the local hours in which there is usage of charged meters, by slot."""
        found: list[set[datetime]] = [set() for _ in slots]
        spans: list[UsageSpan] = [
            (slot.customer, slot.subscription, slot.arrears.part.start, slot.arrears.part.end)
            for slot in slots
            if slot.arrears is not None
        ]
        if not spans:
            return found
        assert len(spans) == len(slots)
        meters = {meter for plan in self._catalog.plans for meter in plan.meters}
        for row in self._read(bucket_usage, spans, meters):
            zone = slots[row["span"]].time_zone
            found[row["span"]].add(hour_of(row["bucket_start"], zone).end)
        return found

    def _add_merged(self, spans: Sequence[UsageSpan], usage: list[Usage]) -> None:
        """Values of all groups together."""
        taken = {name for meter in self._catalog.meters for name in _TAKEN[meter.aggregation]}
        counted = [each.id for each in self._catalog.meters if each.aggregation == "unique_count"]
        table = merged_usage(
            self._warehouse,
            self._tenant,
            spans,
            by_group=False,
            latest="latest_at" in taken,
            counted=counted,
        )
        meters = self._catalog.meters_by_id
        columns = ("span", "meter", "events", "revision")
        facts = list(zip(*(table[name].to_pylist() for name in columns), strict=True))
        values = {name: table[name].to_pylist() for name in sorted(taken)}
        for at, (span, name, events, revision) in enumerate(facts):
            meter = meters.get(name)
            if meter is None or meter.over_spans:
                continue
            column = values.get(meter.aggregation)  # sum, min and max are columns as they are
            if column is not None:
                usage[span][name] = UsageOf(column[at], events, revision)
                continue
            row = {key: column[at] for key, column in values.items()}
            usage[span][name] = _merged(meter, {**row, "events": events, "revision": revision})

    def _metered(self, charges: Sequence[Charge]) -> list[tuple[UsageCharge, Meter]]:
        meters = self._catalog.meters_by_id
        return [
            (charge, meters[charge.meter]) for charge in charges if isinstance(charge, UsageCharge)
        ]

    def _add_buckets(
        self, spans: Sequence[UsageSpan], needs: Sequence[_Needs], usage: list[Usage]
    ) -> None:
        """Values of meters with a bucket, and their groups: sums over their buckets."""
        meters = {meter.id: meter for need in needs for _, meter in need if meter.bucket}
        if not meters:
            return
        rows: dict[tuple[int, str], list[Row]] = defaultdict(list)
        for row in self._read(bucket_usage, spans, meters):
            rows[row["span"], row["meter"]].append(row)
        for (span, name), found in rows.items():
            meter = meters[name]
            zone = self._catalog.customers_by_id[spans[span][0]].time_zone
            groups = {
                keys: {
                    group: _by_bucket(meter, each, zone) for group, each in _grouped(found, keys)
                }
                for keys in _group_keys(needs[span], name)
            }
            usage[span][name] = structs.replace(_by_bucket(meter, found, zone), groups=groups)

    def _add_groups(
        self, spans: Sequence[UsageSpan], needs: Sequence[_Needs], usage: list[Usage]
    ) -> None:
        meters = {
            meter.id: meter
            for need in needs
            for charge, meter in need
            if charge.group_keys
            and not charge.by_event
            and not meter.bucket
            and not meter.over_spans
        }
        if not meters:
            return
        values: dict[tuple[int, str], list[Row]] = defaultdict(list)
        counted = [meter.id for meter in meters.values() if meter.aggregation == "unique_count"]
        if counted:
            for row in self._read(distinct_values, spans, counted):
                values[row["span"], row["meter"]].append(row)
        rows: dict[tuple[int, str], list[Row]] = defaultdict(list)
        table = merged_usage(self._warehouse, self._tenant, spans, by_group=True)
        for row in table.to_pylist():
            if row["meter"] in meters:
                rows[row["span"], row["meter"]].append(row)
        for (span, name), found in rows.items():
            groups: dict[tuple[str, ...], dict[str, UsageOf]] = {}
            for keys in _group_keys(needs[span], name):
                distinct = {
                    group: frozenset(row["value_hash"] for row in each)
                    for group, each in _grouped(values[span, name], keys)
                }
                groups[keys] = {
                    group: _together(meters[name], each, distinct.get(group, frozenset()))
                    for group, each in _grouped(found, keys)
                }
            usage[span][name] = structs.replace(usage[span][name], groups=groups)

    def _add_carried(
        self,
        spans: Sequence[UsageSpan],
        needs: Sequence[_Needs],
        usage: list[Usage],
        wholes: Sequence[Span] | None,
    ) -> None:
        """Values of meters that are read over spans, also where a span has no row."""
        meters = {
            meter.id: meter
            for need in needs
            for charge, meter in need
            if meter.over_spans and not charge.by_event
        }
        if not meters:
            return
        carried = self._carried(meters, spans, wholes)
        for at, need in enumerate(needs):
            for meter in {meter.id: meter for _, meter in need if meter.id in meters}.values():
                found = carried.usage(at, meter, ())
                groups = {
                    keys: carried.by_group(at, meter, keys)
                    for keys in _group_keys(needs[at], meter.id)
                }
                if found is not None:
                    usage[at][meter.id] = structs.replace(found, groups=groups)

    def _carried(
        self,
        meters: Mapping[str, Meter],
        spans: Sequence[UsageSpan],
        wholes: Sequence[Span] | None,
    ) -> Carried:
        """What some meters have in spans, and what is carried into these."""
        carried = Carried(meters, spans, wholes)
        if meters:
            for row in self._read(usage_over_spans, carried.asked, meters):
                carried.add(row)
        counted = [meter.id for meter in meters.values() if meter.kind == "unique_count"]
        if counted:
            for row in self._read(distinct_values, carried.asked, counted):
                carried.add_value(row)
        return carried

    def _add_singles(
        self,
        spans: Sequence[UsageSpan],
        needs: Sequence[_Needs],
        usage: list[Usage],
        wholes: Sequence[Span] | None,
    ) -> None:
        asked = [{meter.id: meter for charge, meter in need if charge.by_event} for need in needs]
        names = {meter.event_name for meters in asked for meter in meters.values()}
        if not names:
            return
        timeline = self._timeline()
        for catalog in timeline.catalogs if timeline is not None else ():
            names |= {
                catalog.meters_by_id[meter].event_name
                for meters in asked
                for meter in meters
                if meter in catalog.meters_by_id
            }
        timed = [
            (span[0], span[2], span[3]) for span, need in zip(spans, asked, strict=True) if need
        ]
        prorated = {
            meter.id: meter for need in needs for charge, meter in need if charge.prorate_events
        }
        carried = self._carried(prorated, spans, wholes)
        events: dict[str, list[Row]] = defaultdict(list)
        table = effective_events(self._warehouse, self._tenant, timed, sorted(names))
        for row in table.to_pylist():
            row["properties"] = parse_json(row["properties"])
            events[row["external_customer_id"]].append(row)
        for at, meters in enumerate(asked):
            customer, _, start, end = spans[at]
            within = [row for row in events[customer] if start <= row["timestamp"] < end]
            for meter in meters.values():
                prices = _price_properties(needs[at], meter)
                singles = tuple(self._singles(meter, spans[at], within, prices, timeline))
                if meter.id in prorated:
                    singles = (*carried.singles(at, meter), *singles)
                if singles:
                    known = usage[at].get(meter.id, UsageOf())
                    usage[at][meter.id] = structs.replace(known, singles=singles)

    def _singles(
        self,
        meter: Meter,
        span: UsageSpan,
        events: Iterable[Row],
        prices: set[str],
        timeline: Timeline | None,
    ) -> Iterator[Single]:
        customer, subscription, _, _ = span
        for row in events:
            at, explicit = row["timestamp"], row["external_subscription_id"]
            version, then = -1, meter
            if timeline is not None and len(timeline.catalogs) > 1:
                version = timeline.version_at(customer, at)
                known = timeline.catalogs[version].meters_by_id.get(meter.id)
                if known is None:
                    continue
                then = known
            try:
                found = reading_of_row(then, row, row["properties"])
            except Rejected:  # in quarantine for this meter since it was measured
                continue
            attribution = self._attribution(version, timeline)
            owner = attribution.subscription_for(customer, meter.id, at, explicit)
            if found is None or owner != subscription:
                continue
            group, reading = found
            value = Decimal(1) if reading.scaled is None else from_scaled(reading.scaled)
            item = "" if reading.value_hash is None else reading.value_hash.hex()
            asked = _prices(row["properties"], prices)
            yield Single(at, row["event_id"], value, asked, group, item)

    def _attribution(self, version: int, timeline: Timeline | None) -> Attribution:
        """Under a version of the timeline; -1 is the catalog that is billed by."""
        if version not in self._attributions:
            catalog = self._catalog
            if timeline is not None and version >= 0:
                catalog = timeline.catalogs[version]
            self._attributions[version] = Attribution(catalog)
        return self._attributions[version]

    def _read(self, query: Any, spans: Sequence[UsageSpan], meters: Iterable[str]) -> Iterator[Row]:
        table: pa.Table = query(self._warehouse, self._tenant, spans, list(meters))
        yield from table.to_pylist()


# Where the value of a meter stands in a merged row; what is needed beside `events`.
_TAKEN: dict[Aggregation, tuple[str, ...]] = {
    "count": (),
    "sum": ("sum",),
    "avg": ("sum",),
    "min": ("min",),
    "max": ("max",),
    "latest": ("latest_value", "latest_at", "latest_id"),
    "unique_count": ("distinct",),
    "weighted_sum": (),
    "percentile": (),
}
"""What plain meters take of a merged row; others are read by `transforms.carried`."""
_Needs = Sequence[tuple[UsageCharge, Meter]]


def _group_keys(need: _Needs, meter: str) -> set[tuple[str, ...]]:
    return {charge.group_keys for charge, each in need if each.id == meter and charge.group_keys}


def _grouped(rows: Iterable[Row], keys: tuple[str, ...]) -> Iterator[tuple[str, list[Row]]]:
    """Rows by their group reduced to `keys`."""
    groups: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        groups[reduce_group(row["group_key"], keys)].append(row)
    yield from groups.items()


def _merged(meter: Meter, row: Row) -> UsageOf:
    value = (
        row["distinct"]
        if meter.aggregation == "unique_count"
        else extract(meter.kind, state_of(row))
    )
    return UsageOf(value, row["events"], row["revision"])


def _together(meter: Meter, rows: Sequence[Row], values: frozenset[bytes]) -> UsageOf:
    """Several rows of one span and meter as one."""
    state = replace(merge_all(state_of(row) for row in rows), values=values)
    revision = max(row["revision"] for row in rows)
    return UsageOf(extract(meter.kind, state), state.events, revision)


def _by_bucket(meter: Meter, rows: Sequence[Row], zone: str) -> UsageOf:
    """The sum of the results of the local hours or days; groups are merged in each."""
    buckets: dict[object, list[Row]] = defaultdict(list)
    for row in rows:
        at = row["bucket_start"]
        buckets[at if meter.bucket == "hour" else local_date(at, zone)].append(row)
    states = [merge_all(state_of(row) for row in each) for each in buckets.values()]
    results = [state.sum if meter.aggregation == "sum" else state.max or 0 for state in states]
    return UsageOf(
        from_scaled(sum(results)),
        sum(state.events for state in states),
        max(row["revision"] for row in rows),
    )


def _price_properties(need: _Needs, meter: Meter) -> set[str]:
    """The properties of events that charges of this meter take their prices from."""
    prices = [price for charge, each in need if each.id == meter.id for price in charge.all_prices]
    return {
        price.property for price in prices if isinstance(price, DynamicPrice) and price.property
    }


def _prices(properties: Mapping[str, object], names: Iterable[str]) -> dict[str, Decimal]:
    """The prices that an event brings; what is missing or no number is left out."""
    found = {}
    for name in names:
        value = properties.get(name)
        if isinstance(value, bool) or not isinstance(value, str | int | Decimal):
            continue
        try:
            found[name] = parse_number(str(value), name)
        except Rejected:
            continue
    return found
