"""The results of each command in each format."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import click

from runners.output import Format, print_csv, print_json, print_json_list, print_table, text

Invoice = dict[str, Any]

USAGE = {
    "customer": "customer",
    "subscription": "subscription",
    "meter": "meter",
    "start": "start",
    "end": "end",
    "group": "group",
    "value": "value",
    "events": "events",
}
HEADER = (
    "invoice_id",
    "status",
    "customer",
    "subscription",
    "currency",
    "period_start",
    "period_end",
)
SUMS = ("subtotal", "discount", "credit", "tax", "total", "prepaid", "due")
LINE = ("charge", "meter", "group", "quantity", "amount", "description")


def show_facts(facts: Mapping[str, object], form: Format) -> None:
    """Names and values."""
    if form == "json":
        print_json(facts)
    elif form == "csv":
        print_csv([facts], list(facts))
    else:
        width = max(len(name) for name in facts)
        for name, value in facts.items():
            shown = f"{value:,}" if isinstance(value, int) else text(value)
            click.echo(f"{name.replace('_', ' '):<{width}}  {shown:>12}")


def show_rows(
    rows: Sequence[Mapping[str, object]],
    columns: Sequence[str],
    form: Format,
    *,
    right: Sequence[str] = (),
    none: str = "none",
) -> None:
    """Rows of these columns; `none` is what people see where there are no rows."""
    if form == "json":
        print_json(rows)
    elif form == "csv":
        print_csv(rows, columns)
    elif not rows:
        click.echo(none)
    else:
        print_table(rows, {name: name.replace("_", " ") for name in columns}, right=right)


def show_usage(rows: Sequence[Mapping[str, object]], form: Format) -> None:
    """Usage cells; in a table, columns that say nothing are left out."""
    if form == "json":
        print_json(rows)
    elif form == "csv":
        print_csv(rows, list(USAGE))
    elif not rows:
        click.echo("no usage")
    else:
        columns = {
            name: heading
            for name, heading in USAGE.items()
            if name != "group" or any(row["group"] for row in rows)
        }
        shown = [{**row, "group": _group(row["group"])} for row in rows]
        print_table(shown, columns, right=("value", "events"))


def show_invoices(invoices: Iterable[Invoice], form: Format) -> None:
    """Invoices: documents in JSON, one row a line in CSV, one table each for people.

    One of them is in memory at a time.
    """
    if form == "json":
        print_json_list(invoices)
    elif form == "csv":
        columns = [*HEADER, "line_id", *LINE, "service_start", "service_end", "amount_exact"]
        print_csv(
            ({**invoice, **line} for invoice in invoices for line in invoice["lines"]), columns
        )
    else:
        shown = False
        for invoice in invoices:
            _show_invoice(invoice)
            shown = True
        if not shown:
            click.echo("nothing to bill")


def show_quote(invoice: Invoice, plan: str, form: Format) -> None:
    """One invoice object; people also see which plan was asked for."""
    if form == "json":
        print_json(invoice)
    elif form == "csv":
        show_invoices([invoice], form)
    else:
        _show_invoice(invoice, f"plan {plan}")


def _show_invoice(invoice: Invoice, about: str = "") -> None:
    title = " · ".join(
        part
        for part in (
            about,
            text(invoice["customer"]),
            text(invoice["subscription"]),
            _span(invoice),
            text(invoice["number"]),
            text(invoice["status"]),
            text(invoice["hold_reason"]),
        )
        if part
    )
    columns = {
        "charge": "charge",
        "group": "group",
        "quantity": "quantity",
        "description": "how it comes about",
        "amount": f"amount {invoice['currency']}",
    }
    lines = [{**line, "group": _group(line["group"])} for line in invoice["lines"]]
    if not any(line["group"] for line in lines):
        del columns["group"]
    left_out = {"subtotal"} if invoice["prepaid"].strip("-0.") else {"subtotal", "due"}
    sums = [
        {"description": name, "amount": invoice[name]}
        for name in SUMS
        if name == "total" or (name not in left_out and invoice[name].strip("-0."))
    ]
    if len(sums) > 1:
        sums.insert(0, {"description": "subtotal", "amount": invoice["subtotal"]})
    click.echo(title)
    print_table([*lines, *sums], columns, right=("quantity", "amount"))


def _span(invoice: Invoice) -> str:
    start, end = invoice["period_start"], invoice["period_end"]
    if start is None:
        return "one period"
    return f"at {start}" if start == end else f"{start} to {end}"


def _group(group: object) -> str:
    if not isinstance(group, dict):
        return text(group)
    return ", ".join(
        f"{name}={'null' if value is None else text(value)}" for name, value in group.items()
    )
