"""Credits: grants of money that invoices burn down, and the ledger of it.

    promotional grants (a discount, before tax) -> lines' credit
    paid grants (a payment, after tax)          -> the invoice's prepaid

Grants burn in the order priority (the smaller first), expiry (the sooner first, none
last), start, id. A grant never burns more than is left of it, nor more than there is
to pay on the lines of its scope. Every movement is two entries of the ledger, which
sum to 0; their ids are hashes of what moved, so a second run makes the same entries
and not more.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Literal

from billing.invoice import Burn, Invoice, Line
from billing.money import add_amounts, from_minor_units, spread, whole_units
from billing.slots import hashed_id
from billing.taxes import net_units
from meters.catalog_terms import CreditGrant
from meters.currencies import currency_exponent
from meters.timestamps import END_OF_TIME

EntryKind = Literal["grant", "burn", "expire"]
Balances = Mapping[str, Decimal]
"""What is left of each grant, by its id."""


@dataclass(frozen=True, slots=True)
class LedgerEntry:
    """One side of a movement. The entries of account `grant:ID` sum to what is left of it.

    The other side is `funding:paid` or `funding:promotional` for a new grant,
    `invoice:ID` for what an invoice burns, `expired` for what lapses.
    """

    ledger_entry_id: str
    kind: EntryKind
    account: str
    grant_id: str
    customer: str
    invoice_id: str | None
    currency: str
    amount: Decimal
    at: datetime
    expires_at: datetime | None


def opening(grants: Iterable[CreditGrant]) -> dict[str, Decimal]:
    """The balances before anything was burnt."""
    return {grant.id: grant.amount for grant in grants}


def after(balances: Balances, invoice: Invoice) -> dict[str, Decimal]:
    """The balances once an invoice has burnt what it did."""
    left = dict(balances)
    for burn in invoice.burns:
        exponent = currency_exponent(invoice.currency)
        left[burn.grant] = add_amounts((left[burn.grant], burn.amount.copy_negate()), exponent)
    return left


def burnable(
    grants: Iterable[CreditGrant], currency: str, at: datetime, balances: Balances
) -> tuple[CreditGrant, ...]:
    """The grants that an invoice of this currency and date may burn, in their order."""
    found = [
        grant
        for grant in grants
        if grant.currency == currency
        and grant.start <= at
        and (grant.expires is None or at < grant.expires)
        and balances[grant.id] > 0
    ]
    return tuple(sorted(found, key=_order))


def burn_promotional(
    lines: Sequence[Line], grants: Sequence[CreditGrant], balances: Balances, exponent: int
) -> tuple[tuple[Line, ...], tuple[Burn, ...]]:
    """The lines with the credit of promotional grants, and what each of these burnt."""
    grants = [grant for grant in grants if grant.kind == "promotional"]
    if not grants:
        return tuple(lines), ()
    payable = [net_units(line, exponent) for line in lines]
    burns, parts = _burn(lines, payable, grants, balances, exponent)
    credited = tuple(
        line.replaced(credit=from_minor_units(part, exponent)) if part else line
        for line, part in zip(lines, parts, strict=True)
    )
    return credited, burns


def burn_paid(
    lines: Sequence[Line], grants: Sequence[CreditGrant], balances: Balances, exponent: int
) -> tuple[Burn, ...]:
    """What paid grants pay of lines that have their taxes."""
    grants = [grant for grant in grants if grant.kind == "paid"]
    if not grants:
        return ()
    payable = [net_units(line, exponent) + whole_units(line.tax, exponent) for line in lines]
    return _burn(lines, payable, grants, balances, exponent)[0]


def postings(
    tenant: str,
    grants: Iterable[CreditGrant],
    invoices: Iterable[Invoice],
    balances: Balances | None = None,
) -> Iterator[tuple[Invoice, tuple[LedgerEntry, ...]]]:
    """Each invoice of one customer, in order, with the entries that become final with it.

    With the first invoice dated at or after the start of a grant of its currency the
    grant is booked (those of later invoices are the same entries again), with the
    first at or after its expiry what is left lapses, and each books what it burns.
    `balances` is what earlier invoices have left of grants that are booked.
    """
    grants = tuple(grants)
    left = {**opening(grants), **(balances or {})}
    for invoice in invoices:
        entries: list[LedgerEntry] = []
        date = invoice.billing_date
        burns = {burn.grant: burn for burn in invoice.burns}
        for grant in grants:
            if date is None or grant.currency != invoice.currency or grant.start > date:
                continue
            funding = f"funding:{grant.kind}"
            entries += _moved(tenant, grant, "grant", funding, grant.amount, grant.start)
            if grant.id in burns:
                entries += burn_entries(tenant, grant, burns[grant.id], invoice)
            if grant.expires is not None and grant.expires <= date and left[grant.id]:
                lapsed = left[grant.id].copy_negate()
                left[grant.id] = Decimal(0)
                cause = invoice.invoice_id
                entries += _moved(tenant, grant, "expire", "expired", lapsed, grant.expires, cause)
        left = after(left, invoice)
        yield invoice, tuple(entries)


def burn_entries(
    tenant: str, grant: CreditGrant, burn: Burn, invoice: Invoice
) -> tuple[LedgerEntry, LedgerEntry]:
    """The two entries of what one invoice burns of one grant."""
    if invoice.billing_date is None:
        raise ValueError(f"invoice must have a billing date to burn credit (got {invoice})")
    account, amount = f"invoice:{invoice.invoice_id}", burn.amount.copy_negate()
    return _moved(tenant, grant, "burn", account, amount, invoice.billing_date, invoice.invoice_id)


def _moved(
    tenant: str,
    grant: CreditGrant,
    kind: EntryKind,
    other: str,
    amount: Decimal,
    at: datetime,
    invoice_id: str | None = None,
) -> tuple[LedgerEntry, LedgerEntry]:
    """`amount` moves into the grant (out of it where negative), from the other account."""

    def entry(account: str, moved: Decimal) -> LedgerEntry:
        return LedgerEntry(
            ledger_entry_id=hashed_id("led", tenant, kind, grant.id, invoice_id, account),
            kind=kind,
            account=account,
            grant_id=grant.id,
            customer=grant.customer,
            invoice_id=invoice_id,
            currency=grant.currency,
            amount=moved,
            at=at,
            expires_at=grant.expires,
        )

    return entry(f"grant:{grant.id}", amount), entry(other, amount.copy_negate())


def _burn(
    lines: Sequence[Line],
    payable: Sequence[int],
    grants: Sequence[CreditGrant],
    balances: Balances,
    exponent: int,
) -> tuple[tuple[Burn, ...], list[int]]:
    """Burns in minor units over what is payable of each line."""
    left = [max(units, 0) for units in payable]
    given_back = sum(min(units, 0) for units in payable)
    burns = []
    for grant in grants:
        eligible = [i for i, line in enumerate(lines) if left[i] and in_scope(grant, line)]
        base = min(sum(left[i] for i in eligible), sum(left) + given_back)
        off = min(base, whole_units(balances[grant.id], exponent))
        if off <= 0:
            continue
        parts = spread(off, [left[i] for i in eligible])
        for index, part in zip(eligible, parts, strict=True):
            left[index] -= part
        burns.append(Burn(grant.id, grant.kind, from_minor_units(off, exponent)))
    taken = [max(units, 0) - rest for units, rest in zip(payable, left, strict=True)]
    return tuple(burns), taken


def in_scope(grant: CreditGrant, line: Line) -> bool:
    """Whether a grant may be burnt by a line."""
    if grant.charges:
        return line.charge in grant.charges
    return not grant.plans or line.plan in grant.plans


def _order(grant: CreditGrant) -> tuple[int, datetime, datetime, bytes]:
    expires = END_OF_TIME if grant.expires is None else grant.expires
    return grant.priority, expires, grant.start, grant.id.encode()
