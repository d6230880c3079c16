"""Seeded events for the backfill: wide properties, copies, and events that break a rule.

    python -m benchmarks.backfill.generate --events 5000000 --out /data/events-5m

writes `events-*.parquet` (row groups of 131,072 rows, zstd), the `catalog.yaml` that
fits, and `manifest.json`. The same arguments give the same bytes. Work is done a row
group at a time on whole columns, so memory does not grow with the number of events.

Customers follow a Zipf law, each with a home region that most of its events come from.
Files follow each other in time, as an archive's do. Of all rows 5 % are copies of a row
before them, half of these in the same row group (a retry), the others about one file
later (a job that was run again); every second copy has a later `ingested_at`. About 1 %
are out of the ordinary, in one of the ways of `_BAD`.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

GROUP_ROWS = 131_072
COPIES = 0.05
BAD = 0.01
UNKNOWN = 0.0005
"""The share of events whose customer the catalog does not have; they are not bad."""

CUSTOMERS = 1_000
ZIPF = 1.6
HOME = 0.85
EVENT_NAME = "llm.request"
MONTH = (1_790_812_800_000_000, 1_793_491_200_000_000)
"""October 2026 in UTC, in microseconds since the epoch."""

DAY = 86_400_000_000
REGIONS = ["eu-west", "us-east", "us-west", "ap-south"]
MODELS = ["small-3", "large-3", "large-3-turbo", "embed-2"]
ENDPOINTS = ["/v1/chat/completions", "/v1/embeddings", "/v1/responses"]
CLIENTS = ["python/2.14.1", "node/5.3.0", "go/1.9.2", "curl/8.9.1"]
TAGS = ['["prod","batch"]', '["prod"]', '["staging","canary","eu"]', "[]"]
PROMPTS = ['{"lang":"en","chars":', '{"lang":"de","chars":', '{"lang":"日本語","chars":']

SCHEMA = pa.schema(
    [
        ("event_id", pa.string()),
        ("event_name", pa.string()),
        ("external_customer_id", pa.string()),
        ("timestamp", pa.timestamp("us", "UTC")),
        ("ingested_at", pa.timestamp("us", "UTC")),
        ("properties", pa.string()),
    ]
)

Ints = np.ndarray
_HEX = np.frombuffer("".join(f"{n:02x}" for n in range(256)).encode(), dtype=np.uint16)


def customer_id(index: int) -> str:
    """The id of a customer of the catalog."""
    return f"customer-{index:04d}"


@dataclass
class Generator:
    """Makes row groups one after the other; holds the random state and the copies to come."""

    seed: int
    conflicts: float = 0.0
    rng: np.random.Generator = field(init=False)
    pool: list[pa.Table] = field(default_factory=list, init=False)

    def __post_init__(self) -> None:
        self.rng = np.random.default_rng(self.seed)
        weights = 1 / np.arange(1, CUSTOMERS + 1) ** ZIPF
        self._share = np.cumsum(weights / weights.sum())
        # The largest customers are not the first ones of the catalog.
        self._order = self.rng.permutation(CUSTOMERS)
        self._home = self.rng.integers(0, len(REGIONS), CUSTOMERS)
        self._users = self.rng.integers(5, 60, CUSTOMERS)
        self._ids = pa.array([customer_id(index) for index in range(CUSTOMERS)])

    def group(self, rows: int, start: float, end: float, wait: int) -> pa.Table:
        """One row group of the time between two shares of the month.

        Copies of rows that were set aside come back once `wait` groups are waiting.
        """
        late = round(rows * COPIES / 2)
        copies = [self._again(self.pool.pop(0), late)] if len(self.pool) > wait else []
        late = sum(copy.num_rows for copy in copies)
        near = round(rows * COPIES) - late
        fresh = self._fresh(rows - late - near, start, end)
        copies.append(self._again(fresh.take(self._some(fresh.num_rows, near)), near))
        self.pool.append(fresh.take(self._some(fresh.num_rows, round(rows * COPIES / 2))))
        table = pa.concat_tables([fresh, *copies]).combine_chunks()
        places = np.arange(rows, dtype=np.float64)
        places[fresh.num_rows :] = self.rng.uniform(0, fresh.num_rows, late + near)
        return table.take(pa.array(np.argsort(places, kind="stable")))

    def _some(self, size: int, count: int) -> pa.Array:
        return pa.array(self.rng.choice(size, count, replace=False))

    def _again(self, table: pa.Table, count: int) -> pa.Table:
        """Copies of rows; some of them arrive later, some say something else."""
        table = table.slice(0, count)
        size = table.num_rows
        later = self.rng.integers(0, DAY, size) * self.rng.integers(0, 2, size)
        differs = self.rng.random(size) < self.conflicts
        if differs.any():
            later = np.where(differs, self.rng.integers(-60_000_000, DAY, size), later)
            other = np.where(differs, np.roll(np.arange(size), 1), np.arange(size))
            texts = table.column("properties").take(pa.array(other))
            table = table.set_column(5, SCHEMA.field("properties"), texts)
        seen = table.column("ingested_at").cast(pa.int64()).to_numpy() + later
        return table.set_column(4, SCHEMA.field("ingested_at"), _instants(seen))

    def _fresh(self, size: int, start: float, end: float) -> pa.Table:
        rng = self.rng
        first, last = (MONTH[0] + int(share * (MONTH[1] - MONTH[0])) for share in (start, end))
        at = np.sort(rng.integers(first, last, size))
        rank = np.minimum(np.searchsorted(self._share, rng.random(size)), CUSTOMERS - 1)
        customer = self._order[rank]
        kind = np.where(rng.random(size) < BAD, rng.integers(0, len(_BAD), size), -1)
        columns = {
            "event_id": _uuids(rng, size),
            "event_name": pa.repeat(pa.scalar(EVENT_NAME), size),
            "external_customer_id": self._ids.take(pa.array(customer)),
            "timestamp": _instants(at),
            "ingested_at": _instants(at + rng.exponential(2_000_000, size).astype(np.int64)),
            "properties": self._properties(customer, size, kind),
        }
        self._spoil(columns, at, kind)
        unknown = pa.array(rng.random(size) < UNKNOWN)
        _replace(columns, "external_customer_id", unknown, "nobody-we-know")
        return pa.table(columns, schema=SCHEMA)

    def _properties(self, customer: Ints, size: int, kind: Ints) -> pa.Array:
        rng = self.rng
        home = rng.random(size) < HOME
        region = np.where(home, self._home[customer], rng.integers(0, len(REGIONS), size))
        # A few users of a customer make most of its requests.
        user = (self._users[customer] * rng.random(size) ** 2).astype(np.int64)
        tokens = _text(rng.lognormal(6.5, 1.2, size).astype(np.int64) + 1)
        values = {
            "request_id": _quoted(_hex(rng, size, 16)),
            "endpoint": _quoted(_pick(rng, ENDPOINTS, size)),
            "model": _quoted(_pick(rng, MODELS, size)),
            "region": _quoted(pa.array(REGIONS).take(pa.array(region))),
            "stream": _pick(rng, ["true", "false"], size),
            "parent_id": pa.repeat(pa.scalar("null"), size),
            "tokens": _if(kind == _bad("tokens_text"), '"many"', tokens),
            "latency_ms": _decimal(rng.lognormal(12.5, 0.8, size).astype(np.int64), 3),
            "cost": _quoted(_decimal(rng.lognormal(11, 1.5, size).astype(np.int64), 8)),
            "tags": _pick(rng, TAGS, size),
            "user": _quoted(pc.binary_join_element_wise("user-", _text(user), "")),
            "prompt": pc.binary_join_element_wise(
                _pick(rng, PROMPTS, size), _text(rng.integers(1, 20_000, size)), "}", ""
            ),
            "temperature": _decimal(rng.integers(0, 20, size), 1),
            "status": _pick(rng, ["200", "200", "200", "429"], size),
            "client": _quoted(_pick(rng, CLIENTS, size)),
        }
        values["cost"] = _if(kind == _bad("cost_range"), '"1e20"', values["cost"])
        left_out = {"latency_ms": "latency_missing", "user": "user_missing", "region": "no_region"}
        parts: list[pa.Array | str] = []
        for position, (name, value) in enumerate(values.items()):
            label = ("," if position else "{") + json.dumps(name) + ":"
            part = pc.binary_join_element_wise(label, value, "")
            if name in left_out:
                part = _if(kind == _bad(left_out[name]), "", part)
            parts.append(part)
        text = pc.binary_join_element_wise(*parts, "}", "")
        text = pc.if_else(
            pa.array(kind == _bad("broken")), pc.utf8_slice_codeunits(text, 0, 90), text
        )
        return _if(kind == _bad("no_object"), "[1,2,3]", text)

    def _spoil(self, columns: dict[str, pa.Array], at: Ints, kind: Ints) -> None:
        _replace(columns, "event_id", kind == _bad("empty_id"), "")
        _replace(columns, "event_name", kind == _bad("no_name"), None)
        _replace(columns, "external_customer_id", kind == _bad("no_customer"), "")
        wrong = np.where(kind == _bad("before_1970"), at - 60 * 365 * DAY, at)
        wrong = np.where(kind == _bad("future"), at + 400 * DAY, wrong)
        columns["timestamp"] = _instants(wrong)


_BAD = (
    "broken",
    "no_object",
    "empty_id",
    "no_name",
    "no_customer",
    "before_1970",
    "future",
    "tokens_text",
    "latency_missing",
    "user_missing",
    "cost_range",
    "no_region",
)
"""How an event may be wrong. The first seven cost the whole event, the next four one
or two meters; without a region it counts in the group null, and is not wrong at all."""


def _bad(name: str) -> int:
    return _BAD.index(name)


def _instants(us: Ints) -> pa.Array:
    return pa.array(us, pa.int64()).cast(pa.timestamp("us", "UTC"))


def _if(mask: Ints, then: str, otherwise: pa.Array) -> pa.Array:
    return pc.if_else(pa.array(mask), then, otherwise) if mask.any() else otherwise


def _replace(columns: dict[str, pa.Array], name: str, mask: Ints | pa.Array, value: object) -> None:
    columns[name] = pc.if_else(pa.array(mask), pa.scalar(value, pa.string()), columns[name])


def _pick(rng: np.random.Generator, texts: Sequence[str], size: int) -> pa.Array:
    return pa.array(texts).take(pa.array(rng.integers(0, len(texts), size)))


def _text(numbers: Ints) -> pa.Array:
    return pa.array(numbers).cast(pa.string())


def _quoted(texts: pa.Array) -> pa.Array:
    return pc.binary_join_element_wise('"', texts, '"', "")


def _decimal(units: Ints, places: int) -> pa.Array:
    """Units of 10**-places as plain decimals."""
    whole, rest = np.divmod(units, 10**places)
    return pc.binary_join_element_wise(_text(whole), pc.utf8_lpad(_text(rest), places, "0"), ".")


def _hex(rng: np.random.Generator, size: int, width: int) -> pa.Array:
    raw = rng.integers(0, 256, (size, width), dtype=np.uint8)
    return _fixed(_HEX[raw].view(np.uint8).reshape(size, 2 * width))


def _uuids(rng: np.random.Generator, size: int) -> pa.Array:
    raw = rng.integers(0, 256, (size, 16), dtype=np.uint8)
    raw[:, 6] = raw[:, 6] & 0x0F | 0x40
    raw[:, 8] = raw[:, 8] & 0x3F | 0x80
    digits = _HEX[raw].view(np.uint8).reshape(size, 32)
    text = np.full((size, 36), ord("-"), dtype=np.uint8)
    for source, target, width in ((0, 0, 8), (8, 9, 4), (12, 14, 4), (16, 19, 4), (20, 24, 12)):
        text[:, target : target + width] = digits[:, source : source + width]
    return _fixed(text)


def _fixed(text: Ints) -> pa.Array:
    """Rows of ASCII bytes as strings."""
    size, width = text.shape
    offsets = np.arange(size + 1, dtype=np.int32) * width
    data = np.ascontiguousarray(text)
    return pa.StringArray.from_buffers(size, pa.py_buffer(offsets), pa.py_buffer(data))


def write_events(folder: Path, events: int, seed: int, files: int, conflicts: float) -> None:
    """Write the Parquet files."""
    generator = Generator(seed, conflicts)
    groups = -(-events // GROUP_ROWS)
    bounds = np.linspace(0, groups, files + 1).round().astype(int)
    wait = -(-groups // files)
    for number in range(files):
        path = folder / f"events-{number:04d}.parquet"
        with pq.ParquetWriter(path, SCHEMA, compression="zstd") as writer:
            for index in range(bounds[number], bounds[number + 1]):
                rows = min(GROUP_ROWS, events - index * GROUP_ROWS)
                start, end = index * GROUP_ROWS / events, (index * GROUP_ROWS + rows) / events
                writer.write_table(generator.group(rows, start, end, wait), GROUP_ROWS)


def catalog() -> dict[str, object]:
    """Six aggregations of one event by region, all on one plan."""
    shapes = {
        "requests": ("count", None),
        "tokens": ("sum", "tokens"),
        "slowest": ("max", "latency_ms"),
        "latency": ("avg", "latency_ms"),
        "last_cost": ("latest", "cost"),
        "users": ("unique_count", "user"),
    }
    meters = []
    for name, (aggregation, prop) in shapes.items():
        meter = {"id": name, "event_name": EVENT_NAME, "aggregation": aggregation}
        meters.append(meter | ({"property": prop} if prop else {}) | {"group_by": ["region"]})
    charges = [
        {"id": name, "meter": name, "price": {"model": "unit", "unit_amount": "0.001"}}
        for name in shapes
    ]
    ids = [customer_id(index) for index in range(CUSTOMERS)]
    start = "2026-10-01T00:00:00Z"
    return {
        "meters": meters,
        "customers": [{"id": name, "time_zone": "UTC", "currency": "EUR"} for name in ids],
        "plans": [{"id": "usage", "currency": "EUR", "period": "month", "charges": charges}],
        "subscriptions": [
            {"id": f"sub-{name}", "customer": name, "plan": "usage", "start": start} for name in ids
        ],
    }


def write_catalog(path: Path) -> None:
    """YAML with one entry a line; JSON is YAML."""
    lines = []
    for section, entries in catalog().items():
        lines.append(f"{section}:")
        lines += [f"  - {json.dumps(entry)}" for entry in entries]  # type: ignore[attr-defined]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def generate(
    folder: Path, events: int, seed: int = 1, files: int = 8, conflicts: float = 0
) -> None:
    """Write events, catalog and manifest, unless the folder has just these already."""
    manifest = {"events": events, "seed": seed, "files": files, "conflicts": conflicts}
    place = folder / "manifest.json"
    if place.exists() and json.loads(place.read_text()) == manifest:
        return
    folder.mkdir(parents=True, exist_ok=True)
    for old in (place, *folder.glob("events-*.parquet")):
        old.unlink(missing_ok=True)
    write_catalog(folder / "catalog.yaml")
    write_events(folder, events, seed, files, conflicts)
    place.write_text(json.dumps(manifest))


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--events", type=int, required=True, help="rows in all files together")
    parser.add_argument("--out", type=Path, required=True, help="folder to write to")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--files", type=int, default=8)
    parser.add_argument(
        "--conflicts", type=float, default=0, help="share of copies that say something else"
    )
    args = parser.parse_args()
    generate(args.out, args.events, args.seed, args.files, args.conflicts)


if __name__ == "__main__":
    main()
