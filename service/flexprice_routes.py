"""Events and usage as FlexPrice's clients read them: the same paths, requests and answers.

    POST /v1/events/query         stored events
    POST /v1/events/usage         the usage of the meter that counts such events
    POST /v1/events/usage/meter   the usage of a meter
    POST /v1/events/analytics     the usage of a customer by meter, and what it costs

Usage is that of the catalog's meters, as everywhere: a span has every bucket that it touches,
so the usage of all customers is that of each of them, whatever their time zones.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

from fastapi import APIRouter
from starlette.responses import Response

from meters.catalog import Catalog, Meter
from meters.errors import Rejected
from meters.numbers import EXACT, parse_number, plain
from meters.scalars import parse_json
from meters.timestamps import format_instant
from meters.zones import from_microseconds, microseconds
from service.analytics import analyze
from service.answers import json_answer
from service.context import now
from service.cursors import no_cursor, read_cursor, write_cursor
from service.errors import ApiError
from service.flexprice_shapes import (
    Analytics,
    EventsQuery,
    EventUsage,
    MeterUsage,
    UsageAnswer,
)
from service.json_routes import JsonRoute
from service.reader import Reader, Reads, groups, instant, known, scalars, span, wrong, zone
from service.windows import windowed_usage
from warehouse.event_pages import Chosen, EventPlace, event_page
from warehouse.usage_series import Selection

router = APIRouter(prefix="/v1/events", tags=["flexprice"], route_class=JsonRoute)

_SPAN = timedelta(days=7)
_TYPES = {
    "count": "COUNT",
    "sum": "SUM",
    "avg": "AVG",
    "unique_count": "COUNT_UNIQUE",
    "latest": "LATEST",
    "max": "MAX",
    "min": "MIN",
    "weighted_sum": "WEIGHTED_SUM",
    "percentile": "PERCENTILE",
}
_AGGREGATIONS = {
    **{theirs: ours for ours, theirs in _TYPES.items()},
    "SUM_WITH_MULTIPLIER": "sum",
}
_PROPERTY = "properties."


@router.post("/query")
def query(read: Reads, asked: EventsQuery) -> Response:
    """Stored events, each as the copy that counts; the last seven days where nothing is said.

    `iter_last_key` gives the page behind a page, `iter_first_key` what has come in front.
    """
    start, end = _span(asked.start_time, asked.end_time)
    chosen = Chosen(
        start,
        end,
        customer=asked.external_customer_id,
        event_name=asked.event_name,
        event_id=asked.event_id,
        source=asked.source,
        properties=asked.property_filters,
    )
    size = asked.page_size or 50
    rows = event_page(
        read.warehouse,
        read.tenant,
        chosen,
        limit=asked.offset + size + 1,
        sort=asked.sort,
        descending=asked.order == "desc",
        after=_place("iter_last_key", asked.iter_last_key),
        before=_place("iter_first_key", asked.iter_first_key),
    )
    page = rows[asked.offset : asked.offset + size]
    found: dict[str, Any] = {
        "events": [_event(row) for row in page],
        "has_more": len(rows) > asked.offset + size,
        "offset": asked.offset,
    }
    if page:
        found["iter_first_key"], found["iter_last_key"] = _key(page[0]), _key(page[-1])
    return json_answer(found)


@router.post("/usage", response_model=UsageAnswer)
def usage(read: Reads, asked: EventUsage) -> Response:
    """The usage of the meter that counts these events in this way, and of its windows.

    400 names what no meter of the catalog has. With `group_by` the values of each group are
    added up, and `multiplier` multiplies.
    """
    catalog = read.catalog
    meter, filters = _meter_of(catalog, asked)
    by = _group_of(meter, asked)
    factor = Decimal(1)
    if asked.multiplier is not None:
        try:
            factor = parse_number(asked.multiplier, "multiplier")
        except Rejected as error:
            raise wrong("multiplier", asked.multiplier, error.expected) from None
    return _answer(
        read, catalog, asked, meter, filters, kind=asked.aggregation_type, by=by, factor=factor
    )


@router.post("/usage/meter", response_model=UsageAnswer)
def meter_usage(read: Reads, asked: MeterUsage) -> Response:
    """The usage of a meter, and of its windows."""
    catalog = read.catalog
    meter = catalog.meters_by_id.get(asked.meter_id)
    if meter is None:
        raise ApiError(404, "not_found", f"no meter has the id {asked.meter_id!r}")
    if asked.bucket_size is not None and asked.bucket_size.lower() != meter.bucket:
        due = "left out" if meter.bucket is None else meter.bucket.upper()
        raise wrong("bucket_size", asked.bucket_size, f"{due}, as the meter has it")
    filters = _beside_filters(meter, asked.filters)
    if filters is None:
        raise wrong("filters", asked.filters, f"of the meter's groups: {_listed(meter.group_by)}")
    return _answer(read, catalog, asked, meter, filters, kind=_TYPES[meter.aggregation])


@router.post("/analytics")
def analytics(read: Reads, asked: Analytics) -> Response:
    """One customer's usage by meter (`feature_id`) and subscription, and what it costs alone.

    A cost is what the charges take for the usage of the span, as if it were a period: with
    included units and from the first tier on, before commitments, coupons, credits and tax.
    By groups there is usage alone.
    """
    if asked.external_customer_id is None:
        raise wrong("external_customer_id", None, "given")
    for name, value in (
        ("sources", asked.sources),
        ("include_children", asked.include_children),
        ("breakdown_bucket", asked.breakdown_bucket),
    ):
        if value:
            raise wrong(name, value, "left out: usage is not kept by it")
    by = None
    for number, name in enumerate(asked.group_by):
        if name.startswith(_PROPERTY) and by in (None, name.removeprefix(_PROPERTY)):
            by = name.removeprefix(_PROPERTY)
        elif name != "feature_id":
            due = "feature_id, or properties.NAME of one group_by property"
            raise wrong(f"group_by[{number}]", name, due)
    catalog = read.catalog
    keys = {key for meter in catalog.meters for key in meter.group_by}
    if by is not None:
        known("group_by", by, keys)
    known("external_customer_id", asked.external_customer_id, catalog.customers_by_id)
    for number, name in enumerate(asked.feature_ids):
        known(f"feature_ids[{number}]", name, catalog.meters_by_id)
    start, end = _span(asked.start_time, asked.end_time)
    chosen = Selection(
        customer=asked.external_customer_id,
        since=start,
        end=end,
        groups=groups(catalog, asked.property_filters, "property_filters"),
    )
    found = analyze(
        catalog,
        read.warehouse,
        read.tenant,
        chosen,
        meters=asked.feature_ids or None,
        window=asked.window_size,
        group=by,
        types=_TYPES,
    )
    return json_answer(found)


def _answer(
    read: Reader,
    catalog: Catalog,
    asked: EventUsage | MeterUsage,
    meter: Meter,
    filters: dict[str, list[str]],
    *,
    kind: str,
    by: str | None = None,
    factor: Decimal = Decimal(1),
) -> Response:
    customer = asked.external_customer_id
    if asked.customer_id not in (None, customer):
        if customer is not None:
            raise wrong("customer_id", asked.customer_id, "left out beside external_customer_id")
        customer = asked.customer_id
    known("external_customer_id", customer, catalog.customers_by_id)
    if meter.over_spans:
        due = "one whose hours add up; GET /v1/usage has levels, percentiles and what is carried"
        raise wrong("meter_id", meter.id, due)
    start, end = _span(asked.start_time, asked.end_time)
    anchor = instant("billing_anchor", asked.billing_anchor)
    if anchor is not None and anchor > start and asked.window_size == "MONTH":
        raise wrong("billing_anchor", asked.billing_anchor, "not after start_time")
    chosen = Selection(
        customer=customer,
        meter=meter.id,
        since=start,
        end=end,
        groups=groups(catalog, filters, "filters"),
    )
    found = windowed_usage(
        catalog,
        read.warehouse,
        read.tenant,
        chosen,
        window=asked.window_size,
        zone=zone(asked.timezone or "UTC", "timezone"),
        anchor=anchor,
        group=by,
    )
    return json_answer(
        {
            "event_name": meter.event_name,
            "type": kind,
            "value": _number(found.value, factor),
            "results": [
                {"window_size": format_instant(at), "value": _number(value, factor)}
                for at, value, _ in found.windows
            ],
        }
    )


def _number(value: Decimal, factor: Decimal) -> Decimal:
    """With all its digits, as few as there are."""
    return Decimal(plain(EXACT.multiply(value, factor)))


def _meter_of(catalog: Catalog, asked: EventUsage) -> tuple[Meter, dict[str, list[str]]]:
    """The meter that counts such events in this way, and the filters that are left for groups.

    Of several the one that has the most of the filters itself. Raises 400 for what none has.
    """
    left = [meter for meter in catalog.meters if meter.event_name == asked.event_name]
    if not left:
        raise wrong("event_name", asked.event_name, "that of a meter of the catalog")
    kinds = sorted({_TYPES[meter.aggregation] for meter in left})
    left = [meter for meter in left if meter.aggregation == _AGGREGATIONS[asked.aggregation_type]]
    if not left:
        due = f"what a meter of these events does: {_listed(kinds)}"
        raise wrong("aggregation_type", asked.aggregation_type, due)
    if asked.aggregation_type != "COUNT":
        names = sorted({meter.property for meter in left if meter.property is not None})
        left = [meter for meter in left if meter.property == asked.property_name]
        if not left or asked.property_name is None:
            due = f"what such a meter is taken of: {_listed(names)}"
            raise wrong("property_name", asked.property_name, due)
    bucket = None if asked.bucket_size is None else asked.bucket_size.lower()
    sizes = sorted({(meter.bucket or "none").upper() for meter in left})
    left = [meter for meter in left if meter.bucket == bucket]
    if not left:
        raise wrong("bucket_size", asked.bucket_size, f"that of such a meter: {_listed(sizes)}")
    fitting = [
        (meter, rest)
        for meter in left
        if meter.filters.keys() <= asked.filters.keys()
        and (rest := _beside_filters(meter, asked.filters)) is not None
    ]
    if not fitting:
        due = f"those of such a meter, or of its groups: {_listed(m.id for m in left)}"
        raise wrong("filters", asked.filters, due)
    return min(fitting, key=lambda each: len(each[1]))


def _beside_filters(meter: Meter, given: dict[str, list[str]]) -> dict[str, list[str]] | None:
    """The filters on groups, without the meter's own; None where one is neither."""
    rest = {}
    for name, values in given.items():
        if name in meter.group_by:
            rest[name] = values
            continue
        allowed = meter.allowed.get(name)
        if allowed is None:
            return None
        hit = [allowed.intersection(scalars(value)) for value in values]
        if not all(hit) or frozenset().union(*hit) != allowed:
            return None
    return rest


def _group_of(meter: Meter, asked: EventUsage) -> str | None:
    """The property by which values are added up."""
    given = list(asked.group_by)
    if not given and asked.group_by_property is not None:
        given = [_PROPERTY + asked.group_by_property]
    for number, name in enumerate(given):
        known_key = name.removeprefix(_PROPERTY) in meter.group_by
        if number or not name.startswith(_PROPERTY) or not known_key:
            keys = [_PROPERTY + key for key in meter.group_by]
            raise wrong(f"group_by[{number}]", name, f"one of the meter's: {_listed(keys)}")
    return given[0].removeprefix(_PROPERTY) if given else None


def _span(start: str | None, end: str | None) -> tuple[datetime, datetime]:
    until = instant("end_time", end) or now()
    since = instant("start_time", start) or until - _SPAN
    span(since, until, "end_time")
    return since, until


def _listed(names: Iterable[str]) -> str:
    return ", ".join(names) or "none"


def _event(row: dict[str, Any]) -> dict[str, Any]:
    return {
        "id": row["event_id"],
        "event_name": row["event_name"],
        "external_customer_id": row["external_customer_id"],
        "customer_id": row["external_customer_id"],
        "timestamp": format_instant(row["timestamp"]),
        "ingested_at": format_instant(row["ingested_at"]),
        "source": row["source"] or "",
        "environment_id": "",
        "properties": parse_json(row["properties"]),
    }


def _key(row: dict[str, Any]) -> str:
    place = EventPlace.of(row)
    at = str(microseconds(place.at))
    return write_cursor([place.name, at, place.customer, place.event_id, place.content_hash])


def _place(path: str, key: str | None) -> EventPlace | None:
    if key is None:
        return None
    try:
        name, at, customer, event_id, content = read_cursor(key, 5)
        if len(bytes.fromhex(content)) != 16:
            raise no_cursor(key)
        return EventPlace(name, from_microseconds(int(at)), customer, event_id, content)
    except (Rejected, ValueError, OverflowError):
        raise wrong(path, key, "a key of a page") from None
