"""Documents of invoices as columns: each with its JSON text, what SQL asks for beside it.

    documents --Rows.of--> rows of `invoices` and `invoice_lines` --written--> with a revision

Every line's text is written once, and stands within that of its invoice.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Self

import msgspec
import pyarrow as pa
import pyarrow.compute as pc

from meters.scalars import canonical_json

Document = Mapping[str, object]
"""An invoice as `Invoice.to_dict()` gives it."""

TABLES = ("invoice_lines", "invoices")
"""Where the rows go, in the order in which they are written."""

_ENCODER = msgspec.json.Encoder()
_AMOUNT = pa.decimal128(38, 12)
_INSTANT = pa.timestamp("us", "UTC")
_PLAIN = frozenset((str, int, bool, type(None)))
"""Types of values whose JSON text is the canonical one as it is."""

_HEADER_TEXTS = (
    "invoice_id",
    "kind",
    "status",
    "number",
    "issuer",
    "currency",
    "billing_group",
    "catalog_hash",
    "hold_reason",
    "original_invoice_id",
    "reason_code",
    "target_hash",
)
_HEADER_AMOUNTS = ("subtotal", "discount", "credit", "tax", "total", "prepaid", "due")
_HEADER_INSTANTS = ("billing_date", "period_start", "period_end")
_LINE_TEXTS = (
    "line_id",
    "charge",
    "plan_version",
    "meter",
    "quantity",
    "unit_amount",
    "amount_exact",
    "tax_code",
    "tax_rate",
    "description",
    "original_invoice_id",
    "original_line_id",
    "reason_code",
    "target_hash",
)
_LINE_AMOUNTS = ("amount", "discount", "credit", "tax")


@dataclass(frozen=True)
class Rows:
    """Invoices and their lines as columns, without tenant, revision and time of writing."""

    headers: pa.Table
    lines: pa.Table

    @classmethod
    def of(cls, documents: Sequence[Document]) -> Self:
        """The rows of documents, in their order."""
        lines_of = [_lines(document) for document in documents]
        lines = [line for each in lines_of for line in each]
        texts = [_line_text(line) for line in lines]
        rest = iter(texts)
        wholes = [
            _text({**document, "lines": [msgspec.Raw(next(rest)) for _ in each]}, document)
            for document, each in zip(documents, lines_of, strict=True)
        ]
        return cls(
            pa.table({**_header_columns(documents), "document": pa.array(wholes, pa.string())}),
            pa.table(
                {
                    "invoice_id": _repeated(_texts(documents, "invoice_id"), lines_of),
                    "position": pa.array(
                        [at for each in lines_of for at in range(len(each))], pa.uint32()
                    ),
                    **_line_columns(lines),
                    "document": pa.array(texts, pa.binary()).cast(pa.string()),
                }
            ),
        )

    @property
    def ids(self) -> list[str]:
        """The ids of the invoices."""
        found: list[str] = self.headers["invoice_id"].to_pylist()
        return found

    @property
    def documents(self) -> list[str]:
        """The JSON texts of the invoices."""
        found: list[str] = self.headers["document"].to_pylist()
        return found

    def only(self, ids: Sequence[str]) -> Rows:
        """The rows of some invoices."""
        chosen = pa.array(ids, pa.string())
        tables = (
            table.filter(pc.is_in(table["invoice_id"], value_set=chosen))
            for table in (self.headers, self.lines)
        )
        return Rows(*tables)

    def written(
        self, tenant: str, revisions: Sequence[int], now: datetime
    ) -> tuple[pa.Table, pa.Table]:
        """Rows for `TABLES`, all columns; `revisions` are those of the invoices, in order."""
        given = pa.array(revisions, pa.uint64())
        of_line = pc.index_in(self.lines["invoice_id"], value_set=self.headers["invoice_id"])
        lines = _stamped(self.lines, tenant, given.take(of_line), now)
        none = pa.repeat(pa.scalar(0, pa.uint8()), lines.num_rows)
        return lines.append_column("is_deleted", none), _stamped(self.headers, tenant, given, now)


def document_text(value: object) -> str:
    """The JSON text of a document: canonical numbers and texts, keys in the order given."""
    return _ENCODER.encode(_canonical(value)).decode()


def _canonical(value: object) -> object:
    """The value with all numbers as their canonical text; most of it is text already."""
    if value is None or isinstance(value, str | bool | msgspec.Raw):
        return value
    if isinstance(value, Mapping):
        return {
            key: item if item is None or item.__class__ is str else _canonical(item)
            for key, item in value.items()
        }
    if isinstance(value, list | tuple):
        return [_canonical(item) for item in value]
    return msgspec.Raw(canonical_json(value).encode())


def _line_text(line: Document) -> bytes:
    checked = line if line.get("group") else {**line, "group": None}
    plain = _PLAIN.issuperset(map(type, checked.values()))
    return _ENCODER.encode(line if plain else _canonical(line))


def _text(whole: dict[str, object], document: Document) -> str:
    """The text of a document whose lines have theirs already."""
    plain = _PLAIN.issuperset(map(type, {**document, "lines": None}.values()))
    return _ENCODER.encode(whole).decode() if plain else document_text(whole)


def _stamped(
    table: pa.Table, tenant: str, revisions: pa.Array | pa.ChunkedArray, now: datetime
) -> pa.Table:
    rows = table.num_rows
    return (
        table.append_column("tenant_id", pa.repeat(pa.scalar(tenant, pa.string()), rows))
        .append_column("revision", revisions)
        .append_column("updated_at", pa.repeat(pa.scalar(now, _INSTANT), rows))
    )


def _header_columns(documents: Sequence[Document]) -> dict[str, pa.Array]:
    return {
        "external_customer_id": _texts(documents, "customer"),
        "external_subscription_id": _texts(documents, "subscription"),
        **{name: _texts(documents, name) for name in _HEADER_TEXTS},
        **{name: _amounts(documents, name) for name in _HEADER_AMOUNTS},
        **{name: _instants(documents, name) for name in _HEADER_INSTANTS},
        **{name: _dates(documents, name) for name in ("issue_date", "due_date")},
        "sequence": _counts(documents, "sequence"),
    }


def _line_columns(lines: Sequence[Document]) -> dict[str, pa.Array]:
    groups = (line.get("group") for line in lines)
    return {
        "external_subscription_id": _texts(lines, "subscription"),
        **{name: _texts(lines, name) for name in _LINE_TEXTS},
        **{name: _amounts(lines, name) for name in _LINE_AMOUNTS},
        **{name: _instants(lines, name) for name in ("service_start", "service_end")},
        "group_key": pa.array(
            [canonical_json(group) if group else "{}" for group in groups], pa.string()
        ),
        "usage_revision": _counts(lines, "revision"),
    }


def _repeated(column: pa.Array, lines_of: Sequence[Sequence[Document]]) -> pa.Array:
    """The values, each as often as its invoice has lines."""
    return column.take(
        pa.array([at for at, each in enumerate(lines_of) for _ in each], pa.uint32())
    )


def _texts(documents: Sequence[Document], name: str) -> pa.Array:
    values = [document.get(name) for document in documents]
    try:
        return pa.array(values, pa.string()).fill_null("")
    except (pa.ArrowTypeError, pa.ArrowInvalid):
        return pa.array(["" if value is None else str(value) for value in values], pa.string())


def _amounts(documents: Sequence[Document], name: str) -> pa.Array:
    values = [document.get(name) or "0" for document in documents]
    return pa.array(values, pa.string()).cast(_AMOUNT)


def _instants(documents: Sequence[Document], name: str) -> pa.Array:
    values = [document.get(name) or None for document in documents]
    return pa.array(values, pa.string()).cast(_INSTANT)


def _dates(documents: Sequence[Document], name: str) -> pa.Array:
    values = [document.get(name) or None for document in documents]
    return pa.array(values, pa.string()).cast(pa.date32())


def _counts(documents: Sequence[Document], name: str) -> pa.Array:
    return pa.array([document.get(name) or 0 for document in documents], pa.uint32())


def _lines(document: Document) -> list[Document]:
    lines = document.get("lines")
    return [line for line in lines if isinstance(line, Mapping)] if isinstance(lines, list) else []
