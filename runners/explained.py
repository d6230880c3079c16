"""Stored invoices: explained, and written as documents for people."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator, Mapping, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any, TextIO

import click
import msgspec
import pyarrow as pa
import pyarrow.parquet as pq

from billing.documents import Presentation, group_texts, presentation_of, render_html
from billing.explanation_words import line_words
from billing.wording import Words, locale_of
from journal.journal import Journal
from meters.catalog import Catalog
from meters.catalog_file import load_catalog
from meters.errors import ConfigurationError
from runners.commands import Url
from runners.invoices import stored, stored_document
from runners.journals import JournalUrl
from runners.output import Format, print_csv, print_json
from transforms import explanations
from transforms.explained_events import events_of
from warehouse.client import Warehouse

_ENCODER = msgspec.json.Encoder(decimal_format="number")
_EVENT_FIELDS = (
    *("line_id", "meter", "event_id", "timestamp", "value", "bucket_start", "bucket_end"),
    *("status", "duplicate_of", "ingested_at"),
)
_EVENT_SCHEMA = pa.schema([(name, pa.string()) for name in _EVENT_FIELDS])
_AT_ONCE = 20_000


def run_explain(
    path: str | None,
    url: Url,
    journal: JournalUrl | None,
    *,
    invoice_id: str,
    lines: Sequence[str],
    events: Path | None,
    language: str | None,
    tenant: str,
    form: Format,
) -> None:
    """Print an explanation, and write the events behind it where asked for."""
    check_language(language)
    writer = None if events is None else _writer(events)
    with stored(url, journal, tenant) as (warehouse, opened):
        document = stored_document(warehouse, opened, tenant, invoice_id)
        known = {line["line_id"] for line in document["lines"]}
        for line in lines:
            if line not in known:
                raise ConfigurationError(f"--line must be a line of the invoice (got {line!r})")
        catalog = _catalog(path, warehouse, tenant, document)
        history = explanations.history_of(opened, tenant, document)
        found = explanations.explain(warehouse, tenant, catalog, document, history)
        if writer is not None and events is not None:
            rows = events_of(warehouse, tenant, catalog, document, lines)
            writer(events, rows)
    if lines:
        found["lines"] = [line for line in found["lines"] if line["line_id"] in lines]
    if form == "json":
        print_json(found)
    elif form == "csv":
        print_csv(_step_rows(found), _STEP_COLUMNS)
    else:
        _print_explanation(found, presentation_of(catalog, document, language))


def page(
    path: str | None,
    warehouse: Warehouse,
    journal: Journal | None,
    tenant: str,
    document: Mapping[str, Any],
    language: str | None,
) -> str:
    """The HTML page of a stored document."""
    catalog = _catalog(path, warehouse, tenant, document)
    history = explanations.history_of(journal, tenant, document)
    found = explanations.explain(warehouse, tenant, catalog, document, history)
    return render_html(document, presentation_of(catalog, document, language), found)


def to_pdf(html: str) -> bytes:
    """A page as PDF, with pages numbered. Raises ConfigurationError without the extra `pdf`."""
    try:
        from weasyprint import HTML
    except (ImportError, OSError) as error:
        raise ConfigurationError(
            f"--format pdf needs the extra 'pdf' (pip install 'beammeter[pdf]') and Pango ({error})"
        ) from None
    pdf: bytes = HTML(string=html, url_fetcher=_nothing_from_elsewhere).write_pdf()
    return pdf


def _nothing_from_elsewhere(url: str) -> dict[str, object]:
    raise ValueError(f"a document must need nothing from elsewhere (got {url})")


def check_language(language: str | None) -> None:
    """Raises ConfigurationError for what is no language."""
    if language is not None:
        try:
            locale_of(language)
        except ValueError as error:
            raise ConfigurationError(f"--language {error}") from None


def _catalog(
    path: str | None, warehouse: Warehouse, tenant: str, document: Mapping[str, Any]
) -> Catalog:
    if path is not None:
        return load_catalog(path)
    catalog = explanations.catalog_of(warehouse, tenant, document)
    if catalog is None:
        raise ConfigurationError(
            "--catalog must be given: the one that the invoice was made with was not kept "
            f"(got an invoice of catalog {document['catalog_hash']})"
        )
    return catalog


_STEP_COLUMNS = (
    *("line_id", "charge", "group", "step", "tier", "quantity", "unit_amount", "rate"),
    *("flat_amount", "limit", "factor", "percent", "amount"),
)
_SETTLED = ("rounding", "discount", "credit", "tax", "total")


def _step_rows(explanation: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """One row for each step; of a line, the rows before `total` sum to it."""
    for line in explanation["lines"]:
        named = {name: line[name] for name in ("line_id", "charge", "group")}
        for step in line["steps"]:
            yield {**named, **step}
        for name in _SETTLED:
            amount = Decimal(line[name])
            taken = name in ("discount", "credit")
            yield {**named, "step": name, "amount": str(-amount if taken and amount else amount)}
            if name == "rounding" and line["tax_contained"]:
                contained = str(-Decimal(line["tax_contained"]))
                yield {**named, "step": "tax_contained", "amount": contained}


def _print_explanation(explanation: Mapping[str, Any], shown: Presentation) -> None:
    words = Words(shown.language)
    currency = explanation["currency"]

    def money(amount: str) -> str:
        return words.money(amount, currency)

    kind = words.text("invoice")
    name = explanation["number"] or explanation["invoice_id"]
    click.echo(f"{kind} {name} · {shown.customer} · {explanation['status']}")
    for line in explanation["lines"]:
        title = shown.titles.get(line["charge"], line["charge"])
        group = ", ".join(group_texts(line["group"]))
        click.echo(f"\n{title}{f' ({group})' if group else ''}  [{line['line_id']}]")
        for text in line_words(line, currency, words):
            click.echo(f"    {text}")
        sums = {each: money(line[each]) for each in ("amount", "discount", "credit", "tax")}
        click.echo(f"    {words.text('line_total', **sums, total=money(line['total']))}")
    click.echo("")
    for each in explanation["coupons"] or ():
        amount = money(f"-{each['amount']}")
        click.echo(words.text("coupon", coupon=each["coupon"], amount=amount))
    for each in explanation["credits"] or ():
        amount = money(f"-{each['amount']}")
        click.echo(words.text(f"grant_{each['kind']}", grant=each["grant"], amount=amount))
    for each in explanation["taxes"]:
        net = money(each["net"])
        named = words.text("tax_on", tax=each["tax"], rate=words.number(each["rate"]), net=net)
        click.echo(f"{named}: {money(each['amount'])}")
    for each in ("subtotal", "discount", "credit", "tax", "total", "prepaid", "due"):
        click.echo(f"{words.text(each)}: {money(explanation[each])}")
    if not explanation["matches"]:
        click.echo(words.text("changed"))


_Rows = Iterable[Mapping[str, object]]


def _writer(file: Path) -> Any:
    writers = {".jsonl": _write_jsonl, ".csv": _write_csv, ".parquet": _write_parquet}
    if file.suffix not in writers:
        raise ConfigurationError(f"--events must end in .jsonl, .csv or .parquet (got {file})")
    return writers[file.suffix]


def _write_jsonl(file: Path, rows: _Rows) -> None:
    with file.open("wb") as out:
        for row in rows:
            out.write(_ENCODER.encode(row) + b"\n")


def _write_csv(file: Path, rows: _Rows) -> None:
    out: TextIO
    with file.open("w", encoding="utf-8", newline="") as out:
        writer = csv.DictWriter(out, _EVENT_FIELDS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def _write_parquet(file: Path, rows: _Rows) -> None:
    with pq.ParquetWriter(file, _EVENT_SCHEMA) as writer:
        piece: list[Mapping[str, object]] = []
        for row in rows:
            piece.append(row)
            if len(piece) == _AT_ONCE:
                writer.write_table(pa.Table.from_pylist(piece, _EVENT_SCHEMA))
                piece = []
        writer.write_table(pa.Table.from_pylist(piece, _EVENT_SCHEMA))
