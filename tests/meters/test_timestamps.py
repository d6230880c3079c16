"""Timestamps: RFC 3339 with an offset, one rule in two forms."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import polars as pl
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from meters.errors import Rejected
from meters.timestamps import format_instant, parse_timestamp, parse_timestamps
from meters.zones import microseconds
from tests.oracle_times import instant

VALID = [
    ("2026-11-01T00:00:00Z", "2026-11-01T00:00:00Z"),
    ("2026-11-01t00:00:00z", "2026-11-01T00:00:00Z"),
    ("2026-11-01 00:00:00Z", "2026-11-01T00:00:00Z"),
    ("2026-11-01T05:45:00+05:45", "2026-11-01T00:00:00Z"),
    ("2026-10-31T14:30:00-09:30", "2026-11-01T00:00:00Z"),
    ("2026-11-01T00:00:00-00:00", "2026-11-01T00:00:00Z"),
    ("2026-11-01T00:00:00+23:59", "2026-10-31T00:01:00Z"),
    ("2026-11-01T00:00:00.5Z", "2026-11-01T00:00:00.500000Z"),
    ("2026-11-01T00:00:00.000001Z", "2026-11-01T00:00:00.000001Z"),
    ("2026-10-31T23:59:59.9999999Z", "2026-10-31T23:59:59.999999Z"),
    ("2026-10-31T23:59:59." + "9" * 40 + "Z", "2026-10-31T23:59:59.999999Z"),
    ("2024-02-29T12:00:00Z", "2024-02-29T12:00:00Z"),
    ("1969-12-31T23:59:59.999999Z", "1969-12-31T23:59:59.999999Z"),
    ("0001-01-01T00:00:00Z", "0001-01-01T00:00:00Z"),
    ("9999-12-31T23:59:59.999999Z", "9999-12-31T23:59:59.999999Z"),
]
INVALID = [
    "",
    "yesterday",
    "2026-11-01",
    "2026-11-01T00:00:00",
    "2026-11-01T00:00Z",
    "2026-11-01T00:00:00 Z",
    "2026-11-01T00:00:00.Z",
    "2026-11-01T00:00:00,5Z",
    "2026-11-01T00:00:00+0100",
    "2026-11-01T00:00:00+01",
    "2026-11-01T00:00:00+24:00",
    "2026-11-01T00:00:00+01:60",
    "2026-11-01T00:00:00\u221201:00",
    "2026-11-01T24:00:00Z",
    "2026-11-01T23:60:00Z",
    "2026-12-31T23:59:60Z",
    "2026-02-29T00:00:00Z",
    "2026-02-30T00:00:00Z",
    "2026-13-01T00:00:00Z",
    "2026-00-01T00:00:00Z",
    "2026-1-1T00:00:00Z",
    "0000-01-01T00:00:00Z",
    "0001-01-01T00:00:00+00:01",
    "9999-12-31T23:59:59-00:01",
    "12026-11-01T00:00:00Z",
    "-2026-11-01T00:00:00Z",
    "2026-W44-7T00:00:00Z",
    "20261101T000000Z",
    " 2026-11-01T00:00:00Z",
    "2026-11-01T00:00:00Z ",
    "2026-11-01T00:00:00Z\n",
    "\uff12026-11-01T00:00:00Z",
    "1793491200",
]
NEAR = st.from_regex(
    r"[0-9]{3,4}-[01][0-9]-[0-3][0-9][Tt ][0-2][0-9]:[0-6][0-9]:[0-6][0-9]"
    r"(\.[0-9]{0,9})?([Zz]|[+-][0-2][0-9]:[0-6][0-9])?",
    fullmatch=True,
)


def scalar(text: str) -> int | None:
    try:
        return microseconds(parse_timestamp(text))
    except Rejected:
        return None


def column(*texts: str | None) -> list[int | None]:
    return parse_timestamps(pl.Series(texts, dtype=pl.String)).to_list()


@pytest.mark.parametrize(("text", "expected"), VALID)
def test_a_time_with_an_offset_is_its_instant_with_digits_after_the_sixth_cut_off(text, expected):
    assert format_instant(parse_timestamp(text)) == expected
    assert column(text, None) == [microseconds(instant(expected)), None]


@pytest.mark.parametrize("text", INVALID)
def test_any_other_text_is_refused(text):
    with pytest.raises(Rejected, match="seen must be an RFC 3339 time with an offset") as caught:
        parse_timestamp(text, "seen")
    assert caught.value.reason == "invalid_timestamp"
    assert column(text) == [None]
    assert column(text, None, "2026-11-01T00:00:00Z") == [None, None, 1_793_491_200_000_000]


@given(st.lists(st.one_of(NEAR, st.text(max_size=5), st.sampled_from(VALID).map(lambda v: v[0]))))
@example(INVALID)
def test_the_columnar_form_equals_the_scalar_one(texts):
    assert column(*texts) == [scalar(text) for text in texts]


@given(
    st.datetimes(datetime(1, 1, 2), datetime(9999, 12, 30)),  # noqa: DTZ001
    st.integers(-23 * 60 - 59, 23 * 60 + 59),
)
def test_what_is_written_with_any_offset_is_read_as_the_same_instant(local, minutes):
    moment = local.replace(tzinfo=UTC)
    text = moment.astimezone(timezone(timedelta(minutes=minutes))).isoformat()
    assert parse_timestamp(text) == moment
    assert parse_timestamp(format_instant(moment)) == moment
    assert column(text) == [microseconds(moment)]


def test_an_empty_column_has_no_instants():
    assert parse_timestamps(pl.Series([], dtype=pl.String)).dtype == pl.Int64
    assert column(None, None) == [None, None]
