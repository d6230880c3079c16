"""Exit codes, streams and options of the commands."""

from __future__ import annotations

import json

import pytest

from tests.acceptance.samples import catalog, event, found, plan, subscription, unit
from tests.cli import run

CATALOG = catalog(
    {"c": "UTC", "d": "UTC"},
    plans=(plan("p", unit("calls", "calls", "0.25")),),
    subscriptions=(subscription("s", "c", "p", "2026-03-01T00:00:00Z"),),
    meters=(
        {"id": "calls", "event_name": "call", "aggregation": "count", "group_by": ["g", "h"]},
        {"id": "mean", "event_name": "call", "aggregation": "avg", "property": "v"},
    ),
)


def grouped(key, customer, timestamp, value, **groups):
    made = event(key, customer, timestamp, value)
    return {**made, "properties": {"v": value, **groups}}


EVENTS = [
    grouped("1", "c", "2026-03-02T00:10:00Z", 1, g="x", h=1),
    grouped("2", "c", "2026-03-02T00:20:00Z", 2, g="x", h="1"),
    grouped("3", "c", "2026-03-02T01:00:00Z", 2, g="y", h=True),
    grouped("4", "c", "2026-03-03T00:00:00Z", 5, g="y", h=None),
    grouped("5", "d", "2026-03-03T00:00:00Z", 5),
]


@pytest.fixture(scope="module")
def site(module_site):
    site = module_site(CATALOG)
    site.result = site.run("backfill", "--input", site.write("events.jsonl", EVENTS))
    return site


def refused(result, code, *words):
    assert result.code == code, result
    assert result.stdout == "", result
    assert "Traceback" not in result.stderr, result
    for word in words:
        assert word in result.stderr, result


def test_stdout_holds_the_result_alone_and_stderr_the_progress(site):
    counts = site.result.json
    names = ("read", "accepted", "duplicate", "conflict", "quarantined", "meter_errors")
    assert set(counts) >= {*names, "unattributed", "rows"}
    assert all(isinstance(value, int) for value in counts.values())
    assert site.result.stderr.strip()


def test_values_and_amounts_are_decimal_strings(site):
    assert all(isinstance(row["value"], str) for row in site.usage("day"))
    (bill,) = site.bill("2026-04-01T00:00:00Z", "--preview")
    for name in ("subtotal", "discount", "credit", "tax", "total"):
        assert isinstance(bill[name], str)
    (line,) = bill["lines"]
    assert (line["quantity"], line["amount"], bill["total"]) == ("4", "1.00", "1.00")


def test_a_group_has_every_key_and_values_keep_their_type(site):
    rows = site.usage("hour")
    groups = [row["group"] for row in rows if row["meter"] == "calls"]
    assert sorted(map(json.dumps, groups)) == sorted(
        map(
            json.dumps,
            [
                {"g": "x", "h": 1},
                {"g": "x", "h": "1"},
                {"g": "y", "h": True},
                {"g": "y", "h": None},
                {"g": None, "h": None},
            ],
        )
    )
    assert all(row["group"] == {} for row in rows if row["meter"] == "mean")


def test_group_by_merges_to_the_keys_asked_for(site):
    rows = site.usage("day", "--meter", "calls", "--customer", "c", "--group-by", "g")
    assert [(row["start"][:10], row["group"], row["value"], row["events"]) for row in rows] == [
        ("2026-03-02", {"g": "x"}, "2", 2),
        ("2026-03-02", {"g": "y"}, "1", 1),
        ("2026-03-03", {"g": "y"}, "1", 1),
    ]


def test_group_by_takes_several_keys_at_once(site):
    chosen = ("--meter", "calls", "--customer", "c", "--group-by")
    assert site.usage("hour", *chosen, "g", "h") == site.usage(
        "hour", *chosen, "h", *chosen[-1:], "g"
    )


def test_subscriptions_that_charge_one_meter_at_a_time_are_reported(site, tmp_path):
    twice = catalog(
        {"c": "UTC"},
        plans=CATALOG["plans"],
        subscriptions=(
            subscription("s", "c", "p", "2026-03-01T00:00:00Z"),
            subscription("t", "c", "p", "2026-03-02T00:00:00Z"),
        ),
        meters=CATALOG["meters"],
    )
    file = tmp_path / "catalog.yaml"
    file.write_text(json.dumps(twice))
    said = (
        "customer 'c': meter 'calls' is charged by s, t from 2026-03-02T00:00:00Z on; "
        "events that name no subscription belong to 's'"
    )
    assert said in run("validate", "--catalog", str(file)).stderr
    once = run("validate", "--catalog", str(site.folder / "catalog.yaml"))
    assert (once.code, once.stderr) == (0, "")


def test_usage_is_selected_by_customer_subscription_and_time(site):
    span = ("--from", "2026-03-02T01:00:00Z", "--to", "2026-03-03T00:00:00Z")
    assert found(site.usage("hour", *span), "mean") == [
        ("2026-03-02T01:00:00Z", "2026-03-02T02:00:00Z", "2")
    ]
    assert {row["customer"] for row in site.usage("day", "--subscription", "s")} == {"c"}
    assert {row["customer"] for row in site.usage("day", "--customer", "d")} == {"d"}


def test_an_average_is_divided_when_it_is_read(site):
    assert found(site.usage("day"), "mean", customer="c") == [
        ("2026-03-02T00:00:00Z", "2026-03-03T00:00:00Z", "1.666666666667"),
        ("2026-03-03T00:00:00Z", "2026-03-04T00:00:00Z", "5"),
    ]


def test_a_backfill_takes_the_events_of_a_half_open_span(new_site):
    site = new_site(CATALOG)
    path = site.write("events.jsonl", EVENTS)
    span = ("--from", "2026-03-02T00:20:00Z", "--to", "2026-03-03T00:00:00Z")
    site.backfill(path, options=span)
    assert [row["events"] for row in site.usage("day") if row["meter"] == "mean"] == [2]


def test_columns_of_other_names_are_mapped(new_site):
    site = new_site(CATALOG)
    path = site.folder / "export.csv"
    path.write_text(
        "user,nr,when\nc,1,29.03.2026 01:59\nc,2,29.03.2026 03:00\nd,1,25.10.2026 12:00\n"
        "c,3,not a time\n",
        "utf-8",
    )
    counts = site.backfill(
        path,
        options=(
            *("--map", "external_customer_id=user", "--map", "event_id=nr"),
            *("--map", "timestamp=when", "--constant", "event_name=call"),
            *("--time-format", "%d.%m.%Y %H:%M", "--time-zone", "Europe/Berlin"),
        ),
    )
    assert (counts["accepted"], counts["quarantined"]) == (3, 1)
    assert found(site.usage("hour")) == [
        ("2026-03-29T00:00:00Z", "2026-03-29T01:00:00Z", "1"),
        ("2026-03-29T01:00:00Z", "2026-03-29T02:00:00Z", "1"),
        ("2026-10-25T11:00:00Z", "2026-10-25T12:00:00Z", "1"),
    ]


WRONG_CATALOGS = {
    "an unknown key": ("colour", {**CATALOG, "colour": "blue"}),
    "an unknown zone": ("Mars/Olympus", catalog({"c": "Mars/Olympus"})),
    "an unknown meter": ("nowhere", {**CATALOG, "plans": [plan("p", unit("x", "nowhere"))]}),
    "an unknown plan": (
        "missing",
        {**CATALOG, "subscriptions": [subscription("s", "c", "missing", "2026-03-01T00:00:00Z")]},
    ),
    "an id twice": ("calls", {**CATALOG, "meters": CATALOG["meters"] + CATALOG["meters"][:1]}),
    "a float for an amount": (
        "0.1",
        {**CATALOG, "plans": [plan("p", unit("x", "calls", 0.1))]},
    ),
    "an unknown currency": ("ZZZ", {**CATALOG, "plans": [plan("p", currency="ZZZ")]}),
}


@pytest.mark.parametrize("name", WRONG_CATALOGS)
def test_a_wrong_catalog_is_refused_with_file_and_place(new_site, name):
    word, wrong = WRONG_CATALOGS[name]
    site = new_site(wrong)
    path = site.folder / "catalog.yaml"
    refused(run("validate", "--catalog", path), 2, word, "catalog.yaml:")


def test_a_wrong_catalog_stops_before_anything_is_written(new_site):
    site = new_site(WRONG_CATALOGS["an unknown key"][1])
    path = site.write("events.jsonl", EVENTS)
    refused(site.run("backfill", "--input", path), 2, "colour", "catalog.yaml:")
    assert not site.warehouse.exists() or not any(site.warehouse.rglob("*.bin"))


def test_a_catalog_that_is_not_there_or_no_yaml_is_refused(new_site):
    site = new_site(CATALOG)
    refused(run("validate", "--catalog", site.folder / "none.yaml"), 2, "none.yaml")
    (site.folder / "catalog.yaml").write_text("meters: [", "utf-8")
    refused(run("validate", "--catalog", site.folder / "catalog.yaml"), 2, "catalog.yaml:")


def test_a_good_catalog_is_valid(site):
    assert run("validate", "--catalog", site.folder / "catalog.yaml").code == 0


@pytest.mark.parametrize("command", ["backfill", "usage", "bill"])
def test_an_unreachable_warehouse_is_one_line_and_exit_1(site, command):
    more = {
        "backfill": ("--input", site.folder / "input/*"),
        "usage": ("--granularity", "hour"),
        "bill": ("--as-of", "2026-04-01T00:00:00Z"),
    }[command]
    catalog_path = site.folder / "catalog.yaml"
    url = "clickhouse://nobody@127.0.0.1:9/db"
    result = run(command, "--catalog", catalog_path, "--clickhouse", url, *more)
    refused(result, 1, "127.0.0.1:9")
    assert len(result.stderr.strip().splitlines()) == 1, result
    assert result.seconds < 60


@pytest.mark.parametrize(
    "words",
    [
        ("backfill", "--input", "/nowhere/*.jsonl"),
        ("backfill",),
        ("backfill", "--input", "/nowhere/*.jsonl", "--time-zone", "Mars/Olympus"),
        ("backfill", "--inptu", "x"),
        ("usage", "--granularity", "minute"),
        ("bill", "--as-of", "yesterday"),
        ("bill",),
        ("quote", "--plan", "no such plan", "--usage", "calls=1"),
        ("quote", "--plan", "p", "--usage", "calls=many"),
        ("quote", "--plan", "p", "--usage", "no such meter=1"),
        ("nonsense",),
    ],
    ids=" ".join,
)
def test_wrong_usage_is_exit_2(site, words):
    command, *more = words
    known = ("--catalog", site.folder / "catalog.yaml") if command != "nonsense" else ()
    if command in ("backfill", "usage", "bill"):
        known += ("--clickhouse", site.url)
    result = run(command, *known, *more)
    refused(result, 2)
    assert result.stderr.strip()


def test_the_warehouse_may_come_from_the_environment(site):
    words = ("usage", "--catalog", site.folder / "catalog.yaml", "--granularity", "day")
    result = run(*words, "--format", "json", env={"CLICKHOUSE_URL": site.url})
    assert len(result.json) == len(site.usage("day"))


def test_rows_may_be_a_table_or_csv(site):
    words = ("usage", "--catalog", site.folder / "catalog.yaml", "--granularity", "day")
    for form in ("table", "csv"):
        result = run(*words, "--clickhouse", site.url, "--format", form)
        assert result.code == 0
        assert "1.666666666667" in result.stdout


def test_each_command_has_help_in_a_fresh_interpreter():
    result = run("--help")
    assert result.code == 0, result
    commands = ("demo", "validate", "backfill", "usage", "bill", "quote")
    assert all(command in result.stdout for command in commands)
    for command in commands:
        assert run(command, "--help").code == 0


def test_an_empty_warehouse_has_no_usage_and_no_error(new_site):
    assert new_site(CATALOG).usage("hour") == []
