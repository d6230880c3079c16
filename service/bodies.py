"""The body of a request: read within limits, unpacked, and taken for UTF-8 only where it is.

    parts as they arrive --> body --unpacked piece by piece--> content --> the route
              `------- counted in the room of the process --------'

A compressed body is refused as soon as it is larger than allowed, so a small one that would
become huge costs no more than the limit. What is on its way counts as what is there: many slow
senders hold no more than the room.
"""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager

import zstandard
from fastapi import Request
from starlette.requests import ClientDisconnect

from service.errors import ApiError, Fault, invalid, unavailable
from service.settings import MIB, Limits

_PIECE = 1 << 20
SECONDS = 60.0
"""How long a body may take to arrive."""
_WINDOW = 8 * MIB
"""The largest window of zstd that is unpacked: what level 19 uses."""


Take = Callable[[int], None]
"""Called with a number of bytes before they are kept. Raises 503 where there is no room."""


class Room:
    """How many bytes of bodies one process holds at a time, also of those that still arrive."""

    def __init__(self, most: int = 256 * MIB) -> None:
        self._most = most
        self.held = 0

    @asynccontextmanager
    async def body(self, request: Request, limits: Limits) -> AsyncIterator[bytes]:
        """The body, unpacked; room is kept for it until the end of the block.

        Raises 400, 408, 413, 415, or 503 where there is no room.
        """
        taken = 0

        def take(size: int) -> None:
            nonlocal taken
            if self.held + size > self._most:
                raise unavailable("the server holds as many bodies as it can")
            self.held += size
            taken += size

        try:
            packed = await _received(request, limits, take)
            encoding = request.headers.get("content-encoding", "")
            content = _unpacked(packed, encoding, limits.content, take)
            check_utf8(content)
            yield content
        finally:
            self.held -= taken


async def _received(request: Request, limits: Limits, take: Take) -> bytes:
    announced = request.headers.get("content-length", "0")
    if announced.isdigit() and int(announced) > limits.body:
        raise _too_large("body", limits.body)
    whole: bytes | bytearray = b""
    try:
        async with asyncio.timeout(SECONDS):
            async for part in request.stream():
                if len(whole) + len(part) > limits.body:
                    raise _too_large("body", limits.body)
                take(len(part))
                if not whole:
                    whole = part
                    continue
                # A list of many small parts would take many times their bytes.
                if not isinstance(whole, bytearray):
                    whole = bytearray(whole)
                whole += part
    except TimeoutError:
        detail = f"the body must be there within {SECONDS:g} s"
        raise ApiError(408, "too_slow", detail, headers={"connection": "close"}) from None
    except ClientDisconnect:
        # Nobody reads this answer. Without it, whoever hangs up would look like a broken server.
        raise ApiError(400, "broken_off", "the body must come to its end") from None
    return bytes(whole)


def _unpacked(packed: bytes, encoding: str, most: int, take: Take) -> bytes:
    """The content of a body, by its Content-Encoding; at most `most` bytes."""
    match encoding.strip().lower():
        case "" | "identity":
            if len(packed) > most:
                raise _too_large("unpacked body", most)
            return packed
        case "gzip" | "x-gzip":
            pieces = _gzip(packed, most)
        case "zstd":
            pieces = _zstd(packed)
        case other:
            raise ApiError(
                415,
                "unsupported_encoding",
                f"content-encoding must be gzip or zstd (got {other!r})",
            )
    found = []
    size = 0
    try:
        for piece in pieces:
            size += len(piece)
            if size > most:
                raise _too_large("unpacked body", most)
            take(len(piece))
            found.append(piece)
    except (zlib.error, zstandard.ZstdError, EOFError) as error:
        fault = Fault("", "invalid_encoding", None, f"whole {encoding} data ({error})")
        raise invalid([fault], code="invalid_encoding") from None
    return b"".join(found)


def _gzip(packed: bytes, most: int) -> Iterator[bytes]:
    """All members of the file. One piece beyond `most` is enough to know."""
    rest = packed
    while rest:
        engine = zlib.decompressobj(wbits=31)
        piece = engine.decompress(rest, min(_PIECE, most + 1))
        while piece or engine.unconsumed_tail:
            yield piece
            piece = engine.decompress(engine.unconsumed_tail, _PIECE)
        if not engine.eof:
            raise EOFError("it ends too early")
        rest = engine.unused_data.lstrip(b"\0")


def _zstd(packed: bytes) -> Iterator[bytes]:
    engine = zstandard.ZstdDecompressor(max_window_size=_WINDOW)
    with engine.stream_reader(packed, read_across_frames=True) as reader:
        while piece := reader.read(_PIECE):
            yield piece


def check_utf8(content: bytes) -> None:
    """Raises 400 with the place of the first byte that is not UTF-8."""
    if content.isascii():
        return
    try:
        content.decode()
    except UnicodeDecodeError as error:
        line, column = place(content, error.start)
        fault = Fault("", "invalid_utf8", None, f"UTF-8 (line {line}, column {column} is not)")
        raise invalid([fault], code="invalid_utf8") from None


def place(content: bytes, offset: int) -> tuple[int, int]:
    """Line and column of a byte, both from 1."""
    before = content[:offset]
    return before.count(b"\n") + 1, offset - (before.rfind(b"\n") + 1) + 1


def _too_large(what: str, most: int) -> ApiError:
    return ApiError(413, "too_large", f"the {what} must have at most {most} bytes")
