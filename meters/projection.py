"""Projection: from the JSON of the properties to the few typed columns that meters need.

    events --parse the needed properties once--> slim columns --> deduplicate, measure

Wide properties never travel: what is shuffled is one slim row an event, with the
numbers, group values and distinct hashes that the catalog asks for. Parsing keeps
the text of every number, so no value passes through a float.

Slim columns: `customer` (index in the catalog, null for an unknown one, whose id is
then in `unknown`), `event_name` (index), `subscription` (explicit id or null),
`timestamp` and `ingested_at` (microseconds), `identity` and `identity_low` (the two
halves of the identity hash), `content` (the first half of the content hash, in an
order that compares as the bytes do), `event_id` (only where a meter needs it), and
for each property `n:<name>` (number), `j:<name>` (canonical JSON scalar; null where
missing or JSON null) or `h:<name>` (hash of the scalar). Expressions fill
`n=<meter>` and `h=<meter>`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from decimal import Decimal
from typing import NamedTuple

import numpy as np
import polars as pl
import pyarrow as pa

from meters.aggregators import NUMBER
from meters.catalog import Catalog, Kind, Meter
from meters.errors import Rejected
from meters.event import QUARANTINE_SCHEMA, hash128
from meters.expressions import Expression
from meters.mapping import FIELDS
from meters.numbers import parse_number
from meters.property_columns import (
    NO_SCALAR,
    PropertyColumns,
    canonical_column,
    hash_column,
    number_column,
    parse_raw_number,
)
from meters.quarantine import ORIGIN, Refusal, quarantine, shown
from meters.scalars import canonical_scalar, parse_json
from meters.texts import one_chunk

WITH_ID: frozenset[Kind] = frozenset(("latest", "weighted_readings", "active_count"))
"""Kinds of meters for which the id of an event decides between equal times."""

OPERATIONS = ("add", "remove")
_KNOWN_OPERATIONS = [canonical_scalar(name) for name in OPERATIONS]

NOT_SCALAR = "a string, a number, true, false or null"


@dataclass(frozen=True)
class Projected:
    """The events of a batch, their slim columns, and what was refused on the way.

    `broken` has the rows whose properties are no JSON object: they are no events.
    `refused` has one row for each event and meter where the meter's value is
    missing or invalid. Both are in `QUARANTINE_SCHEMA`. `rounded` counts the numbers of
    meters' events that lost digits beyond 12 places.
    """

    events: pa.Table
    slim: pl.DataFrame
    broken: pa.Table
    refused: pa.Table
    rounded: int


def value_column(meter: Meter) -> str | None:
    """The slim column that holds the meter's value; None for `count`."""
    if meter.aggregation == "count":
        return None
    kind = "h" if meter.aggregation == "unique_count" else "n"
    return f"{kind}={meter.id}" if meter.expression is not None else f"{kind}:{meter.property}"


def operation_column(meter: Meter) -> str | None:
    """The slim column that says whether a value is added or removed."""
    return None if meter.operation_property is None else f"j:{meter.operation_property}"


@dataclass
class Projection:
    """What of the properties the meters of one catalog need. Picklable."""

    catalog: Catalog
    _columns: dict[str, set[str]] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        self._columns = {"n": set(), "j": set(), "h": set()}
        for meter in self.catalog.meters:
            for name in (*meter.filters, *meter.group_by):
                self._columns["j"].add(name)
            if meter.operation_property is not None:
                self._columns["j"].add(meter.operation_property)
            if meter.property is not None and meter.aggregation != "count":
                kind = "h" if meter.aggregation == "unique_count" else "n"
                self._columns[kind].add(meter.property)
        self._prepare()

    def _prepare(self) -> None:
        names = sorted(set().union(*self._columns.values()))
        self._properties = PropertyColumns(names)
        self._customers = {c.id: index for index, c in enumerate(self.catalog.customers)}
        self._names = {name: i for i, name in enumerate(event_names(self.catalog))}
        self._expressions = [
            (meter, Expression(meter.expression))
            for meter in self.catalog.meters
            if meter.expression is not None
        ]
        self._numbers = {
            name: [
                self._names[meter.event_name]
                for meter in self.catalog.meters
                if value_column(meter) == f"n:{name}"
            ]
            for name in self._columns["n"]
        }
        self._suspect = self._suspects()
        self._hits = [
            (applies(meter, self._names) & ~counts(meter)).alias(meter.id)
            for meter in self.catalog.meters
        ]
        self._with_id = any(meter.kind in WITH_ID for meter in self.catalog.meters)

    def _suspects(self) -> pl.Expr:
        """Whether a slim row may be refused for a meter: cheap, as it is asked of all rows."""
        of_names: dict[str, list[Meter]] = {}
        for meter in self.catalog.meters:
            of_names.setdefault(meter.event_name, []).append(meter)
        found = [
            (pl.col("event_name") == self._names[name]) & _any(misfits(meters))
            for name, meters in of_names.items()
        ]
        return pl.col("customer").is_not_null() & _any(found)

    def __getstate__(self) -> Catalog:
        return self.catalog

    def __setstate__(self, catalog: Catalog) -> None:
        self.__init__(catalog)  # type: ignore[misc]

    def project(self, events: pa.Table, *, report: bool = True) -> Projected:
        """Project one batch of `EVENT_SCHEMA`; with `report` off nothing goes to quarantine."""
        raws, bad = self._properties.read(one_chunk(events.column("properties")))
        broken = QUARANTINE_SCHEMA.empty_table()
        if bad:
            mask = np.ones(events.num_rows, dtype=bool)
            mask[list(bad)] = False
            broken = self._broken(events, bad)
            events = events.filter(pa.array(mask)).combine_chunks()
        columns = self._identity(events)
        for name in sorted(self._columns["j"] | self._columns["h"]):
            canonical = canonical_column(raws[name])
            if name in self._columns["j"]:
                columns.append(canonical.rename(f"j:{name}"))
            if name in self._columns["h"]:
                columns.append(hash_column(canonical).rename(f"h:{name}"))
        lost: dict[str, pl.Series] = {}
        for name in sorted(self._columns["n"]):
            numbers, lost[name] = number_column(raws[name])
            columns.append(numbers.rename(f"n:{name}"))
        slim = pl.DataFrame(columns)
        failures: dict[str, dict[int, Rejected]] = {}
        for meter, expression in self._expressions:
            column, failures[meter.id] = self._evaluate(meter, expression, slim, events)
            slim = slim.with_columns(column)
        refused = (
            self._refused(slim, events, raws, failures)
            if report
            else QUARANTINE_SCHEMA.empty_table()
        )
        rounded = sum(self._count(slim["event_name"], name, rows) for name, rows in lost.items())
        return Projected(events, slim, broken, refused, rounded)

    def _count(self, event_name: pl.Series, name: str, rows: pl.Series) -> int:
        """How many of the rows are events of a meter that reads the number `name`."""
        return int(event_name.gather(rows).is_in(self._numbers[name]).sum())

    def _broken(self, events: pa.Table, bad: dict[int, str]) -> pa.Table:
        found = _picked(events, pa.array(bad, pa.int64()))
        texts = shown(found)
        refusals = []
        for place, (text, cause) in enumerate(zip(texts["properties"], bad.values(), strict=True)):
            error = Rejected("invalid_json", "properties", text, "a JSON object")
            refusals.append(
                Refusal(place, "", error.reason, error.field, f"{error.detail}: {cause}")
            )
        return quarantine(found, texts, refusals)

    def _identity(self, events: pa.Table) -> list[pl.Series]:
        frame = pl.DataFrame(
            pl.from_arrow(
                events.select(
                    ["external_customer_id", "event_name", "external_subscription_id", "event_id"]
                )
            )
        )
        customer = index_of(frame["external_customer_id"], self._customers).rename("customer")
        unknown = pl.select(
            pl.when(customer.is_null()).then(frame["external_customer_id"]).alias("unknown")
        ).to_series()
        identity = words(events.column("identity_hash"))
        columns = [
            customer,
            unknown,
            index_of(frame["event_name"], self._names).rename("event_name"),
            frame["external_subscription_id"].rename("subscription"),
            _int64(events, "timestamp"),
            _int64(events, "ingested_at"),
            pl.Series("identity", identity[:, 0]),
            pl.Series("identity_low", identity[:, 1]),
            pl.Series("content", words(events.column("content_hash"))[:, 0]),
        ]
        if self._with_id:
            columns.append(frame["event_id"])
        return columns

    def _evaluate(
        self, meter: Meter, expression: Expression, slim: pl.DataFrame, events: pa.Table
    ) -> tuple[pl.Series, dict[int, Rejected]]:
        wanted = self._applies(slim, meter).to_list()
        texts = events.column("properties").to_pylist()
        values: list[object] = [None] * len(texts)
        failures: dict[int, Rejected] = {}
        distinct = meter.aggregation == "unique_count"
        for index, (want, text) in enumerate(zip(wanted, texts, strict=True)):
            if not want:
                continue
            try:
                result = expression.evaluate(_object(text, meter))
                values[index] = (
                    hash128([canonical_scalar(result).encode()])[0]
                    if distinct
                    else _number_result(result, meter)
                )
            except Rejected as error:
                failures[index] = error
        name = value_column(meter) or ""
        return pl.Series(name, values, dtype=pl.Binary if distinct else NUMBER), failures

    def _applies(self, slim: pl.DataFrame, meter: Meter) -> pl.Series:
        return slim.select(applies(meter, self._names)).to_series()

    def _refused(
        self,
        slim: pl.DataFrame,
        events: pa.Table,
        raws: dict[str, pl.Series],
        failures: dict[str, dict[int, Rejected]],
    ) -> pa.Table:
        found = slim.select(self._suspect.arg_true()).to_series()
        if found.is_empty():
            return QUARANTINE_SCHEMA.empty_table()
        suspects = slim[found]
        hits = suspects.select(self._hits)
        values = _Values(
            sent={name: texts.gather(found).to_list() for name, texts in raws.items()},
            scalars={name: suspects[f"j:{name}"].to_list() for name in self._columns["j"]},
        )
        rows = found.to_list()
        refusals = []
        for meter in self.catalog.meters:
            failed = failures.get(meter.id, {})
            for place in hits[meter.id].arg_true().to_list():
                error = (
                    _wrong_group(meter, values, place)
                    or _wrong_operation(meter, values, place)
                    or failed.get(rows[place])
                    or _wrong_value(meter, values, place)
                )
                refusals.append(Refusal.of(place, error, meter.id))
        refused = _picked(events, found.to_arrow())
        return quarantine(refused, shown(refused), refusals)


class _Values(NamedTuple):
    """The properties of some events by name: the JSON that was sent, and its scalars."""

    sent: dict[str, list[str]]
    scalars: dict[str, list[str | None]]


def _picked(events: pa.Table, rows: pa.Array) -> pa.Table:
    """What quarantine shows of some events."""
    return events.select([*ORIGIN, *FIELDS]).take(rows)


def event_names(catalog: Catalog) -> list[str]:
    """The event names that the catalog meters, in the order of their index."""
    return sorted({meter.event_name for meter in catalog.meters})


def applies(meter: Meter, names: dict[str, int]) -> pl.Expr:
    """Whether a slim row is an event of the meter: its name, and every filter."""
    wanted = pl.col("event_name") == names[meter.event_name]
    for name, allowed in meter.allowed.items():
        column = pl.col(f"j:{name}")
        match = column.is_in(sorted(allowed - {"null"}))
        if "null" in allowed:
            match = column.is_null() | match
        wanted &= match.fill_null(False)
    return wanted.fill_null(False)


def counts(meter: Meter) -> pl.Expr:
    """Whether a slim row that `applies` has a value and group values that are scalars."""
    return ~_any(misfits([meter]))


def misfits(meters: Iterable[Meter]) -> list[pl.Expr]:
    """What keeps slim rows from counting for some of the meters, each condition once."""
    meters = list(meters)
    values = {value_column(meter) for meter in meters}
    groups = {name for meter in meters for name in meter.group_by}
    return [
        *(pl.col(name).is_null() for name in values if name is not None),
        *(pl.col(f"j:{name}").eq_missing(NO_SCALAR) for name in groups),
        *(~known_operation(meter) for meter in meters if meter.operation_property is not None),
    ]


def _any(conditions: list[pl.Expr]) -> pl.Expr:
    return pl.any_horizontal(conditions) if conditions else pl.lit(False)


def known_operation(meter: Meter) -> pl.Expr:
    """Whether a slim row says what happens to its value, where the meter asks for it."""
    operation = operation_column(meter)
    if operation is None:
        return pl.lit(True)
    return pl.col(operation).is_in(_KNOWN_OPERATIONS).fill_null(True)


def _number_result(result: object, meter: Meter) -> Decimal:
    if isinstance(result, bool) or not isinstance(result, Decimal | int):
        raise Rejected("invalid_number", meter.expression or "", result, "a number")
    return parse_number(str(result), meter.expression or "")


def _object(text: str, meter: Meter) -> dict[str, object]:
    try:
        properties = parse_json(text)
    except (ValueError, RecursionError) as error:
        expected = f"evaluated over JSON within the limits ({error})"
        raise Rejected("expression_failed", meter.expression or "", text, expected) from None
    assert isinstance(properties, dict)
    return properties


def _wrong_group(meter: Meter, values: _Values, place: int) -> Rejected | None:
    for name in meter.group_by:
        if values.scalars[name][place] == NO_SCALAR:
            return Rejected("invalid_group", name, values.sent[name][place], NOT_SCALAR)
    return None


def _wrong_operation(meter: Meter, values: _Values, place: int) -> Rejected | None:
    name = meter.operation_property
    if name is None or values.scalars[name][place] in (None, *_KNOWN_OPERATIONS):
        return None
    sent = values.sent[name][place]
    return Rejected("invalid_operation", name, sent, " or ".join(OPERATIONS))


def _wrong_value(meter: Meter, values: _Values, place: int) -> Rejected:
    name = meter.property or ""
    raw = values.sent[name][place]
    if raw in ("", "null"):
        return Rejected("missing_property", name, raw or None, "present")
    if meter.aggregation == "unique_count":
        return Rejected("invalid_value", name, raw, NOT_SCALAR)
    try:
        parse_raw_number(raw, name)
    except Rejected as error:
        return error
    raise AssertionError(f"{raw!r} is a number")


def index_of(texts: pl.Series, table: dict[str, int]) -> pl.Series:
    """Each text by its index in `table`, null where it is not there."""
    keys = pl.Series(list(table), dtype=pl.String)
    return texts.replace_strict(
        keys, pl.Series(list(table.values()), dtype=pl.Int32), default=None, return_dtype=pl.Int32
    )


def _int64(events: pa.Table, name: str) -> pl.Series:
    return pl.Series(name, pl.from_arrow(events.column(name).cast(pa.int64())))


def words(column: pa.ChunkedArray) -> np.ndarray[tuple[int, int], np.dtype[np.uint64]]:
    """A column of 16-byte hashes as two columns of big-endian words."""
    array = one_chunk(column)
    raw = np.frombuffer(array.buffers()[1], dtype=">u8")
    words = raw[array.offset * 2 : (array.offset + len(array)) * 2].astype(np.uint64)
    return words.reshape(-1, 2)
