"""Usage over HTTP is the usage of the command line, page by page and at a glance."""

from __future__ import annotations

import time
import uuid
from collections import Counter, defaultdict
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any
from urllib.parse import quote

import pytest
from fastapi.testclient import TestClient

from meters.reading import read_usage
from runners.commands import usage_before
from service.app import create_app
from service.context import Service
from tests.service.world import SCRIPT, START, World

Row = dict[str, Any]


def by_command(world: World, granularity: Any, group_by: Any = None, **selection: Any) -> list[Row]:
    """What `beammeter usage` prints."""
    chosen = {"customer": None, "subscription": None, "meter": None, "start": None, "end": None}
    chosen |= selection
    rows, values = usage_before(world.warehouse, world.tenant.name, world.catalog, chosen)
    cells = read_usage(world.catalog, rows, values, granularity, group_by, since=chosen["start"])
    return [cell.to_dict() for cell in cells]


def pages(world: World, **query: Any) -> Iterator[list[Row]]:
    cursor = None
    while True:
        page = world.read("/v1/usage", **query, **({"cursor": cursor} if cursor else {}))
        yield page["items"]
        cursor = page["next_cursor"]
        if cursor is None:
            return


@pytest.mark.parametrize(("granularity", "limit"), [("hour", 1000), ("day", 90), ("period", 7)])
def test_the_pages_together_are_the_rows_of_the_command(
    world: World, granularity: str, limit: int
) -> None:
    found = list(pages(world, granularity=granularity, limit=limit))
    assert all(len(page) == limit for page in found[:-1])
    assert [row for page in found for row in page] == by_command(world, granularity)


def test_filters_and_merged_groups_are_those_of_the_command(world: World) -> None:
    end = START + timedelta(days=20)
    one = {"customer": "acme", "meter": "calls", "start": START, "end": end}
    given = {"customer": "acme", "meter": "calls", "from": START.isoformat(), "to": end.isoformat()}
    assert world.read("/v1/usage", granularity="day", limit=1000, **given)["items"] == by_command(
        world, "day", **one
    )
    merged = world.read("/v1/usage", granularity="day", limit=1000, group_by="region", **given)
    assert merged["items"] == by_command(world, "day", ["region"], **one)
    none = world.read("/v1/usage", subscription="", limit=1000)["items"]
    assert none == by_command(world, "period", subscription="")
    assert {row["subscription"] for row in none} == {None}


@pytest.mark.parametrize(
    ("given", "value"),
    [("eu", "eu"), ("5", 5), ("true", True), ("null", None), ('a/b"c', 'a/b"c')],
)
def test_a_group_filter_takes_texts_numbers_and_null(
    world: World, given: str, value: object
) -> None:
    found = world.read("/v1/usage", meter="calls", limit=1000, **{"filter.region": given})
    wanted = [
        row
        for row in by_command(world, "period", meter="calls")
        if row["group"]["region"] == value  # type: ignore[index]
        and isinstance(row["group"]["region"], bool) == isinstance(value, bool)  # type: ignore[index]
    ]
    assert wanted
    assert found["items"] == wanted


def test_a_group_that_looks_like_json_is_one_value(world: World) -> None:
    found = world.read("/v1/usage", **{'filter./key"é': '}, "x": "'})
    assert [row["group"] for row in found["items"]] == [{'/key"é': '}, "x": "'}]
    assert not world.read("/v1/usage", **{'filter./key"é': "x"})["items"]


def test_what_is_written_between_two_pages_moves_nothing(
    world: World, embedded_url: str, tmp_path: Any
) -> None:
    name = f"tenant-{uuid.uuid4().hex}"
    tenant = type(world.tenant)(world.warehouse, embedded_url, name, world.catalog, tmp_path)
    tenant.backfill(world.sent[:200])
    other = type(world.service)(
        type(world.service.settings)(tenant=name), world.keys, world.catalog, world.warehouse
    )
    from fastapi.testclient import TestClient

    from service.app import create_app

    headers = {"x-api-key": world.key("read", tenant=name)}
    with TestClient(create_app(other)) as client:
        path = "/v1/usage?granularity=day&meter=calls"
        whole = client.get(f"{path}&limit=1000", headers=headers).json()
        first = client.get(f"{path}&limit=30", headers=headers).json()
        tenant.backfill(world.sent[200:300])
        rest: list[Row] = []
        cursor = first["next_cursor"]
        while cursor:
            page = client.get(f"{path}&limit=30&cursor={cursor}", headers=headers).json()
            rest += page["items"]
            cursor = page["next_cursor"]

    def key(row: Row) -> tuple[str, ...]:
        return tuple(
            str(row[name]) for name in ("customer", "subscription", "meter", "start", "group")
        )

    keys = [key(row) for row in [*first["items"], *rest]]
    assert len(keys) == len(set(keys))
    assert set(map(key, whole["items"])) <= set(keys)


def counted(world: World) -> list[Row]:
    """The events that count, by the order in which they were sent."""
    seen: dict[tuple[str, str], Row] = {}
    for row in world.sent:
        if row["timestamp"] != "yesterday" and row["external_customer_id"] != "nobody":
            seen.setdefault((row["external_customer_id"], row["event_id"]), row)
    return list(seen.values())


def test_summaries_are_sums_over_the_events_themselves(world: World) -> None:
    calls = [row for row in counted(world) if row["event_name"] == "call"]
    acme = [row for row in calls if row["external_customer_id"] == "acme"]
    by_day = Counter(row["timestamp"][:10] for row in acme)
    found = world.read("/v1/usage/summary", meter="calls", by="day", customer="acme")["items"]
    assert {row["start"][:10]: row["value"] for row in found} == {
        day: str(number) for day, number in by_day.items()
    }
    users = {row["properties"]["user"] for row in calls if "user" in row["properties"]}
    (distinct,) = world.read("/v1/usage/summary", meter="users")["items"]
    assert distinct["value"] == str(len(users))
    sums: defaultdict[str, Decimal] = defaultdict(Decimal)
    for row in calls:
        if row["event_id"] != "half":
            sums[row["external_customer_id"]] += Decimal(row["properties"]["tokens"])
    top = world.read("/v1/usage/summary", meter="tokens", by="customer", top=2)["items"]
    best = sorted(sums.items(), key=lambda each: -each[1])[:2]
    assert [(row["customer"], Decimal(row["value"])) for row in top] == best
    regions = Counter(repr(row["properties"].get("region")) for row in calls)
    groups = world.read("/v1/usage/summary", meter="calls", group="region")["items"]
    assert {repr(row["group"]): int(row["value"]) for row in groups} == regions


def test_a_meter_with_a_bucket_sums_its_buckets_as_a_bill_does(world: World) -> None:
    (total,) = world.read("/v1/usage/summary", meter="peak", customer="acme")["items"]
    days = by_command(world, "day", customer="acme", meter="peak")
    assert Decimal(total["value"]) == sum(Decimal(str(row["value"])) for row in days)


def test_a_meter_with_a_bucket_sums_the_buckets_of_each_group(world: World) -> None:
    found = world.read("/v1/usage/summary", meter="peaks", group="region")["items"]
    days = by_command(world, "day", meter="peaks", group_by=["region"])
    sums: defaultdict[str, Decimal] = defaultdict(Decimal)
    for row in days:
        sums[repr(row["group"]["region"])] += Decimal(str(row["value"]))
    assert {repr(row["group"]): Decimal(row["value"]) for row in found} == sums
    assert len(sums) > 1


def test_days_of_a_summary_are_those_of_the_zone(world: World) -> None:
    found = world.read("/v1/usage/summary", meter="calls", by="day", zone="Asia/Kolkata")["items"]
    assert {row["start"][11:] for row in found} == {"18:30:00Z"}
    found = world.read("/v1/usage/summary", meter="calls", by="month", zone="Europe/Berlin")
    assert [row["start"] for row in found["items"]] == [
        "2026-08-31T22:00:00Z",
        "2026-09-30T22:00:00Z",
        "2026-10-31T23:00:00Z",
    ]


HOSTILE = [
    "' OR 1=1 --",
    "'; DROP TABLE usage; --",
    "\\' UNION SELECT * FROM events --",
    "{tenant:String}",
    "acme\x00",
    "%s %(x)s",
    SCRIPT,
    "\t\n\\N",
    "é" * 200,
]
ROUTES = {
    "/v1/usage": (
        "granularity customer subscription meter from to group_by limit cursor filter.region "
        "filter.' filter.{x:String}"
    ),
    "/v1/usage/summary": "by group customer subscription meter from to zone top filter.region",
    "/v1/invoices": "customer subscription status ending_by limit cursor",
    "/v1/live": "seconds customer limit",
    "/v1/events/trace": "id customer",
    "/v1/quarantine": "reason meter origin customer limit cursor",
    "/v1/invoices/preview": "customer as_of",
    "/v1/invoices/none/explanation": "language",
    "/v1/customers/acme/credits": "at",
    "/v1/customers/acme/periods": "at",
}
NEEDED = {"/v1/events/trace": {"id": "e1"}, "/v1/invoices/preview": {"customer": "acme"}}


@pytest.mark.parametrize("path", ROUTES)
@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_no_parameter_is_a_statement(world: World, path: str, text: str) -> None:
    needed = NEEDED.get(path, {})
    for name in ROUTES[path].split(" "):
        got = world.get(path, **{**needed, name: text})
        assert got.status_code in (200, 400, 404, 422), (name, got.text)
        if got.status_code == 200 and name in ("customer", "reason", "origin", "status"):
            answer = got.json()
            assert [answer.get("items"), answer.get("events")] in ([[], None], [None, []]), name
    assert len(by_command(world, "period")) > 10


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_no_path_is_a_statement(world: World, text: str) -> None:
    name = quote(text, safe="")
    for path in (
        f"/v1/invoices/{name}",
        f"/v1/invoices/{name}/explanation",
        f"/v1/customers/{name}/periods",
        f"/v1/customers/{name}/credits",
    ):
        assert world.get(path).status_code in (400, 404, 422)


def test_the_key_of_another_tenant_sees_nothing(world: World) -> None:
    other = world.key("admin", tenant="somebody-else")
    for path in [*ROUTES, "/v1/status", "/v1/catalog"]:
        got = world.get(path, key=other, id="e1", customer="acme")
        assert (got.status_code, got.json()["code"]) == (403, "wrong_tenant"), path


@pytest.mark.parametrize(
    ("query", "path"),
    [
        ({"from": "yesterday"}, "from"),
        ({"from": "2026-11-01T00:00:00Z", "to": "2026-10-01T00:00:00Z"}, "to"),
        ({"customer": "nobody"}, "customer"),
        ({"meter": "nothing"}, "meter"),
        ({"group_by": "nothing"}, "group_by"),
        ({"filter.nothing": "1"}, "filter.nothing"),
        ({"cursor": "nothing"}, "cursor"),
        ({"cursor": "W10"}, "cursor"),
        ({"limit": "0"}, "query.limit"),
        ({"granularity": "second"}, "query.granularity"),
        ({"from": "9999-01-01T00:00:00Z"}, "from"),
    ],
)
def test_a_wrong_parameter_is_named(world: World, query: Row, path: str) -> None:
    got = world.get("/v1/usage", **query)
    assert got.status_code in (400, 422)
    (fault,) = got.json()["errors"]
    assert fault["path"] == path
    assert fault["expected"]


def test_a_summary_of_all_meters_has_no_greatest(world: World) -> None:
    assert world.get("/v1/usage/summary", top=5).status_code == 400
    assert world.get("/v1/usage/summary", by=["day", "hour"]).status_code == 400
    assert world.get("/v1/usage/summary", zone="Europe/Nowhere").status_code == 400


def test_now_is_in_utc() -> None:
    from service.context import now

    assert abs(now() - datetime.now(UTC)) < timedelta(seconds=5)


@pytest.mark.parametrize("zone", ["UTC", "Asia/Kolkata"])
@pytest.mark.parametrize(
    "by", [[], ["hour"], ["day"], ["week"], ["month"], ["customer"], ["customer", "subscription"]]
)
def test_a_summary_is_the_same_from_kept_sums(
    world: World, by: list[str], zone: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert world.service.sums is not None
    world.service.sums.refresh()
    spans = [{}, {"from": (START + timedelta(days=3, hours=5)).isoformat()}]
    grouped = {"group": "region"} if "customer" not in by else {"top": 2, "meter": "eu_tokens"}
    asked = [{"by": by, "zone": zone, **span, **more} for span in spans for more in ({}, grouped)]
    from_sums = [world.read("/v1/usage/summary", **query) for query in asked]
    monkeypatch.setattr(world.service, "sums", None)
    assert from_sums == [world.read("/v1/usage/summary", **query) for query in asked]


def test_a_server_sums_usage_while_it_runs(world: World) -> None:
    service = Service(world.service.settings, world.keys, world.catalog, world.warehouse)
    assert service.sums is not None
    with TestClient(create_app(service)):
        until = time.monotonic() + 120
        while (found := service.sums.of(None, None)) is None or found.rest:
            assert time.monotonic() < until, "not summed in time"
            time.sleep(0.1)
    assert found.summed
