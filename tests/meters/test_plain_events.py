"""What is told to be plain, the rules of the event accept."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pyarrow as pa
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from meters.decode import refusals
from meters.plain_events import is_plain
from meters.property_columns import PropertyColumns

NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
USUAL = ("e1", "api_call", "acme")

ids = st.one_of(
    st.none(),
    st.text(max_size=5),
    st.sampled_from(["a" * 1024, "a" * 1025, "ü" * 600, "😀" * 256, "😀" * 257, "a\0b"]),
)
zones = st.timedeltas(timedelta(hours=-23, minutes=-59), timedelta(hours=23, minutes=59)).map(
    lambda delta: timezone(timedelta(minutes=delta // timedelta(minutes=1)))
)
seconds = st.integers(-366 * 24 * 3600, 331 * 366 * 24 * 3600)
instants = st.one_of(
    seconds.map(lambda number: EPOCH + timedelta(seconds=number)),
    st.timedeltas(timedelta(days=-1), timedelta(days=2)).map(lambda delta: NOW + delta),
)
written = st.builds(lambda at, zone: at.astimezone(zone).isoformat(), instants, zones)
numbers = st.sampled_from(["0000", "1970", "2026", "2299", "2300", "02", "30", "11", "24", "00"])
signs = st.sampled_from(["-", "T", "t", " ", ":", ".", "1234567", "Z", "+", "+00:00", "٣", "\n"])
odd = st.lists(st.one_of(numbers, signs)).map("".join)
times = st.one_of(st.none(), st.text(max_size=8), written, odd)
texts = st.one_of(
    st.sampled_from(['{"a": 1}', "{}", "[]", "null", "{", '"a"', " {} ", '{"a":NaN}', "{}x"]),
    st.sampled_from(["{" + '"a":{' * 9000 + "}" * 9001, '{"a":1,"a":2}', '{"a":"\\ud800"}']),
    st.text(max_size=4),
)


@given(st.tuples(ids, ids, ids), st.one_of(st.none(), st.text(max_size=2)), times, texts)
@example(USUAL, None, "2026-02-29T10:00:00Z", "{}")
@example(USUAL, None, "1970-01-01T00:00:00+00:01", "{}")
@example(USUAL, None, "2026-11-21T12:00:00.000001Z", "{}")
def test_what_is_plain_breaks_no_rule(
    given_ids: tuple[str | None, str | None, str | None],
    subscription: str | None,
    timestamp: str | None,
    properties: str,
) -> None:
    if not is_plain(given_ids, subscription, timestamp, properties.encode(), NOW):
        return
    found = refusals(
        pa.table(
            {
                **{
                    name: pa.array([text], pa.string())
                    for name, text in zip(
                        ("event_id", "event_name", "external_customer_id"), given_ids, strict=True
                    )
                },
                "external_subscription_id": pa.array([subscription], pa.string()),
                "timestamp": pa.array([timestamp or NOW.isoformat()], pa.string()),
                "ingested_at": pa.array([NOW], pa.timestamp("us", tz="UTC")),
            }
        )
    )
    assert not found
    assert not PropertyColumns([]).read(pa.array([properties], pa.string()))[1]


@pytest.mark.parametrize(
    "timestamp",
    [
        None,
        "2026-11-20T10:00:00Z",
        "2026-11-20T10:00:00.123456+05:30",
        "2026-11-21T12:00:00Z",
        "1970-01-01T00:00:00Z",
    ],
)
def test_the_usual_forms_are_plain(timestamp: str | None) -> None:
    assert is_plain(USUAL, None, timestamp, b'{"tokens": "1.5"}', NOW)
    assert is_plain(USUAL, "sub", timestamp, b"{}", NOW)


def test_what_is_not_known_is_left_to_the_rules() -> None:
    assert not is_plain(("", "a", "c"), None, None, b"{}", NOW)
    assert not is_plain(("a", None, "c"), None, None, b"{}", NOW)
    assert not is_plain(USUAL, "", None, b"{}", NOW)
    assert not is_plain(USUAL, None, "2026-11-21T12:00:00.000001Z", b"{}", NOW)
    assert not is_plain(USUAL, None, "1969-12-31T23:59:59Z", b"{}", NOW)
    assert not is_plain(USUAL, None, "2026-11-20 10:00:00Z", b"{}", NOW)
    assert not is_plain(USUAL, None, None, b"[]", NOW)
