"""Messages of Kafka on their way to raw columns: one JSON object is one event.

    messages -> of this tenant? -> lines -> raw columns, and messages that are no event

The origin of a message is its topic and partition, its row the offset. Values are
what a line of JSON Lines is, so both are read by the same reader.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from meters.event import INSTANT
from meters.mapping import Mapping
from transforms.format_jsonl import LineReader
from transforms.format_text import Lines
from transforms.raw import MAX_ROW, BadRow, payload_text
from warehouse.tracing import Traced


class _Owner(msgspec.Struct):
    tenant_id: str | None = None


_OWNER = msgspec.json.Decoder(_Owner)
TRACED = "traceparent"
"""The header with the span of the request that brought a message; W3C's name and form."""

_NAMES_TENANT = b'"tenant_id"'
_NONE = np.empty(0, dtype=np.int64)


@dataclass
class Messages:
    """Messages that one split has read, in the order of each partition.

    Times are microseconds, UTC: `recorded` is Kafka's record time, `now` that of the
    poll. `next` has the next offset of each partition, `at_end` the partitions that were
    read to their end. `tick` asks for a flush; `drained` says that the split has been idle
    for long enough, `behind` that more waits than one poll takes. `traced` are spans that
    brought them, where this process traces.
    """

    split: int
    now: int
    values: list[bytes | None] = field(default_factory=list)
    keys: list[bytes | None] = field(default_factory=list)
    partitions: npt.NDArray[np.int64] = field(default_factory=lambda: _NONE)
    offsets: npt.NDArray[np.int64] = field(default_factory=lambda: _NONE)
    recorded: npt.NDArray[np.int64] = field(default_factory=lambda: _NONE)
    next: dict[int, int] = field(default_factory=dict)
    at_end: frozenset[int] = frozenset()
    tick: bool = False
    drained: bool = False
    behind: bool = False
    traced: tuple[Traced, ...] = ()


@dataclass(frozen=True)
class RawMessages:
    """Raw columns of the messages that are JSON objects, and the others.

    `origins` and `rows` say where each row comes from, `recorded` when it was, and
    `partitions` its partition. `foreign` counts messages of other tenants, which are
    left to the streams of those.
    """

    columns: pa.Table
    origins: pa.Array
    rows: pa.Array
    partitions: npt.NDArray[np.int64]
    recorded: npt.NDArray[np.int64]
    bad: list[BadRow]
    foreign: int


class MessageReader:
    """Reads messages of one topic for one tenant."""

    def __init__(self, topic: str, tenant: str) -> None:
        self._name = topic if "://" in topic else f"kafka://{topic}"
        self._tenant = tenant
        self._prefix = f"{tenant}/".encode()
        self._lines = LineReader(Mapping(), self._name, 0)

    def read(self, messages: Messages) -> RawMessages:
        """The raw columns of all messages that belong to the tenant."""
        values, bad = messages.values, list[BadRow]()
        lines: list[bytes] = []
        places: list[int] = []
        foreign = 0
        if self._are_plain(messages):
            places = list(range(len(values)))
            lines = values  # type: ignore[assignment]
        else:
            mine = [
                index
                for index, (key, value) in enumerate(zip(messages.keys, values, strict=True))
                if self._is_mine(key, value)
            ]
            foreign = len(values) - len(mine)
            for index in mine:
                value = values[index]
                if value and len(value) <= MAX_ROW and (line := _line(value)) is not None:
                    places.append(index)
                    lines.append(line)
                else:
                    bad.append(self._unreadable(messages, index))
        found = np.array(places, dtype=np.int64)
        recorded = messages.recorded[found]
        batch = self._lines.batch(Lines(0, lines), pa.array(recorded).cast(INSTANT))
        bad += [self._moved(row, messages, places[row.row]) for row in batch.bad]
        kept = found[batch.rows.to_numpy()]
        return RawMessages(
            columns=batch.columns,
            origins=self._origins(messages.partitions[kept]),
            rows=pa.array(messages.offsets[kept]),
            partitions=messages.partitions[kept],
            recorded=messages.recorded[kept],
            bad=bad,
            foreign=foreign,
        )

    def origin(self, partition: int) -> str:
        """How the messages of a partition are named as an origin."""
        return f"{self._name}/{partition}"

    def _origins(self, partitions: npt.NDArray[np.int64]) -> pa.Array:
        numbers, codes = np.unique(partitions, return_inverse=True)
        names = pa.array([self.origin(number) for number in numbers.tolist()], pa.string())
        return names.take(pa.array(codes))

    def _are_plain(self, messages: Messages) -> bool:
        """Whether all are the tenant's by their keys alone, and each is one line.

        Looks at the whole batch at once; most batches are plain.
        """
        values = messages.values
        if not all(values) or max(map(len, values), default=0) > MAX_ROW:  # type: ignore[arg-type]
            return False
        every = b"\n".join(values)  # type: ignore[arg-type]
        if every.count(b"\n") >= max(1, len(values)) or _NAMES_TENANT in every:
            return False
        return all(key is not None and key.startswith(self._prefix) for key in messages.keys)

    def _is_mine(self, key: bytes | None, value: bytes | None) -> bool:
        """The value's `tenant_id` says whose it is, else the key `tenant/customer`."""
        if value is not None and _NAMES_TENANT in value:
            try:
                named = _OWNER.decode(value).tenant_id
            except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
                named = None
            if named is not None:
                return named == self._tenant
        if key is None or b"/" not in key:
            return True
        return key.partition(b"/")[0] == self._tenant.encode()

    def _unreadable(self, messages: Messages, index: int) -> BadRow:
        value = messages.values[index]
        if value is None:
            reason, detail = "empty_message", "a message must have a value (got a tombstone)"
        elif not value:
            reason, detail = "empty_message", "a message must have a value (got 0 bytes)"
        elif len(value) > MAX_ROW:
            reason = "too_large"
            detail = f"a message must have at most {MAX_ROW} bytes (got {len(value)})"
        else:
            reason, detail = "invalid_json", "a message must be one JSON object"
            if value[0] == 0:
                detail += " (got the magic byte 0 of a schema registry)"
        return BadRow(
            self.origin(int(messages.partitions[index])),
            int(messages.offsets[index]),
            reason,
            "",
            detail,
            payload_text(value or b""),
        )

    def _moved(self, row: BadRow, messages: Messages, index: int) -> BadRow:
        detail = row.detail
        if row.payload.startswith("\0"):
            detail += " (got the magic byte 0 of a schema registry)"
        return replace(
            row,
            origin=self.origin(int(messages.partitions[index])),
            row=int(messages.offsets[index]),
            detail=detail.replace("a line must", "a message must").replace("the line", "a message"),
        )


def _line(value: bytes) -> bytes | None:
    """The value on one line; None where it is no JSON that could be put on one."""
    if b"\n" not in value:
        return value
    try:
        msgspec.json.decode(value, type=msgspec.Raw)
    except (msgspec.MsgspecError, RecursionError):
        return None
    # In valid JSON a line feed is white space: in strings it is escaped.
    return value.replace(b"\n", b" ")
