"""Revisions: after the changes are written, stored usage is the recomputed usage."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meters.revisions import changes, first_revision
from meters.usage import KEY, USAGE, USAGE_VALUES
from tests.meters.chain import Row

T0 = datetime(2026, 1, 31, 10, tzinfo=UTC)
STORED = pl.Schema({**USAGE, "revision": pl.UInt32()})
STORED_VALUES = pl.Schema({**USAGE_VALUES, "revision": pl.UInt32()})

Key = tuple[Any, ...]


def row(hour: int = 0, *, events: int = 1, **given: Any) -> Row:
    start = T0 + timedelta(hours=hour)
    return {
        "external_customer_id": "c",
        "meter": "m",
        "external_subscription_id": "",
        "group_key": "{}",
        "bucket_start": start,
        "bucket_end": start + timedelta(hours=1),
        "events": events,
        "sum": 0,
        "min": None,
        "max": None,
        "latest_at": None,
        "latest_id": "",
        "latest_value": None,
        "moment": 0,
        "moment_low": 0,
        "points": [],
        "meter_hash": "h",
        **given,
    }


def value(number: int, hour: int = 0, **given: Any) -> Row:
    full = {**row(hour), **given}
    return {**{name: full[name] for name in KEY}, "value_hash": bytes([number]) * 16}


def key_of(entry: Row) -> Key:
    return tuple(entry[name] for name in KEY)


class Table:
    """The warehouse's two tables as a model: every row that was ever written."""

    def __init__(self) -> None:
        self.rows: list[Row] = []
        self.values: list[Row] = []

    def write(self, rows: pl.DataFrame, values: pl.DataFrame) -> None:
        self.rows += rows.to_dicts()
        self.values += values.to_dicts()

    def winners(self) -> dict[Key, Row]:
        """FINAL: of each key the highest (revision, events)."""
        best: dict[Key, Row] = {}
        for each in self.rows:
            key = key_of(each)
            rank = each["revision"], each["events"]
            if key not in best or rank > (best[key]["revision"], best[key]["events"]):
                best[key] = each
        return best

    def reconcile(self, rows: list[Row], values: list[Row]) -> tuple[list[Row], list[Row]]:
        """Write what must be written for these rows to result; returns it."""
        written, new_values = changes(
            pl.DataFrame(rows, USAGE),
            pl.DataFrame(values, USAGE_VALUES),
            pl.DataFrame(list(self.winners().values()), STORED),
            pl.DataFrame(self.values, STORED_VALUES),
        )
        assert written.schema == STORED
        assert new_values.schema == STORED_VALUES
        self.write(written, new_values)
        return written.to_dicts(), new_values.to_dicts()

    def usage(self) -> dict[Key, tuple[Row, set[bytes]]]:
        """What a reader sees: rows without tombstones, with the values of their revision."""
        found = {}
        for key, each in self.winners().items():
            if each["events"]:
                mine = {
                    entry["value_hash"]
                    for entry in self.values
                    if key_of(entry) == key and entry["revision"] == each["revision"]
                }
                plain = {name: each[name] for name in USAGE.names()}
                found[key] = plain, mine
        return found


def seen(rows: list[Row], values: list[Row]) -> dict[Key, tuple[Row, set[bytes]]]:
    """What a reader must see for recomputed rows and values."""
    frame = pl.DataFrame(rows, USAGE)
    return {
        key_of(each): (each, {v["value_hash"] for v in values if key_of(v) == key_of(each)})
        for each in frame.to_dicts()
    }


def test_rows_of_a_first_run_have_revision_1():
    found = first_revision(pl.DataFrame([row()], USAGE))
    assert found.schema == STORED
    assert found["revision"].to_list() == [1]


def test_where_nothing_is_stored_everything_is_written():
    table = Table()
    written, values = table.reconcile([row(0), row(1)], [value(1), value(2)])
    assert [each["revision"] for each in (*written, *values)] == [1, 1, 1, 1]


def test_equal_rows_are_not_written_again_in_whatever_order_they_come():
    table = Table()
    rows = [
        row(0, latest_at=T0, latest_id="é", latest_value=5),
        row(1, min=1, max=2),
        row(2, sum=3),
    ]
    values = [value(1), value(2), value(3)]
    table.reconcile(rows, values)
    assert table.reconcile(rows[::-1], values[::-1]) == ([], [])
    assert table.reconcile(rows, [*values, *values]) == ([], [])


@pytest.mark.parametrize(
    "changed",
    [
        {"events": 2},
        {"sum": 1},
        {"min": 1},
        {"max": 1},
        {"latest_at": T0},
        {"latest_id": "x"},
        {"latest_value": 1},
        {"moment": 1},
        {"moment_low": 1},
        {"points": [{"at": 1, "item": "", "id": "a", "value": 1, "count": 1}]},
        {"bucket_end": T0 + timedelta(minutes=17)},
        {"meter_hash": "other"},
    ],
)
def test_any_field_that_differs_is_written_above(changed):
    table = Table()
    table.reconcile([row()], [])
    [written], _ = table.reconcile([row(**changed)], [])
    assert written["revision"] == 2
    assert table.usage() == seen([row(**changed)], [])
    [back], _ = table.reconcile([row()], [])
    assert back["revision"] == 3
    assert table.usage() == seen([row()], [])


def test_a_row_with_fewer_events_wins_over_an_older_one_with_more():
    table = Table()
    table.reconcile([row(events=100)], [])
    table.reconcile([row(events=1)], [])
    assert table.usage() == seen([row(events=1)], [])


def test_a_key_that_no_longer_results_gets_a_tombstone_once():
    table = Table()
    table.reconcile([row(0, sum=5, max=1, latest_at=T0, latest_id="a"), row(1)], [value(1)])
    [tombstone], values = table.reconcile([row(1)], [])
    assert tombstone == {
        **pl.DataFrame([row(0, events=0)], USAGE).to_dicts()[0],
        "revision": 2,
    }
    assert values == []
    assert table.reconcile([row(1)], []) == ([], [])
    table.reconcile([row(0), row(1)], [])
    assert table.usage() == seen([row(0), row(1)], [])


@pytest.mark.parametrize("values", [[], [value(2)], [value(1), value(2)]])
def test_other_values_alone_are_a_change_and_written_whole(values):
    table = Table()
    table.reconcile([row()], [value(1)])
    written, new_values = table.reconcile([row()], values)
    assert len(written) == 1
    assert len(new_values) == len(values)
    assert table.usage() == seen([row()], values)


def test_values_that_a_killed_run_left_never_count():
    table = Table()
    table.reconcile([row()], [value(1)])
    # Values of revision 2 were written, and then the run was killed before its row.
    table.values.append({**value(9), "revision": 2})
    assert table.usage() == seen([row()], [value(1)])
    assert table.reconcile([row()], [value(1)]) == ([], [])
    [written], _ = table.reconcile([row(events=2)], [value(1), value(2)])
    assert written["revision"] == 3
    assert table.usage() == seen([row(events=2)], [value(1), value(2)])


def test_values_without_any_row_do_not_count_for_the_first_row_of_their_key():
    table = Table()
    table.values.append({**value(9), "revision": 1})
    table.reconcile([row()], [value(1)])
    assert table.usage() == seen([row()], [value(1)])


def test_a_revision_is_above_all_of_its_bucket_and_no_other():
    table = Table()
    for events in (1, 2, 3):
        table.reconcile([row(0, events=events), row(0, meter="n"), row(1)], [])
    written, _ = table.reconcile([row(0, events=3), row(0, meter="n", sum=1), row(1, sum=1)], [])
    assert {(each["meter"], each["bucket_start"].hour): each["revision"] for each in written} == {
        ("n", 10): 4,
        ("m", 11): 2,
    }


histories = st.lists(
    st.tuples(
        st.dictionaries(
            st.tuples(st.integers(0, 1), st.sampled_from(["m", "n"]), st.sampled_from(["{}", "g"])),
            st.tuples(st.integers(1, 3), st.integers(0, 1), st.sets(st.integers(0, 2))),
            max_size=5,
        ),
        st.integers(0, 9),
        st.booleans(),
    ),
    max_size=6,
)


@settings(max_examples=60)
@given(histories)
def test_after_any_history_of_runs_some_of_them_killed_stored_usage_is_the_recomputed(history):
    table = Table()
    for cells, kept, killed in history:
        rows = [
            row(hour, events=events, sum=total, meter=meter, group_key=group)
            for (hour, meter, group), (events, total, _) in cells.items()
        ]
        values = [
            value(number, hour, meter=meter, group_key=group)
            for (hour, meter, group), (_, _, numbers) in cells.items()
            for number in numbers
        ]
        before = {key: each["revision"] for key, each in table.winners().items()}
        size = len(table.rows), len(table.values)
        written, _ = table.reconcile(rows, values)
        if killed:
            # Values are written before rows; some of each may be missing.
            new_values = table.values[size[1] :]
            table.values[size[1] :] = new_values[:kept]
            table.rows[size[0] :] = (
                written[: kept - len(new_values)] if kept > len(new_values) else []
            )
            continue
        assert all(each["revision"] > before.get(key_of(each), 0) for each in written)
        assert table.usage() == seen(rows, values)
        assert table.reconcile(rows, values) == ([], [])
