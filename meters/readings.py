"""The scalar form of measuring: one event, one meter, one reading.

What `meters.projection` and `meters.measure` do for columns, for a single event; the
two are proven equal. It serves Beam pipelines over single events and explanations.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from decimal import Decimal
from functools import cache
from typing import Any

from meters.aggregators import Reading
from meters.catalog import Meter
from meters.errors import Rejected
from meters.event import hash128
from meters.expressions import Expression
from meters.numbers import SCALE, parse_number, to_scaled
from meters.projection import NOT_SCALAR, OPERATIONS
from meters.scalars import canonical_json, canonical_scalar
from meters.zones import microseconds


def reading_of(
    meter: Meter,
    *,
    event_name: str,
    event_id: str,
    timestamp: datetime,
    properties: Mapping[str, object],
) -> tuple[str, Reading] | None:
    """The group (canonical JSON object) and the reading; None where the meter looks away.

    `properties` holds JSON with exact numbers (`meters.scalars.parse_json`). Raises
    `Rejected` where the property is missing or invalid for this meter.
    """
    if event_name != meter.event_name:
        return None
    for name, allowed in meter.allowed.items():
        if _scalar(properties.get(name)) not in allowed:
            return None
    group = {name: properties.get(name) for name in meter.group_by}
    for name, part in group.items():
        if _scalar(part) is None:
            raise Rejected("invalid_group", name, part, NOT_SCALAR)
    operation = _operation(meter, properties)
    value = _value(meter, properties)
    distinct = meter.aggregation == "unique_count"
    scaled = None if value is None or distinct else to_scaled(_number(meter, value))
    if operation is not None:
        scaled = SCALE if operation == "add" else 0
    reading = Reading(
        at=microseconds(timestamp),
        event_id=event_id,
        scaled=scaled,
        value_hash=_hash(meter, value) if distinct else None,
    )
    return canonical_json(group), reading


def reading_of_row(
    meter: Meter, row: Mapping[str, Any], properties: Mapping[str, object]
) -> tuple[str, Reading] | None:
    """As `reading_of`, of a stored event whose properties are parsed."""
    return reading_of(
        meter,
        event_name=row["event_name"],
        event_id=row["event_id"],
        timestamp=row["timestamp"],
        properties=properties,
    )


def _scalar(value: object) -> str | None:
    """The canonical text; None for what is no scalar, or no Unicode."""
    if isinstance(value, dict | list):
        return None
    text = canonical_scalar(value)  # type: ignore[arg-type]
    try:
        text.encode()
    except UnicodeEncodeError:
        return None
    return text


def _operation(meter: Meter, properties: Mapping[str, object]) -> str | None:
    """What happens to the value, for meters that ask; left out means that it is added."""
    name = meter.operation_property
    if name is None:
        return None
    found = properties.get(name)
    if found is None:
        return OPERATIONS[0]
    if not isinstance(found, str) or found not in OPERATIONS:
        raise Rejected("invalid_operation", name, found, " or ".join(OPERATIONS))
    return found


def _value(meter: Meter, properties: Mapping[str, object]) -> object:
    if meter.aggregation == "count":
        return None
    if meter.expression is not None:
        return _compiled(meter.expression).evaluate(properties)
    name = meter.property or ""
    value = properties.get(name)
    if value is None:
        raise Rejected("missing_property", name, None, "present")
    return value


@cache
def _compiled(text: str) -> Expression:
    return Expression(text)


def _number(meter: Meter, value: object) -> Decimal:
    """The number of a property, which may be a decimal string, or of an expression."""
    name = meter.property or meter.expression or ""
    if isinstance(value, str) and meter.expression is not None:
        raise Rejected("invalid_number", name, value, "a number")
    if isinstance(value, bool) or not isinstance(value, str | int | Decimal):
        raise Rejected("invalid_number", name, value, "a number or a decimal string")
    return parse_number(str(value), name)


def _hash(meter: Meter, value: object) -> bytes:
    text = _scalar(value)
    if text is None:
        raise Rejected("invalid_value", meter.property or "", value, NOT_SCALAR)
    return hash128([text.encode()])[0]
