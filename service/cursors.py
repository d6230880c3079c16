"""Cursors: the key of the last row of a page, as a text that is safe in a URL.

There is no secret in it, and nothing is trusted: what a cursor says goes into a query as
values, of the tenant of the key alone.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Sequence

from meters.errors import Rejected


def write_cursor(key: Sequence[str]) -> str:
    """The cursor that begins behind `key`."""
    text = json.dumps(list(key), ensure_ascii=False, separators=(",", ":"))
    return base64.urlsafe_b64encode(text.encode(errors="surrogatepass")).decode().rstrip("=")


def read_cursor(text: str, parts: int) -> list[str]:
    """The key, of so many parts. Raises `Rejected` for what is no cursor of this list."""
    try:
        padded = text + "=" * (-len(text) % 4)
        key = json.loads(base64.b64decode(padded, altchars=b"-_", validate=True))
    except (ValueError, RecursionError, binascii.Error):
        raise no_cursor(text) from None
    if not isinstance(key, list) or len(key) != parts:
        raise no_cursor(text)
    if not all(isinstance(part, str) for part in key):
        raise no_cursor(text)
    return key


def no_cursor(text: str) -> Rejected:
    """The refusal of a cursor."""
    return Rejected("invalid_cursor", "cursor", text, "the next_cursor of a page")
