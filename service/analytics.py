"""One customer's usage by meter and subscription, over time, and what it costs alone.

usage merged by meter, subscription and group --> items
the same by windows                           --> their points
charges of the subscription x usage           --> what an item costs
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from typing import Any, cast

from billing.customer import tariffs_of
from billing.lines import LineContext, usage_lines
from billing.money import add_amounts, format_amount
from billing.quantities import NO_USAGE, UsageOf
from billing.tariffs import Tariff
from meters.buckets import HOUR, bucket_of
from meters.catalog import Catalog, Meter, UsageCharge
from meters.currencies import currency_exponent
from meters.numbers import plain
from meters.periods import Periods, Span
from meters.scalars import parse_json
from meters.timestamps import format_instant
from meters.zones import MICROSECOND
from service.reader import wrong
from service.summaries import Figure, summarize
from service.windows import MOST_WINDOWS
from transforms.quantities import Quantities
from warehouse.client import Warehouse
from warehouse.overview import Dimension
from warehouse.usage_series import Selection

Row = dict[str, Any]


def analyze(
    catalog: Catalog,
    warehouse: Warehouse,
    tenant: str,
    selection: Selection,
    *,
    meters: Sequence[str] | None,
    window: str | None,
    group: str | None,
    types: Mapping[str, str],
) -> Row:
    """FlexPrice's answer about one customer: `items`, and the sums of what they cost.

    An item is the usage of a meter under a subscription, and with `group` of one value of
    that property. Its `points` are the windows with usage, by their start in UTC. What has
    no one value over a span (levels, percentiles by group ...) is left out of it, and so is
    what has no one cost: usage by groups, and a price that is not known.
    """
    assert selection.customer is not None
    by: list[Dimension] = ["subscription", *(("group",) if group else ())]
    found = _figures(catalog, warehouse, tenant, selection, by, group, meters)
    items = {_key(each): _item(catalog, each, group, types) for each in found}
    if window is not None:
        step = cast(Dimension, window.lower())
        for each in _figures(catalog, warehouse, tenant, selection, [*by, step], group, meters):
            item = items[_key(each)]
            item["window_size"] = window
            item.setdefault("points", []).append(_point(each, step))
    if group is None and not selection.groups:
        _add_costs(catalog, warehouse, tenant, selection, list(items.values()))
    for item in items.values():
        item.get("points", []).sort(key=lambda point: point["timestamp"])
    return {"items": list(items.values()), **_sums(list(items.values()))}


def _figures(
    catalog: Catalog,
    warehouse: Warehouse,
    tenant: str,
    selection: Selection,
    by: Sequence[Dimension],
    group: str | None,
    meters: Sequence[str] | None,
) -> list[Figure]:
    figures = summarize(catalog, warehouse, tenant, selection, by, group=group)
    if len(figures) > MOST_WINDOWS:
        raise wrong("window_size", None, f"so that there are at most {MOST_WINDOWS} values")
    return [each for each in figures if meters is None or each.meter in meters]


def _key(figure: Figure) -> tuple[str, str, str]:
    return figure.meter, figure.keys["subscription"], figure.keys.get("group", "")


def _item(catalog: Catalog, figure: Figure, group: str | None, types: Mapping[str, str]) -> Row:
    meter = catalog.meters_by_id[figure.meter]
    found: Row = {
        "feature_id": meter.id,
        "meter_id": meter.id,
        "name": meter.description or meter.id,
        "event_name": meter.event_name,
        "aggregation_type": types[meter.aggregation],
        "event_count": figure.events,
    }
    if figure.value is not None:
        found["total_usage"] = plain(figure.value)
    if figure.keys["subscription"]:
        found["subscription_id"] = figure.keys["subscription"]
    if group is not None and (text := figure.keys["group"]):
        own = parse_json(text)
        found["properties"] = {group: own if isinstance(own, str) else text}
    return found


def _point(figure: Figure, step: Dimension) -> Row:
    at: datetime = figure.keys[step]
    point: Row = {"timestamp": format_instant(at), "event_count": figure.events}
    if figure.value is not None:
        point["usage"] = plain(figure.value)
    return point


def _add_costs(
    catalog: Catalog,
    warehouse: Warehouse,
    tenant: str,
    selection: Selection,
    items: Sequence[Row],
) -> None:
    """What each item's usage costs by the charges of its subscription, taken alone."""
    assert selection.customer is not None
    assert selection.since is not None
    assert selection.end is not None
    asked = Span(selection.since, selection.end)
    names = sorted({item["subscription_id"] for item in items if "subscription_id" in item})
    names = [name for name in names if name in catalog.subscriptions_by_id]
    tariffs = {name: _tariff(catalog, name, asked) for name in names}
    spans = [_touched(catalog, name, asked) for name in names]
    used = Quantities(catalog, warehouse, tenant).of(
        [
            (selection.customer, name, span.start, span.end)
            for name, span in zip(names, spans, strict=True)
        ],
        [tariffs[name].charges for name in names],
        spans,
    )
    usage = dict(zip(names, used, strict=True))
    for item in items:
        name = item.get("subscription_id")
        if name not in usage:
            continue
        meter = catalog.meters_by_id[item["meter_id"]]
        of = usage[name].get(meter.id, NO_USAGE)
        if meter.over_spans and of.value is not None:
            item["total_usage"] = plain(of.value)
        _add_cost(catalog, item, meter, of, tariffs[name])


def _add_cost(catalog: Catalog, item: Row, meter: Meter, used: UsageOf, tariff: Tariff) -> None:
    plan = catalog.plans_by_id[tariff.plan]
    exponent = currency_exponent(plan.currency)
    context = LineContext("", item["subscription_id"], "UTC", exponent).of(tariff)
    charges = [
        charge
        for charge in tariff.charges
        if isinstance(charge, UsageCharge) and charge.meter == meter.id
    ]
    item["plan_id"] = plan.id
    item["currency"] = plan.currency
    if len(charges) == 1:
        item["price_id"] = charges[0].id
    amounts = []
    for charge in charges if not tariff.trial else ():
        for line, unknown in usage_lines(charge, used, None, context):
            if unknown is not None:
                return
            amounts.append(line.amount)
    cost = format_amount(add_amounts(amounts, exponent), exponent)
    item["total_cost"] = item["subtotal"] = cost
    item["total_discount"] = format_amount(Decimal(0), exponent)


def _tariff(catalog: Catalog, name: str, span: Span) -> Tariff:
    """What the subscription pays at the end of a span, or at its own end before that."""
    entry = catalog.subscriptions_by_id[name]
    last = min(span.end, entry.end or span.end) - MICROSECOND
    at = max(last, entry.start)
    period = _periods(catalog, name).containing(at)
    assert period is not None
    return tariffs_of(catalog, name).at(at, period.start)


def _touched(catalog: Catalog, name: str, span: Span) -> Span:
    """The span from the start of the subscription's bucket that it begins in."""
    periods = _periods(catalog, name)
    bounds = periods.bounds(span.start - HOUR, span.start)
    return Span(bucket_of(span.start, periods.zone, bounds).start, span.end)


def _periods(catalog: Catalog, name: str) -> Periods:
    entry = catalog.subscriptions_by_id[name]
    zone = catalog.customers_by_id[entry.customer].time_zone
    return Periods(entry.start, zone, catalog.plans_by_id[entry.plan].period, entry.end)


def _sums(items: Sequence[Row]) -> Row:
    """The sums over items that somebody pays for; nothing where one's cost is not known."""
    items = [item for item in items if "currency" in item]
    currencies = {item["currency"] for item in items}
    if len(currencies) != 1 or any("total_cost" not in item for item in items):
        return {}
    [currency] = currencies
    exponent = currency_exponent(currency)
    total = add_amounts((Decimal(item["total_cost"]) for item in items), exponent)
    cost = format_amount(total, exponent)
    nothing = format_amount(Decimal(0), exponent)
    return {"currency": currency, "subtotal": cost, "total_discount": nothing, "total_cost": cost}
