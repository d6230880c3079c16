"""Who issues invoices, and how their numbers look. `docs/catalog.md` explains every key."""

from __future__ import annotations

import re
from datetime import UTC, date, datetime
from typing import Annotated

from pydantic import AfterValidator, Field

from meters.catalog_values import Id, Model, Zone
from meters.zones import zone_info

_PART = re.compile(r"\{([^{}]*)\}")
_NUMBER = re.compile(r"number(:0([1-9]))?")
_PARTS = "{year}, {number} or {number:05}"


def _number_format(value: str) -> str:
    parts = _PART.findall(value)
    for part in parts:
        if part != "year" and _NUMBER.fullmatch(part) is None:
            raise ValueError(f"must have no other parts than {_PARTS} (got {{{part}}})")
    if "{" in _PART.sub("", value) or "}" in _PART.sub("", value):
        raise ValueError(f"must have closed braces around {_PARTS} (got {value!r})")
    numbers = [part for part in parts if part != "year"]
    if len(numbers) != 1 or "year" not in parts:
        raise ValueError(
            "must have {year} and one {number}, since numbers begin anew each year "
            f"(got {value!r})"
        )
    return value


def _country(value: str) -> str:
    if re.fullmatch(r"[A-Z]{2}", value) is None:
        raise ValueError(f"must be two capital letters of ISO 3166, such as DE (got {value!r})")
    return value


NumberFormat = Annotated[str, Field(max_length=64), AfterValidator(_number_format)]
Country = Annotated[str, AfterValidator(_country)]


class Party(Model):
    """What the law wants to know of a side of an invoice; empty where it is not said."""

    legal_name: str = ""
    address: str = ""
    tax_id: str = ""
    country: Country | None = None

    @property
    def party(self) -> dict[str, str | None]:
        """These fields as they stand on a finalized invoice."""
        return {
            "legal_name": self.legal_name,
            "address": self.address,
            "tax_id": self.tax_id,
            "country": self.country,
        }


class Issuer(Party):
    """Who issues invoices. Each has numbers of its own, without gaps, from 1 in each year.

    The date of issue is that of its `time_zone`.
    """

    id: Id
    number_format: NumberFormat = "INV-{year}-{number:05}"
    time_zone: Zone = "UTC"

    def number(self, year: int, sequence: int) -> str:
        """The text of a number; `sequence` counts from 1 within the year."""
        return self.number_format.format(year=year, number=sequence)

    def today(self, now: datetime) -> date:
        """The date at the issuer's place."""
        return now.astimezone(UTC).astimezone(zone_info(self.time_zone)).date()


DEFAULT_ISSUER = Issuer(id="default")
"""Who issues the invoices of a catalog without issuers."""
