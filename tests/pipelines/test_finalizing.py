"""Finalizing some customers at a time: the numbers and the order are those of all at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import date
from typing import Any

import pytest

from meters.catalog import Catalog
from meters.timestamps import parse_timestamp
from runners import finalize
from runners.journals import JournalUrl
from tests.acceptance.samples import event
from tests.pipelines.billed import Bills, seats_of
from tests.pipelines.runs import Tenant

Row = dict[str, Any]
CUSTOMERS = ("a", "b", "c", "d")
WORLD = Catalog.model_validate(
    {
        "customers": [{"id": name} for name in CUSTOMERS],
        "plans": [{"id": "p", "currency": "EUR", "charges": [{"id": "fee", "fee": "3"}]}],
        "subscriptions": [
            {"id": f"s{name}", "customer": name, "plan": "p", "start": "2026-01-01T00:00:00Z"}
            for name in CUSTOMERS
        ],
        "issuers": [{"id": "eu", "number_format": "{year}-{number}"}],
    }
)


def finalized(tenant: Tenant) -> list[tuple[str, str, str]]:
    journal: JournalUrl = f"sqlite://{tenant.folder}/journal.sqlite3", False
    found = list(
        finalize.each_final(
            tenant.catalog,
            (tenant.url, False),
            journal,
            finalize.Finalizing("ana", issue_date=date(2026, 3, 2)),
            as_of=parse_timestamp("2026-03-01T00:00:00Z"),
            tenant=tenant.name,
        )
    )
    return [(each["customer"], each["billing_date"], each["number"]) for each in found]


def test_numbers_do_not_depend_on_how_many_pass_the_gate_together(
    new_tenant: Callable[[Catalog], Tenant], monkeypatch: pytest.MonkeyPatch
) -> None:
    at_once = finalized(new_tenant(WORLD))
    assert [int(number[5:]) for _, _, number in at_once] == list(range(1, 9))
    monkeypatch.setattr(finalize, "AT_THE_GATE", 3)
    tenant = new_tenant(WORLD)
    assert finalized(tenant) == at_once
    assert finalized(tenant) == at_once


def test_customers_that_were_rated_again_stand_where_they_belong(
    new_tenant: Callable[[Catalog], Tenant], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(finalize, "AT_THE_GATE", 1)
    commit, late = finalize._commit, {"a", "c"}

    def sometimes(*given: Any) -> tuple[list[Row], list[str]]:
        decided: Sequence[finalize.Decided] = given[3]
        stale = [each for each in decided if each.proposal.customer in late]
        late.difference_update(each.proposal.customer for each in stale)
        fresh = [each for each in decided if each not in stale]
        done, more = commit(*given[:3], fresh, *given[4:])
        return done, [*(each.proposal.customer for each in stale), *more]

    monkeypatch.setattr(finalize, "_commit", sometimes)
    found = finalized(new_tenant(WORLD))
    assert [(customer, int(number[5:])) for customer, _, number in found] == [
        *[("a", 5), ("a", 6), ("b", 1), ("b", 2)],
        *[("c", 7), ("c", 8), ("d", 3), ("d", 4)],
    ]


SEATS = seats_of("a")
DUE = "2026-03-01T00:00:00Z"


@pytest.mark.parametrize(
    ("before", "after"),
    [
        pytest.param(True, [(DUE, True)], id="it goes on"),
        pytest.param(True, [(DUE, False)], id="it ends"),
        pytest.param(False, [("2026-02-28T23:00:00Z", True), (DUE, False)], id="it had ended"),
    ],
)
def test_what_a_stream_counts_and_closes_after_rating_holds_the_invoice(
    new_tenant: Callable[[Catalog], Tenant],
    before: bool,
    after: Sequence[tuple[str, bool]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    at = "2026-02-28T23:30:00Z"
    tenant = new_tenant(SEATS)
    tenant.backfill([event("one", "a", at, 3, event_name="seat")])
    tenant.own("2026-02-28T23:00:00Z", owned=before)
    rate = finalize.rate

    def overtaken(*given: Any, **more: Any) -> Any:
        rated = list(rate(*given, **more))
        tenant.store([event("two", "a", at, 4, event_name="seat")])
        tenant.warehouse.command(
            "INSERT INTO usage SELECT * REPLACE (sum + 4 AS sum, events + 1 AS events) "
            "FROM usage FINAL WHERE tenant_id = {tenant:String}",
            {"tenant": tenant.name},
        )
        for closed_until, owned in after:
            tenant.own(closed_until, owned=owned)
        return iter(rated)

    site = Bills(tenant)
    with monkeypatch.context() as patched:
        patched.setattr(finalize, "rate", overtaken)
        [waiting] = site.finalize(DUE)
    assert (waiting["status"], waiting["hold_reason"]) == ("held", "usage_open")
    [final] = site.finalize(DUE)
    assert (final["status"], final["lines"][0]["quantity"]) == ("finalized", "7")
