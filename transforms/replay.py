"""Replay: what was refused goes through the chain again, as the row that it was.

    refused as a whole  payload -> decode -> project --> raw event, marked dirty --> settled
    refused by a meter  stored event ------> project --> marked dirty -----------> settled
                                               |
                                        still refused: stays as it is

A mark makes `repair` count the event, exactly once whatever other copies there are. Raw
rows come first, then marks, then what is settled: a replay that dies is done again.
"""

from __future__ import annotations

import re
from collections.abc import Mapping as Table
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from meters.buckets import HOUR_US
from meters.decode import decode
from meters.event import INSTANT, identity_hash
from meters.mapping import Mapping
from meters.timeline import Timeline
from meters.versions import projection_of
from transforms.format_jsonl import LineReader
from transforms.format_text import Lines
from warehouse.affected import copies_of
from warehouse.client import Warehouse
from warehouse.ownership import mark_dirty
from warehouse.quarantine import KEY, settle
from warehouse.writes import insert_events, insert_quarantine

REASON = "replay"
"""The reason of the marks."""

_CUT_OFF = re.compile(r"\.\.\. \[cut off, \d+ bytes\]\Z")
_UNREPEATABLE = ("conflict", "unreadable_file")
_MARK = ["external_customer_id", "bucket_start", "reason", "identity_hash"]

Row = dict[str, Any]
Place = tuple[str, int]
"""Origin and row."""


@dataclass(frozen=True)
class Replayed:
    """What became of some rows.

    `accepted` are events that are stored now, `measured` values that a meter takes now;
    `refused` rows stay, as do `incomplete` ones, of which only a part was kept, and
    `conflicts`, which are for `repair`.
    """

    accepted: int = 0
    measured: int = 0
    refused: int = 0
    incomplete: int = 0
    conflicts: int = 0


class Replay:
    """Replays refused rows of one tenant under the catalogs of now."""

    def __init__(self, warehouse: Warehouse, tenant: str, timeline: Timeline) -> None:
        self._warehouse = warehouse
        self._tenant = tenant
        self._projection = projection_of(timeline)

    def replay(self, page: pa.Table, corrected: Table[Place, str]) -> Replayed:
        """Replay rows as `warehouse.quarantine` gives them.

        `corrected` has other payloads for rows that were refused as a whole.
        """
        rows = page.to_pylist()
        whole = [row for row in rows if not row["meter"] and row["reason"] not in _UNREPEATABLE]
        for row in whole:
            place = row["origin"], row["origin_row"]
            row["payload"] = corrected.get(place, row["payload"])
        complete = [row for row in whole if not _CUT_OFF.search(row["payload"])]
        by_meter = [row for row in rows if row["meter"]]
        accepted, measured = self._whole(complete), self._measured(by_meter)
        return Replayed(
            accepted=accepted,
            measured=measured,
            refused=len(complete) - accepted + len(by_meter) - measured,
            incomplete=len(whole) - len(complete),
            conflicts=len(rows) - len(whole) - len(by_meter),
        )

    def _whole(self, rows: list[Row]) -> int:
        if not rows:
            return 0
        reader = LineReader(Mapping(), REASON, 0)
        lines = Lines(0, [row["payload"].replace("\n", " ").encode() for row in rows])
        received = pa.array([row["quarantined_at"] for row in rows], INSTANT)
        batch = reader.batch(lines, received)
        places = np.asarray(batch.rows)
        origins = pa.array([rows[at]["origin"] for at in places], pa.string())
        numbers = pa.array([rows[at]["origin_row"] for at in places], pa.int64())
        decoded = decode(batch.columns, self._tenant, origins, numbers)
        projected = self._projection.project(decoded.events)
        events = projected.events
        insert_events(self._warehouse, events)
        if projected.refused.num_rows:
            insert_quarantine(self._warehouse, projected.refused)
        self._mark(events)
        stored = set(
            zip(events["origin"].to_pylist(), events["origin_row"].to_pylist(), strict=True)
        )
        return self._settle([row for row in rows if (row["origin"], row["origin_row"]) in stored])

    def _measured(self, rows: list[Row]) -> int:
        """Events that are stored, and that the meter which refused them takes now."""
        if not rows:
            return 0
        named = {_event(row) for row in rows}
        identities = sorted((customer, identity_hash(event)) for customer, event in named)
        events = copies_of(self._warehouse, self._tenant, identities)
        stored = set(map(_event, events.select(list(_NAMES)).to_pylist()))
        refused = {
            (*_event(row), row["meter"])
            for row in self._projection.project(events).refused.to_pylist()
        }
        taken = [
            row
            for row in rows
            if _event(row) in stored and (*_event(row), row["meter"]) not in refused
        ]
        wanted = {_event(row) for row in taken}
        chosen = [_event(row) in wanted for row in events.select(list(_NAMES)).to_pylist()]
        self._mark(events.filter(pa.array(chosen, pa.bool_())))
        return self._settle(taken)

    def _mark(self, events: pa.Table) -> None:
        if not events.num_rows:
            return
        at = events["timestamp"].cast(pa.int64()).to_numpy() // HOUR_US * HOUR_US
        marks = pa.table(
            [
                events["external_customer_id"],
                pa.array(at).cast(INSTANT),
                pa.repeat(pa.scalar(REASON), events.num_rows),
                events["identity_hash"],
            ],
            names=_MARK,
        )
        mark_dirty(self._warehouse, self._tenant, marks)

    def _settle(self, rows: list[Row]) -> int:
        if rows:
            table = pa.Table.from_pylist([{name: row[name] for name in KEY} for row in rows])
            settle(self._warehouse, self._tenant, table)
        return len(rows)


_NAMES = ("external_customer_id", "event_id")


def _event(row: Row) -> tuple[str, str]:
    return row["external_customer_id"], row["event_id"]
