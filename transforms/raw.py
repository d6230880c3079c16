"""What reading gives: raw columns of events, and rows that could not be read at all.

Every row of an input is either a row of `RawBatch.columns` or one `BadRow`, never
both and never neither, so that the counts of a run add up to what was read.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import pyarrow as pa

from meters.event import QUARANTINE_SCHEMA
from meters.mapping import FIELDS

MAX_PAYLOAD = 64 * 1024
"""The bytes of a refused row that are kept with it."""

MAX_ROW = 16 * 1024 * 1024
"""The bytes that one row of a text file may have."""


@dataclass(frozen=True)
class BadRow:
    """A row that goes to quarantine unread: where it stands, why, and what it said.

    `row` counts from 1; for an `unreadable_file` it is the first row that could not
    be read, or 0 where that is the whole file, and the one `BadRow` stands for all
    rows from there on. Bytes that are no UTF-8 stand in `payload` as `\\xNN`; what
    exceeds `MAX_PAYLOAD` bytes is cut off and said so.
    """

    origin: str
    row: int
    reason: str
    field: str
    detail: str
    payload: str


@dataclass(frozen=True)
class RawBatch:
    """Raw columns of some rows of one file, in the file's order.

    `columns` has `meters.mapping.FIELDS`: strings, except that the two times are
    `timestamp[us, UTC]` where the source is typed or a time format or zone was
    mapped; null where the source has nothing. `rows` numbers them in `origin`.
    """

    origin: str
    columns: pa.Table
    rows: pa.Array
    bad: list[BadRow] = field(default_factory=list)

    @classmethod
    def only_bad(cls, origin: str, *bad: BadRow) -> RawBatch:
        """A batch without events."""
        columns = pa.table({name: pa.nulls(0, pa.string()) for name in FIELDS})
        return cls(origin, columns, pa.nulls(0, pa.int64()), list(bad))


def payload_text(data: bytes | str, size: int | None = None) -> str:
    """What is kept of a refused row; see `BadRow`.

    `size` is the row's length in bytes where `data` is only its start.
    """
    raw = data.encode("utf-8", "backslashreplace") if isinstance(data, str) else data
    total = len(raw) if size is None else size
    if total <= MAX_PAYLOAD:
        return raw.decode("utf-8", "backslashreplace")
    end = min(len(raw), MAX_PAYLOAD)
    while end < len(raw) and end > MAX_PAYLOAD - 4 and raw[end] & 0xC0 == 0x80:
        end -= 1
    return f"{raw[:end].decode('utf-8', 'backslashreplace')}... [cut off, {total} bytes]"


def quarantined(rows: Iterable[BadRow], tenant: str) -> pa.Table:
    """Rows that could not be read, in `QUARANTINE_SCHEMA`."""
    entries = [
        {
            "tenant_id": tenant,
            "origin": row.origin,
            "origin_row": row.row,
            "reason": row.reason,
            "meter": "",
            "field": row.field,
            "detail": row.detail,
            "event_id": "",
            "external_customer_id": "",
            "payload": row.payload,
        }
        for row in rows
    ]
    return pa.Table.from_pylist(entries, QUARANTINE_SCHEMA)
