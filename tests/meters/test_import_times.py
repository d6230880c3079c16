"""Times of archives: formats, zones, changes of the clock and what is refused."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from meters.errors import ConfigurationError
from meters.import_times import UNIX_DIGITS, TimeReader, to_utc
from meters.zones import microseconds, to_instant

ZONES = ["Europe/Berlin", "America/New_York", "Asia/Kathmandu", "Australia/Lord_Howe", "UTC"]
WALLS = st.datetimes(datetime(1971, 1, 1), datetime(2090, 1, 1))  # noqa: DTZ001


def read(text: str | None, time_format: str | None, zone: str | None = None) -> str | None:
    (found,) = TimeReader.of(time_format, zone).read(pa.array([text], pa.string())).to_pylist()
    return None if found is None else found.isoformat().replace("+00:00", "Z")


@pytest.mark.parametrize(
    ("text", "time_format", "zone", "instant"),
    [
        ("16/Nov/2023:18:17:03 +0530", "%d/%b/%Y:%H:%M:%S %z", None, "2023-11-16T12:47:03Z"),
        ("16/nov/2023:18:17:03 -03:30", "%d/%b/%Y:%H:%M:%S %z", None, "2023-11-16T21:47:03Z"),
        ("20231116T181703Z", "%Y%m%dT%H%M%S%z", None, "2023-11-16T18:17:03Z"),
        ("20231116", "%Y%m%d", "Asia/Kathmandu", "2023-11-15T18:15:00Z"),
        (
            "2023-11-16 18:17:03.9799600",
            "%Y-%m-%d %H:%M:%S.%f",
            "UTC",
            "2023-11-16T18:17:03.979960Z",
        ),
        ("2023-11-16 18:17:03.5", "%Y-%m-%d %H:%M:%S.%f", "UTC", "2023-11-16T18:17:03.500000Z"),
        ("Thu, November 16 23 12:05 AM", "%a, %B %d %y %I:%M %p", "UTC", "2023-11-16T00:05:00Z"),
        ("11/16/99 12:05 pm", "%m/%d/%y %I:%M %p", "UTC", "1999-11-16T12:05:00Z"),
        ("2024-366", "%Y-%j", "UTC", "2024-12-31T00:00:00Z"),
        ("100% 2024-02-29", "100%% %Y-%m-%d", "UTC", "2024-02-29T00:00:00Z"),
        ("1700000000", "unix", None, "2023-11-14T22:13:20Z"),
        ("1700000000.1234569", "unix", None, "2023-11-14T22:13:20.123456Z"),
        ("1.7e9", "unix", None, "2023-11-14T22:13:20Z"),
        ("1700000000123.4569", "unix_ms", None, "2023-11-14T22:13:20.123456Z"),
        ("1700000000123456", "unix_us", None, "2023-11-14T22:13:20.123456Z"),
        ("-1", "unix", None, "1969-12-31T23:59:59Z"),
        ("2023-11-16 18:17:03.9799600", None, "UTC", "2023-11-16T18:17:03.979960Z"),
        ("2023-11-16T18:17:03", None, "Europe/Berlin", "2023-11-16T17:17:03Z"),
        ("2023-11-16", None, "Europe/Berlin", "2023-11-15T23:00:00Z"),
        ("2023-11-16T18:17:03+05:45", None, "Europe/Berlin", "2023-11-16T12:32:03Z"),
        ("2023-11-16T18:17:03Z", None, "Europe/Berlin", "2023-11-16T18:17:03Z"),
    ],
)
def test_a_time_is_read_as_its_format_has_it(
    text: str, time_format: str | None, zone: str | None, instant: str
) -> None:
    assert read(text, time_format, zone) == instant


@pytest.mark.parametrize(
    ("text", "time_format", "zone"),
    [
        (None, "unix", None),
        (None, None, "UTC"),
        ("", "unix", None),
        ("abc", "unix", None),
        ("NaN", "unix", None),
        ("1e30", "unix", None),
        ("99999999999999999999999999", "unix_us", None),
        ("253402300800", "unix", None),
        ("2023-02-29", "%Y-%m-%d", "UTC"),
        ("2023-13-01", "%Y-%m-%d", "UTC"),
        ("2023-00-01", "%Y-%m-%d", "UTC"),
        ("2023-01-00", "%Y-%m-%d", "UTC"),
        ("0000-01-01", "%Y-%m-%d", "UTC"),
        ("2023-366", "%Y-%j", "UTC"),
        ("2023-01-01 24:00", "%Y-%m-%d %H:%M", "UTC"),
        ("2023-01-01 23:60", "%Y-%m-%d %H:%M", "UTC"),
        ("2023-01-01 13:00 PM", "%Y-%m-%d %I:%M %p", "UTC"),
        ("2023-01-01 23:59:60", "%Y-%m-%d %H:%M:%S", "UTC"),
        ("2023-01-01 trailing", "%Y-%m-%d", "UTC"),
        ("2023-01-01T00:00:00+25:00", "%Y-%m-%dT%H:%M:%S%z", None),
        ("9999-12-31T23:59:59-01:00", "%Y-%m-%dT%H:%M:%S%z", None),
        ("2023-02-29T00:00:00", None, "UTC"),
        ("2023-02-29T00:00:00Z", None, "UTC"),
        ("16.11.2023", None, "UTC"),
    ],
)
def test_what_is_no_time_is_refused(
    text: str | None, time_format: str | None, zone: str | None
) -> None:
    assert read(text, time_format, zone) is None


@given(st.lists(st.integers(-(2**59), 2**59), max_size=5), st.sampled_from(list(UNIX_DIGITS)))
def test_whole_numbers_and_others_are_read_alike(numbers: list[int], time_format: str) -> None:
    reader = TimeReader.of(time_format, None)
    whole = reader.read(pa.array([str(number) for number in numbers], pa.string()))
    other = reader.read(pa.array([f"{number}.0" for number in numbers], pa.string()))
    assert whole == other


@pytest.mark.parametrize(
    ("wall", "instant"),
    [
        ("2026-03-29T01:59:59", "2026-03-29T00:59:59Z"),
        ("2026-03-29T02:30:00", "2026-03-29T01:30:00Z"),  # does not exist: the offset before
        ("2026-03-29T03:00:00", "2026-03-29T01:00:00Z"),
        ("2026-10-25T02:30:00", "2026-10-25T00:30:00Z"),  # occurs twice: the first
        ("2026-10-25T03:00:00", "2026-10-25T02:00:00Z"),
    ],
)
def test_at_a_change_of_the_clock_the_first_and_the_offset_before_count(
    wall: str, instant: str
) -> None:
    assert read(wall, None, "Europe/Berlin") == instant


@pytest.mark.parametrize(
    ("time_format", "message"),
    [
        ("%Y-%m-%d %q", "%q"),
        ("%Y-%m-%d %", "'%'"),
        ("%Y-%m-%d %Y", "'%Y' twice"),
        ("%Y-%m", "must name a year, a month and a day"),
        ("%H:%M", "must name a year, a month and a day"),
    ],
)
def test_a_wrong_format_is_refused(time_format: str, message: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        TimeReader.of(time_format, "UTC")
    assert message in str(caught.value)


@given(
    st.lists(WALLS, max_size=5),
    st.sampled_from(
        [
            "%Y-%m-%d %H:%M:%S.%f",
            "%d.%m.%y %I:%M:%S %p %f",
            "%j|%Y|%H%M%S|%f",
            "%A %d %B %Y %H.%M.%S,%f",
            "%a%b%d%Y%H%M%S%f",
        ]
    ),
)
def test_what_strftime_writes_is_read_back(walls: list[datetime], time_format: str) -> None:
    texts = pa.array([wall.strftime(time_format) for wall in walls], pa.string())
    found = TimeReader.of(time_format, "UTC").read(texts).to_pylist()
    assert found == [
        datetime.strptime(wall.strftime(time_format), time_format).replace(tzinfo=UTC)
        for wall in walls
    ]


@given(st.lists(WALLS, min_size=1, max_size=20), st.sampled_from(ZONES))
def test_local_times_are_instants_as_the_zone_has_them(walls: list[datetime], zone: str) -> None:
    naive = np.array([microseconds(wall.replace(tzinfo=UTC)) for wall in walls])
    assert to_utc(naive, zone).tolist() == [microseconds(to_instant(wall, zone)) for wall in walls]


@pytest.mark.parametrize("zone", ZONES)
def test_every_quarter_of_an_hour_of_a_year_is_localised(zone: str) -> None:
    start = datetime(2026, 1, 1)  # noqa: DTZ001
    walls = [start + timedelta(minutes=15 * step) for step in range(4 * 24 * 365)]
    naive = np.array([microseconds(wall.replace(tzinfo=UTC)) for wall in walls])
    assert to_utc(naive, zone).tolist() == [microseconds(to_instant(wall, zone)) for wall in walls]
