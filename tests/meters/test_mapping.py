"""The mapping of columns as the command line writes it."""

from __future__ import annotations

import pickle

import pytest

from meters.errors import ConfigurationError
from meters.mapping import FIELDS, Mapping


def test_without_a_mapping_every_field_has_its_own_name() -> None:
    mapping = Mapping.parse()
    assert mapping == Mapping()
    assert [mapping.column(field) for field in FIELDS] == list(FIELDS)
    assert mapping.times("timestamp").is_verbatim


def test_the_format_is_that_of_the_timestamp_and_the_zone_that_of_both_times() -> None:
    mapping = Mapping.parse(time_format="%Y-%m-%d", time_zone="Asia/Kathmandu")
    assert mapping.times("timestamp").format == "%Y-%m-%d"
    assert mapping.times("ingested_at").format is None
    assert mapping.times("timestamp").zone == mapping.times("ingested_at").zone == "Asia/Kathmandu"


def test_fields_are_columns_constants_or_their_own_names() -> None:
    mapping = Mapping.parse(
        ["external_customer_id=user", "properties.tokens=usage=total"],
        ["event_name=llm.request", "properties.region="],
    )
    assert mapping.column("external_customer_id") == "user"
    assert mapping.is_explicit("external_customer_id")
    assert mapping.column("event_id") == "event_id"
    assert not mapping.is_explicit("event_id")
    assert mapping.column("event_name") is None
    assert mapping.constant("event_name") == "llm.request"
    assert mapping.property_columns == {"tokens": "usage=total"}
    assert mapping.property_constants == {"region": ""}


def test_a_mapping_travels_to_workers() -> None:
    mapping = Mapping.parse(["source=s"], [], "%Y-%m-%d", "Asia/Kathmandu")
    assert pickle.loads(pickle.dumps(mapping)) == mapping


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"maps": ["event_id"]}, "--map must be FIELD=COLUMN (got 'event_id')"),
        ({"maps": ["event_id="]}, "--map must be FIELD=COLUMN (got 'event_id=')"),
        ({"maps": ["=a"]}, "--map must be FIELD=COLUMN (got '=a')"),
        ({"maps": ["customer=a"]}, "--map must name one of event_id, "),
        ({"maps": ["properties.=a"]}, "--map must name a property (got 'properties.=a')"),
        ({"maps": ["tenant_id=a"]}, "--map must not name tenant_id: the tenant is --tenant"),
        ({"maps": ["source=a", "source=b"]}, "must be mapped once (got 'source' twice)"),
        (
            {"maps": ["source=a"], "constants": ["source=b"]},
            "must be mapped once (got 'source' twice)",
        ),
        ({"constants": ["event_name"]}, "--constant must be FIELD=VALUE (got 'event_name')"),
        ({"constants": ["event_name="]}, "--constant must give event_name a value"),
        ({"constants": ["event_id=a"]}, "--constant must not set event_id"),
        ({"constants": ["properties={}"]}, "--constant must set one property"),
        ({"constants": ["timestamp=now"]}, "--constant: timestamp must be an RFC 3339 time"),
        ({"time_zone": "Berlin"}, "--time-zone must be an IANA time zone such as Europe/Berlin"),
        ({"time_format": "%Y-%m-%d"}, "--time-format without %z must come with --time-zone"),
    ],
)
def test_a_wrong_mapping_is_refused(options: dict[str, list[str]], message: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        Mapping.parse(**options)  # type: ignore[arg-type]
    assert message in str(caught.value)
    assert caught.value.exit_code == 2
