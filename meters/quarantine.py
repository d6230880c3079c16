"""Rows of quarantine: which events are refused, why, and what they said.

    refused events --texts of their fields--> reasons, payloads --> `QUARANTINE_SCHEMA`

A batch may be refused as a whole, so all is read and written as columns.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import msgspec
import pyarrow as pa
import pyarrow.compute as pc

from meters.errors import Rejected
from meters.event import QUARANTINE_SCHEMA
from meters.mapping import FIELDS, PROPERTIES
from meters.scalars import is_json

ORIGIN = ("tenant_id", "origin", "origin_row")
"""Where an event came from."""

Texts = dict[str, list[str | None]]
"""The fields of some events as text, by name; None where an event has none."""

_IDS = ("event_id", "external_customer_id")

_Payload = msgspec.defstruct(
    "_Payload",
    [(name, str | msgspec.Raw | None, None) for name in FIELDS],
    omit_defaults=True,
    gc=False,
)


class Refusal(NamedTuple):
    """Why an event is refused; `meter` is empty where it is refused for all of them.

    `place` is that of the event among the refused ones.
    """

    place: int
    meter: str
    reason: str
    field: str
    detail: str

    @classmethod
    def of(cls, place: int, error: Rejected, meter: str = "") -> Refusal:
        """What a rule has found."""
        return cls(place, meter, error.reason, error.field, error.detail)


def shown(events: pa.Table) -> Texts:
    """The fields of events as people read them; times are ISO 8601 in UTC."""
    return {
        name: _texts(events.column(name)).to_pylist()
        for name in FIELDS
        if name in events.column_names
    }


def _texts(column: pa.ChunkedArray) -> pa.ChunkedArray:
    if not pa.types.is_timestamp(column.type):
        return column.cast(pa.string())
    texts = column.cast(pa.timestamp("us"), safe=False).cast(pa.string())
    texts = pc.replace_substring(texts, " ", "T")
    texts = pc.replace_substring(texts, ".000000", "")
    return pc.binary_join_element_wise(texts, "+00:00", "")


def quarantine(events: pa.Table, texts: Texts, refusals: Sequence[Refusal]) -> pa.Table:
    """One row of `QUARANTINE_SCHEMA` for each refusal, in their order.

    `events` are those that are refused, of which the columns `ORIGIN` are read; `texts`
    are all of their fields. Several meters may refuse the same event.
    """
    places = [refusal.place for refusal in refusals]
    payloads = _payloads(texts)
    columns: dict[str, object] = {
        **{name: events.column(name).take(pa.array(places, pa.int64())) for name in ORIGIN},
        **{name: [texts[name][place] or "" for place in places] for name in _IDS},
        "reason": [refusal.reason for refusal in refusals],
        "meter": [refusal.meter for refusal in refusals],
        "field": [refusal.field for refusal in refusals],
        "detail": [refusal.detail for refusal in refusals],
        "payload": [payloads[place] for place in places],
    }
    return pa.Table.from_pydict(columns, QUARANTINE_SCHEMA)


def _payloads(texts: Texts) -> list[str]:
    """Each event as one line of JSON, as a replay would read it; nulls are left out.

    Properties keep their own text; where that is no JSON it stands as a string, so that
    nothing of it is lost.
    """
    fields = {**texts, PROPERTIES: [_as_sent(text) for text in texts[PROPERTIES]]}
    encode = msgspec.json.Encoder().encode
    return [encode(_Payload(*row)).decode() for row in zip(*map(fields.get, FIELDS), strict=True)]


def _as_sent(properties: str | None) -> str | msgspec.Raw | None:
    if properties is not None and is_json(properties):
        return msgspec.Raw(properties.encode())
    return properties
