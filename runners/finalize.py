"""Finalizing: the one place where invoices are committed.

    rate what is due -> gate -> journal, some customers at a time -> projections
                          |        |
                        held     stale: somebody else was faster; rated again

Everything happens while no repair and no backfill of the tenant runs. Rating comes before
the gate: what arrives in between is seen by the gate, and holds the invoice. What the stream
has not closed when rating begins it may count and close in between, so it counts as open.
"""

from __future__ import annotations

import contextlib
import heapq
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import IO, Any

import msgspec

from journal.journal import Journal
from journal.records import Entry, Issue, Posting, Proposal
from meters.catalog import Catalog, Issuer
from meters.errors import ConfigurationError, JournalError
from meters.scalars import parse_json
from meters.timeline import Timeline
from meters.timestamps import FIRST_INSTANT
from runners.bills import Document, in_order, rate, withdrawing
from runners.catalogs import timeline_for
from runners.commands import Url, open_warehouse, remember
from runners.gate import UsagePeriod, examine, reasons
from runners.journals import JournalUrl, open_journal
from runners.output import notice
from transforms.invoices import place
from transforms.projection import project
from warehouse.client import Warehouse
from warehouse.invoices import write_invoices
from warehouse.leases import exclusive
from warehouse.ownership import Owners, read_owners

_ENCODER = msgspec.json.Encoder(decimal_format="number")

AT_THE_GATE = 5000
"""Invoices whose usage is compared at the same time, or those of one customer."""
AT_ONCE = 500
"""Invoices that are committed in one transaction, or those of one customer."""
ROUNDS = 10
"""How often customers that somebody else finalizes at the same time are rated again."""
EARLIER_HELD = "earlier_held"


@dataclass(frozen=True)
class Finalizing:
    """Who finalizes, why also what is open, and with which date (None: today)."""

    actor: str
    accept_open: str | None = None
    issue_date: date | None = None


@dataclass(frozen=True)
class Decided:
    """One customer's invoices after the gate."""

    final: list[Document]
    proposal: Proposal
    held: list[Document]


def each_final(
    catalog: Catalog,
    url: Url,
    journal_url: JournalUrl | None,
    finalizing: Finalizing,
    *,
    as_of: datetime,
    tenant: str,
    customer: str | None = None,
    runner: str = "direct",
) -> Iterator[Document]:
    """Finalizes every invoice that is due and settled; yields all that are due.

    Those that are not settled are held, with the reason. A second run, or one after a
    kill, yields the same documents. All is final before the first one comes, and few are in
    memory. Raises ConfigurationError, before anything is written, for a date of issue
    before the last one of an issuer.
    """
    rounds: list[IO[bytes]] = []
    began = datetime.now(UTC)
    with (
        contextlib.ExitStack() as files,
        open_warehouse(url) as warehouse,
        open_journal(journal_url) as journal,
    ):
        issue = _issues(catalog, journal, tenant, finalizing.issue_date)
        with exclusive(warehouse, tenant) as lease:
            timeline = timeline_for(warehouse, tenant, catalog)
            remember(warehouse, tenant, catalog)
            project(journal, warehouse, tenant)
            chosen = None if customer is None else [customer]
            while chosen is None or chosen:
                if len(rounds) == ROUNDS:
                    raise JournalError(
                        "others finalized invoices of the same customers "
                        f"{ROUNDS} times over; run it again"
                    )
                file = files.enter_context(tempfile.TemporaryFile())
                rounds.append(file)
                owners = read_owners(warehouse, tenant)
                rated = rate(
                    catalog,
                    url,
                    journal_url,
                    customers=chosen,
                    as_of=as_of,
                    tenant=tenant,
                    proposals=True,
                    runner=runner,
                )
                chosen = []
                for some in _together(rated):
                    unsettled = _unsettled(
                        catalog, timeline, warehouse, url[0], tenant, owners, some, runner
                    )
                    decided = [
                        decide(catalog, each, unsettled, finalizing.accept_open, issue)
                        for each in some
                    ]
                    lease.check()
                    made, stale = _commit(journal, warehouse, tenant, decided, finalizing.actor)
                    chosen += stale
                    file.writelines(_ENCODER.encode(each) + b"\n" for each in in_order(made))
                project(journal, warehouse, tenant)
        yield from withdrawing(
            heapq.merge(*map(_read, rounds), key=place),
            warehouse,
            tenant,
            catalog,
            as_of=as_of,
            customer=customer,
            began=began,
        )


def _together(rated: Iterable[Mapping[str, Any]]) -> Iterator[list[Mapping[str, Any]]]:
    """Customers with so many invoices that they pass the gate together."""
    some: list[Mapping[str, Any]] = []
    size = 0
    for each in rated:
        some.append(each)
        size += max(len(each["invoices"]), 1)
        if size >= AT_THE_GATE:
            yield some
            some, size = [], 0
    if some:
        yield some


def _read(file: IO[bytes]) -> Iterator[Document]:
    """The documents of a round, by customer."""
    file.seek(0)
    for line in file:
        yield parse_json(line)  # type: ignore[misc]


def _issues(
    catalog: Catalog, journal: Journal, tenant: str, wanted: date | None
) -> Callable[[str], Issue]:
    """What a customer's documents get when they become final."""
    now = datetime.now(UTC)
    last = journal.last_issued(tenant)
    if wanted is not None:
        for name, before in sorted(last.items()):
            if wanted < before:
                raise ConfigurationError(
                    f"--issue-date must not be before {before}, on which issuer {name} has issued "
                    f"the last document (got {wanted})"
                )

    def issue(name: str) -> Issue:
        customer = catalog.customers_by_id[name]
        issuer: Issuer = catalog.issuer_of(customer)
        return Issue(
            issuer=issuer.id,
            number_format=issuer.number_format,
            issue_date=wanted or issuer.today(now),
            due_after_days=customer.payment_terms_days,
            parties={
                "seller": issuer.party,
                "buyer": {**customer.party, "name": customer.name},
            },
        )

    return issue


def _unsettled(
    catalog: Catalog,
    timeline: Timeline,
    warehouse: Warehouse,
    url: str,
    tenant: str,
    owners: Owners,
    rated: Iterable[Mapping[str, Any]],
    runner: str,
) -> dict[str, str]:
    """Why the usage of an invoice is not settled, by its id."""
    documents = [made["document"] for each in rated for made in each["invoices"]]
    if not documents:
        return {}
    periods = [usage_period(catalog, document) for document in documents]
    spans = sorted({(period.customer, period.start, period.end) for period in periods})
    notice(f"comparing usage with the raw events of {len(documents):,} invoices")
    findings = examine(timeline, warehouse, url, tenant, spans, runner, owners=owners)
    found = reasons(findings, periods)
    return {
        document["invoice_id"]: reason
        for document, reason in zip(documents, found, strict=True)
        if reason is not None
    }


def usage_period(catalog: Catalog, document: Document) -> UsagePeriod:
    """The usage that an invoice is for; empty for one at the start of a subscription.

    Where a meter is recurring, it begins with all that there ever was: events may name a
    subscription before it starts, and are carried into its bills.
    """
    start = datetime.fromisoformat(document["period_start"])
    meters = {line["meter"] for line in document["lines"] if line["meter"] is not None}
    if any(catalog.meters_by_id[name].recurring for name in meters):
        start = FIRST_INSTANT
    end = datetime.fromisoformat(document["period_end"])
    return UsagePeriod(document["customer"], document["subscription"], start, end)


def decide(
    catalog: Catalog,
    rated: Mapping[str, Any],
    unsettled: Mapping[str, str],
    accept_open: str | None,
    issue: Callable[[str], Issue],
) -> Decided:
    """What of one customer's invoices becomes final, and what is held, and why.

    An invoice waits for the one before it: the next one of its subscription, of its
    currency where the customer has credits, and any where it has entitlements, which its
    subscriptions share.
    """
    customer = rated["customer"]
    burning = {grant.currency for grant in catalog.grants_by_customer.get(customer, ())}
    waiting: set[tuple[str, str]] = set()
    postings: list[Posting] = []
    held: list[Document] = []
    for made in rated["invoices"]:
        document = made["document"]
        chains = {("subscription", document["subscription"])}
        if document["currency"] in burning:
            chains.add(("currency", document["currency"]))
        if catalog.entitlements_by_customer.get(customer):
            chains.add(("customer", customer))
        reason, accepted = unsettled.get(document["invoice_id"]), ""
        if reason is not None and accept_open is not None:
            reason, accepted = None, f"{reason}: {accept_open}"
        reason = reason or document["hold_reason"]
        if reason is None and chains & waiting:
            reason = EARLIER_HELD
        if reason is not None:
            waiting |= chains
            held.append({**document, "status": "held", "hold_reason": reason})
            continue
        postings.append(
            Posting(
                document=document,
                entries=[Entry(**entry) for entry in made["entries"]],
                redemptions=made["redemptions"],
                carried=made["carried"],
                reason=accepted,
            )
        )
    proposal = Proposal(customer, rated["version"], issue(customer), postings)
    return Decided(list(rated["final"]), proposal, held)


def _commit(
    journal: Journal,
    warehouse: Warehouse,
    tenant: str,
    decided: Sequence[Decided],
    actor: str,
) -> tuple[list[Document], list[str]]:
    """Commit; returns all documents of the customers that are done, and the stale customers."""
    done: list[Document] = []
    stale: list[str] = []
    batch: list[Decided] = []
    size = 0
    for position, each in enumerate(decided, start=1):
        batch.append(each)
        size += len(each.proposal.postings)
        if size < AT_ONCE and position < len(decided):
            continue
        made, late = journal.finalize(tenant, [one.proposal for one in batch], actor=actor)
        fresh = [one for one in batch if one.proposal.customer not in late]
        held = [document for one in fresh for document in one.held]
        if held:
            write_invoices(warehouse, tenant, held)
        done += [document for one in fresh for document in one.final] + made + held
        stale += late
        batch, size = [], 0
    return done, stale
