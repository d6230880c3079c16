"""Files for tests of the sources, and reading them whole."""

from __future__ import annotations

import csv
import gzip
import io
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import zstandard

from meters.mapping import Mapping as ColumnMapping
from transforms.sources import BadRow, RawBatch, match_files, read_split

MODIFIED = 1_700_000_000
"""When every file of the tests was last modified, in Unix seconds."""

COMPRESS = {
    "": lambda data: data,
    ".gz": lambda data: gzip.compress(data, mtime=0),
    ".zst": zstandard.ZstdCompressor().compress,
}

Event = Mapping[str, object]


@dataclass(frozen=True)
class Found:
    """Everything that a read gave, batches put together."""

    rows: dict[int, dict[str, object]]
    bad: list[BadRow]

    @property
    def events(self) -> list[dict[str, object]]:
        return list(self.rows.values())

    @property
    def reasons(self) -> list[tuple[int, str]]:
        return [(row.row, row.reason) for row in self.bad]


def collect(batches: Iterable[RawBatch]) -> Found:
    rows: dict[int, dict[str, object]] = {}
    bad: list[BadRow] = []
    for batch in batches:
        assert batch.columns.num_rows == len(batch.rows)
        for number, row in zip(batch.rows.to_pylist(), batch.columns.to_pylist(), strict=True):
            assert number not in rows
            rows[number] = row
        bad += batch.bad
    return Found(rows, bad)


def read(path: Path | str, mapping: ColumnMapping | None = None) -> Found:
    return collect(
        batch
        for split in match_files([str(path)])
        for batch in read_split(split, mapping or ColumnMapping())
    )


def write(path: Path, data: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(COMPRESS.get(path.suffix, COMPRESS[""])(data))
    os.utime(path, (MODIFIED, MODIFIED))
    return path


def jsonl(events: Sequence[Event]) -> bytes:
    return b"".join(json.dumps(event, ensure_ascii=False).encode() + b"\n" for event in events)


def csv_text(events: Sequence[Event], names: Sequence[str], delimiter: str = ",") -> bytes:
    text = io.StringIO()
    writer = csv.writer(text, delimiter=delimiter)
    writer.writerow(names)
    for event in events:
        writer.writerow(["" if event.get(name) is None else event[name] for name in names])
    return text.getvalue().encode()


def write_parquet(path: Path, table: pa.Table, **options: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path, **options)
    os.utime(path, (MODIFIED, MODIFIED))
    return path


def event(number: int = 1, **changes: object) -> dict[str, object]:
    return {
        "event_id": f"e{number}",
        "event_name": "api_call",
        "external_customer_id": "acme",
        "timestamp": "2026-11-01T00:00:00Z",
        "properties": {"n": number},
        **changes,
    }
