"""The body of a request: read within limits, unpacked, and taken for UTF-8 only where it is.

A compressed body is unpacked piece by piece and refused as soon as it is larger than
allowed, so a small one that would become huge costs no more than the limit.
"""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import zstandard
from fastapi import Request

from service.errors import ApiError, Fault, invalid, unavailable
from service.settings import MIB, Limits

_PIECE = 1 << 20
_SECONDS = 60.0
_WINDOW = 8 * MIB
"""The largest window of zstd that is unpacked: what level 19 uses."""


class Room:
    """How many bytes of bodies one process holds at a time."""

    def __init__(self, most: int = 256 * MIB) -> None:
        self._most = most
        self.held = 0

    @asynccontextmanager
    async def body(self, request: Request, limits: Limits) -> AsyncIterator[bytes]:
        """The body, unpacked; room is kept for it until the end of the block.

        Raises 400, 413, 415, or 503 where there is no room.
        """
        packed = await self._received(request, limits)
        taken = len(packed)
        self.held += taken
        try:
            content = unpacked(packed, request.headers.get("content-encoding", ""), limits.content)
            check_utf8(content)
            self.held += len(content)
            taken += len(content)
            yield content
        finally:
            self.held -= taken

    async def _received(self, request: Request, limits: Limits) -> bytes:
        announced = request.headers.get("content-length", "0")
        if announced.isdigit() and int(announced) > limits.body:
            raise _too_large("body", limits.body)
        size = 0
        parts = []
        try:
            async with asyncio.timeout(_SECONDS):
                async for part in request.stream():
                    size += len(part)
                    if size > limits.body:
                        raise _too_large("body", limits.body)
                    if self.held + size > self._most:
                        raise unavailable("the server holds as many bodies as it can")
                    parts.append(part)
        except TimeoutError:
            detail = f"the body must be there within {_SECONDS:g} s"
            raise ApiError(408, "too_slow", detail, headers={"connection": "close"}) from None
        return b"".join(parts)


def unpacked(packed: bytes, encoding: str, most: int) -> bytes:
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
