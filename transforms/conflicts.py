"""Conflicts: copies of one event that say something else go to quarantine.

Which copies differ is found by their content hashes, in `meters.deduplicate`. What
they say is read back from the raw events, since slim columns do not carry it.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import polars as pl
import pyarrow as pa

from meters.catalog import Catalog
from meters.deduplicate import Deduplicated, conflicts
from meters.event import content_prefix, is_receipt
from meters.quarantine import Refusal, quarantine, shown
from meters.scalars import canonical_json, parse_json
from meters.zones import microseconds
from warehouse.affected import copies_of
from warehouse.client import Warehouse
from warehouse.queries import STREAMED
from warehouse.writes import insert_quarantine

Row = dict[str, Any]

EVENT = ["external_customer_id", "identity", "identity_low"]
"""What names an event of a tenant among copies."""


class Conflicts:
    """Finds and keeps the conflicts of one tenant, whose copies are all stored."""

    def __init__(self, warehouse: Warehouse, tenant: str) -> None:
        self._warehouse = warehouse
        self._tenant = tenant

    def quarantine(self, unique: Deduplicated, catalog: Catalog) -> int:
        """Send copies that say something else to quarantine; returns how many there are.

        `catalog` has the customers as `unique` numbers them.
        """
        if unique.differing.is_empty():
            return 0
        customers = pl.Series([customer.id for customer in catalog.customers], dtype=pl.String)
        known = customers.gather(unique.differing["customer"])
        named = pl.coalesce(pl.lit(known), "unknown").alias("external_customer_id")
        return self.settle(unique.differing.with_columns(named)).height

    def settle(self, differing: pl.DataFrame) -> pl.DataFrame:
        """Quarantine, and return, the copies of `differing` that say something else.

        It has `EVENT` and `content`; of each event the copy that counts comes first.
        """
        if differing.is_empty():
            return differing
        identities = {_identity(row) for row in differing.iter_rows(named=True)}
        stored = copies_of(self._warehouse, self._tenant, sorted(identities))
        copies: list[Row] = stored.to_pylist()
        said = {row["content_hash"][:8]: _canonical(row) for row in copies}
        found = conflicts(differing, said, EVENT)
        # Other events may say the same, so the content alone names no copy.
        wanted = {
            (*_identity(row), row["content"].to_bytes(8, "big"))
            for row in found.iter_rows(named=True)
        }
        places = [
            place
            for place, row in enumerate(copies)
            if (row["external_customer_id"], row["identity_hash"], row["content_hash"][:8])
            in wanted
        ]
        refused = stored.take(pa.array(places, pa.int64()))
        texts = shown(refused)
        refusals = [_refusal(*entry) for entry in enumerate(texts["event_id"])]
        insert_quarantine(self._warehouse, quarantine(refused, texts, refusals))
        return found.drop("said")


def _identity(row: Row) -> tuple[str, bytes]:
    low = row["identity_low"].to_bytes(8, "big")
    return row["external_customer_id"], row["identity"].to_bytes(8, "big") + low


def _canonical(row: Row) -> str:
    """What an event says, however its JSON is written."""
    prefix = content_prefix(
        str(row["event_name"]),
        _text(row["external_subscription_id"]),
        _text(row["source"]),
    )
    properties = str(row["properties"])
    # What Python cannot hold (deep nesting, endless digits) is compared as it is written.
    with suppress(ValueError, RecursionError):
        properties = canonical_json(parse_json(properties))
    at = "" if is_time_filled_in(row) else microseconds(row["timestamp"])
    return f"{prefix}{at}{properties}"


def is_time_filled_in(row: Row) -> bool:
    """Whether the sender said no time: the API has then filled in that of receipt.

    The time of a record of Kafka is no such time, though it may be the event's own.
    """
    came_by_stream = str(row["origin"]).startswith(STREAMED)
    same = bool(row["timestamp"] == row["ingested_at"])
    return came_by_stream and same and is_receipt(microseconds(row["ingested_at"]))


def _text(value: object) -> str | None:
    return None if value is None else str(value)


def _refusal(place: int, event_id: str | None) -> Refusal:
    detail = (
        "event_id must be unique for its customer, or a copy must say the same "
        f"(got {event_id!r} again with other content)"
    )
    return Refusal(place, "", "conflict", "event_id", detail)
