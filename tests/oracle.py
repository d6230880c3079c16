"""A slow, independent answer to what usage must be.

    events -> validate -> one copy per identity -> meters -> buckets -> values

Plain Python over dicts, with `Fraction` for every number and `zoneinfo` for every
local time. It imports nothing of Beammeter, so that a mistake cannot be in both.
A catalog is the parsed YAML; an event is the dict of its JSON, with numbers as
`int` or `Decimal` (never `float`) and `ingested_at` given.

Where the contract leaves something open the oracle says so in `UNSETTLED`, and
tests do not rest on it. Local times are in `oracle_times`, bills in `oracle_bills`.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from typing import Any
from zoneinfo import ZoneInfo

from tests.oracle_spans import Span, looks_beyond, value_of
from tests.oracle_times import EPOCH, day_of, hour_of, instant, month_of, periods, rfc3339, zone_of

UNSETTLED = (
    "which of two copies wins that differ in content but not in ingested_at",
    "the billing period of an event that names a subscription outside its dates",
    "the amount of a negative quantity",
)
Row = dict[str, Any]
PLACES = 10**12
LIMIT = 10**15
COUNTS = (
    "read",
    "accepted",
    "duplicate",
    "conflict",
    "quarantined",
    "meter_errors",
    "unattributed",
    "rows",
)
NUMBER = re.compile(r"-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?")

# Numbers


def number(value: Any) -> Fraction:
    """A JSON number or decimal string at 12 places, half-even; else ValueError."""
    if isinstance(value, bool) or not isinstance(value, int | Decimal | str):
        raise ValueError("no number")
    if isinstance(value, str) and not NUMBER.fullmatch(value):
        raise ValueError("no number")
    if isinstance(value, Decimal) and not value.is_finite():
        raise ValueError("no number")
    decimal = Decimal(value)
    if decimal and decimal.adjusted() > 20:
        raise ValueError("out of range")
    if decimal.adjusted() < -40:
        return Fraction(0)
    rounded = Fraction(round(Fraction(decimal) * PLACES), PLACES)
    if abs(rounded) >= LIMIT or abs(Fraction(decimal)) >= LIMIT:
        raise ValueError("out of range")
    return rounded


def plain(value: Fraction) -> str:
    """Plain notation without trailing zeros."""
    scaled = value * PLACES
    assert scaled.denominator == 1, value
    digits = str(abs(scaled.numerator)).rjust(13, "0")
    text = f"{digits[:-12]}.{digits[-12:]}".rstrip("0").rstrip(".")
    return f"-{text}" if value < 0 else text


def scalar(value: Any) -> tuple[str, Any]:
    """A JSON scalar by type: 1 is 1.0, "1" is text, true is not 1."""
    if value is None:
        return ("null", None)
    if isinstance(value, bool):
        return ("bool", value)
    if isinstance(value, str):
        return ("text", value)
    if isinstance(value, int | Decimal):
        return ("number", Fraction(value))
    raise ValueError("no scalar")


# Events


@dataclass
class Event:
    """A valid event."""

    tenant: str
    id: str
    name: str
    customer: str
    subscription: str | None
    timestamp: datetime
    ingested_at: datetime
    properties: Row
    content: str


def validate(event: Row) -> Event | str:
    """The event, or the field for which it goes to quarantine."""
    names = ("event_id", "event_name", "external_customer_id")
    for name in names:
        if not isinstance(event.get(name), str) or not event[name]:
            return name
    subscription = event.get("external_subscription_id")
    if subscription is not None and (not isinstance(subscription, str) or not subscription):
        return "external_subscription_id"
    try:
        timestamp = instant(event.get("timestamp", ""))
    except (ValueError, TypeError, OverflowError):
        return "timestamp"
    ingested_at = instant(event["ingested_at"])
    if timestamp < EPOCH or timestamp > ingested_at + timedelta(hours=24):
        return "timestamp"
    properties = event.get("properties")
    if not isinstance(properties, dict):
        return "properties"
    content = {k: v for k, v in event.items() if k != "ingested_at"} | {"timestamp": timestamp}
    return Event(
        event.get("tenant_id", "default"),
        *(event[name] for name in names),
        subscription,
        timestamp,
        ingested_at,
        properties,
        _content(content),
    )


def _content(value: Any) -> str:
    if isinstance(value, dict):
        return repr(sorted((key, _content(item)) for key, item in value.items()))
    if isinstance(value, list):
        return repr([_content(item) for item in value])
    return repr(value if isinstance(value, datetime) else scalar(value))


# Usage


@dataclass
class Cell:
    """What was counted for one key."""

    values: list[Any] = field(default_factory=list)

    def value(self, aggregation: str) -> Fraction:
        """The value of the aggregation over (timestamp, event id, value)."""
        if aggregation == "count":
            return Fraction(len(self.values))
        if aggregation == "unique_count":
            return Fraction(len({item[2] for item in self.values}))
        if aggregation == "latest":
            return max(self.values)[2]
        numbers = [item[2] for item in self.values]
        if aggregation == "avg":
            return Fraction(round(sum(numbers) / len(numbers) * PLACES), PLACES)
        return {"sum": sum, "max": max, "min": min}[aggregation](numbers)


@dataclass
class Measured:
    """One event counted by one meter."""

    event: Event
    meter: Row
    subscription: str | None
    group: tuple[tuple[str, Any], ...]
    value: Any
    operation: Any = None


class Oracle:
    """Usage and counts of one tenant's catalog and all its events."""

    def __init__(self, catalog: Row, events: Iterable[Row]) -> None:
        self.catalog = catalog
        self.customers = {c["id"]: c for c in catalog.get("customers", [])}
        self.subscriptions = {s["id"]: s for s in catalog.get("subscriptions", [])}
        self.plans = {p["id"]: p for p in catalog.get("plans", [])}
        self.counts = dict.fromkeys(COUNTS, 0)
        self.effective = self._deduplicated(events)
        self.measured = [m for event in self.effective for m in self._measure(event)]
        self.counts["rows"] = len({self._key(m, self._bucket(m)) for m in self.measured})

    def _deduplicated(self, events: Iterable[Row]) -> list[Event]:
        copies: dict[tuple[str, str, str], list[Event]] = defaultdict(list)
        for raw in events:
            self.counts["read"] += 1
            event = validate(raw)
            if isinstance(event, str):
                self.counts["quarantined"] += 1
            else:
                copies[event.tenant, event.customer, event.id].append(event)
        winners = []
        for same in copies.values():
            winner = min(same, key=lambda event: (event.ingested_at, event.content))
            winners.append(winner)
            self.counts["accepted"] += 1
            self.counts["duplicate"] += len(same) - 1
            self.counts["conflict"] += sum(copy.content != winner.content for copy in same)
        return winners

    def zone(self, customer: str) -> ZoneInfo:
        """The customer's zone, UTC where the catalog gives none."""
        return zone_of(self.customers[customer].get("time_zone", "UTC"))

    def _measure(self, event: Event) -> Iterator[Measured]:
        if event.customer not in self.customers:
            self.counts["unattributed"] += 1
            return
        for meter in self.catalog.get("meters", []):
            if meter["event_name"] != event.name or not _passes(meter, event.properties):
                continue
            value = event.properties.get(meter.get("property"))
            try:
                if meter["aggregation"] != "count":
                    if value is None:
                        raise ValueError("missing")
                    unique = meter["aggregation"] == "unique_count"
                    value = scalar(value) if unique else number(value)
                operation = event.properties.get(meter.get("operation_property"))
                if operation not in (None, "add", "remove") or operation is True:
                    raise ValueError("no operation")
                group = tuple(
                    (key, scalar(event.properties.get(key))) for key in meter.get("group_by", [])
                )
            except ValueError:
                self.counts["meter_errors"] += 1
                continue
            owner = self._attribute(event, meter["id"])
            yield Measured(event, meter, owner, group, value, operation)

    def _attribute(self, event: Event, meter: str) -> str | None:
        if event.subscription is not None:
            named = self.subscriptions.get(event.subscription)
            return named["id"] if named and named["customer"] == event.customer else None
        matching = [
            (instant(s["start"]), s["id"])
            for s in self.subscriptions.values()
            if s["customer"] == event.customer
            and instant(s["start"]) <= event.timestamp
            and not (s.get("end") and event.timestamp >= instant(s["end"]))
            and any(c.get("meter") == meter for c in self.plans[s["plan"]]["charges"])
        ]
        return min(matching)[1] if matching else None

    def periods(self, subscription: str) -> Iterator[tuple[datetime, datetime, datetime]]:
        """(start, end, end if it were whole) of each billing period, in order."""
        s = self.subscriptions[subscription]
        end = instant(s["end"]) if s.get("end") else None
        unit = self.plans[s["plan"]].get("period", "month")
        for a, b in periods(instant(s["start"]), self.zone(s["customer"]), unit):
            if end is not None and a >= end:
                return
            yield a, min(b, end) if end else b, b

    def _period(self, m: Measured) -> tuple[datetime, datetime]:
        if m.subscription is None:
            return month_of(m.event.timestamp, self.zone(m.event.customer))
        for start, end, _ in self.periods(m.subscription):
            if start <= m.event.timestamp < end:
                return start, end
            assert start <= m.event.timestamp, "outside the subscription"
        raise AssertionError("outside the subscription")

    def _bucket(self, m: Measured) -> tuple[datetime, datetime]:
        hour = hour_of(m.event.timestamp, self.zone(m.event.customer))
        if m.subscription is None:
            return hour
        period = self._period(m)
        return max(hour[0], period[0]), min(hour[1], period[1])

    def _key(self, m: Measured, span: tuple[datetime, datetime]) -> tuple[Any, ...]:
        return m.event.customer, m.subscription, m.meter["id"], *span, m.group

    def usage(self, granularity: str, group_by: Iterable[str] | None = None) -> list[Row]:
        """As `beammeter usage` prints it."""
        kept = None if group_by is None else frozenset(group_by)
        spans = {
            "hour": lambda m: hour_of(m.event.timestamp, self.zone(m.event.customer)),
            "day": lambda m: day_of(m.event.timestamp, self.zone(m.event.customer)),
            "period": self._period,
        }
        cells: dict[tuple[Any, ...], Cell] = defaultdict(Cell)
        for m in self.measured:
            *owner, group = self._key(m, spans[granularity](m))
            key = (*owner, _kept(group, kept))
            cells[key].values.append((m.event.timestamp, m.event.id.encode(), m.value))
        meters = {meter["id"]: meter for meter in self.catalog["meters"]}
        values = {
            key: self._beyond(meters[key[2]], key[:2], (key[3], key[4]), key[5], granularity, kept)
            if looks_beyond(meters[key[2]])
            else cell.value(meters[key[2]]["aggregation"])
            for key, cell in cells.items()
        }
        return [
            {
                "customer": customer,
                "subscription": subscription,
                "meter": meter,
                "start": rfc3339(start),
                "end": rfc3339(end),
                "group": {key: value for key, (_, value) in group},
                "value": plain(values[customer, subscription, meter, start, end, group]),
                "events": len(cell.values),
            }
            for (customer, subscription, meter, start, end, group), cell in cells.items()
        ]

    def _beyond(
        self,
        meter: Row,
        owner: tuple[str, str | None],
        span: Span,
        group: tuple[tuple[str, Any], ...] | None,
        granularity: str,
        kept: frozenset[str] | None = None,
    ) -> Fraction:
        """The value of a meter that looks beyond its span; all groups where there is none.

        A group is what `kept` leaves of the properties.
        """
        customer, subscription = owner
        items = [
            (m.event.timestamp, m.event.id.encode(), m.value, m.group, m.operation)
            for m in self.measured
            if (m.event.customer, m.subscription, m.meter["id"]) == (*owner, meter["id"])
            and group in (None, _kept(m.group, kept))
        ]
        whole = span
        if granularity == "period" and subscription is not None:
            whole = next((a, c) for a, _, c in self.periods(subscription) if a == span[0])

        def periods_between(start: datetime, end: datetime) -> list[Span]:
            if subscription is None:
                found, at = [], start
                while at < end:
                    month = month_of(at, self.zone(customer))
                    found.append(month)
                    at = month[1]
                return found
            found = []
            for a, b, _ in self.periods(subscription):
                if a >= end:
                    break
                if b > start:
                    found.append((a, b))
            return found

        return value_of(meter, items, span, periods_between, whole)

    def quantity(self, subscription: str, meter: str, start: datetime) -> tuple[Fraction, int]:
        """Value and events of a period, over all groups."""
        cell = Cell()
        aggregation = "count"
        spec = next(m for m in self.catalog["meters"] if m["id"] == meter)
        for m in self.measured:
            if (m.subscription, m.meter["id"]) == (subscription, meter):
                if self._period(m)[0] != start:
                    continue
                aggregation = m.meter["aggregation"]
                cell.values.append((m.event.timestamp, m.event.id.encode(), m.value))
        if looks_beyond(spec) and (cell.values or spec.get("recurring")):
            owner = self.subscriptions[subscription]["customer"], subscription
            end = next(b for a, b, _ in self.periods(subscription) if a == start)
            value = self._beyond(spec, owner, (start, end), None, "period")
            return value, len(cell.values)
        return (cell.value(aggregation), len(cell.values)) if cell.values else (Fraction(0), 0)


def _kept(
    group: tuple[tuple[str, Any], ...], kept: frozenset[str] | None
) -> tuple[tuple[str, Any], ...]:
    return tuple(part for part in group if kept is None or part[0] in kept)


def _passes(meter: Row, properties: Row) -> bool:
    for name, allowed in meter.get("filters", {}).items():
        try:
            value = scalar(properties.get(name))
        except ValueError:
            return False
        if value not in [scalar(item) for item in allowed]:
            return False
    return True
