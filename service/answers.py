"""Answers as JSON: decimals keep their digits, instants are RFC 3339 in UTC."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from decimal import Decimal
from typing import Any

import msgspec
from starlette.responses import Response

from meters.timestamps import format_instant

_ENCODER = msgspec.json.Encoder(decimal_format="number")


def json_answer(content: object, headers: Mapping[str, str] | None = None) -> Response:
    """A response; a `Decimal` in it is a JSON number with all its digits."""
    return Response(
        _ENCODER.encode(content),
        headers={"cache-control": "no-store", **(headers or {})},
        media_type="application/json",
    )


def shown(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row of the warehouse for people: instants as text, hashes in hexadecimal."""
    return {name: _shown(value) for name, value in row.items()}


def _shown(value: object) -> object:
    if isinstance(value, datetime):
        return format_instant(value)
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, Decimal):
        return format(value.normalize() if value else Decimal(0), "f")
    return value
