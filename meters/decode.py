"""Decoding: raw columns of a source become events, or go to quarantine.

One function over a whole batch, no Python per row except for hashing. A row is
refused as a whole for the first rule that it breaks, in the order of `_refusals`;
the others become `EVENT_SCHEMA`. That the properties are a JSON object is found by
`meters.projection`, which parses them anyway.
"""

from __future__ import annotations

from dataclasses import dataclass

import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from meters import timestamps
from meters.errors import Rejected
from meters.event import EVENT_SCHEMA, HASH, INSTANT, QUARANTINE_SCHEMA, content_prefix, hash128
from meters.scalars import canonical_json, parse_json

IDS = ("event_id", "event_name", "external_customer_id")
MAX_ID_BYTES = 1024

_RANGE = "not before 1970 and at most 24 h after the event was ingested"


@dataclass(frozen=True)
class Decoded:
    """The events of one batch and the rows that were refused."""

    events: pa.Table
    quarantine: pa.Table


def decode(raw: pa.Table, tenant: str, origin: str, rows: pa.Array) -> Decoded:
    """Apply the rules of the event to one batch of raw columns.

    `raw` has the columns event_id, event_name, external_customer_id,
    external_subscription_id, source and properties as text, timestamp and
    ingested_at as text or as UTC instants; `rows` numbers the rows in `origin`.
    """
    frame = pl.DataFrame(pl.from_arrow(raw)).with_columns(
        _microseconds(raw, "timestamp"), _microseconds(raw, "ingested_at")
    )
    frame = frame.with_columns(_refusals().alias("reason"))
    refused = frame["reason"].is_not_null()
    keep: pa.Array = (~refused).to_arrow() if refused.any() else None
    return Decoded(
        events=_events(raw, frame, tenant, origin, rows, keep),
        quarantine=_quarantine(raw, frame, tenant, origin, rows, refused),
    )


def _microseconds(raw: pa.Table, name: str) -> pl.Series:
    column = raw.column(name)
    if pa.types.is_timestamp(column.type):
        return pl.Series(f"{name}_us", pl.from_arrow(column.cast(INSTANT, safe=False))).cast(
            pl.Int64
        )
    texts = pl.Series(f"{name}_us", pl.from_arrow(column.cast(pa.string())))
    if texts.n_unique() == 1 and texts.len() > 1:
        return (
            timestamps.parse_timestamps(texts[:1])
            .rename(f"{name}_us")
            .new_from_index(0, texts.len())
        )
    return timestamps.parse_timestamps(texts).rename(f"{name}_us")


def _refusals() -> pl.Expr:
    """The code of the first rule that a row breaks, as `field|reason`, or null."""
    rules: list[tuple[str, pl.Expr]] = []
    for name in IDS:
        rules.append((f"{name}|missing_field", pl.col(name).is_null()))
        rules.append((f"{name}|empty_field", pl.col(name) == ""))
        rules.append((f"{name}|too_long", pl.col(name).str.len_bytes() > MAX_ID_BYTES))
    at, seen = pl.col("timestamp_us"), pl.col("ingested_at_us")
    rules += [
        ("external_subscription_id|empty_field", pl.col("external_subscription_id") == ""),
        ("timestamp|missing_field", pl.col("timestamp").is_null()),
        ("timestamp|invalid_timestamp", at.is_null()),
        ("ingested_at|invalid_timestamp", seen.is_null()),
        ("ingested_at|timestamp_out_of_range", seen < 0),
        ("timestamp|timestamp_out_of_range", (at < 0) | (at > seen + timestamps.MAX_AHEAD)),
        ("properties|invalid_json", ~pl.col("properties").fill_null("{}").str.contains(r"^\s*\{")),
    ]
    code = pl.lit(None, pl.String)
    for label, broken in reversed(rules):
        code = pl.when(broken).then(pl.lit(label)).otherwise(code)
    return code


def _events(
    raw: pa.Table,
    frame: pl.DataFrame,
    tenant: str,
    origin: str,
    rows: pa.Array,
    keep: pa.Array | None,
) -> pa.Table:
    columns: dict[str, pa.Array | pa.ChunkedArray] = {
        name: raw.column(name).cast(pa.string())
        for name in (*IDS, "external_subscription_id", "source")
    }
    properties = raw.column("properties").cast(pa.string())
    columns["properties"] = pc.fill_null(properties, "{}") if properties.null_count else properties
    columns["timestamp"] = frame["timestamp_us"].to_arrow()
    columns["ingested_at"] = frame["ingested_at_us"].to_arrow()
    columns["origin_row"] = rows
    table = pa.table(columns)
    if keep is not None:
        table = table.filter(keep)
    table = table.combine_chunks()
    size = table.num_rows
    table = (
        table.append_column("tenant_id", _constant(tenant, size))
        .append_column("origin", _constant(origin, size))
        .append_column("identity_hash", _hashes(table.column("event_id")))
        .append_column("content_hash", _hashes(_content(table)))
    )
    return table.select(EVENT_SCHEMA.names).cast(EVENT_SCHEMA)


def _constant(text: str, size: int) -> pa.Array:
    return pa.repeat(pa.scalar(text, pa.string()), size)


def _hashes(texts: pa.ChunkedArray) -> pa.Array:
    values = hash128(texts.cast(pa.binary()).to_pylist())
    return pa.FixedSizeBinaryArray.from_buffers(
        HASH, len(values), [None, pa.py_buffer(b"".join(values))]
    )


def _content(table: pa.Table) -> pa.ChunkedArray:
    """The text that `meters.event.content_hash` hashes, for each row."""
    names = ["event_name", "external_subscription_id", "source"]
    keys = pl.DataFrame(pl.from_arrow(table.select(names)))
    distinct = keys.unique()
    prefixes = [content_prefix(*row) for row in distinct.iter_rows()]
    if len(prefixes) == 1:
        prefix: object = prefixes[0]
    else:
        joined = keys.join(
            distinct.with_columns(pl.Series("prefix", prefixes)),
            on=names,
            how="left",
            nulls_equal=True,
            maintain_order="left",
        )
        prefix = joined["prefix"].to_arrow().cast(pa.string())
    at = table.column("timestamp").cast(pa.int64()).cast(pa.string())
    return pc.binary_join_element_wise(prefix, at, table.column("properties"), "")


def _quarantine(
    raw: pa.Table,
    frame: pl.DataFrame,
    tenant: str,
    origin: str,
    rows: pa.Array,
    refused: pl.Series,
) -> pa.Table:
    if not refused.any():
        return QUARANTINE_SCHEMA.empty_table()
    mask = refused.to_arrow()
    bad = raw.filter(mask).to_pylist()
    numbers = rows.filter(mask).to_pylist()
    codes = frame["reason"].filter(refused).to_list()
    entries = [
        _entry(row, number, code, tenant, origin)
        for row, number, code in zip(bad, numbers, codes, strict=True)
    ]
    return pa.Table.from_pylist(entries, QUARANTINE_SCHEMA)


def _entry(
    row: dict[str, object], number: int, code: str, tenant: str, origin: str
) -> dict[str, object]:
    field, reason = code.split("|")
    expected = {
        "missing_field": "present",
        "empty_field": "a non-empty string",
        "too_long": f"at most {MAX_ID_BYTES} bytes long",
        "invalid_timestamp": timestamps.EXPECTED,
        "timestamp_out_of_range": _RANGE,
        "invalid_json": "a JSON object",
    }[reason]
    return {
        "tenant_id": tenant,
        "origin": origin,
        "origin_row": number,
        "reason": reason,
        "meter": "",
        "field": field,
        "detail": Rejected(reason, field, _shown(row[field]), expected).detail,
        "event_id": row["event_id"] or "",
        "external_customer_id": row["external_customer_id"] or "",
        "payload": payload(row),
    }


def _shown(value: object) -> object:
    isoformat = getattr(value, "isoformat", None)
    return isoformat() if isoformat else value


def payload(row: dict[str, object]) -> str:
    """The event as one line of JSON, as a replay would read it; nulls are left out.

    Properties that are no JSON stand as text, so that nothing of them is lost.
    """
    shown = {name: str(_shown(value)) for name, value in row.items() if value is not None}
    properties = shown.pop("properties", None)
    fields: dict[str, object] = dict(shown)
    if properties is not None:
        try:
            fields["properties"] = parse_json(properties)
        except ValueError:
            fields["properties"] = properties
    return canonical_json(fields)
