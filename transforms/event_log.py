"""A durable log of messages in a folder: appended by one process, read in order, cut in front.

    00000000000000000000.log   frames: header, then messages as MessagePack
    00000000000000004711.log   a segment is named by the offset of its first message
    committed                  everything before this offset is durable elsewhere

A message is (key, value), its offset counts from 0. A frame is what one append has
brought; `append` returns once it is on disk (fsync). A frame that a crash left half-written
was never acknowledged and is cut off at the next start; a frame that is damaged elsewhere
ends the start with an error, since what follows it would be lost. Segments below the committed
offset are removed.
"""

from __future__ import annotations

import fcntl
import itertools
import os
import struct
import threading
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, TextIO
from zlib import crc32

import msgspec

from meters.errors import BeammeterError, ConfigurationError
from warehouse.tracing import MOST_LINKS, Traced

SEGMENT_BYTES = 64 * 1024 * 1024
_MOST_TRACED = 10_000
"""Appends whose spans are remembered, for a reader that has fallen behind."""
_MAGIC = b"bml1"
_HEADER = struct.Struct(">4sIQqII")
"""Magic, CRC-32 of the rest of the header and the messages, offset of the first message,
time in microseconds, number of messages, bytes of messages."""
_COMMITTED = "committed"

Pair = tuple[bytes, bytes]
_MESSAGES = msgspec.msgpack.Decoder(list[Pair])


@dataclass(frozen=True)
class Frame:
    """What one append has brought. `first` is the offset of its first message, `at` when it
    was appended (microseconds, UTC), `end` where the next frame begins in its segment.
    """

    first: int
    at: int
    messages: list[Pair]
    end: int


class EventLog:
    """The log in `folder`; safe for use by several threads, kept from other processes."""

    def __init__(self, folder: Path, segment_bytes: int = SEGMENT_BYTES) -> None:
        self.folder = folder
        self._segment_bytes = segment_bytes
        folder.mkdir(parents=True, exist_ok=True)
        self._lock = _locked(folder)
        self._guard = threading.Lock()
        self._grown = threading.Condition(self._guard)
        self._first: tuple[Path, int] | None = None
        try:
            self.committed = _read_committed(folder)
            self.end = self.committed
            self.bytes = 0
            self._traced: dict[int, tuple[Traced, ...]] = {}
            self._recover()
        except BaseException:
            self._lock.close()
            raise
        segments = _segments(folder)
        current = segments[-1] if segments else self._path(self.end)
        self._file = open(current, "ab")  # noqa: SIM115 (closed by `close`)
        self._sizes = {int(path.stem): path.stat().st_size for path in _segments(folder)}
        self._start = int(current.stem)
        _sync_folder(folder)

    def append(self, messages: Sequence[Pair], at: int, traced: Sequence[Traced] = ()) -> int:
        """Add messages as one frame and wait until they are on disk; returns the first offset.

        The spans that brought them, the first of many, are remembered for readers of this
        process alone. Raises OSError where the disk refuses: then none of them is in the log.
        """
        payload = msgspec.msgpack.encode(messages)
        first = self.end
        rest = _HEADER.pack(_MAGIC, 0, first, at, len(messages), len(payload))[8:]
        header = _MAGIC + struct.pack(">I", crc32(payload, crc32(rest))) + rest
        if self._sizes.get(self._start, 0) >= self._segment_bytes:
            self._roll()
        size = self._file.tell()
        try:
            self._file.write(header + payload)
            self._file.flush()
            os.fdatasync(self._file.fileno())
        except OSError:
            self._file.close()
            os.truncate(self._path(self._start), size)
            self._file = open(self._path(self._start), "ab")  # noqa: SIM115
            raise
        with self._grown:
            self._sizes[self._start] = size + len(header) + len(payload)
            self.bytes += len(header) + len(payload)
            if traced and len(self._traced) < _MOST_TRACED:
                self._traced[first] = tuple(dict.fromkeys(traced))[:MOST_LINKS]
            self.end = first + len(messages)
            self._grown.notify_all()
        return first

    @property
    def oldest(self) -> int | None:
        """When the first message that is not committed was appended (microseconds, UTC).

        None where there is none, or where it was committed meanwhile.
        """
        committed = self.committed
        if (path := self.segment_of(committed)) is None or self.end <= committed:
            return None
        # Where it stood when it was asked for last: no header is read again once it is passed.
        known, place = self._first or (path, 0)
        try:
            with open(path, "rb") as file:
                found = _frame_of(file, committed, place if known == path else 0)
        except FileNotFoundError:
            return None
        if found is None:
            return None
        self._first = path, found[0]
        return found[1]

    def wait(self, beyond: int, seconds: float) -> bool:
        """Whether there are messages at or behind an offset, waiting for them a while."""
        with self._grown:
            return self._grown.wait_for(lambda: self.end > beyond, seconds)

    def traced(self, first: int, end: int) -> tuple[Traced, ...]:
        """The spans that brought what was appended in [first, end) and is not committed.

        As many as a span may refer to, the first ones.
        """
        if not self._traced:
            return ()
        with self._guard:
            found = [spans for at, spans in self._traced.items() if first <= at < end]
        return tuple(itertools.islice(itertools.chain.from_iterable(found), MOST_LINKS))

    def reader(self, offset: int) -> LogReader:
        """Reads from an offset on."""
        return LogReader(self, offset)

    def commit(self, offset: int) -> None:
        """Everything before `offset` is durable elsewhere; it never goes back."""
        with self._guard:
            if offset <= self.committed:
                return
            part = self.folder / f"{_COMMITTED}.part"
            with open(part, "w", encoding="ascii") as file:
                file.write(f"{offset}\n")
                file.flush()
                os.fsync(file.fileno())
            part.replace(self.folder / _COMMITTED)
            self.committed = offset
            for first in [first for first in self._traced if first < offset]:
                del self._traced[first]
            starts = sorted(self._sizes)
            for start, following in itertools.pairwise(starts):
                if following <= offset:
                    self._path(start).unlink(missing_ok=True)
                    self.bytes -= self._sizes.pop(start)

    def close(self) -> None:
        """Leave the folder to others."""
        self._file.close()
        self._lock.close()

    def segment_of(self, offset: int) -> Path | None:
        """The segment that holds an offset which is in the log."""
        with self._guard:
            starts = [start for start in self._sizes if start <= offset]
        return self._path(max(starts)) if starts else None

    def _path(self, start: int) -> Path:
        return self.folder / f"{start:020}.log"

    def _roll(self) -> None:
        self._file.close()
        self._start = self.end
        self._file = open(self._path(self._start), "ab")  # noqa: SIM115
        with self._guard:
            self._sizes[self._start] = 0
        _sync_folder(self.folder)

    def _recover(self) -> None:
        """Find the end, and cut off what a crash left half-written behind it."""
        segments = _segments(self.folder)
        for number, path in enumerate(segments):
            start = int(path.stem)
            if number and start != self.end:
                raise BeammeterError(f"{path} must begin at {self.end}: a segment is missing")
            self.end = max(start, 0)
            place = 0
            with open(path, "rb") as file:
                while (frame := read_frame(file, place)) is not None:
                    if frame.first <= self.committed:
                        self._first = path, place
                    self.end, place = frame.first + len(frame.messages), frame.end
            size = path.stat().st_size
            if place < size:
                if number < len(segments) - 1:
                    raise BeammeterError(f"{path} must be whole (byte {place} is damaged)")
                self._cut(path, place)
            self.bytes += place
        self.end = max(self.end, self.committed)

    def _cut(self, path: Path, place: int) -> None:
        """Raises BeammeterError where a whole frame follows: then this is no half append."""
        rest = path.read_bytes()[place:]
        found = rest.find(_MAGIC, 1)
        while found != -1:
            with open(path, "rb") as file:
                if read_frame(file, place + found) is not None:
                    raise BeammeterError(f"{path} must be whole (byte {place} is damaged)")
            found = rest.find(_MAGIC, found + 1)
        with open(path, "r+b") as file:
            file.truncate(place)
            os.fsync(file.fileno())


class LogReader:
    """Reads a log in order; what is appended later comes as well."""

    def __init__(self, log: EventLog, offset: int) -> None:
        self._log = log
        self.offset = max(offset, log.committed)
        self._path: Path | None = None
        self._place = 0

    def read(self, most: int) -> list[Frame]:
        """The next frames, until they hold `most` messages; none where there are no more.

        The first frame may begin before the reader's offset: its messages up to there are
        left out.
        """
        found: list[Frame] = []
        count = 0
        while count < most and self.offset < self._log.end:
            path = self._log.segment_of(self.offset)
            if path is None:
                raise BeammeterError(f"{self._log.folder} must hold offset {self.offset}")
            if path != self._path:
                self._path, self._place = path, 0
            with open(path, "rb") as file:
                while count < most and self.offset < self._log.end:
                    frame = read_frame(file, self._place)
                    if frame is None:
                        break
                    self._place = frame.end
                    skipped = self.offset - frame.first
                    if skipped >= len(frame.messages):
                        continue
                    kept = Frame(self.offset, frame.at, frame.messages[skipped:], frame.end)
                    found.append(kept)
                    count += len(kept.messages)
                    self.offset += len(kept.messages)
        return found


def read_frame(file: BinaryIO, place: int) -> Frame | None:
    """The frame at a byte of a segment; None where there is no whole one."""
    file.seek(place)
    header: bytes = file.read(_HEADER.size)
    if len(header) < _HEADER.size:
        return None
    magic, checksum, first, at, count, size = _HEADER.unpack(header)
    if magic != _MAGIC:
        return None
    payload: bytes = file.read(size)
    if len(payload) < size or crc32(payload, crc32(header[8:])) != checksum:
        return None
    messages = _MESSAGES.decode(payload)
    if len(messages) != count:
        return None
    return Frame(first, at, messages, place + _HEADER.size + size)


def _frame_of(file: BinaryIO, offset: int, place: int) -> tuple[int, int] | None:
    """The place and the time of the frame that holds an offset; only headers are read.

    It is at `place` or behind.
    """
    while len(header := _header(file, place)) == _HEADER.size:
        magic, _, first, at, count, size = _HEADER.unpack(header)
        if magic != _MAGIC:
            return None
        if offset < first + count:
            return place, int(at)
        place += _HEADER.size + size
    return None


def _header(file: BinaryIO, place: int) -> bytes:
    file.seek(place)
    return file.read(_HEADER.size)


def _segments(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("*.log") if path.stem.isdigit())


def _read_committed(folder: Path) -> int:
    with suppress(FileNotFoundError):
        text = (folder / _COMMITTED).read_text(encoding="ascii").strip()
        if not text.isdigit():
            raise BeammeterError(f"{folder / _COMMITTED} must hold an offset (got {text!r})")
        return int(text)
    return 0


def _locked(folder: Path) -> TextIO:
    lock = open(folder / "lock", "a", encoding="ascii")  # noqa: SIM115 (held until `close`)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        lock.close()
        raise ConfigurationError(f"{folder} must be free (another process uses it)") from None
    return lock


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
