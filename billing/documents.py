"""Documents for people: an invoice as HTML (and so PDF) and as CSV.

    document + presentation (+ explanation) --render_html--> a page that needs nothing else
    document                                --render_csv---> one row for each line

A document is the JSON object of `Invoice.to_dict()`, as it is stored. The presentation
says in which language and time zone it is read, and who the two sides are. With an
explanation (`billing.explanations`) the page shows how each amount came about, and charts
of usage by local day. All that comes from elsewhere is escaped.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import date, timedelta
from decimal import Decimal
from functools import cache
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from billing import charts
from billing.explanation_words import line_words
from billing.wording import Words
from meters.catalog import Catalog
from meters.catalog_issuers import DEFAULT_ISSUER, Party
from meters.numbers import plain
from meters.scalars import Scalar, canonical_json
from meters.timestamps import parse_timestamp
from meters.zones import zone_info

Document = Mapping[str, Any]

CSV_COLUMNS = (
    *("invoice_id", "number", "status", "customer", "subscription", "currency", "line_id"),
    *("charge", "meter", "group", "service_start", "service_end", "quantity", "unit_amount"),
    *("amount_exact", "amount", "discount", "credit", "tax_code", "tax_rate", "tax"),
    *("total", "description"),
)


@dataclass(frozen=True)
class Presentation:
    """How a document is shown, and to whom.

    `titles` names charges by id, `contained` the taxes that prices contain.
    """

    language: str = "en"
    time_zone: str = "UTC"
    customer: str = ""
    buyer: Mapping[str, str | None] = field(default_factory=dict)
    seller: Mapping[str, str | None] = field(default_factory=dict)
    titles: Mapping[str, str] = field(default_factory=dict)
    contained: frozenset[str] = frozenset()


def presentation_of(
    catalog: Catalog, document: Document, language: str | None = None
) -> Presentation:
    """The presentation of a document to its customer; `language` takes the place of theirs."""
    customer = catalog.customers_by_id.get(str(document["customer"]))
    issuers = {issuer.id: issuer for issuer in catalog.issuers}
    named = document.get("issuer") or (None if customer is None else customer.issuer)
    first = catalog.issuers[0] if catalog.issuers else DEFAULT_ISSUER
    seller: Party = issuers.get(str(named), first)
    charges = [charge for plan in catalog.plans for charge in plan.charges]
    charges += [c for plan in catalog.plans for version in plan.versions for c in version.charges]
    return Presentation(
        language=language or (customer.language if customer is not None else "en"),
        time_zone="UTC" if customer is None else customer.time_zone,
        customer=str(document["customer"]) if customer is None else customer.name or customer.id,
        buyer={} if customer is None else customer.party,
        seller=seller.party,
        titles={charge.id: charge.description for charge in charges if charge.description},
        contained=frozenset(tax.id for tax in catalog.taxes if tax.inclusive),
    )


def render_html(
    document: Document, shown: Presentation, explanation: Document | None = None
) -> str:
    """The document as one HTML page without scripts or anything from elsewhere."""
    words = Words(shown.language)
    page: str = _template().render(
        words=words,
        document=document,
        shown=shown,
        facts=list(_facts(document, shown, words)),
        lines=list(_rows(document, shown, words, explanation)),
        sums=list(_sums(document, words)),
        charts=list(_charts(shown, words, explanation)),
        money=lambda amount: words.money(amount, document["currency"]),
        notes=list(_notes(document, words, explanation)),
    )
    return page


def render_csv(document: Document) -> str:
    """The lines of the document, a header first; cells never begin a formula."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(CSV_COLUMNS)
    for line in document["lines"]:
        row = {**document, **line, "group": canonical_json(line["group"])}
        row["total"] = _line_total(line)
        writer.writerow(_cell(row.get(name)) for name in CSV_COLUMNS)
    return buffer.getvalue()


def _cell(value: object) -> str:
    """A cell; text that a spreadsheet would run as a formula gets an apostrophe."""
    text = "" if value is None else str(value)
    runs = text[:1] in ("=", "+", "@", "\t", "\r") or (text[:1] == "-" and not _is_number(text))
    return f"'{text}" if runs else text


def _is_number(text: str) -> bool:
    return text[1:].replace(".", "", 1).isdigit()


def _line_total(line: Document) -> str:
    parts = [Decimal(line[name]) for name in ("amount", "discount", "credit", "tax")]
    amount, discount, credit, tax = parts
    return str(amount - discount - credit + tax)


@cache
def _template() -> Any:
    environment = Environment(
        loader=PackageLoader("billing"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("invoice.html")


def _facts(document: Document, shown: Presentation, words: Words) -> Iterator[tuple[str, str]]:
    """Names and values of the header."""
    if document.get("number"):
        yield words.text("number"), str(document["number"])
    else:
        yield words.text("id"), str(document["invoice_id"])
    for name in ("issue_date", "due_date"):
        if document.get(name):
            yield words.text(name), words.day(date.fromisoformat(document[name]))
    if not document.get("issue_date") and document.get("billing_date"):
        at = parse_timestamp(document["billing_date"])
        yield words.text("billing_date"), words.local_day(at, shown.time_zone)
    if document.get("period_start") and document["period_start"] != document["period_end"]:
        start, end = document["period_start"], document["period_end"]
        yield words.text("period"), _span(start, end, shown, words)
    if document.get("subscription"):
        yield words.text("subscription"), str(document["subscription"])


def _span(start: str | None, end: str | None, shown: Presentation, words: Words) -> str:
    """Local days from the first to the last one; the end of a span is not within it."""
    if start is None or end is None:
        return ""
    last = parse_timestamp(end) - timedelta(microseconds=1)
    days = [words.local_day(at, shown.time_zone) for at in (parse_timestamp(start), last)]
    return days[0] if days[0] == days[1] else words.text("from_to", start=days[0], end=days[1])


def _rows(
    document: Document, shown: Presentation, words: Words, explanation: Document | None
) -> Iterator[dict[str, Any]]:
    currency = document["currency"]
    explained = {} if explanation is None else {x["line_id"]: x for x in explanation["lines"]}
    for line in document["lines"]:
        details = [] if explanation is not None else [line["description"]]
        found = explained.get(line["line_id"])
        if found is not None:
            details = (
                list(line_words(found, currency, words))
                if found["matches"]
                else [line["description"]]
            )
        for name in ("discount", "credit"):
            if Decimal(line[name]):
                amount = words.money(line[name], currency)
                details.append(words.text(f"line_{name}", amount=amount))
        unit = line["unit_amount"]
        yield {
            "title": shown.titles.get(line["charge"], line["charge"]),
            "group": group_texts(line["group"]),
            "service": _span(line["service_start"], line["service_end"], shown, words),
            "quantity": words.number(line["quantity"]),
            "unit": "" if unit is None else words.money(unit, currency),
            "tax": "" if line["tax_rate"] is None else f"{words.number(line['tax_rate'])} %",
            "amount": words.money(line["amount"], currency),
            "details": details,
        }


def group_texts(group: Mapping[str, Scalar]) -> list[str]:
    """The values of a line's group, as they are shown: `region: eu`, `region: -` for none."""
    return [f"{name}: {_value(value)}" for name, value in group.items()]


def _value(value: Scalar) -> str:
    return "-" if value is None else value if isinstance(value, str) else canonical_json(value)


def _sums(document: Document, words: Words) -> Iterator[tuple[str, str, str]]:
    """Kind, name and amount of each sum, in the order in which they add up."""
    currency = document["currency"]
    yield "", words.text("subtotal"), words.money(document["subtotal"], currency)
    for name in ("discount", "credit"):
        if Decimal(document[name]):
            yield "", words.text(name), words.money(-Decimal(document[name]), currency)
    for code, rate, net, tax in _taxes(document):
        name = words.text(
            "tax_on", tax=code, rate=words.number(rate), net=words.money(net, currency)
        )
        yield "", name, words.money(tax, currency)
    yield "strong", words.text("total"), words.money(document["total"], currency)
    if Decimal(document["prepaid"]):
        yield "", words.text("prepaid"), words.money(-Decimal(document["prepaid"]), currency)
    yield "due", words.text("due"), words.money(document["due"], currency)


def _taxes(document: Document) -> Iterator[tuple[str, str, Decimal, Decimal]]:
    found: dict[tuple[str, str], tuple[Decimal, Decimal]] = {}
    for line in document["lines"]:
        if line["tax_code"] is not None:
            key = line["tax_code"], line["tax_rate"]
            net, tax = found.get(key, (Decimal(0), Decimal(0)))
            net += Decimal(line["amount"]) - Decimal(line["discount"]) - Decimal(line["credit"])
            found[key] = net, tax + Decimal(line["tax"])
    for (code, rate), (net, tax) in found.items():
        yield code, plain(Decimal(rate)), net, tax


def _charts(
    shown: Presentation, words: Words, explanation: Document | None
) -> Iterator[dict[str, Any]]:
    """A chart of each meter, group and span that lines are for, by local day."""
    lines: dict[tuple[str, ...], list[Mapping[str, Any]]] = {}
    for line in () if explanation is None else explanation["lines"]:
        if len(line["days"]) > 1 and any(day["value"] is not None for day in line["days"]):
            span = line["service_start"], line["service_end"]
            key = line["meter"], canonical_json(line["group"]), *span
            lines.setdefault(key, []).append(line)
    for found in lines.values():
        line = found[0]
        names = dict.fromkeys(shown.titles.get(x["charge"], x["charge"]) for x in found)
        title = ", ".join(names)
        group = ", ".join(_value(value) for value in line["group"].values())
        zone = zone_info(shown.time_zone)
        values = []
        for day in line["days"]:
            name = words.day(parse_timestamp(day["start"]).astimezone(zone).date())
            value = None if day["value"] is None else Decimal(day["value"])
            values.append((name, value, "" if value is None else words.number(day["value"])))
        yield {
            "title": f"{title} ({group})" if group else title,
            "total": words.number(line["steps"][0]["quantity"]),
            # The chart escapes what it is given.
            "svg": Markup(charts.bars(values, title)),  # noqa: S704
        }


def _notes(document: Document, words: Words, explanation: Document | None) -> Iterator[str]:
    if explanation is None:
        return
    currency = document["currency"]
    for each in explanation["coupons"] or ():
        amount = words.money(-Decimal(each["amount"]), currency)
        yield words.text("coupon", coupon=each["coupon"], amount=amount)
    for each in explanation["credits"] or ():
        amount = words.money(-Decimal(each["amount"]), currency)
        yield words.text(f"grant_{each['kind']}", grant=each["grant"], amount=amount)
    if not explanation["matches"]:
        yield words.text("changed")
