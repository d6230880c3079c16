"""What an explanation needs of the warehouse: usage by bucket, and the events behind it.

document -> the slots of its customer -> usage -> explain_invoice -> explanation
document -> effective events and their copies                     -> events of its lines
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from decimal import Decimal
from fractions import Fraction
from typing import Any

from billing.customer import SlotUsage, begun_slots, bill_customer, due_slots
from billing.explanations import Document, Origin, explain_invoice
from billing.invoice import Invoice
from billing.lines import LineContext
from billing.quantities import UsageOf, reduce_group
from billing.slots import Segment, Slot
from billing.tariffs import Tariff
from meters.attribution import Attribution
from meters.buckets import hour_of
from meters.catalog import Catalog, Charge, Fee, Meter, UsageCharge
from meters.catalog_file import catalog_from_content
from meters.errors import Rejected
from meters.numbers import from_scaled, plain
from meters.periods import Span
from meters.reading import read_usage
from meters.readings import reading_of
from meters.scalars import canonical_json, parse_json
from meters.timestamps import format_instant, parse_timestamp
from meters.usage import from_stored
from transforms.invoices import read_slots
from transforms.quantities import Quantities
from warehouse import queries
from warehouse.client import Warehouse
from warehouse.effective import copies_of_events


def catalog_of(warehouse: Warehouse, tenant: str, document: Document) -> Catalog | None:
    """The catalog that an invoice was made with, as it was kept; None where it was not."""
    content = queries.catalog_content(warehouse, tenant, str(document["catalog_hash"]))
    return None if content is None else catalog_from_content(content)


def explain(
    warehouse: Warehouse, tenant: str, catalog: Catalog, document: Document
) -> dict[str, Any]:
    """The explanation of a stored document, by the usage as it is now."""
    slots = _slots(warehouse, tenant, catalog, document)
    found = _slot_of(tenant, document, slots)
    origins = []
    for line in document["lines"]:
        origin = Origin(None, None, Fraction(1)) if found is None else _origin(line, *found)
        if origin.used is not None:
            buckets = _buckets(warehouse, tenant, catalog, document, line, origin)
            origin = Origin(origin.charge, origin.used, origin.factor, buckets, origin.trial)
        origins.append(origin)
    replayed = _replayed(tenant, catalog, document, slots)
    return explain_invoice(document, origins, catalog, replayed)


def _slots(
    warehouse: Warehouse, tenant: str, catalog: Catalog, document: Document
) -> list[SlotUsage]:
    """The slots of the document's customer until its date, with their usage."""
    until = parse_timestamp(document["billing_date"])
    own = [entry.id for entry in catalog.subscriptions if entry.customer == document["customer"]]
    slots = [slot for name in own for slot in due_slots(catalog, name, until)]
    begun = [slot for name in own for slot in begun_slots(catalog, name, until)]
    return read_slots(Quantities(catalog, warehouse, tenant), slots, begun, until)


def _replayed(
    tenant: str, catalog: Catalog, document: Document, slots: Sequence[SlotUsage]
) -> Invoice | None:
    """The invoice as it would be built now, had no other been void in its place."""
    found = _slot_of(tenant, document, slots)
    invoices = bill_customer(catalog, slots, tenant=tenant)
    wanted = None if found is None else found[0].invoice_id(tenant)
    return next((each for each in invoices if each.invoice_id == wanted), None)


def _slot_of(tenant: str, document: Document, slots: Sequence[SlotUsage]) -> SlotUsage | None:
    """The slot of a document, whatever came before it in its place."""
    wanted, sequence = document["invoice_id"], int(document["sequence"])
    for slot, usage in slots:
        if replace(slot, sequence=sequence).invoice_id(tenant) == wanted:
            return slot, usage
    return None


def _origin(line: Document, slot: Slot, usage: Sequence[Mapping[str, UsageOf]]) -> Origin:
    """The charge of a line, found by its segment."""
    if line["service_start"] is None:
        return Origin(None, None, Fraction(1))
    span = Span(parse_timestamp(line["service_start"]), parse_timestamp(line["service_end"]))
    context = LineContext("", slot.subscription, slot.time_zone, 0)
    for cut, used in zip(slot.cuts, usage, strict=True):
        charge = _charge(cut.tariff, line)
        if isinstance(charge, UsageCharge) and cut.part == span:
            trial = cut.tariff is not None and cut.tariff.trial
            factor = context.factor(cut, charge.proration)
            return Origin(charge, used.get(charge.meter), factor, trial=trial)
    segments = [*slot.cuts, *([] if slot.advance is None else [slot.advance])]
    within = [each for each in segments if each.whole.start <= span.start < each.whole.end]
    for segment in sorted(within, key=lambda each: abs(each.part.start - span.start)):
        charge = _charge(segment.tariff, line)
        if isinstance(charge, Fee):
            part = Segment(span, segment.whole)
            return Origin(charge, None, context.factor(part, charge.proration))
    return Origin(None, None, Fraction(1))


def _charge(tariff: Tariff | None, line: Document) -> Charge | None:
    charges = () if tariff is None else tariff.charges
    return next((each for each in charges if each.id == line["charge"]), None)


def _buckets(
    warehouse: Warehouse,
    tenant: str,
    catalog: Catalog,
    document: Document,
    line: Document,
    origin: Origin,
) -> list[dict[str, object]]:
    """The values of a line's buckets, the groups of the line merged."""
    charge = origin.charge
    assert isinstance(charge, UsageCharge)
    selection: dict[str, Any] = {
        "customer": document["customer"],
        "subscription": document["subscription"],
        "meter": charge.meter,
        "start": parse_timestamp(line["service_start"]),
        "end": parse_timestamp(line["service_end"]),
    }
    rows = from_stored(queries.usage_rows(warehouse, tenant, **selection))
    values = from_stored(queries.values_of(warehouse, tenant, **selection))
    keys = charge.group_keys
    cells = read_usage(catalog, rows, values, "hour", list(keys))
    wanted = canonical_json(line["group"])
    return [
        {
            "start": format_instant(cell.start),
            "end": format_instant(cell.end),
            "value": plain(cell.value),
            "events": cell.events,
        }
        for cell in cells
        if not keys or cell.group == wanted
    ]


@dataclass(frozen=True)
class _Line:
    """A usage line as events are held against it."""

    line_id: str
    meter: Meter
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
    that one was ingested.
    """
    found = _slot_of(tenant, document, _slots(warehouse, tenant, catalog, document))
    if found is None:
        return
    slot = found[0]
    attribution = Attribution(catalog)
    for line in document["lines"]:
        if line["meter"] is None or (line_ids and line["line_id"] not in line_ids):
            continue
        charge = next((c for c in map(_of_cut(line), slot.cuts) if c is not None), None)
        if not isinstance(charge, UsageCharge):
            continue
        span = parse_timestamp(line["service_start"]), parse_timestamp(line["service_end"])
        of = _Line(
            line["line_id"],
            catalog.meters_by_id[charge.meter],
            canonical_json(line["group"]),
            charge.group_keys,
            span,
        )
        yield from _events(warehouse, tenant, attribution, slot, of)


def _of_cut(line: Document) -> Any:
    def charge(cut: Segment) -> Charge | None:
        return _charge(cut.tariff, line)

    return charge


def _events(
    warehouse: Warehouse, tenant: str, attribution: Attribution, slot: Slot, line: _Line
) -> Iterator[dict[str, object]]:
    rows = copies_of_events(
        warehouse, tenant, slot.customer, line.span[0], line.span[1], [line.meter.event_name]
    )
    counted: dict[str, Mapping[str, Any]] = {}
    for row in rows:
        if row["place"] == 1:
            found = _reading(line, row, attribution, slot)
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
    line: _Line, row: Mapping[str, Any], attribution: Attribution, slot: Slot
) -> Decimal | str | None:
    """What an event counts for on a line; None where it does not."""
    at, explicit = row["timestamp"], row["external_subscription_id"]
    properties = parse_json(row["properties"])
    assert isinstance(properties, dict)
    if not line.span[0] <= at < line.span[1]:
        return None
    try:
        found = reading_of(
            line.meter,
            event_name=row["event_name"],
            event_id=row["event_id"],
            timestamp=at,
            properties=properties,
        )
    except Rejected:
        return None
    owner = attribution.subscription_for(slot.customer, line.meter.id, at, explicit)
    if found is None or owner != slot.subscription:
        return None
    group, reading = found
    if line.keys and reduce_group(group, line.keys) != line.group:
        return None
    if line.meter.property is not None and line.meter.aggregation == "unique_count":
        return canonical_json(properties.get(line.meter.property))
    return Decimal(1) if reading.scaled is None else from_scaled(reading.scaled)


def _event(
    line: _Line, row: Mapping[str, Any], value: Decimal | str | None, zone: str
) -> dict[str, object]:
    # A bucket is cut where the line's span begins and ends.
    hour = hour_of(row["timestamp"], zone)
    start, end = max(hour.start, line.span[0]), min(hour.end, line.span[1])
    return {
        "line_id": line.line_id,
        "meter": line.meter.id,
        "event_id": row["event_id"],
        "timestamp": format_instant(row["timestamp"]),
        "value": plain(value) if isinstance(value, Decimal) else value,
        "bucket_start": None if value is None else format_instant(start),
        "bucket_end": None if value is None else format_instant(end),
        "status": "duplicate" if value is None else "counted",
        "duplicate_of": None,
        "ingested_at": format_instant(row["ingested_at"]),
    }
