"""Events that plainly break no rule, told without columns.

    event --a few checks--> plain: `decode.refusals` would refuse nothing
                `--else---> not known: ask `decode.refusals`

The rules of the event are columnar, and a batch of them costs a millisecond however small
it is. Most events are of the usual form, which these checks know, and a request has few.
They decide nothing on their own: what they do not know is left to the rules.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import datetime, timedelta

import msgspec

from meters.decode import MAX_ID_BYTES
from meters.timestamps import END_OF_TIME, FIRST_INSTANT, MAX_AHEAD

_AHEAD = timedelta(microseconds=MAX_AHEAD)
_LONGEST = MAX_ID_BYTES // 4
"""Characters that have at most `MAX_ID_BYTES` bytes, whichever they are."""

# A part of RFC 3339 that `datetime.fromisoformat` reads as `meters.timestamps` does.
_TIME = re.compile(
    r"(?:19[7-9]|2[0-2][0-9])[0-9]-[0-9]{2}-[0-9]{2}T(?:[01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9]"
    r"(?:\.[0-9]{1,6})?(?:Z|[+-](?:[01][0-9]|2[0-3]):[0-5][0-9])"
).fullmatch


class _Object(msgspec.Struct, gc=False):
    """Any JSON object."""


_decode: Callable[[bytes | msgspec.Raw], object] = msgspec.json.Decoder(_Object).decode


def is_plain(
    ids: tuple[str | None, str | None, str | None],
    subscription: str | None,
    timestamp: str | None,
    properties: bytes | msgspec.Raw,
    ingested_at: datetime,
) -> bool:
    """Whether an event is known to break no rule.

    `ids` are event_id, event_name and external_customer_id; without a `timestamp` the event
    has the time of `ingested_at`, which is UTC and within the years of events. `properties`
    are JSON text in UTF-8. False says nothing about the event.
    """
    for name in ids:
        if not name or len(name) > _LONGEST:
            return False
    if subscription == "":
        return False
    try:
        if timestamp is not None:
            if _TIME(timestamp) is None:
                return False
            at = datetime.fromisoformat(timestamp)
            if not FIRST_INSTANT <= at < END_OF_TIME or at > ingested_at + _AHEAD:
                return False
        _decode(properties)
    except (ValueError, OverflowError, RecursionError, msgspec.MsgspecError):
        return False
    return True
