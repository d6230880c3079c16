"""What an explanation needs of the warehouse: the usage of an invoice's lines.

    document -> the slots of its customer, what was final before it -> usage -> explain_invoice

The invoice is rated again from what was final when it was made, by the catalogs in time, as
billing rates it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from fractions import Fraction
from typing import Any

from msgspec import structs

from billing.customer import SlotUsage, begun_slots, bill_customer, due_slots
from billing.explanations import Document, Origin, explain_invoice
from billing.invoice import Invoice
from billing.lines import LineContext
from billing.past import Past
from billing.quantities import NO_USAGE, UsageOf, parts_of
from billing.slot_lines import without_minimum
from billing.slots import Segment, Slot
from billing.tariffs import Tariff
from billing.thresholds import candidates, usage_end
from journal.journal import Journal
from journal.records import NO_HISTORY, History
from meters.buckets import day_of
from meters.catalog import Catalog, Charge, Fee, UsageCharge
from meters.catalog_file import catalog_from_content
from meters.numbers import SCALE, from_scaled, plain
from meters.periods import Span
from meters.reading import read_usage
from meters.scalars import canonical_json
from meters.timestamps import format_instant, parse_timestamp
from meters.usage import from_stored
from meters.zones import MICROSECOND
from transforms.invoices import past_of, read_slots, slots_until
from transforms.quantities import Quantities
from warehouse import queries
from warehouse.client import Warehouse

_DATES = ("billing_date", "period_start", "period_end")


def catalog_of(warehouse: Warehouse, tenant: str, document: Document) -> Catalog | None:
    """The catalog that an invoice was made with, as it was kept; None where it was not."""
    content = queries.catalog_content(warehouse, tenant, str(document["catalog_hash"]))
    return None if content is None else catalog_from_content(content)


def history_of(journal: Journal | None, tenant: str, document: Document) -> History:
    """What was final before a document; `journal` None stands for one without documents."""
    if journal is None or document["customer"] is None:
        return NO_HISTORY
    return journal.history_before(tenant, document["customer"], document["invoice_id"])


def explain(
    warehouse: Warehouse,
    tenant: str,
    catalog: Catalog,
    document: Document,
    history: History = NO_HISTORY,
) -> dict[str, Any]:
    """The explanation of a stored document, by the usage as it is now.

    `history` is what was final before the document (`history_of`).
    """
    quantities = Quantities.in_time(catalog, warehouse, tenant)
    past = past_of(history)
    slots = _slots(quantities, catalog, document, past, tenant)
    slot = slot_of(catalog, document)
    found = None if slot is None else read_slots(quantities, [slot], (), slot.billing_date)[0]
    by_day = [] if found is None else _by_day(quantities, found[0])
    origins = []
    for line in document["lines"]:
        origin = Origin(None, None, Fraction(1)) if found is None else _origin(line, *found)
        if origin.used is not None and found is not None:
            buckets = _buckets(warehouse, tenant, catalog, document, line, origin)
            days = list(_days(catalog, line, origin.charge, by_day))
            origin = replace(origin, days=days, buckets=buckets)
        origins.append(origin)
    replayed = _replayed(tenant, catalog, document, slots, past)
    return explain_invoice(document, origins, catalog, replayed)


def _slots(
    quantities: Quantities, catalog: Catalog, document: Document, past: Past, tenant: str
) -> list[SlotUsage]:
    """The slots of the document's customer until its date, with the usage of open ones."""
    until = parse_timestamp(document["billing_date"])
    own = [each for each in catalog.subscriptions if each.customer == document["customer"]]
    pasts = {str(document["customer"]): past}
    return slots_until(quantities, catalog, own, pasts, tenant=tenant, as_of=until)


def _replayed(
    tenant: str, catalog: Catalog, document: Document, slots: Sequence[SlotUsage], past: Past
) -> Invoice | None:
    """The invoice as it would be built now."""
    for each in bill_customer(catalog, slots, tenant=tenant, past=past):
        dates = each.billing_date, each.period_start, each.period_end
        if each.subscription == document["subscription"] and _dates(document) == dates:
            return each
    return None


def slot_of(catalog: Catalog, document: Document) -> Slot | None:
    """The slot that a document is of, whatever came before it in its place."""
    name, dates = str(document["subscription"]), _dates(document)
    if name not in catalog.subscriptions_by_id:
        return None
    found = due_slots(catalog, name, dates[0])
    for slot in begun_slots(catalog, name, dates[0]):
        found += candidates(slot, [dates[2]])
    spans = [(slot.billing_date, slot.period_start, slot.period_end) for slot in found]
    return found[spans.index(dates)] if dates in spans else None


def _dates(document: Document) -> tuple[datetime, datetime, datetime]:
    """The date of billing, and start and end of the period."""
    billed, start, end = (document[name] for name in _DATES)
    return parse_timestamp(billed), parse_timestamp(start), parse_timestamp(end)


def _origin(line: Document, slot: Slot, usage: Sequence[Mapping[str, UsageOf]]) -> Origin:
    """The charge of a line, found by its segment."""
    if line["service_start"] is None:
        return Origin(None, None, Fraction(1))
    span = Span(parse_timestamp(line["service_start"]), parse_timestamp(line["service_end"]))
    context = LineContext("", slot.subscription, slot.time_zone, 0)
    for cut, used in zip(slot.cuts, usage, strict=True):
        charge = charge_of(cut.tariff, line)
        until = Span(cut.part.start, usage_end(slot, cut))
        if isinstance(charge, UsageCharge) and until == span:
            trial = cut.tariff is not None and cut.tariff.trial
            factor = context.factor(cut, charge.proration)
            if slot.until is not None:
                charge = without_minimum(charge)
            return Origin(charge, used.get(charge.meter), factor, trial=trial)
    segments = [*slot.cuts, *([] if slot.advance is None else [slot.advance])]
    within = [each for each in segments if each.whole.start <= span.start < each.whole.end]
    for segment in sorted(within, key=lambda each: abs(each.part.start - span.start)):
        charge = charge_of(segment.tariff, line)
        if isinstance(charge, Fee):
            part = Segment(span, segment.whole)
            return Origin(charge, None, context.factor(part, charge.proration))
    return Origin(None, None, Fraction(1))


def charge_of(tariff: Tariff | None, line: Document) -> Charge | None:
    """The charge of a line in a tariff."""
    charges = () if tariff is None else tariff.charges
    return next((each for each in charges if each.id == line["charge"]), None)


@dataclass(frozen=True)
class _Day:
    """A local day, or what of it lies in a segment, and the usage in it by meter."""

    span: Span
    segment: Span
    whole: Span
    usage: Mapping[str, UsageOf]


def _by_day(quantities: Quantities, slot: Slot) -> list[_Day]:
    """The usage of all days of a slot, with what is carried into each."""
    days: list[tuple[Span, Segment]] = []
    for cut in slot.cuts:
        at, end = cut.part.start, usage_end(slot, cut)
        while at < end:
            until = min(day_of(at, slot.time_zone).end, end)
            days.append((Span(at, until), cut))
            at = until
    found = quantities.of(
        [(slot.customer, slot.subscription, day.start, day.end) for day, _ in days],
        [() if cut.tariff is None else cut.tariff.charges for _, cut in days],
        [cut.whole for _, cut in days],
    )
    return [
        _Day(day, cut.part, cut.whole, usage) for (day, cut), usage in zip(days, found, strict=True)
    ]


def _days(
    catalog: Catalog, line: Document, charge: Fee | UsageCharge | None, days: Sequence[_Day]
) -> Iterator[dict[str, object]]:
    """The values of a line's days; of a level its mean over each."""
    assert isinstance(charge, UsageCharge)
    start = parse_timestamp(line["service_start"])
    group = canonical_json(line["group"])
    level = catalog.meters_by_id[charge.meter].aggregation == "weighted_sum"
    for day in days:
        if day.segment.start != start:
            continue
        used = day.usage.get(charge.meter, NO_USAGE)
        own = tuple(single for single in used.singles if single.event_id)
        parts = dict(parts_of(charge, structs.replace(used, singles=own)))
        used = parts.get(group, NO_USAGE)
        value = used.value
        if level and value is not None:
            whole, part = (each.end - each.start for each in (day.whole, day.span))
            mean = Fraction(value) * (whole // MICROSECOND) / (part // MICROSECOND)
            value = from_scaled(round(mean * SCALE))
        yield {
            "start": format_instant(day.span.start),
            "end": format_instant(day.span.end),
            "value": None if value is None else plain(value),
            "events": used.events,
        }


def _buckets(
    warehouse: Warehouse,
    tenant: str,
    catalog: Catalog,
    document: Document,
    line: Document,
    origin: Origin,
) -> list[dict[str, object]]:
    """The values of a line's buckets with events, the groups of the line merged."""
    charge = origin.charge
    assert isinstance(charge, UsageCharge)
    since = parse_timestamp(line["service_start"])
    carries = catalog.meters_by_id[charge.meter].carries
    selection: dict[str, Any] = {
        "customer": document["customer"],
        "subscription": document["subscription"],
        "meter": charge.meter,
        "start": None if carries else since,
        "end": parse_timestamp(line["service_end"]),
    }
    rows = from_stored(queries.usage_rows(warehouse, tenant, **selection))
    values = from_stored(queries.values_of(warehouse, tenant, **selection))
    keys = charge.group_keys
    cells = read_usage(catalog, rows, values, "hour", list(keys), since=since)
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
