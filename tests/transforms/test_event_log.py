"""The log on disk: what was appended is read, in order, whatever was cut off or killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import BinaryIO

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meters.errors import BeammeterError, ConfigurationError
from tests.cli import ROOT
from transforms import event_log
from transforms.event_log import EventLog


def pairs(first: int, count: int) -> list[tuple[bytes, bytes]]:
    return [(b"t/c", b'{"n":%d}' % number) for number in range(first, first + count)]


def content(log: EventLog, offset: int = 0) -> list[tuple[bytes, bytes]]:
    reader = log.reader(offset)
    found = []
    while frames := reader.read(100):
        found += [pair for frame in frames for pair in frame.messages]
    return found


def test_messages_come_back_in_order_over_segments_and_starts(tmp_path: Path) -> None:
    for start in range(0, 30, 10):
        log = EventLog(tmp_path, segment_bytes=100)
        assert log.append(pairs(start, 7), 1) == start
        assert log.append(pairs(start + 7, 3), 2) == start + 7
        assert content(log) == pairs(0, start + 10)
        log.close()
    assert len(list(tmp_path.glob("*.log"))) > 3


@given(cut=st.integers(0, 400), sizes=st.lists(st.integers(1, 5), min_size=1, max_size=6))
def test_a_half_written_end_is_cut_off_and_nothing_else(
    tmp_path_factory: pytest.TempPathFactory, cut: int, sizes: list[int]
) -> None:
    folder = tmp_path_factory.mktemp("log")
    log = EventLog(folder)
    ends = []
    for size in sizes:
        log.append(pairs(log.end, size), 1)
        ends.append((log.bytes, log.end))
    log.close()
    (path,) = folder.glob("*.log")
    whole = path.stat().st_size
    os.truncate(path, max(0, whole - cut))
    again = EventLog(folder)
    kept = max((end for size, end in ends if size <= whole - cut), default=0)
    assert content(again) == pairs(0, kept)
    assert again.append(pairs(kept, 1), 1) == kept
    assert content(again) == pairs(0, kept + 1)
    again.close()


def test_damage_before_the_end_is_told_and_not_skipped(tmp_path: Path) -> None:
    log = EventLog(tmp_path)
    for number in range(3):
        log.append(pairs(number, 1), 1)
    log.close()
    (path,) = tmp_path.glob("*.log")
    damaged = bytearray(path.read_bytes())
    damaged[40] ^= 1
    path.write_bytes(damaged)
    with pytest.raises(BeammeterError, match="byte 0 is damaged"):
        EventLog(tmp_path)


def test_committed_segments_go_and_reading_begins_behind_them(tmp_path: Path) -> None:
    log = EventLog(tmp_path, segment_bytes=1)
    for number in range(5):
        log.append(pairs(number, 1), 1)
    before = log.bytes
    log.commit(3)
    log.commit(1)
    assert log.committed == 3
    assert log.bytes < before
    assert content(log) == pairs(3, 2)
    assert sorted(int(path.stem) for path in tmp_path.glob("*.log")) == [3, 4]
    log.close()
    again = EventLog(tmp_path)
    assert (again.committed, again.end, content(again)) == (3, 5, pairs(3, 2))
    again.close()


def test_a_reader_may_begin_in_the_middle_of_a_frame(tmp_path: Path) -> None:
    log = EventLog(tmp_path)
    log.append(pairs(0, 5), 1)
    log.append(pairs(5, 5), 2)
    assert content(log, 3) == pairs(3, 7)
    assert [frame.first for frame in log.reader(3).read(100)] == [3, 5]
    log.close()


def test_one_process_has_the_folder(tmp_path: Path) -> None:
    log = EventLog(tmp_path)
    with pytest.raises(ConfigurationError, match="another process"):
        EventLog(tmp_path)
    log.close()
    EventLog(tmp_path).close()


WRITER = """
import sys
from pathlib import Path
from typing import BinaryIO
from transforms import event_log
from transforms.event_log import EventLog
log = EventLog(Path(sys.argv[1]), segment_bytes=4096)
while True:
    log.append([(b"t/c", b'{"n":%d}' % n) for n in range(log.end, log.end + 3)], 1)
    print(log.end, flush=True)
"""


def test_what_was_acknowledged_is_there_after_a_kill(tmp_path: Path) -> None:
    writer = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(tmp_path)], stdout=subprocess.PIPE, cwd=ROOT
    )
    assert writer.stdout is not None
    for _ in range(200):
        acknowledged = int(writer.stdout.readline())
    writer.send_signal(signal.SIGKILL)
    rest = writer.stdout.read().splitlines(keepends=True)
    writer.wait()
    writer.stdout.close()
    whole = [int(line) for line in rest if line.endswith(b"\n")]
    acknowledged = whole[-1] if whole else acknowledged
    log = EventLog(tmp_path, segment_bytes=4096)
    assert log.end >= acknowledged
    assert content(log) == pairs(0, log.end)
    log.close()


def test_the_oldest_message_that_waits_is_known_by_its_time(tmp_path: Path) -> None:
    log = EventLog(tmp_path / "log", segment_bytes=1)
    assert log.oldest is None
    for at in (100, 200, 300):
        log.append([(b"k", b"v")] * 2, at)
    found = []
    for offset in range(7):
        log.commit(offset)
        found.append(log.oldest)
    assert found == [100, 100, 200, 200, 300, 300, None]
    log.close()
    again = EventLog(tmp_path / "log")
    again.append([(b"k", b"v")], 400)
    assert again.oldest == 400
    again.close()


@pytest.mark.parametrize("segment_bytes", [1, 1000, 1_000_000])
def test_no_header_is_read_twice_to_know_the_oldest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, segment_bytes: int
) -> None:
    headers: list[int] = []

    def counted(file: BinaryIO, place: int) -> bytes:
        headers.append(place)
        return whole(file, place)

    whole = event_log._header
    monkeypatch.setattr(event_log, "_header", counted)
    frames = 200
    log = EventLog(tmp_path, segment_bytes)
    for at in range(frames):
        log.append([(b"k", b"v")] * 2, at)
    asked = 0
    for offset in range(0, 250, 3):
        log.commit(offset)
        assert log.oldest == offset // 2
        assert log.oldest == offset // 2
        asked += 2
    assert len(headers) <= frames + asked
    log.close()
    headers.clear()
    again = EventLog(tmp_path, segment_bytes)
    assert again.oldest == 249 // 2
    assert len(headers) == 1
    again.close()
