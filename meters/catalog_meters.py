"""Meters of a catalog: which events, which value of them, and how they combine."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from functools import cached_property
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from meters.catalog_values import (
    CelText,
    Conflict,
    EventName,
    FilterValue,
    Id,
    Misfit,
    Model,
    PositivePercent,
)
from meters.scalars import canonical_scalar

Aggregation = Literal[
    "count", "sum", "max", "min", "avg", "latest", "unique_count", "weighted_sum", "percentile"
]
Kind = Literal[Aggregation, "weighted_readings", "active_count"]
"""What usage is kept of a meter: an aggregation, told apart where its state differs."""

Bucket = Literal["hour", "day"]


class Meter(Model):
    """What is measured: which events, which value of them, and how they combine.

    `filters` maps a property to its allowed values; all must match. `group_by`
    names the properties whose values keep usage apart. `property` and
    `expression` (CEL over the properties, see `meters.expressions`) exclude each
    other; `count` takes neither, every other aggregation takes one. With `bucket` the
    value of a longer span is the sum of the values of its local hours or days.

    `weighted_sum` is the mean level over a span: the property changes the level, or is
    the level itself with `level: readings`. `percentile` is the percentage of the numbers
    that the value is not exceeded by. A `recurring` meter carries what it has into later
    periods. `operation_property` says for `unique_count` whether a value is added or
    removed.
    """

    id: Id
    event_name: EventName
    aggregation: Aggregation
    property: Id | None = None
    expression: CelText | None = None
    filters: dict[str, Annotated[list[FilterValue], Field(min_length=1)]] = Field(
        default_factory=dict
    )
    group_by: list[Id] = Field(default_factory=list)
    bucket: Bucket | None = None
    level: Literal["changes", "readings"] | None = None
    percentile: PositivePercent | None = None
    recurring: bool = False
    operation_property: Id | None = None
    description: str = ""

    @model_validator(mode="after")
    def _fits(self) -> Self:
        conflicts: list[Conflict] = []
        given = [name for name in ("property", "expression") if getattr(self, name) is not None]
        if self.aggregation == "count":
            conflicts += [
                ((name,), "must be left out: count counts events and takes no value")
                for name in given
            ]
        elif len(given) != 1:
            conflicts.append(
                (
                    tuple(given[:1]),
                    f"must have either property or expression, which {self.aggregation} is taken "
                    f"of (got {'both' if given else 'neither'})",
                )
            )
        if self.bucket is not None and self.aggregation not in ("sum", "max"):
            message = f"must be left out unless the aggregation is sum or max (got {self.bucket!r})"
            conflicts.append((("bucket",), message))
        conflicts += self._misplaced()
        for index, name in enumerate(self.group_by):
            if name in self.group_by[:index]:
                conflicts.append(
                    (("group_by", index), f"must not be repeated (got {name!r} twice)")
                )
        if conflicts:
            raise Misfit(conflicts)
        return self

    def _misplaced(self) -> Iterator[Conflict]:
        """Keys that only some aggregations have."""
        own: dict[str, tuple[str, ...]] = {
            "level": ("weighted_sum",),
            "percentile": ("percentile",),
            "operation_property": ("unique_count",),
            "recurring": ("sum", "unique_count", "weighted_sum"),
        }
        for key, aggregations in own.items():
            value = getattr(self, key)
            if value and self.aggregation not in aggregations:
                known = " or ".join(aggregations)
                shown = "true" if value is True else value
                message = f"must be left out unless the aggregation is {known} (got {shown})"
                yield (key,), message
        if self.recurring and self.bucket is not None:
            yield ("recurring",), "must be left out beside bucket: nothing is carried over buckets"
        if self.aggregation == "percentile" and self.percentile is None:
            yield ("percentile",), "must be given, above 0 and up to 100"

    @cached_property
    def kind(self) -> Kind:
        """What is kept of it."""
        if self.level == "readings":
            return "weighted_readings"
        return "active_count" if self.operation_property is not None else self.aggregation

    @cached_property
    def carries(self) -> bool:
        """Whether its value depends on events before the span that is asked for."""
        return self.recurring or self.aggregation == "weighted_sum" or self.kind == "active_count"

    @cached_property
    def over_spans(self) -> bool:
        """Whether `meters.levels` reads its value, and not `meters.aggregators.extract`."""
        return self.carries or self.aggregation == "percentile"

    @cached_property
    def percent(self) -> Fraction | None:
        """The percentage of a percentile."""
        return None if self.percentile is None else Fraction(self.percentile)

    @cached_property
    def allowed(self) -> dict[str, frozenset[str]]:
        """`filters` as canonical JSON scalars, as events are compared with them."""
        return {
            name: frozenset(canonical_scalar(value) for value in values)
            for name, values in self.filters.items()
        }
