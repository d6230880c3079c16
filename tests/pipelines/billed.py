"""What becomes of one tenant's invoices: previews, final ones, voids and explanations."""

from __future__ import annotations

import json
from fractions import Fraction
from typing import Any

from meters.catalog import Catalog
from meters.timestamps import parse_timestamp
from runners import bills, finalize
from runners.invoices import run_void
from runners.journals import JournalUrl, open_journal
from tests.acceptance import samples
from tests.pipelines.runs import Tenant
from transforms import explanations

Row = dict[str, Any]
_SMALL = Fraction(1, 10**20)
"""Thirds are cut after 30 digits."""


def seats_of(customer: str, **meter: Any) -> Catalog:
    """A customer that pays 1 for each seat of a month, from February 2026 on."""
    seats = {"id": "seats", "event_name": "seat", "aggregation": "sum", "property": "v", **meter}
    made = samples.catalog(
        {customer: "UTC"},
        subscriptions=(samples.subscription("s", customer, "p", "2026-02-01T00:00:00Z"),),
        plans=(samples.plan("p", samples.unit("seats", "seats")),),
        meters=(seats,),
    )
    return Catalog.model_validate(
        {**made, "issuers": [{"id": "eu", "number_format": "{year}-{number}"}]}
    )


class Bills:
    """The billing of one tenant, with a journal of its own."""

    def __init__(self, tenant: Tenant) -> None:
        self.tenant = tenant
        self.url = tenant.url, False
        self.journal: JournalUrl = f"sqlite://{tenant.folder}/journal.sqlite3", False

    def finalize(self, as_of: str) -> list[Row]:
        """Finalize what is due."""
        return list(
            finalize.each_final(
                self.tenant.catalog,
                self.url,
                self.journal,
                finalize.Finalizing("ana"),
                as_of=parse_timestamp(as_of),
                tenant=self.tenant.name,
            )
        )

    def preview(self, as_of: str) -> list[Row]:
        """What is due, and what is final."""
        return list(
            bills.each_bill(
                self.tenant.catalog,
                self.url,
                self.journal,
                as_of=parse_timestamp(as_of),
                tenant=self.tenant.name,
                preview=True,
            )
        )

    def void(self, number: str) -> None:
        """Make a document void."""
        run_void(
            self.url,
            self.journal,
            number,
            reason="wrong",
            actor="ben",
            tenant=self.tenant.name,
            form="json",
        )

    def explain(self, document: Row, catalog: Catalog | None = None) -> Row:
        """The printed explanation of a document."""
        with open_journal(self.journal) as journal:
            history = journal.history_before(
                self.tenant.name, document["customer"], document["invoice_id"]
            )
        chosen = catalog or self.tenant.catalog
        found = explanations.explain(
            self.tenant.warehouse, self.tenant.name, chosen, document, history
        )
        printed: Row = json.loads(json.dumps(found))
        return printed


def adds_up(found: Row, document: Row) -> set[str]:
    """Check an explanation by its own numbers; returns the kinds of its steps."""
    assert found["matches"], found
    kinds = set()
    for line, billed in zip(found["lines"], document["lines"], strict=True):
        kinds |= {step["step"] for step in line["steps"]}
        steps = [step["amount"] for step in line["steps"] if "amount" in step]
        assert abs(total(steps) - Fraction(line["amount_exact"])) < _SMALL, line
        rounded = Fraction(line["amount_exact"]) + Fraction(line["rounding"])
        contained = Fraction(line["tax_contained"] or 0)
        assert abs(rounded - Fraction(line["amount"]) - contained) < _SMALL, line
        assert line["amount"] == billed["amount"]
        parts = [line["amount"], line["tax"], f"-{line['discount']}", f"-{line['credit']}"]
        assert total(parts) == Fraction(line["total"])
        if line["events"] is not None:
            assert sum(bucket["events"] for bucket in line["buckets"]) == line["events"]
            assert sum(day["events"] for day in line["days"]) == line["events"]
    assert total([line["total"] for line in found["lines"]]) == Fraction(document["total"])
    assert total([line["amount"] for line in found["lines"]]) == Fraction(found["subtotal"])
    return kinds


def total(amounts: list[str]) -> Fraction:
    """The sum of amounts."""
    return sum(map(Fraction, amounts), Fraction(0))
