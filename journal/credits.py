"""Balances of credit: what is left of each grant of a customer.

    what the journal has booked, and what the catalog grants beside it -> balances

Only what is final counts: drafts burn nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal

from journal.journal import Journal
from journal.records import Entry
from journal.reversal import RESTORE
from meters.catalog import Catalog, CreditGrant
from meters.numbers import EXACT
from meters.timestamps import format_instant

_ZERO = Decimal(0)


@dataclass(frozen=True)
class CreditBalance:
    """One grant: `granted = burnt + lapsed + left`, in units of its currency.

    `kind` is `paid` or `promotional`, and None of a grant that the catalog has no more.
    `booked` says whether the journal has it; until then it is what the catalog says.
    """

    customer: str
    grant: str
    kind: str | None
    currency: str
    granted: Decimal
    burnt: Decimal
    lapsed: Decimal
    left: Decimal
    start: str
    expires: str | None
    booked: bool


def credit_balances(
    journal: Journal | None, catalog: Catalog, tenant: str, customer: str, at: datetime
) -> list[CreditBalance]:
    """The grants of a customer that have started by `at`, by id.

    What is left of one that has expired by then has lapsed, whether that is booked already
    or not. `journal` None stands for one in which nothing is final.
    """
    booked: dict[str, list[Entry]] = {}
    for entry in journal.ledger(tenant, customer) if journal is not None else ():
        if entry.account == f"grant:{entry.grant_id}":
            booked.setdefault(entry.grant_id, []).append(entry)
    grants = {grant.id: grant for grant in catalog.grants_by_customer.get(customer, ())}
    found: list[CreditBalance] = []
    for name in sorted({*booked, *grants}):
        found += _balance(customer, name, grants.get(name), booked.get(name, []), at)
    return found


def _balance(
    customer: str, name: str, grant: CreditGrant | None, entries: list[Entry], at: datetime
) -> Iterator[CreditBalance]:
    granting = [entry for entry in entries if entry.kind == "grant"]
    if granting:
        currency, granted = granting[0].currency, Decimal(granting[0].amount)
        start, expires = granting[0].at, granting[0].expires_at
    elif grant is not None and grant.start <= at:
        currency, granted = grant.currency, grant.amount
        start = format_instant(grant.start)
        expires = None if grant.expires is None else format_instant(grant.expires)
    else:
        return
    void = {entry.invoice_id for entry in entries if entry.kind == RESTORE}
    burns = [e for e in entries if e.kind == "burn" and e.invoice_id not in void]
    burnt = _sum(Decimal(entry.amount).copy_negate() for entry in burns)
    left = _sum(Decimal(entry.amount) for entry in entries) if granting else granted
    if expires is not None and datetime.fromisoformat(expires) <= at:
        left = _ZERO
    lapsed = _sum((granted, burnt.copy_negate(), left.copy_negate()))
    kind = None if grant is None else grant.kind
    yield CreditBalance(
        customer, name, kind, currency, granted, burnt, lapsed, left, start, expires, bool(granting)
    )


def _sum(amounts: Iterable[Decimal]) -> Decimal:
    total = _ZERO
    for amount in amounts:
        total = EXACT.add(total, amount)
    return total
