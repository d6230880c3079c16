"""Text files as blocks of whole lines, decompressed with bounded memory.

    bytes -> gzip or zstd, any number of members -> blocks cut at line ends

A damaged or truncated file gives everything before the damage; `Damaged` says what
is wrong and comes last. A checksum stands at the end of what it covers: where it is
wrong, rows that were read before may be wrong too, and the `Damaged` says so.
"""

from __future__ import annotations

import codecs
import zlib
from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

import zstandard

from transforms.raw import MAX_PAYLOAD, MAX_ROW

BLOCK = 8 * 1024 * 1024
"""Bytes of text that become one batch."""

CHUNK = 256 * 1024
"""Bytes that are read from a file, or decompressed from it, at a time."""

MAX_WINDOW = 2**31
"""The largest zstd window (`zstd --long=31`) that is accepted."""


class Damaged(Exception):
    """The file cannot be read from here on."""


def chunks(raw: BinaryIO, compression: str) -> Iterator[bytes]:
    """The decompressed bytes. Raises `Damaged` after everything that could be read."""
    return _without_mark({"gzip": _gzip, "zstd": _zstd}.get(compression, _plain)(raw))


def _without_mark(parts: Iterator[bytes]) -> Iterator[bytes]:
    """Take off the byte order mark; other encodings than UTF-8 are damage."""
    start = b""
    try:
        while len(start) < len(codecs.BOM_UTF8) and (part := next(parts, b"")):
            start += part
        cause = None
    except Damaged as damaged:
        cause = damaged
    if start.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise Damaged("text must be UTF-8 (got UTF-16)")
    if start := start.removeprefix(codecs.BOM_UTF8):
        yield start
    if cause is not None:
        raise cause
    yield from parts


def _plain(raw: BinaryIO) -> Iterator[bytes]:
    while chunk := raw.read(CHUNK):
        yield chunk


def _gzip(raw: BinaryIO) -> Iterator[bytes]:
    member = zlib.decompressobj(wbits=31)
    started = False
    for chunk in _plain(raw):
        data = chunk
        while data:
            if member.eof:
                data = data.lstrip(b"\0")
                member, started = zlib.decompressobj(wbits=31), False
                continue
            try:
                out = member.decompress(data, CHUNK)
            except zlib.error as error:
                raise Damaged(_cause("gzip", error)) from None
            started = True
            if out:
                yield out
            data = member.unused_data if member.eof else member.unconsumed_tail
    if started and not member.eof:
        if out := member.flush():
            yield out
        raise Damaged("the gzip data is truncated")


def _zstd(raw: BinaryIO) -> Iterator[bytes]:
    decompressor = zstandard.ZstdDecompressor(max_window_size=MAX_WINDOW)
    member = decompressor.decompressobj()
    started = False
    for chunk in _plain(raw):
        data = chunk
        while data:
            if member.eof:
                member, started = decompressor.decompressobj(), False
            piece, rest = data[:_ZSTD_PIECE], data[_ZSTD_PIECE:]
            try:
                out = member.decompress(piece)
            except zstandard.ZstdError as error:
                raise Damaged(_cause("zstd", error)) from None
            started = True
            if out:
                yield out
            data = member.unused_data + rest if member.eof else rest
    if started and not member.eof:
        raise Damaged("the zstd data is truncated")


def _cause(name: str, error: Exception) -> str:
    text = f"the {name} data is damaged: {error}"
    if "check" in str(error):
        text += "; rows before this one may be wrong"
    return text


_ZSTD_PIECE = 16 * 1024
"""zstd's decompressor gives all that a piece holds at once, so pieces are small."""


class Lines(NamedTuple):
    """Consecutive whole lines, without their line feeds; `first` counts from 1."""

    first: int
    lines: list[bytes]


class Oversized(NamedTuple):
    """A line with more than `MAX_ROW` bytes: its start and its size."""

    row: int
    start: bytes
    size: int


class Broken(NamedTuple):
    """The end of what can be read: the first row that cannot, and the cause."""

    row: int
    cause: str
    start: bytes


def lines(parts: Iterator[bytes], block_bytes: int = BLOCK) -> Iterator[Lines | Oversized | Broken]:
    """Cut decompressed bytes into lines, a block at a time; a blank line is a line.

    Memory is bounded by the larger of `block_bytes` and twice `MAX_ROW`.
    """
    row, held, size, limit = 1, list[bytes](), 0, block_bytes
    long: Oversized | None = None
    cause = ""
    try:
        for part in parts:
            if long is not None:
                end = part.find(b"\n")
                if end < 0:
                    long = long._replace(size=long.size + len(part))
                    continue
                yield long._replace(size=long.size + end)
                long, row, part = None, row + 1, part[end + 1 :]
            held.append(part)
            size += len(part)
            if size < limit:
                continue
            *pieces, tail = b"".join(held).split(b"\n")
            yield from _whole(row, pieces)
            row += len(pieces)
            if len(tail) > MAX_ROW:
                long, tail = Oversized(row, tail[: MAX_PAYLOAD + 4], len(tail)), b""
            held, size = [tail], len(tail)
            limit = max(block_bytes, 2 * size)
    except Damaged as damaged:
        cause = str(damaged)
    *pieces, tail = b"".join(held).split(b"\n")
    yield from _whole(row, pieces)
    row += len(pieces)
    if cause:
        yield Broken(row, cause, long.start if long else tail)
    elif long is not None:
        yield long
    elif tail:
        yield from _whole(row, [tail])


def _whole(first: int, pieces: list[bytes]) -> Iterator[Lines | Oversized]:
    start = 0
    for index, piece in enumerate(pieces):
        if len(piece) > MAX_ROW:
            if index > start:
                yield Lines(first + start, pieces[start:index])
            yield Oversized(first + index, piece[: MAX_PAYLOAD + 4], len(piece))
            start = index + 1
    if start < len(pieces):
        yield Lines(first + start, pieces[start:] if start else pieces)
