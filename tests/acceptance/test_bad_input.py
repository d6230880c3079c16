"""Whatever is wrong with an input is kept with its reason, and the rest is billed."""

from __future__ import annotations

import os
import time

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.acceptance.samples import SUM, catalog, event, found, plan, subscription, unit
from tests.generators import as_csv, as_lines, as_parquet

CATALOG = catalog(
    {"c": "UTC"},
    plans=(plan("p", unit("tokens", "tokens")),),
    subscriptions=(subscription("s", "c", "p", "2026-03-01T00:00:00Z"),),
    meters=(SUM, {"id": "calls", "event_name": "call", "aggregation": "count"}),
)
AT = "2026-03-02T00:00:00Z"


def good(key, value=1):
    return event(key, "c", AT, value)


def line(*events):
    return as_lines(events).rstrip(b"\n")


BAD_EVENTS = {
    "broken JSON": b'{"event_id": "1", ',
    "no object": b'["event_id"]',
    "no event id": line({k: v for k, v in good("x").items() if k != "event_id"}),
    "no timestamp": line({k: v for k, v in good("x").items() if k != "timestamp"}),
    "no customer": line({k: v for k, v in good("x").items() if k != "external_customer_id"}),
    "no event name": line({k: v for k, v in good("x").items() if k != "event_name"}),
    "empty event id": line(good("")),
    "empty customer": line(event("e1", "", AT)),
    "empty event name": line({**good("e2"), "event_name": ""}),
    "numeric event id": line({**good("e3"), "event_id": 5}),
    "null customer": line({**good("e4"), "external_customer_id": None}),
    "properties a list": line({**good("e5"), "properties": [1]}),
    "properties a text": line({**good("e6"), "properties": "v"}),
    "no offset": line(event("e7", "c", "2026-03-02T00:00:00")),
    "zone name for an offset": line(event("e8", "c", "2026-03-02T00:00:00 Mars/Olympus")),
    "year 1": line(event("e9", "c", "0001-01-01T00:00:00Z")),
    "before 1970": line(event("e10", "c", "1969-12-31T23:59:59.999999Z")),
    "no such day": line(event("e11", "c", "2026-02-30T00:00:00Z")),
    "timestamp a number": line({**good("e12"), "timestamp": 1772409600}),
    "more than a day ahead": line(event("e13", "c", "2026-09-02T00:00:00.000001Z")),
    "invalid UTF-8": line(good("e14")).replace(b"e14", b"e\xff14"),
    "a truncated line": line(good("e15"))[:-20],
}
BAD_VALUES = {
    "50 digits": "1" * 50,
    "50 digits, a number": int("1" * 50),
    "true": True,
    "text": "abc",
    "empty text": "",
    "NaN as text": "NaN",
    "null": None,
    "an object": {"a": 1},
    "10^15": 10**15,
}
GOOD = [
    good("g1", 1),
    good("g2", "2.5"),
    event("g3", "c", "2026-09-02T00:00:00Z", 0),  # a day ahead of its arrival, and not more
    good("g4", "0." + "0" * 49 + "1"),
]
NAN = line(good("nan", "NUMBER")).replace(b'"NUMBER"', b"NaN")


@pytest.fixture(scope="module")
def run(module_site):
    site = module_site(CATALOG)
    folder = site.folder / "input"
    folder.mkdir()
    lines = [line(GOOD[0]), *BAD_EVENTS.values(), NAN]
    lines += [line(good(f"v{n}", value)) for n, value in enumerate(BAD_VALUES.values())]
    lines += [line(item) for item in GOOD[1:]]
    (folder / "bad.jsonl").write_bytes(b"\n".join(lines))
    parquet = as_parquet([good(f"t{n}") for n in range(500)])
    (folder / "truncated.parquet").write_bytes(parquet[: len(parquet) // 2])
    (folder / "empty.parquet").write_bytes(b"")
    (folder / "text.parquet").write_bytes(b"this is no parquet file\n")
    table = pq.read_table(pa.BufferReader(as_parquet([good("m1"), good("m2")])))
    pq.write_table(table.drop_columns(["timestamp"]), folder / "column.parquet")
    rows = as_csv([good("k1", 10), good("k2", 20), good("k3", 30)]).replace(b"k2,", b"k\xff2,")
    (folder / "utf8.csv").write_bytes(rows)
    header, *rest = as_csv([good("h1")]).splitlines()
    (folder / "column.csv").write_bytes(
        b"\n".join([header.replace(b"event_id", b"other"), *rest]) + b"\n"
    )
    (folder / "empty.jsonl").write_bytes(b"")
    conflict = event("g1", "c", AT, 99, ingested_at="2026-09-01T00:00:01Z")
    (folder / "conflict.jsonl").write_bytes(line(conflict))
    site.result = site.run("backfill", "--input", folder / "*")
    (rows,) = site.query(
        "SELECT origin, origin_row, reason, meter, payload, field, detail FROM {quarantine} FINAL"
    )
    names = ("origin", "row", "reason", "meter", "payload", "field", "detail")
    site.quarantined = [dict(zip(names, row, strict=True)) for row in rows]
    return site


def of(run, file, row=None):
    return [
        item
        for item in run.quarantined
        if item["origin"].endswith(file) and row in (None, item["row"])
    ]


def test_the_command_is_done_without_a_traceback(run):
    assert run.result.code == 0, run.result
    assert "Traceback" not in run.result.stderr


def test_a_number_that_lost_digits_is_reported(run):
    assert "1 number with more than 12 decimals" in run.result.stderr


def test_the_counts_add_up(run):
    counts = run.result.json
    assert counts["read"] == counts["accepted"] + counts["duplicate"] + counts["quarantined"]
    assert counts["duplicate"] == counts["conflict"] == 1
    assert counts["unattributed"] == 0


def test_good_events_beside_bad_ones_are_billed(run):
    # 1 + 2.5 + 0 + 0 from the lines, 10 + 30 from the CSV
    values = {
        row["start"]: (row["value"], row["events"])
        for row in run.usage("day")
        if row["meter"] == "tokens"
    }
    assert values == {
        "2026-03-02T00:00:00Z": ("43.5", 5),
        "2026-09-02T00:00:00Z": ("0", 1),
    }
    assert [bill["total"] for bill in run.bill("2026-04-01T00:00:00Z", "--preview")] == ["43.50"]


@pytest.mark.parametrize("name", BAD_EVENTS)
def test_a_bad_event_is_quarantined_with_reason_payload_and_origin(run, name):
    number = list(BAD_EVENTS).index(name) + 2
    rows = of(run, "bad.jsonl", number)
    assert len(rows) == 1, rows
    assert rows[0]["reason"]
    assert rows[0]["meter"] == ""
    start = BAD_EVENTS[name].decode(errors="replace")[:10]
    assert start in rows[0]["payload"]


@pytest.mark.parametrize("name", BAD_VALUES)
def test_a_bad_value_is_quarantined_for_its_meter_alone(run, name):
    number = list(BAD_VALUES).index(name) + len(BAD_EVENTS) + 3
    rows = of(run, "bad.jsonl", number)
    assert [row["meter"] for row in rows] == ["tokens"], rows
    assert rows[0]["reason"]
    assert f"v{number - len(BAD_EVENTS) - 3}" in rows[0]["payload"]


def test_nan_is_quarantined(run):
    assert of(run, "bad.jsonl", len(BAD_EVENTS) + 2)


def test_events_with_a_bad_value_count_for_the_other_meters(run):
    counts = run.result.json
    assert counts["meter_errors"] in (len(BAD_VALUES), len(BAD_VALUES) + 1)  # NaN may be one
    (calls,) = found(run.usage("day"), "calls", start="2026-03-02T00:00:00Z")
    assert calls[2] == str(5 + counts["meter_errors"])


@pytest.mark.parametrize(
    "file",
    ["truncated.parquet", "empty.parquet", "text.parquet", "column.parquet", "column.csv"],
)
def test_a_file_that_cannot_be_used_is_quarantined_and_named(run, file):
    rows = of(run, file)
    assert rows
    assert all(row["reason"] for row in rows)


def test_invalid_utf_8_spoils_its_row_alone(run):
    (row,) = of(run, "utf8.csv")
    assert row["row"] in (2, 3)  # whether the header is a row is not laid down
    assert "2026-03-02" in row["payload"]


def test_a_copy_with_other_content_is_kept_in_quarantine(run):
    (row,) = of(run, "conflict.jsonl")
    assert "99" in row["payload"]


def test_nothing_but_the_bad_is_in_quarantine(run):
    assert not of(run, "bad.jsonl", 1)
    assert not of(run, "empty.jsonl")
    last = len(BAD_EVENTS) + len(BAD_VALUES) + 3
    assert not [row for row in of(run, "bad.jsonl") if row["row"] >= last]


def test_an_unknown_customer_is_counted_and_billable_after_a_later_catalog(new_site):
    events = [event("1", "c", AT, 4), event("2", "later", AT, 5), event("2", "later", AT, 5)]
    site = new_site(CATALOG)
    path = site.write("events.jsonl", events)
    counts = site.backfill(path)
    assert (counts["accepted"], counts["duplicate"], counts["unattributed"]) == (2, 1, 1)
    assert {row["customer"] for row in site.usage("day")} == {"c"}
    later = {**CATALOG, "customers": [*CATALOG["customers"], {"id": "later"}]}
    more = subscription("s2", "later", "p", "2026-03-01T00:00:00Z")
    site.write_catalog({**later, "subscriptions": [*CATALOG["subscriptions"], more]})
    counts = site.backfill(path)
    assert (counts["accepted"], counts["unattributed"]) == (2, 0)
    totals = {row["subscription"]: row["total"] for row in site.bill("2026-04-01T00:00:00Z")}
    assert totals == {"s": "4.00", "s2": "5.00"}


def test_the_modification_time_of_the_file_stands_in_for_a_missing_arrival(new_site):
    site = new_site(CATALOG)
    names = ("today", "tomorrow", "later")
    times = ("2026-03-01T00:00:00Z", "2026-03-02T12:00:00Z", "2026-03-02T12:00:01Z")
    events = [event(name, "c", at) for name, at in zip(names, times, strict=True)]
    path = site.write(
        "e.jsonl", [{k: v for k, v in e.items() if k != "ingested_at"} for e in events]
    )
    os.utime(path, (time.time(), 1772366400))  # 2026-03-01T12:00:00Z
    counts = site.backfill(path)
    assert (counts["accepted"], counts["quarantined"]) == (2, 1)


@pytest.mark.parametrize("year", ["2299", "9999"])
def test_an_event_at_the_end_of_time_does_not_stop_the_others(new_site, year):
    end = f"{year}-12-31T23:59:59Z"
    site = new_site(CATALOG)
    path = site.write("e.jsonl", [event("end", "c", end, 1, ingested_at=end), good("g1", 2)])
    counts = site.backfill(path)
    assert counts["accepted"] + counts["quarantined"] == counts["read"] == 2
    assert [row["value"] for row in site.usage("day", "--to", "2027-01-01T00:00:00Z")] == ["1", "2"]
