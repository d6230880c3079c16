"""What was used of a meter over a segment, as billing takes it.

Quantities are decimals of at most 12 places, merged already; no Beam, no warehouse.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from decimal import Decimal
from fractions import Fraction

import msgspec

from billing.invoice import NO_GROUP
from billing.single_events import Single, in_order
from meters.catalog import UsageCharge
from meters.scalars import Scalar, canonical_json, parse_json


class UsageOf(msgspec.Struct, frozen=True):
    """The usage of one meter over one segment, all groups merged.

    `value` is the meter's value; None where no event gave one (as for `max`
    without events), billed as 0. `events` is the number of events counted,
    `revision` the highest revision of the rows.

    `groups` has the usage of each group for charges that are priced by group: the
    property names of such a charge, sorted, and then the canonical JSON of the group
    reduced to these. `singles` are the effective events, for charges that are priced
    by single events.
    """

    value: Decimal | None = None
    events: int = 0
    revision: int = 0
    groups: Mapping[tuple[str, ...], Mapping[str, UsageOf]] = msgspec.field(default_factory=dict)
    singles: tuple[Single, ...] = ()

    @property
    def quantity(self) -> Fraction:
        """The value as it is priced."""
        return Fraction(0) if self.value is None else Fraction(self.value)


NO_USAGE = UsageOf()


def reduce_group(group: str, keys: tuple[str, ...]) -> str:
    """A group (canonical JSON) with the given keys alone; a missing one is null."""
    values = group_values(group)
    return canonical_json({key: values.get(key) for key in keys})


def group_values(group: str) -> dict[str, Scalar]:
    """The values of a group by property."""
    if group == NO_GROUP:
        return {}
    values = parse_json(group)
    if not isinstance(values, dict):
        raise ValueError(f"group must be a JSON object (got {group!r})")
    return values


def parts_of(charge: UsageCharge, usage: UsageOf) -> Iterator[tuple[str, UsageOf]]:
    """The parts of a charge that are priced alone, by group, in the order of its text.

    One part, without a group, where the price does not depend on it and where
    nothing was used.
    """
    keys = charge.group_keys
    if not keys and not charge.by_event:
        yield NO_GROUP, usage
        return
    if charge.by_event:
        singles: dict[str, list[Single]] = {}
        for single in in_order(usage.singles):
            group = reduce_group(single.group, keys) if keys else NO_GROUP
            singles.setdefault(group, []).append(single)
        found = {group: _of_events(each, usage.revision) for group, each in singles.items()}
    else:
        found = dict(usage.groups.get(keys, {}))
    yield from sorted(found.items() or [(NO_GROUP, UsageOf(revision=usage.revision))])


def _of_events(singles: list[Single], revision: int) -> UsageOf:
    value = sum((single.value for single in singles), Decimal(0))
    return UsageOf(value, len(singles), revision, singles=tuple(singles))
