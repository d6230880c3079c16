"""How the columns of somebody else's files become the fields of our events.

An archive rarely carries our names. A mapping says which column holds which field
(`external_customer_id=user`), which fields are the same for every event of the
import (`event_name=llm.request`) and how times are written. It is pure: it names
columns and never reads them.

    field       -> an event field, or `properties.NAME`
    column      -> a column of the file; `a.b` is the field b of the struct or
                   object a, unless the file has a column that is called `a.b`
    constant    -> text; it takes precedence over a column of the same name
    no mapping  -> the field is read from the column that has its name

A constant or a mapped column takes precedence over a property of the same name
that the file has by itself.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from meters.errors import ConfigurationError, Rejected
from meters.import_times import TimeReader
from meters.timestamps import parse_timestamp

PROPERTIES = "properties"
FIELDS = (
    "event_id",
    "event_name",
    "external_customer_id",
    "external_subscription_id",
    "timestamp",
    "ingested_at",
    "source",
    PROPERTIES,
)
"""What an event may carry, in the order of the raw columns."""

REQUIRED = ("event_id", "event_name", "external_customer_id", "timestamp")
IDS = ("event_id", "event_name", "external_customer_id", "external_subscription_id", "source")
TIMES = ("timestamp", "ingested_at")


@dataclass(frozen=True)
class Mapping:
    """Columns and constants of an import; the empty mapping reads our own names.

    `columns` and `constants` are pairs (field, column) and (field, value), each
    field at most once in both together.
    """

    columns: tuple[tuple[str, str], ...] = ()
    constants: tuple[tuple[str, str], ...] = ()
    time_format: str | None = None
    time_zone: str | None = None

    @classmethod
    def parse(
        cls,
        maps: Iterable[str] = (),
        constants: Iterable[str] = (),
        time_format: str | None = None,
        time_zone: str | None = None,
    ) -> Mapping:
        """The mapping that the options of the command line describe.

        `maps` holds `FIELD=COLUMN`, `constants` `FIELD=VALUE`. Raises
        `ConfigurationError` for an unknown field, a field that is given twice, a
        constant that cannot be one, and an unknown time format or zone.
        """
        columns = tuple(_pair("--map", "FIELD=COLUMN", text) for text in maps)
        values = tuple(_pair("--constant", "FIELD=VALUE", text) for text in constants)
        seen: set[str] = set()
        for field, _ in columns + values:
            if field in seen:
                raise ConfigurationError(f"a field must be mapped once (got {field!r} twice)")
            seen.add(field)
        for field, value in values:
            _check_constant(field, value)
        TimeReader.of(time_format, time_zone)
        return cls(columns, values, time_format, time_zone)

    def times(self, field: str) -> TimeReader:
        """How the texts of a time are read; the format is that of `timestamp` alone."""
        return TimeReader.of(self.time_format if field == "timestamp" else None, self.time_zone)

    def constant(self, field: str) -> str | None:
        """The value that every event has in `field`, if any."""
        return dict(self.constants).get(field)

    def column(self, field: str) -> str | None:
        """The column that `field` is read from; None where it is a constant."""
        if field in dict(self.constants):
            return None
        return dict(self.columns).get(field, field)

    def is_explicit(self, field: str) -> bool:
        """Whether a column was named for `field`.

        In such a column an integer is taken as an id: its decimal text.
        """
        return field in dict(self.columns)

    @property
    def property_columns(self) -> dict[str, str]:
        """The columns of the properties that were mapped one by one."""
        return _properties(self.columns)

    @property
    def property_constants(self) -> dict[str, str]:
        """The properties that are the same for every event."""
        return _properties(self.constants)


def _properties(pairs: tuple[tuple[str, str], ...]) -> dict[str, str]:
    prefix = f"{PROPERTIES}."
    return {field.removeprefix(prefix): text for field, text in pairs if field.startswith(prefix)}


def _pair(option: str, form: str, text: str) -> tuple[str, str]:
    field, equals, value = text.partition("=")
    if not equals or not field or (option == "--map" and not value):
        raise ConfigurationError(f"{option} must be {form} (got {text!r})")
    if field == "tenant_id":
        raise ConfigurationError(f"{option} must not name tenant_id: the tenant is --tenant")
    if field not in FIELDS and not field.startswith(f"{PROPERTIES}."):
        known = ", ".join((*FIELDS, f"{PROPERTIES}.NAME"))
        raise ConfigurationError(f"{option} must name one of {known} (got {field!r})")
    if field == f"{PROPERTIES}.":
        raise ConfigurationError(f"{option} must name a property (got {text!r})")
    return field, value


def _check_constant(field: str, value: str) -> None:
    if field == "event_id":
        raise ConfigurationError(
            "--constant must not set event_id: events of one id are copies of one event"
        )
    if field == PROPERTIES:
        raise ConfigurationError(
            f"--constant must set one property, as {PROPERTIES}.NAME=VALUE (got {field!r})"
        )
    if field in TIMES:
        try:
            parse_timestamp(value, field)
        except Rejected as rejected:
            raise ConfigurationError(f"--constant: {rejected.detail}") from None
    elif field in FIELDS and not value:
        raise ConfigurationError(f"--constant must give {field} a value (got {field + '='!r})")
