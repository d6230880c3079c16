"""Usage rows: how merged cells are stored, key by key and field by field."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import polars as pl
import pyarrow as pa
import pytest

from meters.aggregators import FIELDS
from meters.catalog import Catalog
from meters.catalog_file import meter_hash
from meters.event import hash128
from meters.scalars import canonical_json
from meters.usage import KEY, STATE, USAGE, USAGE_VALUES, from_stored, group_key
from meters.zones import microseconds
from tests.meters.chain import Row, catalog_of, event, measured, meter, seeded, stored

AGGREGATIONS = ("count", "sum", "max", "min", "avg", "latest", "unique_count")


def made(catalog: Catalog, *events: Row) -> tuple[list[Row], list[Row]]:
    measurement, cells, _ = measured(catalog, events)
    rows, values = stored(measurement, cells)
    assert rows.schema == USAGE
    assert values.schema == USAGE_VALUES
    return rows.sort(KEY).to_dicts(), values.sort(KEY).to_dicts()


@pytest.mark.parametrize("aggregation", AGGREGATIONS)
def test_a_row_keeps_the_fields_of_its_aggregation_and_leaves_the_others_empty(aggregation):
    each = meter(aggregation)
    [row], _ = made(
        catalog_of(each, zone="Asia/Kathmandu"),
        event("a", properties={"x": "2.5"}),
        event("é", properties={"x": -1}),
    )
    start = datetime(2026, 1, 31, 10, 15, tzinfo=UTC)
    assert {name: row[name] for name in (*KEY, "bucket_end", "events", "meter_hash")} == {
        "external_customer_id": "c",
        "meter": "m",
        "external_subscription_id": "",
        "group_key": "{}",
        "bucket_start": start,
        "bucket_end": start + timedelta(hours=1),
        "events": 2,
        "meter_hash": meter_hash(each),
    }
    full = {
        "sum": Decimal("1.5"),
        "min": Decimal(-1),
        "max": Decimal("2.5"),
        "latest_at": datetime(2026, 1, 31, 10, 17, 33, tzinfo=UTC),
        "latest_id": "event é",
        "latest_value": Decimal(-1),
    }
    nothing = {"moment": Decimal(0), "moment_low": Decimal(0), "points": []}
    absent: dict[str, Any] = {**dict.fromkeys(full), "sum": Decimal(0), "latest_id": ""} | nothing
    kept = FIELDS[aggregation]
    assert {name: row[name] for name in STATE[1:]} == {
        name: full[name] if name in kept else absent[name] for name in STATE[1:]
    }


def test_a_level_keeps_its_changes_and_their_moment_in_whole_units_and_below():
    [row], _ = made(
        catalog_of(meter("weighted_sum")),
        event("a", properties={"x": "2.5"}),
        event("b", properties={"x": -1}, timestamp="2026-01-31T10:00:00.000010Z"),
    )
    seconds = 17 * 60 + 33
    assert (row["events"], row["sum"], row["points"]) == (2, Decimal("1.5"), [])
    assert row["moment"] == 2 * seconds * 10**6 - 10
    assert row["moment_low"] == seconds * 10**6 * 5 * 10**11


def test_readings_operations_and_percentiles_keep_points():
    catalog = catalog_of(
        meter("weighted_sum", level="readings"),
        meter("unique_count", id="u", operation_property="o"),
        meter("percentile", id="p", percentile=50),
    )
    x = {"x": Decimal("1234.5")}
    rows, values = made(
        catalog,
        event("a", properties=x),
        event("b", properties={**x, "o": "remove"}),
        event("c", properties={**x, "o": "other"}),
    )
    at = microseconds(datetime(2026, 1, 31, 10, 17, 33, tzinfo=UTC))
    hashed = hash128([b"1234.5"])[0].hex()

    def point(item, name, value, count=1):
        return {
            "at": at if name else 0,
            "item": item,
            "id": name and f"event {name}",
            "value": Decimal(value),
            "count": count,
        }

    assert {row["meter"]: (row["events"], row["points"]) for row in rows} == {
        "m": (3, [point("", name, "1234.5") for name in "abc"]),
        "u": (2, [point(hashed, "a", 1), point(hashed, "b", 0)]),
        "p": (3, [point("", "", 1230, count=3)]),
    }
    assert values == []


def test_distinct_values_are_rows_with_the_key_of_their_usage_row():
    catalog = catalog_of(meter("unique_count", group_by=["g"]), meter("count", id="c"))
    rows, values = made(
        catalog,
        *(event(n, properties={"x": x, "g": "a"}) for n, x in enumerate([1, "1", 1.0])),
        event(9, properties={"x": True, "g": "b"}),
    )
    groups = ['{"g":"a"}', '{"g":"b"}']
    assert [(row["meter"], row["group_key"], row["events"]) for row in rows] == [
        ("c", "{}", 4),
        ("m", groups[0], 3),
        ("m", groups[1], 1),
    ]
    found = {(row["group_key"], row["value_hash"]) for row in values}
    hashes = [hash128([text])[0] for text in (b"1", b'"1"', b"true")]
    assert found == {(groups[0], hashes[0]), (groups[0], hashes[1]), (groups[1], hashes[2])}
    keys = [{name: row[name] for name in KEY} for row in rows]
    assert all({name: value[name] for name in KEY} in keys for value in values)


def test_a_cell_in_which_a_meter_counted_nothing_gives_it_no_row():
    catalog = catalog_of(meter("sum"), meter("count", id="c"), meter("unique_count", id="u"))
    rows, values = made(catalog, event(1, properties={"x": [1]}))
    assert [row["meter"] for row in rows] == ["c"]
    assert values == []


def test_groups_are_canonical_json_with_sorted_keys_and_null_where_missing():
    catalog = catalog_of(meter("count", group_by=["é", 'q"\\', "a"]))
    rows, _ = made(
        catalog,
        event(1, properties={"a": 1.50, "é": 'x"\n'}),
        event(2, properties={'q"\\': None, "a": True}),
    )
    assert sorted(row["group_key"] for row in rows) == sorted(
        canonical_json(group)
        for group in (
            {"a": Decimal("1.5"), "é": 'x"\n', 'q"\\': None},
            {"a": True, "é": None, 'q"\\': None},
        )
    )


def test_the_text_of_no_groups_is_an_empty_object():
    frame = pl.DataFrame({"n": [1, 2]}).with_columns(group_key([]).alias("g"))
    assert frame["g"].to_list() == ["{}", "{}"]


def test_keys_are_unique_in_a_world():
    for seed in range(5):
        measurement, cells, _ = measured(*seeded(seed))
        rows, values = stored(measurement, cells)
        assert not rows.select(KEY).is_duplicated().any()
        assert not values.is_duplicated().any()
        assert rows.null_count().select([*KEY, "bucket_end", "events", "sum", "latest_id"]).row(
            0
        ) == (0,) * (len(KEY) + 4)


def test_stored_sums_of_256_bits_come_back_exactly_or_not_at_all():
    most = Decimal("9" * 26 + "." + "9" * 12)
    least, wide = most.copy_negate(), pa.decimal256(76, 12)
    table = pa.table({"sum": pa.array([most, least, Decimal(0)], wide), "n": [1, 2, 3]})
    assert from_stored(table)["sum"].to_list() == [most, least, Decimal(0)]
    with pytest.raises(pa.ArrowInvalid):
        from_stored(pa.table({"sum": pa.array([Decimal("1e26")], wide)}))
    assert from_stored(pa.table({"n": [1]}))["n"].to_list() == [1]
