"""The same work as a plain Beam pipeline: one Python element an event.

    rows of Parquet -> events -> by (customer, event_id) -> the first copy to be ingested
                    -> by (customer, region, hour) -> six CombineFns -> lines of JSON

It runs on the runner that the backfill runs on, in memory. Values are typed tuples, all
six aggregations share one CombinePerKey (so the runner lifts them before the shuffle),
JSON is decoded by msgspec. Raw events are not stored, and what is refused is dropped.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal, InvalidOperation
from pathlib import Path

import apache_beam as beam
import msgspec
from apache_beam.options.pipeline_options import PipelineOptions

from benchmarks.backfill.generate import EVENT_NAME, catalog

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)
DAY = 86_400_000_000
HOUR = 3_600_000_000
LIMIT = Decimal(10**15)
OPTIONS = (
    "--runner=apache_beam.runners.portability.fn_api_runner.FnApiRunner",
    "--direct_running_mode=in_memory",
    "--direct_num_workers=1",
)

Identity = tuple[str, str]
Event = tuple[int, int, str, str, str, str, str]
"""(ingested_at, timestamp, tokens, latency_ms, cost, region, user); '' where missing."""

Cell = tuple[str, str, int]
Value = tuple[int, str, str, str, str, str]
"""(timestamp, event_id, tokens, latency_ms, cost, user)."""


class Properties(msgspec.Struct):
    """What the meters read of the properties, as JSON text."""

    tokens: msgspec.Raw = msgspec.Raw(b"")
    latency_ms: msgspec.Raw = msgspec.Raw(b"")
    cost: msgspec.Raw = msgspec.Raw(b"")
    region: msgspec.Raw = msgspec.Raw(b"null")
    user: msgspec.Raw = msgspec.Raw(b"")


class Decode(beam.DoFn):  # type: ignore[misc]
    """A row as (identity, event); nothing where a rule is broken."""

    def setup(self) -> None:
        """Decoders do not pickle."""
        self._decode = msgspec.json.Decoder(Properties).decode
        self._customers = {entry["id"] for entry in catalog()["customers"]}  # type: ignore[index]

    def process(self, row: dict[str, object]) -> Iterator[tuple[Identity, Event]]:
        """One row."""
        ids = (row["external_customer_id"], row["event_id"], row["event_name"])
        if not all(isinstance(text, str) and 0 < len(text) <= 1024 for text in ids):
            return
        customer, event_id, name = ids
        if name != EVENT_NAME or customer not in self._customers:
            return
        at, seen = row["timestamp"], row["ingested_at"]
        if not isinstance(at, datetime) or not isinstance(seen, datetime):
            return
        at_us, seen_us = (at - EPOCH) // MICROSECOND, (seen - EPOCH) // MICROSECOND
        if at_us < 0 or seen_us < 0 or at_us > seen_us + DAY:
            return
        try:
            found = self._decode(row["properties"] or "{}")
        except msgspec.MsgspecError:
            return
        event = (
            seen_us,
            at_us,
            _number(found.tokens),
            _number(found.latency_ms),
            _number(found.cost),
            bytes(found.region).decode(),
            _present(bytes(found.user).decode()),
        )
        yield (customer, event_id), event  # type: ignore[misc]


def _present(text: str) -> str:
    return "" if text == "null" else text


def _number(raw: msgspec.Raw) -> str:
    """The text of a number, '' where it is none."""
    text = _present(bytes(raw).decode()).strip('"')
    try:
        return text if text and abs(Decimal(text)) < LIMIT else ""
    except InvalidOperation:
        return ""


def first(item: tuple[Identity, Iterable[Event]]) -> tuple[Cell, Value]:
    """The copy that counts, by customer, region and hour."""
    (customer, event_id), copies = item
    _, at, tokens, latency, cost, region, user = min(copies)
    return (customer, region, at - at % HOUR), (at, event_id, tokens, latency, cost, user)


class Sum(beam.CombineFn):  # type: ignore[misc]
    """(count, sum) of one number of a value."""

    def __init__(self, place: int) -> None:
        self._place = place

    def create_accumulator(self) -> tuple[int, Decimal]:
        """Nothing."""
        return 0, Decimal(0)

    def add_input(self, accumulator: tuple[int, Decimal], element: Value) -> tuple[int, Decimal]:
        """One value."""
        text = element[self._place]
        return (accumulator[0] + 1, accumulator[1] + Decimal(text)) if text else accumulator

    def merge_accumulators(
        self, accumulators: Iterable[tuple[int, Decimal]]
    ) -> tuple[int, Decimal]:
        """All together."""
        counts, sums = zip(*accumulators, strict=True)
        return sum(counts), sum(sums, Decimal(0))

    def extract_output(self, accumulator: tuple[int, Decimal]) -> tuple[int, Decimal]:
        """An average stays a pair."""
        return accumulator


class Max(beam.CombineFn):  # type: ignore[misc]
    """The largest of one number, None where there is none."""

    def __init__(self, place: int) -> None:
        self._place = place

    def create_accumulator(self) -> Decimal | None:
        """Nothing."""
        return None

    def add_input(self, accumulator: Decimal | None, element: Value) -> Decimal | None:
        """One value."""
        text = element[self._place]
        if not text:
            return accumulator
        value = Decimal(text)
        return value if accumulator is None or value > accumulator else accumulator

    def merge_accumulators(self, accumulators: Iterable[Decimal | None]) -> Decimal | None:
        """All together."""
        return max((x for x in accumulators if x is not None), default=None)

    def extract_output(self, accumulator: Decimal | None) -> Decimal | None:
        """The largest."""
        return accumulator


class Latest(beam.CombineFn):  # type: ignore[misc]
    """(timestamp, event_id, text) of the latest value that has a cost."""

    def create_accumulator(self) -> tuple[int, str, str]:
        """Nothing: before every event."""
        return -1, "", ""

    def add_input(self, accumulator: tuple[int, str, str], element: Value) -> tuple[int, str, str]:
        """One value."""
        at, event_id, _, _, cost, _ = element
        return max(accumulator, (at, event_id, cost)) if cost else accumulator

    def merge_accumulators(
        self, accumulators: Iterable[tuple[int, str, str]]
    ) -> tuple[int, str, str]:
        """All together."""
        return max(accumulators)

    def extract_output(self, accumulator: tuple[int, str, str]) -> str:
        """The text of the number."""
        return accumulator[2]


class Distinct(beam.CombineFn):  # type: ignore[misc]
    """The number of distinct users."""

    def create_accumulator(self) -> set[str]:
        """No user."""
        return set()

    def add_input(self, accumulator: set[str], element: Value) -> set[str]:
        """One value."""
        if element[5]:
            accumulator.add(element[5])
        return accumulator

    def merge_accumulators(self, accumulators: Iterable[set[str]]) -> set[str]:
        """All together."""
        return set().union(*accumulators)

    def extract_output(self, accumulator: set[str]) -> int:
        """How many."""
        return len(accumulator)


def line(item: tuple[Cell, tuple[object, ...]]) -> str:
    """A result row as a line of JSON; decimals are text."""
    (customer, region, hour), (requests, tokens, slowest, latency, last, users) = item
    row = {
        "customer": customer,
        "region": region,
        "hour": hour,
        "requests": requests,
        "tokens_events": tokens[0],  # type: ignore[index]
        "tokens_sum": str(tokens[1]),  # type: ignore[index]
        "latency_events": latency[0],  # type: ignore[index]
        "latency_sum": str(latency[1]),  # type: ignore[index]
        "slowest": None if slowest is None else str(slowest),
        "last_cost": last or None,
        "users": users,
    }
    return json.dumps(row)


def run_beam(source: Path, out: Path) -> None:
    """Run the pipeline; the result is `usage-*.jsonl` in `out`."""
    aggregations = beam.combiners.TupleCombineFn(
        beam.combiners.CountCombineFn(), Sum(2), Max(3), Sum(3), Latest(), Distinct()
    )
    with beam.Pipeline(options=PipelineOptions(list(OPTIONS))) as pipeline:
        _ = (
            pipeline
            | beam.io.ReadFromParquet(f"{source}/events-*.parquet")
            | beam.ParDo(Decode())
            | beam.GroupByKey()
            | beam.Map(first)
            | beam.CombinePerKey(aggregations.with_common_input())
            | beam.Map(line)
            | beam.io.WriteToText(str(out / "usage"), file_name_suffix=".jsonl", num_shards=1)
        )


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--input", type=Path, required=True, help="folder with the events")
    parser.add_argument("--out", type=Path, required=True, help="folder for the result")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    run_beam(args.input.resolve(), args.out.resolve())


if __name__ == "__main__":
    main()
