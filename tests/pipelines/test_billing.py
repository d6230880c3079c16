"""The billing pipeline: drafts are written once, a preview never, however it is batched."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any, Literal

import pytest

from meters.catalog import Catalog
from meters.errors import BeammeterError
from meters.measure import Measurement
from meters.revisions import first_revision
from meters.scalars import parse_json
from meters.timestamps import parse_timestamp
from pipelines import billing
from runners import bills, launch
from tests.generators import Row
from tests.meters.chain import event, measured, meter, stored
from tests.pipelines.runs import Tenant
from transforms import rating_pool
from warehouse.client import Warehouse
from warehouse.invoices import invoice_lines, list_invoices
from warehouse.remote import Request
from warehouse.writes import insert_usage, insert_usage_values

NewTenant = Callable[[Catalog], Tenant]

AGGREGATIONS = ("count", "sum", "max", "min", "avg", "latest", "unique_count")
CATALOG = Catalog.model_validate(
    {
        "meters": [meter(a, id=a, group_by=["g"]) for a in AGGREGATIONS],
        "customers": [{"id": f"c{n}", "time_zone": "Asia/Kathmandu"} for n in range(3)],
        "plans": [
            {
                "id": "p",
                "currency": "EUR",
                "charges": [
                    {"id": "fee", "fee": "9.90", "when": "advance"},
                    *(
                        {"id": a, "meter": a, "price": {"model": "unit", "unit_amount": "0.5"}}
                        for a in AGGREGATIONS
                    ),
                ],
            }
        ],
        "subscriptions": [
            {"id": f"s{n}", "customer": f"c{n}", "plan": "p", "start": "2026-01-14T18:17:33Z"}
            for n in range(3)
        ],
    }
)
AS_OF = "2026-03-01T00:00:00Z"
EVENTS = [
    event(
        n,
        external_customer_id=f"c{n % 2}",
        timestamp=at,
        ingested_at="2026-03-01T00:00:00Z",
        properties={"x": x, "g": n},
    )
    for n, (at, x) in enumerate(
        [
            ("2026-01-14T18:17:32Z", 1000),  # before the subscription
            ("2026-01-14T18:17:33Z", 5),
            ("2026-01-20T00:00:00Z", "2.5"),
            ("2026-02-14T18:17:32.999999Z", "-1"),
            ("2026-02-01T00:00:00Z", "2.5"),
            ("2026-02-14T18:17:33Z", 7),  # the next period
        ]
    )
]
QUANTITIES = {
    "s0": {a: Decimal("2.5") for a in AGGREGATIONS} | {"count": Decimal(2), "sum": Decimal(5)},
    "s1": {
        "count": Decimal(2),
        "sum": Decimal(4),
        "max": Decimal(5),
        "min": Decimal(-1),
        "avg": Decimal(2),
        "latest": Decimal(-1),
        "unique_count": Decimal(2),
    },
    "s2": {a: Decimal(0) for a in AGGREGATIONS},
}
QUANTITIES["s0"]["unique_count"] = Decimal(1)


def metered(tenant: Tenant, events: Sequence[Row], revision: int = 1) -> None:
    """Store the usage of these events."""
    measurement, cells, _ = measured(tenant.catalog, events)
    rows, values = (first_revision(frame) for frame in stored(measurement, cells))
    assert isinstance(measurement, Measurement)
    column = rows["revision"] * 0 + revision
    insert_usage_values(
        tenant.warehouse, tenant.name, values.with_columns(revision=column[:1].first()).to_arrow()
    )
    insert_usage(tenant.warehouse, tenant.name, rows.with_columns(revision=column).to_arrow())


def bill(
    tenant: Tenant,
    status: Literal["draft", "preview"] = "draft",
    options: Sequence[str] = (),
    workers: int | None = None,
) -> list[dict[str, Any]]:
    """Bill all subscriptions; the invoices by subscription and date."""
    folder = Path(tenant.folder / f"results-{len(list(tenant.folder.iterdir()))}")
    folder.mkdir()
    job = billing.Billing(
        catalog=tenant.catalog,
        subscriptions=[entry.id for entry in tenant.catalog.subscriptions],
        tenant=tenant.name,
        warehouse=tenant.url,
        as_of=parse_timestamp(AS_OF),
        status=status,
        results=str(folder / "invoices"),
        workers=workers,
    )
    launch.run(job.build, launch.options("direct", options))
    invoices: list[Any] = [
        parse_json(line)
        for file in folder.glob("invoices-*")
        for line in file.read_bytes().splitlines()
    ]
    return sorted(invoices, key=lambda each: (each["subscription"], each["billing_date"]))


def kept(tenant: Tenant) -> tuple[list[Any], list[Any]]:
    """The stored invoices and their lines."""
    found = list_invoices(tenant.warehouse, tenant.name)
    ids = [str(each["invoice_id"]) for each in found]
    lines = invoice_lines(tenant.warehouse, tenant.name, ids)
    for line in lines:
        line.pop("updated_at", None)
    return found, lines


def test_quantities_are_those_of_the_period_over_all_groups(new_tenant: NewTenant) -> None:
    tenant = new_tenant(CATALOG)
    metered(tenant, EVENTS)
    invoices = bill(tenant, "preview")
    assert [(each["subscription"], each["period_end"]) for each in invoices] == [
        (f"s{n}", end) for n in range(3) for end in ("2026-01-14T18:17:33Z", "2026-02-14T18:17:33Z")
    ]
    for each in invoices[1::2]:
        found = {
            line["charge"]: Decimal(line["quantity"]) for line in each["lines"] if line["meter"]
        }
        assert found == QUANTITIES[each["subscription"]]
        amounts = {line["charge"]: Decimal(line["amount"]) for line in each["lines"]}
        assert amounts["sum"] == found["sum"] / 2
        assert Decimal(each["total"]) == sum(amounts.values())


def test_a_preview_writes_nothing_and_is_what_the_draft_will_be(new_tenant: NewTenant) -> None:
    tenant = new_tenant(CATALOG)
    metered(tenant, EVENTS)
    preview = bill(tenant, "preview")
    assert {each["status"] for each in preview} == {"preview"}
    assert (tenant.written("invoices"), tenant.written("invoice_lines")) == (0, 0)
    drafts = bill(tenant)
    assert [{**each, "status": "preview"} for each in drafts] == preview


def test_drafts_are_written_once_whatever_the_batches_and_repetitions(
    new_tenant: NewTenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    tenant = new_tenant(CATALOG)
    metered(tenant, EVENTS)
    first = bill(tenant)
    stored_first = kept(tenant)
    assert len(stored_first[0]) == 6
    written = tenant.written("invoices"), tenant.written("invoice_lines")
    monkeypatch.setattr(billing, "BATCH", 1)
    assert bill(tenant, options=["--direct_runner_bundle_repeat=2"]) == first
    assert kept(tenant) == stored_first
    assert (tenant.written("invoices"), tenant.written("invoice_lines")) == written


def test_any_number_of_processes_rates_the_same(
    new_tenant: NewTenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    tenant = new_tenant(CATALOG)
    metered(tenant, EVENTS)
    first = bill(tenant, workers=1)
    stored_first = kept(tenant)
    assert len(stored_first[0]) == 6
    monkeypatch.setattr(billing, "BATCH", 1)
    assert bill(tenant, workers=2) == first
    assert kept(tenant) == stored_first
    other = new_tenant(CATALOG)
    metered(other, EVENTS)
    drafts = bill(other, workers=2)
    assert [each["lines"] for each in kept(other)[0]] != []
    assert [_of_no_tenant(each) for each in drafts] == [_of_no_tenant(each) for each in first]


def _of_no_tenant(invoice: dict[str, Any]) -> dict[str, Any]:
    """An invoice without its ids, which are hashes that the tenant is part of."""
    lines = [{**line, "line_id": ""} for line in invoice["lines"]]
    return {**invoice, "invoice_id": "", "lines": lines}


def test_what_a_process_cannot_rate_fails_the_run_with_its_reason(
    new_tenant: NewTenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    tenant = new_tenant(CATALOG)
    monkeypatch.setattr(billing, "BATCH", 1)
    real = rating_pool.answer

    def refuse(warehouse: Warehouse, request: Request) -> Any:
        return real(warehouse, Request("SELECT nothing_of_the_kind", {}))

    monkeypatch.setattr(rating_pool, "answer", refuse)
    with pytest.raises(BeammeterError, match="nothing_of_the_kind"):
        bill(tenant, workers=2)
    assert tenant.written("invoices") == 0


def test_what_fails_beside_the_warehouse_is_an_answer_too() -> None:
    class Broken(Warehouse):
        def __init__(self) -> None:
            pass

        def query_arrow(self, *_: Any, **__: Any) -> Any:
            raise ValueError("no table comes of it")

    got = rating_pool.answer(Broken(), Request("SELECT 1", {}))
    assert str(got) == "ValueError: no table comes of it"


def test_a_process_that_dies_fails_the_run(
    new_tenant: NewTenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    tenant = new_tenant(CATALOG)
    monkeypatch.setattr(billing, "BATCH", 1)

    started: list[subprocess.Popen[bytes]] = []

    class Noted(subprocess.Popen[bytes]):
        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **options)
            started.append(self)

    def kill(_warehouse: Warehouse, _request: Request) -> Any:
        for process in started:
            process.kill()
        return None

    monkeypatch.setattr(subprocess, "Popen", Noted)
    monkeypatch.setattr(rating_pool, "answer", kill)
    with pytest.raises(BeammeterError, match="a process that rates has ended"):
        bill(tenant, workers=2)


def test_a_draft_follows_the_usage_under_its_own_id(new_tenant: NewTenant) -> None:
    tenant = new_tenant(CATALOG)
    metered(tenant, EVENTS)
    first = bill(tenant)
    metered(tenant, [*EVENTS, event(9, **{**EVENTS[1], "event_id": "more"})], revision=2)
    second = bill(tenant)
    assert [each["invoice_id"] for each in second] == [each["invoice_id"] for each in first]
    changed = [each["subscription"] for each, old in zip(second, first, strict=True) if each != old]
    assert set(changed) == {"s0", "s1"}
    assert [each["total"] for each in kept(tenant)[0]] == [
        each["total"] for each in sorted(second, key=lambda e: (e["customer"], e["period_start"]))
    ]


def test_without_subscriptions_there_are_no_invoices(new_tenant: NewTenant) -> None:
    tenant = new_tenant(Catalog())
    assert bill(tenant) == []


def test_the_command_reads_back_every_invoice_whatever_the_ids_hold(new_tenant: NewTenant) -> None:
    # Python's splitlines() takes these characters for ends of lines; JSON leaves them bare.
    catalog = CATALOG.model_dump(mode="json", exclude={"meters", "plans"})
    odd = catalog["customers"][0]["id"] = "c\u2028\x85"
    catalog["subscriptions"][0]["customer"] = odd
    tenant = new_tenant(
        Catalog.model_validate({**catalog, "meters": CATALOG.meters, "plans": CATALOG.plans})
    )
    invoices = list(
        bills.each_bill(
            tenant.catalog,
            (tenant.url, False),
            as_of=parse_timestamp(AS_OF),
            tenant=tenant.name,
            preview=True,
        )
    )
    assert {each["customer"] for each in invoices} == {odd, "c1", "c2"}
