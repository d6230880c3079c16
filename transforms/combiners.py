"""Usage in anybody's Beam pipeline: public transforms over single events.

    readings = (events | ToReadings(meter)).readings
    readings | WindowInto(LocalHours(zone)) | CombinePerKey(UsageFn("sum"))

This is the plain form of what the columnar chain of the backfill computes, over
windows instead of buckets; a test holds the two equal. It costs a Python object an
event: use it for modest rates and for tests, the pipelines of this package for the
rest.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from decimal import Decimal
from fractions import Fraction
from typing import Any

import apache_beam as beam
from apache_beam.transforms.window import TimestampedValue
from apache_beam.utils.timestamp import Timestamp

from meters.aggregators import EMPTY, OVER_SPANS, Reading, State, add, extract, merge_all
from meters.catalog import Kind, Meter
from meters.errors import Rejected
from meters.readings import reading_of
from meters.timestamps import parse_timestamp
from meters.zones import microseconds

REJECTED = "rejected"


class UsageFn(beam.CombineFn):  # type: ignore[misc]
    """`Reading`s -> the value of the meter (`Decimal`, or None for an empty extreme).

    `percent` is that of a percentile. Levels and operations (`weighted_sum`,
    `weighted_readings`, `active_count`) have no value without the span and what was
    before it: of these the `State` comes out, which `meters.levels.value_over` reads.
    """

    def __init__(self, aggregation: Kind, percent: Fraction | None = None) -> None:
        self._aggregation = aggregation
        self._percent = percent

    def create_accumulator(self) -> State:
        """No readings."""
        return EMPTY

    def add_input(self, accumulator: State, element: Reading) -> State:
        """One more reading."""
        return add(self._aggregation, accumulator, element)

    def merge_accumulators(self, accumulators: Iterable[State]) -> State:
        """All states together."""
        return merge_all(accumulators)

    def extract_output(self, accumulator: State) -> Decimal | State | None:
        """The value, or the state that it is read from."""
        if self._aggregation in OVER_SPANS:
            return accumulator
        return extract(self._aggregation, accumulator, percent=self._percent)


class ToReadings(beam.PTransform):  # type: ignore[misc]
    """Events as dicts -> timestamped ((customer, group), `Reading`) for one meter.

    An event has `event_name`, `event_id`, `external_customer_id`, `timestamp` (RFC
    3339 text) and `properties` with exact numbers (`meters.scalars.parse_json`). The
    result has `.readings` and, under `REJECTED`, pairs of an event and the reason that
    it was refused. Events that are not the meter's give nothing.
    """

    def __init__(self, meter: Meter) -> None:
        super().__init__()
        self._meter = meter

    def expand(self, events: beam.PCollection) -> Any:
        """Apply the scalar rule to each event."""
        return events | beam.ParDo(_ToReading(self._meter)).with_outputs(REJECTED, main="readings")


class _ToReading(beam.DoFn):  # type: ignore[misc]
    def __init__(self, meter: Meter) -> None:
        self._meter = meter

    def process(self, event: Mapping[str, Any]) -> Iterator[object]:
        try:
            at = parse_timestamp(event["timestamp"])
            found = reading_of(
                self._meter,
                event_name=event["event_name"],
                event_id=event["event_id"],
                timestamp=at,
                properties=event["properties"],
            )
        except Rejected as error:
            yield beam.pvalue.TaggedOutput(REJECTED, (event, error.detail))
            return
        if found is not None:
            group, reading = found
            yield TimestampedValue(
                ((event["external_customer_id"], group), reading),
                Timestamp(micros=microseconds(at)),
            )
