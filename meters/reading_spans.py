"""Reading levels, percentiles and recurring meters: values that need the span they are of.

    rows of one meter --by customer, subscription and group, in time--> states
    spans with usage  --cut at billing periods where nothing is carried over--> parts
    part, state before it, state within it --> value

What lies before a span is walked through in the order of time and carried along, so
reading costs as much as there are rows, however many spans are asked for.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from decimal import Decimal
from typing import Any

import polars as pl

from meters.aggregators import EMPTY, State, merge, merge_all
from meters.catalog_meters import Meter
from meters.levels import Over, about, mean, settled, value_over
from meters.periods import Periods, Span, calendar_months
from meters.usage import KEY, state_of
from meters.zones import microseconds


@dataclass(frozen=True)
class SpanValue:
    """What one meter amounts to in one span: `key` is (customer, subscription, group)."""

    key: tuple[str, str, str]
    start: datetime
    end: datetime
    value: Decimal
    events: int


@dataclass(frozen=True, slots=True)
class _Row:
    at: datetime
    slot: tuple[datetime, datetime]
    state: State
    wanted: bool


def read_spans(
    meter: Meter,
    rows: pl.DataFrame,
    values: Mapping[tuple[Any, ...], frozenset[bytes]],
    periods: Mapping[tuple[str, str], Periods],
    zones: Mapping[str, str],
    *,
    whole_periods: bool,
) -> Iterator[SpanValue]:
    """The values of every span that has a wanted row.

    `rows` are usage rows of this meter, also those before what is asked for, with
    `start` and `end` of their span, `merged_group` and `wanted`; `values` has the
    distinct values by key of a row. `periods` are those of each (customer,
    subscription). With `whole_periods` the spans are billing periods, and a level
    is divided by the whole of its period, also where the subscription ends in it.
    """
    series: dict[tuple[str, str, str], list[_Row]] = {}
    for row in rows.sort("bucket_start").iter_rows(named=True):
        key = row["external_customer_id"], row["external_subscription_id"], row["merged_group"]
        stored = tuple(row[name] for name in KEY)
        state = replace(state_of(row), values=values.get(stored, frozenset()))
        if meter.kind == "weighted_readings":
            state = about(state, row["group_key"])
        slot = row["start"], row["end"]
        series.setdefault(key, []).append(_Row(row["bucket_start"], slot, state, row["wanted"]))
    for key, found in series.items():
        own = periods[key[:2]]
        for slot, value, events in _walk(meter, found, own, zones[key[0]], whole_periods):
            if value is not None:
                yield SpanValue(key, *slot, value, events)


def _walk(
    meter: Meter, rows: Sequence[_Row], periods: Periods, zone: str, whole_periods: bool
) -> Iterator[tuple[tuple[datetime, datetime], Decimal | None, int]]:
    slots: dict[tuple[datetime, datetime], list[_Row]] = {}
    for row in rows:
        slots.setdefault(row.slot, []).append(row)
    position, before, since = 0, EMPTY, None
    for slot in sorted(slots):
        within = slots[slot]
        if not any(row.wanted for row in within):
            continue
        span = Span(*slot)
        whole = (periods.whole(span.start) or span) if whole_periods else span
        parts: list[tuple[State, Over]] = []
        for part, origin in _parts(meter, span, periods, zone):
            if origin != since:
                before, since = EMPTY, origin
            while position < len(rows) and rows[position].at < part.start:
                if meter.carries and (origin is None or rows[position].at >= origin):
                    before = settled(merge(before, rows[position].state))
                position += 1
            state = merge_all(row.state for row in within if row.at in part)
            start, end = microseconds(part.start), microseconds(part.end)
            length = microseconds(whole.end) - microseconds(whole.start)
            parts.append((state, Over(start, end, length, before)))
        events = sum(row.state.events for row in within)
        if meter.aggregation == "weighted_sum":
            yield slot, mean(meter, parts), events
        else:
            yield slot, value_over(meter, *parts[-1]), events


def _parts(
    meter: Meter, span: Span, periods: Periods, zone: str
) -> Iterator[tuple[Span, datetime | None]]:
    """The parts of a span, each with the instant since which things are carried into it."""
    if meter.recurring or not meter.carries:
        yield span, None
        return
    found = periods.between(span.start, span.end)
    for period in found or calendar_months(zone).between(span.start, span.end):
        part = Span(max(span.start, period.start), min(span.end, period.end))
        yield part, period.start
