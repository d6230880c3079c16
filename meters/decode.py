"""Decoding: raw columns of a source become events, or go to quarantine.

One function over a whole batch, no Python per row except for hashing. A row is
refused as a whole for the first rule that it breaks, in the order of `_rules`;
the others become `EVENT_SCHEMA`. That the properties are a JSON object is found by
`meters.projection`, which parses them anyway.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import chain

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from meters import timestamps
from meters.errors import Rejected
from meters.event import (
    EVENT_SCHEMA,
    HASH,
    INSTANT,
    QUARANTINE_SCHEMA,
    Uint64s,
    content_hashes,
    content_prefix,
    content_seeds,
    hash128,
)
from meters.quarantine import ORIGIN, Refusal, Texts, quarantine, shown
from meters.texts import one_chunk, pieces
from meters.zones import microseconds

IDS = ("event_id", "event_name", "external_customer_id")
SUBSCRIPTION = "external_subscription_id"
TIMES = ("timestamp", "ingested_at")
MAX_ID_BYTES = 1024

_FIRST = microseconds(timestamps.FIRST_INSTANT)
_END = microseconds(timestamps.END_OF_TIME)
_RANGE = "in the years 1970 to 2299, an event's at most 24 h after it was ingested"


@dataclass(frozen=True)
class Decoded:
    """The events of one batch and the rows that were refused.

    `kept` says which of the raw rows are events; None: all of them.
    """

    events: pa.Table
    quarantine: pa.Table
    kept: pa.Array | None = None


def decode(raw: pa.Table, tenant: str, origin: str | pa.Array, rows: pa.Array) -> Decoded:
    """Apply the rules of the event to one batch of raw columns.

    `raw` has the columns event_id, event_name, external_customer_id,
    external_subscription_id, source and properties as text, timestamp and
    ingested_at as text or as UTC instants; `rows` numbers the rows in `origin`, which
    may be one for each row.
    """
    origins = origin if isinstance(origin, pa.Array) else pa.repeat(pa.scalar(origin), len(rows))
    frame = _ruled(raw)
    rules = _rules()
    refused = frame.select(pl.any_horizontal(broken for _, broken in rules)).to_series()
    quarantine = QUARANTINE_SCHEMA.empty_table()
    if refused.any():
        code = pl.coalesce(pl.when(broken).then(pl.lit(label)) for label, broken in rules)
        codes = frame.filter(refused).select(code).to_series().to_list()
        quarantine = _quarantine(raw, codes, tenant, origins, rows, refused.to_arrow())
        keep = (~refused).to_arrow()
        raw, rows, frame = raw.filter(keep), rows.filter(keep), frame.filter(~refused)
        origins = origins.filter(keep)
        return replace(_events(raw, frame, tenant, origins, rows, quarantine), kept=keep)
    return _events(raw, frame, tenant, origins, rows, quarantine)


def refusals(raw: pa.Table) -> dict[int, Rejected]:
    """Which rows of raw columns are no events, and why: those that `decode` refuses."""
    frame = _ruled(raw)
    rules = _rules()
    refused = frame.select(pl.any_horizontal(broken for _, broken in rules)).to_series()
    if not refused.any():
        return {}
    code = pl.coalesce(pl.when(broken).then(pl.lit(label)) for label, broken in rules)
    codes = frame.filter(refused).select(code).to_series().to_list()
    texts = shown(raw.filter(refused.to_arrow()))
    rows = refused.arg_true().to_list()
    return {
        row: _rejected(texts, place, code)
        for place, (row, code) in enumerate(zip(rows, codes, strict=True))
    }


def _ruled(raw: pa.Table) -> pl.DataFrame:
    """What the rules look at."""
    return pl.DataFrame(
        [
            *(pl.Series(name, pl.from_arrow(raw.column(name))) for name in (*IDS, SUBSCRIPTION)),
            *(_microseconds(raw, name) for name in TIMES),
            pl.Series("timestamp_given", pl.from_arrow(raw.column("timestamp").is_valid())),
        ]
    )


def _microseconds(raw: pa.Table, name: str) -> pl.Series:
    column = raw.column(name)
    if pa.types.is_timestamp(column.type):
        instants = column.cast(INSTANT, safe=False).cast(pa.int64())
        return pl.Series(name, pl.from_arrow(instants))
    texts = pl.Series(name, pl.from_arrow(column.cast(pa.string())))
    if texts.len() > 1 and texts.n_unique() == 1:
        return timestamps.parse_timestamps(texts[:1]).new_from_index(0, texts.len()).rename(name)
    return timestamps.parse_timestamps(texts).rename(name)


def _rules() -> list[tuple[str, pl.Expr]]:
    """What makes a row no event, as (`field|reason`, broken); the first one counts."""
    rules: list[tuple[str, pl.Expr]] = []
    for name in IDS:
        rules.append((f"{name}|missing_field", pl.col(name).is_null()))
        rules.append((f"{name}|empty_field", pl.col(name) == ""))
        rules.append((f"{name}|too_long", pl.col(name).str.len_bytes() > MAX_ID_BYTES))
    at, seen = pl.col("timestamp"), pl.col("ingested_at")
    rules += [
        (f"{SUBSCRIPTION}|empty_field", pl.col(SUBSCRIPTION) == ""),
        ("timestamp|missing_field", pl.col("timestamp_given").not_()),
        ("timestamp|invalid_timestamp", at.is_null()),
        ("ingested_at|invalid_timestamp", seen.is_null()),
        ("ingested_at|timestamp_out_of_range", (seen < _FIRST) | (seen >= _END)),
        ("timestamp|timestamp_out_of_range", (at < _FIRST) | (at >= _END)),
        ("timestamp|timestamp_out_of_range", at > seen + timestamps.MAX_AHEAD),
    ]
    return [(label, broken.fill_null(False)) for label, broken in rules]


def _events(
    raw: pa.Table,
    frame: pl.DataFrame,
    tenant: str,
    origins: pa.Array,
    rows: pa.Array,
    quarantine: pa.Table,
) -> Decoded:
    size = raw.num_rows
    texts = _strings(raw, "properties")
    if texts.null_count:
        texts = pc.fill_null(texts, "{}")
    ids = _strings(raw, "event_id")
    seeds = _seeds(raw, frame["timestamp"])
    columns = {
        "tenant_id": pa.repeat(pa.scalar(tenant, pa.string()), size),
        **{name: _strings(raw, name) for name in (*IDS, SUBSCRIPTION, "source")},
        **{name: frame[name].to_arrow().cast(INSTANT) for name in TIMES},
        "properties": texts,
        "origin": origins,
        "origin_row": rows,
        "identity_hash": _hashes(hash128(chain.from_iterable(pieces(ids)))),
        "content_hash": _hashes(content_hashes(seeds.tolist(), chain.from_iterable(pieces(texts)))),
    }
    events = pa.table({name: columns[name] for name in EVENT_SCHEMA.names}, schema=EVENT_SCHEMA)
    return Decoded(events, quarantine)


def _strings(raw: pa.Table, name: str) -> pa.Array:
    return one_chunk(raw.column(name).cast(pa.string()))


def _hashes(values: list[bytes]) -> pa.Array:
    data = pa.py_buffer(b"".join(values))
    return pa.FixedSizeBinaryArray.from_buffers(HASH, len(values), [None, data])


def _seeds(raw: pa.Table, at: pl.Series) -> Uint64s:
    """The seed of each event's content hash (`meters.event.content_seeds`)."""
    times = at.to_numpy().astype(np.uint64)
    keys = pl.DataFrame(pl.from_arrow(raw.select(["event_name", SUBSCRIPTION, "source"])))
    if not raw.num_rows:
        return times
    if all(column.n_unique() == 1 for column in keys):
        return content_seeds(content_prefix(*keys.row(0)), times)
    seeds = np.empty(len(times), dtype=np.uint64)
    for rows in keys.with_row_index().group_by(keys.columns).agg("index").iter_rows():
        here = np.asarray(rows[-1])
        seeds[here] = content_seeds(content_prefix(*rows[:-1]), times[here])
    return seeds


def _quarantine(
    raw: pa.Table, codes: list[str], tenant: str, origins: pa.Array, rows: pa.Array, mask: pa.Array
) -> pa.Table:
    texts = shown(raw.filter(mask))
    refusals = [
        Refusal.of(place, _rejected(texts, place, code)) for place, code in enumerate(codes)
    ]
    tenants = pa.repeat(pa.scalar(tenant, pa.string()), len(codes))
    events = pa.table([tenants, origins.filter(mask), rows.filter(mask)], names=ORIGIN)
    return quarantine(events, texts, refusals)


def _rejected(texts: Texts, place: int, code: str) -> Rejected:
    field, reason = code.split("|")
    expected = {
        "missing_field": "present",
        "empty_field": "a non-empty string",
        "too_long": f"at most {MAX_ID_BYTES} bytes long",
        "invalid_timestamp": timestamps.EXPECTED,
        "timestamp_out_of_range": _RANGE,
    }[reason]
    return Rejected(reason, field, texts[field][place], expected)
