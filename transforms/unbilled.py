"""Usage that is shown and never billed, found by queries over usage and the catalog in time.

    series of usage --Coverage--> gaps --usage in them, merged by ClickHouse--> findings
    raw events of customers that no catalog has ----------------------------> findings

A series is what one meter counted for one customer and subscription: what is billed as a
whole, as nearly all of it is, costs one look at the catalog, however many rows it has.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from decimal import Decimal
from itertools import pairwise

from billing.unbilled import Coverage, Gap, Reason
from meters.catalog import Catalog, UnitPrice, UsageCharge
from meters.periods import Span
from meters.timeline import Timeline
from meters.zones import from_microseconds, microseconds
from transforms.quantities import Quantities
from warehouse.client import Warehouse
from warehouse.invoices import final_service
from warehouse.merging import UsageSpan, usage_extents
from warehouse.unattributed import (
    customers_with_events,
    events_without_usage,
    named_subscriptions,
)
from warehouse.usage_series import Selection, Series, usage_series

_SERIES_AT_ONCE = 10_000


@dataclass(frozen=True)
class NeverBilled:
    """Usage of a customer that no invoice will have, or events that are not even usage.

    From the first bucket with such usage to the end of the last one; `value` is that of the
    meter over this span, all groups merged. Of an unknown customer the events themselves:
    no subscription, meter and value, and a span from the first to the last of them. `named`
    are other subscriptions that the customer's events of this name have in their field.
    """

    customer: str
    subscription: str | None
    meter: str | None
    start: datetime
    end: datetime
    value: Decimal | None
    events: int
    reason: Reason
    named: tuple[str, ...] = ()


def never_billed(
    catalog: Catalog,
    timeline: Timeline,
    warehouse: Warehouse,
    tenant: str,
    within: Span,
    customer: str | None = None,
) -> Iterator[NeverBilled]:
    """What in a span is never billed by `catalog`, and is on no final invoice.

    By customer and time; at last the events of customers that the catalogs of their time do not
    have. Meters that no plan of any catalog charges are for show, and left out.
    """
    charged = {name for each in timeline.catalogs for plan in each.plans for name in plan.meters}
    selection = Selection(customer=customer, start=within.start, end=within.end)
    coverage = Coverage(catalog)
    known = timeline.with_last(catalog)
    at: str | None = ""
    while at is not None:
        listed, at = usage_series(
            warehouse, tenant, selection, from_customer=at, limit=_SERIES_AT_ONCE
        )
        asked = [each.series for each in listed if each.series.meter in charged]
        gaps = _gaps(coverage, warehouse, tenant, asked, within)
        found = list(_usage_in(known, warehouse, tenant, gaps))
        yield from _with_names(known, warehouse, tenant, found, within)
    if customer is None:
        yield from _unknown_customers(timeline, warehouse, tenant, charged, within)


def _gaps(
    coverage: Coverage, warehouse: Warehouse, tenant: str, series: Iterable[Series], within: Span
) -> dict[Series, list[Gap]]:
    def of(each: Series, final: Sequence[Span] = ()) -> list[Gap]:
        return coverage.gaps(each.customer, each.subscription or None, each.meter, within, final)

    found = {each: gaps for each in series if (gaps := of(each))}
    owners = [each.subscription for each in found if each.subscription]
    final = final_service(warehouse, tenant, owners) if owners else {}
    return {
        each: of(each, final.get((each.customer, each.subscription, each.meter), ()))
        for each in found
    }


def _usage_in(
    known: Catalog, warehouse: Warehouse, tenant: str, gaps: Mapping[Series, Sequence[Gap]]
) -> Iterator[NeverBilled]:
    """The usage that there is in gaps, by customer and time."""
    asked: dict[UsageSpan, dict[str, Reason]] = defaultdict(dict)
    for series, found in gaps.items():
        for gap in found:
            owner = series.customer, series.subscription or None
            asked[*owner, gap.span.start, gap.span.end][series.meter] = gap.reason
    if not asked:
        return
    spans = list(asked)
    meters = sorted({each.meter for each in gaps})
    rows = []
    for row in usage_extents(warehouse, tenant, spans, meters).to_pylist():
        customer, subscription, *_ = span = spans[row["span"]]
        reason = asked[span].get(row["meter"])
        if reason is not None:
            first, last, events = row["first"], row["last"], row["events"]
            rows.append(
                NeverBilled(customer, subscription, row["meter"], first, last, None, events, reason)
            )
    rows.sort(key=lambda row: (row.customer, row.start, row.meter, row.subscription or ""))
    exact: list[UsageSpan] = [(row.customer, row.subscription, row.start, row.end) for row in rows]
    charges = [_as_charge(known, row) for row in rows]
    usage = Quantities(known, warehouse, tenant).of(exact, charges)
    for row, charge, used in zip(rows, charges, usage, strict=True):
        value = used.get(row.meter or "") if charge else None
        yield replace(row, value=None if value is None else value.value)


def _as_charge(known: Catalog, row: NeverBilled) -> list[UsageCharge]:
    """What would bill the usage of a row; nothing where its value cannot be told.

    No catalog has the meter by now, or the zone by whose days its buckets are summed.
    """
    meter = known.meters_by_id.get(row.meter or "")
    if meter is None or (meter.bucket and row.customer not in known.customers_by_id):
        return []
    price = UnitPrice(model="unit", unit_amount=Decimal(0))
    return [UsageCharge(id=meter.id, meter=meter.id, price=price)]


def _with_names(
    known: Catalog,
    warehouse: Warehouse,
    tenant: str,
    rows: Iterable[NeverBilled],
    within: Span,
) -> Iterator[NeverBilled]:
    """Rows without a subscription, with the names that their events may have had."""
    rows = list(rows)
    event_names = {meter.id: meter.event_name for meter in known.meters}
    alone = [row for row in rows if row.subscription is None and row.meter in event_names]
    named: dict[tuple[str, str], list[str]] = defaultdict(list)
    if alone:
        asked = sorted({event_names[row.meter or ""] for row in alone})
        customers = sorted({row.customer for row in alone})
        for found in named_subscriptions(
            warehouse, tenant, customers, asked, within.start, within.end
        ):
            entry = known.subscriptions_by_id.get(found["subscription"])
            if entry is None or entry.customer != found["customer"]:
                key = found["customer"], found["event_name"]
                named[key].append(found["subscription"])
    for row in rows:
        if row.subscription is None:
            key = row.customer, event_names.get(row.meter or "", "")
            row = replace(row, named=tuple(named[key]))
        yield row


def _unknown_customers(
    timeline: Timeline, warehouse: Warehouse, tenant: str, charged: set[str], within: Span
) -> Iterator[NeverBilled]:
    """Events that the meters would count if the catalog of their time had their customer."""
    starts = [at for at, _ in timeline.entries]
    low, high = microseconds(within.start), microseconds(within.end)
    for catalog, (since, until) in zip(timeline.catalogs, pairwise([*starts, high]), strict=True):
        first, last = max(since, low), min(until, high)
        names = sorted({meter.event_name for meter in catalog.meters if meter.id in charged})
        if first >= last or not names:
            continue
        span = from_microseconds(first), from_microseconds(last)
        everyone = customers_with_events(warehouse, tenant, names, *span)
        unknown = sorted(everyone - catalog.customers_by_id.keys())
        for row in events_without_usage(warehouse, tenant, unknown, names, *span):
            name, start, end = row["customer"], row["first"], row["last"]
            yield NeverBilled(name, None, None, start, end, None, row["events"], "unknown_customer")
