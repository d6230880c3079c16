"""Quarantine: each refusal is a row with the event as it was sent."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import pyarrow as pa
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from meters.event import QUARANTINE_SCHEMA
from meters.mapping import FIELDS
from meters.projection import Projection
from meters.quarantine import Refusal, quarantine, shown
from tests.meters.chain import catalog_of, decoded, event, meter

instants = st.datetimes(timezones=st.just(UTC))
texts = st.none() | st.text(st.characters(exclude_categories=["Cs"]), max_size=5)


def events_of(rows):
    """Events that may have nothing in any field, with times as instants."""
    times = dict.fromkeys(("timestamp", "ingested_at"), pa.timestamp("us", "UTC"))
    return pa.table(
        {
            **{
                name: pa.array([row[name] for row in rows], times.get(name, pa.string()))
                for name in FIELDS
            },
            "tenant_id": pa.array(["t"] * len(rows), pa.string()),
            "origin": pa.array([f"file {n}" for n, _ in enumerate(rows)], pa.string()),
            "origin_row": pa.array(range(len(rows)), pa.int64()),
        }
    )


@given(st.lists(st.none() | instants, max_size=4))
@example([datetime(1, 1, 1, tzinfo=UTC), datetime.max.replace(tzinfo=UTC)])
@example([datetime(2026, 1, 31, 10, 0, 0, 100_000, UTC), datetime(2026, 1, 31, tzinfo=UTC)])
def test_times_are_shown_as_iso_8601(times):
    table = pa.table({"timestamp": pa.array(times, pa.timestamp("us", "UTC"))})
    assert shown(table) == {"timestamp": [at and at.isoformat() for at in times]}


@given(
    st.lists(
        st.fixed_dictionaries(
            {
                **dict.fromkeys(FIELDS, texts),
                **dict.fromkeys(("timestamp", "ingested_at"), st.none() | instants),
                "properties": st.none() | st.sampled_from(["{}", '{"x": 1.50}', "{", "", "[1]"]),
            }
        ),
        min_size=1,
        max_size=4,
    ),
    st.data(),
)
def test_each_refusal_has_the_event_that_it_names_with_all_that_was_sent(rows, data):
    places = data.draw(st.lists(st.integers(0, len(rows) - 1), max_size=6))
    refusals = [
        Refusal(place, f"meter {number}", f"reason {number}", "field", "detail")
        for number, place in enumerate(places)
    ]
    events = events_of(rows)
    found = quarantine(events, shown(events), refusals)
    assert found.schema == QUARANTINE_SCHEMA
    for number, (place, row) in enumerate(zip(places, found.to_pylist(), strict=True)):
        sent = {
            name: value.isoformat() if isinstance(value, datetime) else value
            for name, value in rows[place].items()
            if value is not None
        }
        payload = json.loads(row.pop("payload"))
        if sent.get("properties") not in ("{", "", None):
            sent["properties"] = json.loads(sent["properties"])
        assert payload == sent
        assert row == {
            "tenant_id": "t",
            "origin": f"file {place}",
            "origin_row": place,
            "reason": f"reason {number}",
            "meter": f"meter {number}",
            "field": "field",
            "detail": "detail",
            "event_id": rows[place]["event_id"] or "",
            "external_customer_id": rows[place]["external_customer_id"] or "",
        }


def test_what_meters_refuse_comes_meter_by_meter_in_the_order_of_the_events():
    catalog = catalog_of(
        meter("sum", id="b"),
        meter("sum", id="a", expression="x * y"),
        meter("count", id="c", event_name="f", group_by=["g"]),
        meter("latest", id="d", event_name="f", filters={"k": [1]}),
        meter("unique_count", id="e", property="y", operation_property="o"),
    )
    sent = [
        event(1, properties={"x": "no", "y": 1}),
        event(2, event_name="f", properties={"g": [], "k": 1}),
        event(3, properties="{"),
        event(4, properties={"x": 1, "y": 1, "g": []}),
        event(5, properties={"y": 2, "o": "replace"}),
        event(6, event_name="f", properties={"g": 1, "k": 2}),
        event(7, event_name="f", properties={"g": {}, "k": 2}),
        event(8, event_name="other", properties={}),
        event(9, external_customer_id="stranger", properties={}),
    ]
    made = Projection(catalog).project(decoded(sent).events)
    assert made.broken["event_id"].to_pylist() == ["event 3"]
    assert [
        (row["meter"], row["event_id"], row["origin_row"], row["reason"], row["field"])
        for row in made.refused.to_pylist()
    ] == [
        ("b", "event 1", 1, "invalid_number", "x"),
        ("b", "event 5", 5, "missing_property", "x"),
        ("a", "event 1", 1, "expression_failed", "x * y"),
        ("a", "event 5", 5, "missing_property", "x"),
        ("c", "event 2", 2, "invalid_group", "g"),
        ("c", "event 7", 7, "invalid_group", "g"),
        ("d", "event 2", 2, "missing_property", "x"),
        ("e", "event 5", 5, "invalid_operation", "o"),
    ]
    for row in made.refused.to_pylist():
        [one] = [each for each in sent if each["event_id"] == row["event_id"]]
        assert json.loads(row["payload"])["properties"] == one["properties"]


@pytest.mark.parametrize(
    "properties", ['{"x":"\\ud83d"}', '{"x":' + "9" * 5000 + "}", '{"x":1e99999999999999999999}']
)
def test_where_parsers_disagree_on_what_json_is_nothing_is_lost(properties):
    made = Projection(catalog_of(meter("sum"), meter("max", id="n"))).project(
        decoded([event(properties=properties)]).events
    )
    rows = [*made.broken.to_pylist(), *made.refused.to_pylist()]
    assert rows
    verbatim, quoted = f'"properties":{properties}', f'"properties":{json.dumps(properties)}'
    for row in rows:
        assert row["payload"].endswith((verbatim + "}", quoted + "}"))
