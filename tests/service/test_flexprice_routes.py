"""FlexPrice's own client reads events and usage, and they are those of the command line."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any
from zoneinfo import ZoneInfo

import httpx
import pytest
from flexprice import Flexprice
from flexprice.models.errors import ErrorResponse

from meters.periods import Periods
from tests.service.test_usage_routes import HOSTILE, by_command, counted
from tests.service.world import SCRIPT, START, World

Row = dict[str, Any]
END = START + timedelta(days=63)
SPAN = {"start_time": START, "end_time": END}
IN_JSON = {name: at.isoformat() for name, at in SPAN.items()}
PATHS = {
    "query": {},
    "usage": {"event_name": "call", "aggregation_type": "COUNT"},
    "usage/meter": {"meter_id": "calls"},
    "analytics": {"external_customer_id": "acme"},
}


@pytest.fixture
def client(world: World) -> Iterator[Any]:
    """FlexPrice's client over the routes of this process."""
    inner = httpx.Client(transport=Through(world))
    with Flexprice(
        server_url="http://service/v1", api_key_auth=world.reader, client=inner
    ) as found:
        yield found


class Through(httpx.BaseTransport):
    """Hands requests to the test client, without a network."""

    def __init__(self, world: World) -> None:
        self._world = world

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        got = self._world.client.request(
            request.method,
            request.url.raw_path.decode(),
            content=request.read(),
            headers=dict(request.headers),
        )
        return httpx.Response(got.status_code, headers=dict(got.headers), content=got.content)


def ask(world: World, path: str, **body: Any) -> Row:
    """The answer, with exact numbers."""
    got = world.post(f"/v1/events/{path}", {**PATHS[path], **body})
    assert got.status_code == 200, got.text
    found: Row = json.loads(got.text, parse_float=Decimal, parse_int=Decimal)
    return found


def received(world: World, **wanted: str) -> list[Row]:
    """The events that were stored, the first of each identity, the newest first."""
    seen: dict[tuple[str, str], Row] = {}
    for row in world.sent:
        if row["timestamp"] != "yesterday":
            seen.setdefault((row["external_customer_id"], row["event_id"]), row)
    rows = [row for row in seen.values() if all(row[name] == wanted[name] for name in wanted)]
    return sorted(
        rows,
        key=lambda row: (row["timestamp"], row["external_customer_id"], row["event_id"]),
        reverse=True,
    )


def test_events_are_listed_page_by_page_and_each_once(world: World, client: Any) -> None:
    found: list[Any] = []
    key = None
    while True:
        page = client.events.list_raw_events(**SPAN, page_size=97, iter_last_key=key)
        found += page.events
        assert page.has_more == (len(page.events) == 97 and len(found) < len(received(world)))
        if not page.has_more:
            break
        key = page.iter_last_key
    wanted = received(world)
    assert [event.id for event in found] == [row["event_id"] for row in wanted]
    (first,) = [event for event in found if event.id == wanted[0]["event_id"]]
    assert first.external_customer_id == wanted[0]["external_customer_id"]
    assert datetime.fromisoformat(first.timestamp) == datetime.fromisoformat(wanted[0]["timestamp"])
    assert first.properties == wanted[0]["properties"]


def test_events_are_chosen_by_their_fields_and_properties(world: World, client: Any) -> None:
    acme = received(world, external_customer_id="acme")
    listed = client.events.list_raw_events(
        **SPAN, external_customer_id="acme", page_size=1000, order="asc"
    )
    assert [event.id for event in listed.events] == [row["event_id"] for row in reversed(acme)]
    for text, value in (("eu", "eu"), ("5", 5), ("true", True), ('a/b"c', 'a/b"c')):
        got = client.events.list_raw_events(
            **SPAN, property_filters={"region": [text]}, page_size=1000
        )
        assert {event.id for event in got.events} == {
            row["event_id"]
            for row in received(world)
            if (region := row["properties"].get("region")) == value
            and isinstance(region, bool) == isinstance(value, bool)
        }
    (one,) = client.events.list_raw_events(**SPAN, event_id="half").events
    assert one.event_name == "call"
    names = [
        event.event_name
        for event in client.events.list_raw_events(
            **SPAN, sort="event_name", order="asc", page_size=1000
        ).events
    ]
    assert names == sorted(names)
    assert len(set(names)) == 2
    # The copy with other content does not count, whatever it says.
    conflict = world.sent[1]
    (kept,) = client.events.list_raw_events(**SPAN, event_id=conflict["event_id"]).events
    assert kept.properties == conflict["properties"]
    assert client.events.list_raw_events(**SPAN, source="nowhere").events == []


def test_offsets_and_keys_in_front_of_a_page(world: World, client: Any) -> None:
    wanted = [row["event_id"] for row in received(world)]
    page = client.events.list_raw_events(**SPAN, page_size=10, offset=5)
    assert [event.id for event in page.events] == wanted[5:15]
    front = client.events.list_raw_events(
        **SPAN, page_size=1000, iter_first_key=page.iter_first_key
    )
    assert [event.id for event in front.events] == wanted[:5]
    assert not front.has_more


def test_usage_of_a_meter_is_that_of_the_command(world: World, client: Any) -> None:
    got = client.events.get_usage_by_meter(
        meter_id="calls",
        external_customer_id="acme",
        window_size="DAY",
        timezone="Europe/Berlin",
        **SPAN,
    )
    days = by_command(world, "day", ["region"], customer="acme", meter="calls")
    wanted: Counter[str] = Counter()
    for row in days:
        wanted[row["start"]] += row["events"]
    assert (got.event_name, got.type, got.value) == ("call", "COUNT", sum(wanted.values()))
    assert {each.window_size: each.value for each in got.results} == wanted


@pytest.mark.parametrize(
    ("asked", "meter"),
    [
        ({"aggregation_type": "COUNT"}, "calls"),
        ({"aggregation_type": "SUM", "property_name": "tokens"}, "tokens"),
        ({"aggregation_type": "AVG", "property_name": "tokens"}, "average"),
        ({"aggregation_type": "LATEST", "property_name": "tokens"}, "last"),
        ({"aggregation_type": "COUNT_UNIQUE", "property_name": "user"}, "users"),
        ({"aggregation_type": "MAX", "property_name": "tokens", "bucket_size": "DAY"}, "peak"),
        (
            {
                "aggregation_type": "SUM",
                "property_name": "tokens",
                "filters": {"region": ["eu"]},
            },
            "eu_tokens",
        ),
    ],
)
def test_usage_of_events_is_that_of_the_meter_that_counts_them(
    world: World, client: Any, asked: Row, meter: str
) -> None:
    summary = world.read("/v1/usage/summary", meter=meter)["items"]
    got = client.events.get_usage_statistics(event_name="call", **asked, **SPAN)
    assert got.type == asked["aggregation_type"]
    assert Decimal(str(got.value)) == pytest.approx(Decimal(summary[0]["value"]))
    exact = ask(world, "usage", **asked, **IN_JSON)
    assert exact["value"] == Decimal(summary[0]["value"])
    assert exact["results"] == []


def test_filters_on_groups_and_sums_over_groups(world: World, client: Any) -> None:
    calls = [row for row in counted(world) if row["event_name"] == "call"]
    us = sum(row["properties"].get("region") == "us" for row in calls)
    given = {"event_name": "call", "aggregation_type": "COUNT", **SPAN}
    assert client.events.get_usage_statistics(**given, filters={"region": ["us"]}).value == us
    for by in ({"group_by": ["properties.region"]}, {"group_by_property": "region"}):
        assert client.events.get_usage_statistics(**given, **by).value == len(calls)
    assert ask(world, "usage", multiplier="0.1", **IN_JSON)["value"] == Decimal(len(calls)) / 10


def peaks(world: World, **wanted: str) -> dict[tuple[str, str, datetime], Decimal]:
    """The greatest value of each region in each local hour of a customer, by the events."""
    found: dict[tuple[str, str, datetime], Decimal] = {}
    for row in counted(world):
        if row["event_name"] != "call" or row["event_id"] == "half":
            continue
        if any(row[name] != value for name, value in wanted.items()):
            continue
        name = row["external_customer_id"]
        zone = ZoneInfo(world.catalog.customers_by_id[name].time_zone)
        hour = datetime.fromisoformat(row["timestamp"]).astimezone(zone)
        hour = hour.replace(minute=0, second=0, microsecond=0).astimezone(UTC)
        key = (name, json.dumps(row["properties"].get("region")), hour)
        found[key] = max(found.get(key, Decimal(0)), Decimal(row["properties"]["tokens"]))
    return found


def test_buckets_are_those_of_each_group_where_usage_is_asked_by_group(world: World) -> None:
    wanted = peaks(world)
    asked = {
        "aggregation_type": "MAX",
        "property_name": "tokens",
        "bucket_size": "HOUR",
        "group_by": ["properties.region"],
        **IN_JSON,
    }
    assert ask(world, "usage", **asked)["value"] == sum(wanted.values())
    whole: dict[tuple[str, datetime], Decimal] = {}
    for (name, _, hour), value in wanted.items():
        whole[name, hour] = max(whole.get((name, hour), Decimal(0)), value)
    assert sum(whole.values()) != sum(wanted.values())
    together = ask(world, "usage", **{**asked, "group_by": []})["value"]
    assert together == sum(whole.values())
    days: defaultdict[str, Decimal] = defaultdict(Decimal)
    for (_, _, hour), value in peaks(world, external_customer_id="acme").items():
        days[hour.strftime("%Y-%m-%dT00:00:00Z")] += value
    found = ask(world, "usage", **asked, external_customer_id="acme", window_size="DAY")
    assert {each["window_size"]: each["value"] for each in found["results"]} == days


@pytest.mark.parametrize(("window", "hours"), [("HOUR", 1), ("3HOUR", 3), ("12HOUR", 12)])
def test_windows_of_hours_begin_at_midnight(world: World, window: str, hours: int) -> None:
    wanted: Counter[str] = Counter()
    for row in counted(world):
        if row["event_name"] == "call" and row["external_customer_id"] == "acme":
            at = datetime.fromisoformat(row["timestamp"]).astimezone(UTC)
            start = at.replace(hour=at.hour // hours * hours, minute=0, second=0, microsecond=0)
            wanted[start.isoformat().replace("+00:00", "Z")] += 1
    body = {**IN_JSON, "external_customer_id": "acme", "window_size": window}
    found = ask(world, "usage/meter", **body)["results"]
    assert {each["window_size"]: each["value"] for each in found} == wanted
    assert [each["window_size"] for each in found] == sorted(wanted)


def test_months_begin_at_an_anchor(world: World, client: Any) -> None:
    anchor = datetime(2026, 8, 15, 10, tzinfo=UTC)
    got = client.events.get_usage_by_meter(
        meter_id="calls",
        customer_id="acme",
        window_size="MONTH",
        billing_anchor=anchor,
        **SPAN,
    )
    wanted: Counter[str] = Counter()
    for row in counted(world):
        if row["event_name"] == "call" and row["external_customer_id"] == "acme":
            month = Periods(anchor, "UTC", "month").containing(
                datetime.fromisoformat(row["timestamp"])
            )
            assert month is not None
            wanted[month.start.isoformat().replace("+00:00", "Z")] += 1
    assert {each.window_size: each.value for each in got.results} == wanted
    assert len(wanted) == 3


def test_a_span_is_widened_to_the_hours_that_it_touches(world: World) -> None:
    at = max(
        datetime.fromisoformat(row["timestamp"])
        for row in counted(world)
        if row["external_customer_id"] == "b/ra"
    )
    body = {
        "external_customer_id": "b/ra",
        "start_time": (at + timedelta(microseconds=1)).isoformat(),
        "end_time": (at + timedelta(seconds=1)).isoformat(),
    }
    found = ask(world, "usage/meter", **body)["value"]
    before = {**body, "end_time": (at - timedelta(hours=1)).isoformat()}
    before["start_time"] = (at - timedelta(hours=1, seconds=1)).isoformat()
    assert found >= 1
    assert found + ask(world, "usage/meter", **before)["value"] <= len(counted(world))


def test_analytics_say_usage_by_meter_and_what_a_period_costs(world: World, client: Any) -> None:
    invoice = next(each for each in world.invoices if each["customer"] == "b/ra")
    got = client.events.get_usage_analytics(
        external_customer_id="b/ra",
        start_time=datetime.fromisoformat(invoice["period_start"]),
        end_time=datetime.fromisoformat(invoice["period_end"]),
        window_size="DAY",
    )
    items = {item.meter_id: item for item in got.items if item.subscription_id == "sub_bra"}
    lines = {line["meter"]: line for line in invoice["lines"] if line["meter"] is not None}
    assert lines.keys() == {"calls", "tokens"}
    for name, line in lines.items():
        item = items[name]
        assert Decimal(item.total_usage) == Decimal(line["quantity"])
        assert item.total_cost == item.subtotal == line["amount"]
        assert (item.currency, item.plan_id, item.price_id) == ("EUR", "pro", name)
        assert sum(Decimal(point.usage) for point in item.points) == Decimal(item.total_usage)
        assert sum(point.event_count for point in item.points) == item.event_count
        times = [point.timestamp for point in item.points]
        assert times == sorted(set(times))
    assert Decimal(got.total_cost) == sum(Decimal(line["amount"]) for line in lines.values())
    assert got.currency == "EUR"
    assert items["calls"].aggregation_type == "COUNT"
    others = {item.meter_id: item for item in got.items if item.subscription_id is None}
    assert others["level"].total_usage is None
    assert others["average"].total_cost is None


def test_analytics_by_group_are_usage_alone(world: World, client: Any) -> None:
    got = client.events.get_usage_analytics(
        external_customer_id="acme",
        feature_ids=["calls"],
        group_by=["feature_id", "properties.region"],
        **SPAN,
    )
    wanted = Counter(
        json.dumps(region) if not isinstance(region, str) else region
        for row in counted(world)
        if row["event_name"] == "call" and row["external_customer_id"] == "acme"
        for region in [row["properties"].get("region")]
    )
    found: Counter[str] = Counter()
    for item in got.items:
        assert (item.feature_id, item.total_cost) == ("calls", None)
        found[item.properties["region"]] += int(item.total_usage)
    assert found == wanted
    assert got.total_cost is None
    sums: defaultdict[str, Decimal] = defaultdict(Decimal)
    for (_, region, _), value in peaks(world, external_customer_id="acme").items():
        sums[region] += value
    body = {
        "external_customer_id": "acme",
        "feature_ids": ["peaks"],
        "group_by": ["properties.region"],
        "window_size": "DAY",
        **IN_JSON,
    }
    found_peaks: defaultdict[str, Decimal] = defaultdict(Decimal)
    for row in ask(world, "analytics", **body)["items"]:
        region = row["properties"]["region"]
        key = region if region in sums else json.dumps(region)
        found_peaks[key] += Decimal(row["total_usage"])
        points = [Decimal(point["usage"]) for point in row["points"]]
        assert sum(points) == Decimal(row["total_usage"])
    assert found_peaks == sums
    filtered = client.events.get_usage_analytics(
        external_customer_id="acme",
        feature_ids=["calls"],
        property_filters={"region": ["eu", "us"]},
        **SPAN,
    )
    (total,) = {item.meter_id for item in filtered.items}
    assert sum(int(item.total_usage) for item in filtered.items) == wanted["eu"] + wanted["us"]
    assert total == "calls"


@pytest.mark.parametrize(
    ("path", "body", "field"),
    [
        ("query", {"page_size": 1001}, "page_size"),
        ("query", {"sort": "source"}, "sort"),
        ("query", {"start_time": "yesterday"}, "start_time"),
        ("query", {"start_time": "2026-09-01T00:00:00"}, "start_time"),
        ("query", {"iter_last_key": "W10"}, "iter_last_key"),
        ("query", {"property_filters": {"region": "eu"}}, "property_filters.region"),
        ("query", {"start": "2026-09-01T00:00:00Z"}, "start"),
        ("usage", {"event_name": ""}, "event_name"),
        ("usage", {"event_name": "nothing"}, "event_name"),
        ("usage", {"aggregation_type": "MIN"}, "aggregation_type"),
        ("usage", {"aggregation_type": "SUM"}, "property_name"),
        ("usage", {"aggregation_type": "SUM", "property_name": "user"}, "property_name"),
        ("usage", {"filters": {"tokens": ["1"]}}, "filters"),
        ("usage", {"filters": {"region": [1]}}, "filters.region[0]"),
        ("usage", {"group_by": ["source"]}, "group_by[0]"),
        ("usage", {"multiplier": "twice"}, "multiplier"),
        ("usage", {"window_size": "MINUTE"}, "window_size"),
        ("usage", {"timezone": "Europe/Nowhere"}, "timezone"),
        ("usage", {"external_customer_id": "nobody"}, "external_customer_id"),
        ("usage", {"bucket_size": "HOUR"}, "bucket_size"),
        ("usage/meter", {"meter_id": "level"}, "meter_id"),
        ("usage/meter", {"meter_id": "p95"}, "meter_id"),
        ("usage/meter", {"bucket_size": "DAY"}, "bucket_size"),
        ("usage/meter", {"filters": {"user": ["1"]}}, "filters"),
        ("usage/meter", {"customer_id": "a", "external_customer_id": "acme"}, "customer_id"),
        (
            "usage/meter",
            {"window_size": "MONTH", "billing_anchor": "2299-01-01T00:00:00Z"},
            "billing_anchor",
        ),
        ("analytics", {"external_customer_id": ""}, "external_customer_id"),
        ("analytics", {"external_customer_id": "nobody"}, "external_customer_id"),
        ("analytics", {"feature_ids": ["calls", "nothing"]}, "feature_ids[1]"),
        ("analytics", {"group_by": ["source"]}, "group_by[0]"),
        ("analytics", {"group_by": ["properties.tokens"]}, "group_by"),
        ("analytics", {"sources": ["web"]}, "sources"),
        ("analytics", {"property_filters": {"tokens": ["1"]}}, "property_filters.tokens"),
        (
            "analytics",
            {"start_time": "2026-09-02T00:00:00Z", "end_time": "2026-09-01T00:00:00Z"},
            "end_time",
        ),
    ],
)
def test_a_wrong_field_is_named_with_what_was_expected(
    world: World, path: str, body: Row, field: str
) -> None:
    got = world.post(f"/v1/events/{path}", {**PATHS[path], **body})
    assert got.status_code == 400, got.text
    (fault,) = got.json()["errors"]
    assert fault["path"] == field
    assert fault["expected"]


def test_the_client_says_what_was_wrong(client: Any) -> None:
    with pytest.raises(ErrorResponse, match="no meter has the id"):
        client.events.get_usage_by_meter(meter_id="nothing")
    with pytest.raises(ErrorResponse, match="event_name must be"):
        client.events.get_usage_statistics(event_name="nothing", aggregation_type="COUNT")


TEXTS = {
    "query": "external_customer_id event_id event_name source iter_first_key iter_last_key",
    "usage": "external_customer_id customer_id event_name multiplier timezone",
    "usage/meter": "external_customer_id customer_id meter_id timezone billing_anchor",
    "analytics": "external_customer_id start_time end_time",
}
MAPS = {"query": "property_filters", "usage": "filters", "usage/meter": "filters"}


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_no_field_is_a_statement(world: World, path: str, text: str) -> None:
    bodies: list[Row] = [{name: text} for name in TEXTS[path].split(" ")]
    bodies += [{"group_by": [text]}, {"group_by": [f"properties.{text}"]}]
    name = MAPS.get(path, "property_filters")
    if path == "usage":
        bodies += [{"aggregation_type": "SUM", "property_name": text}]
    bodies += [{name: {text: ["eu"]}}, {name: {"region": [text]}}]
    for body in bodies:
        # `SCRIPT` is the name and the id of one event.
        got = world.post(f"/v1/events/{path}", {**PATHS[path], **IN_JSON, **body})
        assert got.status_code in (200, 400, 404), (body, got.text)
        if got.status_code == 200 and path == "query":
            assert all(SCRIPT in row["id"] for row in got.json()["events"]), body
        elif got.status_code == 200:
            assert got.json().get("value", 0) <= 1, body
            assert not got.json().get("items"), body
    assert len(by_command(world, "period")) > 10


def test_only_who_may_read_the_tenant_gets_an_answer(world: World) -> None:
    writer, other = world.key("write"), world.key("admin", tenant="somebody-else")
    for path, body in PATHS.items():
        for key, status, code in (
            ("bm_x_y", 401, "unauthorized"),
            (writer, 403, "forbidden"),
            (other, 403, "wrong_tenant"),
        ):
            got = world.post(f"/v1/events/{path}", body, key)
            assert (got.status_code, got.json()["code"]) == (status, code), path
        assert world.client.post(f"/v1/events/{path}", json=body).status_code == 401
