"""The events behind the lines of an invoice, each with its copies.

document -> raw events in the spans of its lines -> metered by the catalog of their hour -> rows
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from typing import Any

from billing.explanations import Document
from billing.quantities import reduce_group
from billing.slots import Slot
from meters.attribution import Attribution
from meters.buckets import hour_of
from meters.catalog import Catalog, Meter, UsageCharge
from meters.errors import Rejected
from meters.numbers import from_scaled, plain
from meters.readings import reading_of_row
from meters.scalars import canonical_json, parse_json
from meters.timeline import Timeline
from meters.timestamps import format_instant, parse_timestamp
from transforms.catalogs import stored_timeline
from transforms.explanations import charge_of, slot_of
from warehouse.client import Warehouse
from warehouse.effective import copies_of_events


@dataclass
class _Metering:
    """The catalogs that events are metered by: that of their hour, where there are several."""

    catalog: Catalog
    timeline: Timeline | None
    _known: dict[int, Attribution] = field(default_factory=dict)

    def at(self, customer: str, at: datetime) -> tuple[Catalog, Attribution]:
        """The catalog of an instant, and who its events belong to."""
        version, catalog = -1, self.catalog
        if self.timeline is not None and len(self.timeline.catalogs) > 1:
            version = self.timeline.version_at(customer, at)
            catalog = self.timeline.catalogs[version]
        if version not in self._known:
            self._known[version] = Attribution(catalog)
        return catalog, self._known[version]

    def event_names(self, meter: str) -> list[str]:
        """The names that a meter's events have, or had."""
        several = [] if self.timeline is None else self.timeline.catalogs
        catalogs = [self.catalog, *several]
        return [
            each.meters_by_id[meter].event_name for each in catalogs if meter in each.meters_by_id
        ]


@dataclass(frozen=True)
class _Line:
    """A usage line as events are held against it."""

    line_id: str
    meter: str
    group: str
    keys: tuple[str, ...]
    span: tuple[datetime, datetime]


def events_of(
    warehouse: Warehouse,
    tenant: str,
    catalog: Catalog,
    document: Document,
    line_ids: Sequence[str] = (),
) -> Iterator[dict[str, object]]:
    """The events behind the usage lines of a document (or some of them), by line and time.

    Each copy of an event is one row: `line_id, meter, event_id, timestamp, value,
    bucket_start, bucket_end, status, duplicate_of, ingested_at`. Of an identity one copy
    is `counted`, and others with a different content are `duplicate`s of the time at which
    that one was ingested. What a recurring meter has from before is not listed.
    """
    slot = slot_of(catalog, document)
    if slot is None:
        return
    metering = _Metering(catalog, stored_timeline(warehouse, tenant))
    for line in document["lines"]:
        if line["meter"] is None or (line_ids and line["line_id"] not in line_ids):
            continue
        charges = [charge_of(cut.tariff, line) for cut in slot.cuts]
        charge = next((each for each in charges if each is not None), None)
        if not isinstance(charge, UsageCharge):
            continue
        span = parse_timestamp(line["service_start"]), parse_timestamp(line["service_end"])
        group = canonical_json(line["group"])
        of = _Line(line["line_id"], charge.meter, group, charge.group_keys, span)
        yield from _events(warehouse, tenant, metering, slot, of)


def _events(
    warehouse: Warehouse, tenant: str, metering: _Metering, slot: Slot, line: _Line
) -> Iterator[dict[str, object]]:
    names = metering.event_names(line.meter)
    counted: dict[str, Mapping[str, Any]] = {}
    for row in copies_of_events(warehouse, tenant, slot.customer, *line.span, names):
        if row["place"] == 1:
            found = _reading(line, row, metering, slot)
            if found is None:
                continue
            counted[row["event_id"]] = row
            yield _event(line, row, found, slot.time_zone)
        elif row["event_id"] in counted:
            first = counted[row["event_id"]]
            yield {
                **_event(line, row, None, slot.time_zone),
                "duplicate_of": format_instant(first["ingested_at"]),
            }


def _reading(
    line: _Line, row: Mapping[str, Any], metering: _Metering, slot: Slot
) -> Decimal | str | None:
    """What an event counts for on a line; None where it does not."""
    at, explicit = row["timestamp"], row["external_subscription_id"]
    if not line.span[0] <= at < line.span[1]:
        return None
    catalog, attribution = metering.at(slot.customer, at)
    meter: Meter | None = catalog.meters_by_id.get(line.meter)
    properties = parse_json(row["properties"])
    assert isinstance(properties, dict)
    if meter is None:
        return None
    try:
        found = reading_of_row(meter, row, properties)
    except Rejected:
        return None
    owner = attribution.subscription_for(slot.customer, line.meter, at, explicit)
    if found is None or owner != slot.subscription:
        return None
    group, reading = found
    if line.keys and reduce_group(group, line.keys) != line.group:
        return None
    if meter.property is not None and meter.aggregation == "unique_count":
        return canonical_json(properties.get(meter.property))
    return Decimal(1) if reading.scaled is None else from_scaled(reading.scaled)


def _event(
    line: _Line, row: Mapping[str, Any], value: Decimal | str | None, zone: str
) -> dict[str, object]:
    # A bucket is cut where the line's span begins and ends.
    hour = hour_of(row["timestamp"], zone)
    start, end = max(hour.start, line.span[0]), min(hour.end, line.span[1])
    return {
        "line_id": line.line_id,
        "meter": line.meter,
        "event_id": row["event_id"],
        "timestamp": format_instant(row["timestamp"]),
        "value": plain(value) if isinstance(value, Decimal) else value,
        "bucket_start": None if value is None else format_instant(start),
        "bucket_end": None if value is None else format_instant(end),
        "status": "duplicate" if value is None else "counted",
        "duplicate_of": None,
        "ingested_at": format_instant(row["ingested_at"]),
    }
