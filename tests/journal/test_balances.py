"""Balances of credit: granted = burnt + lapsed + left, from the journal and the catalog."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal

from journal.credits import CreditBalance, credit_balances
from journal.journal import Journal
from journal.records import Posting
from meters.catalog import Catalog
from tests.journal.postings import burning, document, finalized, moved

AT = datetime(2026, 11, 2, tzinfo=UTC)
START = "2026-11-01T00:00:00Z"
GRANT = {"id": "g", "customer": "acme", "amount": "10.00", "currency": "EUR", "start": START}


def catalog(*grants: dict[str, str]) -> Catalog:
    return Catalog.model_validate({"customers": [{"id": "acme"}], "credits": list(grants)})


def amounts(found: list[CreditBalance]) -> list[tuple[str, ...]]:
    for each in found:
        assert each.granted == each.burnt + each.lapsed + each.left
    return [(e.grant, str(e.burnt), str(e.lapsed), str(e.left), str(e.booked)) for e in found]


def test_a_grant_that_is_not_booked_is_what_the_catalog_says() -> None:
    later = {**GRANT, "id": "later", "start": "2027-01-01T00:00:00Z"}
    over = {**GRANT, "id": "over", "start": START, "expires": "2026-11-01T12:00:00Z"}
    found = credit_balances(None, catalog(GRANT, later, over), "t", "acme", AT)
    assert amounts(found) == [
        ("g", "0", "0.00", "10.00", "False"),
        ("over", "0", "10.00", "0", "False"),
    ]


def test_burns_lapses_and_voids_are_told_apart(journal: Journal, tenant: str) -> None:
    lapse = Posting(document("b"), moved("b", "g", "-6.00", "expire"))
    finalized(journal, tenant, burning("a", "4.00"), lapse)

    def now() -> list[tuple[str, ...]]:
        return amounts(credit_balances(journal, catalog(GRANT), tenant, "acme", AT))

    assert now() == [("g", "4.00", "6.00", "0.00", "True")]
    journal.void(tenant, "a", actor="ana", reason="x")
    assert now() == [("g", "0", "0.00", "10.00", "True")]


def test_a_booked_grant_stays_what_it_was_whatever_the_catalog_says(
    journal: Journal, tenant: str
) -> None:
    finalized(journal, tenant, burning("a", "4.00"))
    [changed] = credit_balances(journal, catalog({**GRANT, "amount": "99.00"}), tenant, "acme", AT)
    [gone] = credit_balances(journal, catalog(), tenant, "acme", AT)
    assert changed.left == gone.left == Decimal("6.00")
    assert replace(changed, kind=None) == gone
