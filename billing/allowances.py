"""Free units beyond a period's own: rolled over, and shared by a customer's subscriptions.

    quantity -> units rolled over, the oldest first -> included -> shared entitlements -> billable

One object goes through all invoices of a customer in the order in which they are
billed, so what one has used is gone for the next; the same slots and usage give the
same bills. It also knows how far into the tiers earlier parts of a period came, and what of
a period was billed at thresholds.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from fractions import Fraction
from typing import Any

from billing.invoice import Line
from billing.slots import Segment, Slot
from meters.catalog_charges import UsageCharge
from meters.catalog_entitlements import Entitlement
from meters.periods import Periods
from meters.scalars import canonical_json, parse_json
from meters.timestamps import format_instant

_ZERO = Fraction(0)
_Key = tuple[str | None, str, str]
"""Subscription, charge and group."""


@dataclass
class _Batch:
    """Units of one period, and for how many more periods they are there."""

    units: Fraction
    periods: int


class Allowances:
    """The free units of one customer, from invoice to invoice."""

    def __init__(self, entitlements: Sequence[Entitlement], zone: str) -> None:
        self._entitlements = entitlements
        self._periods = {
            each.id: Periods(each.start, zone, each.period, each.end) for each in entitlements
        }
        self._taken: dict[tuple[str, datetime], Fraction] = {}
        self._rolled: dict[_Key, list[_Batch]] = {}
        self._left: dict[_Key, _Batch] = {}
        self._positions: dict[_Key, Fraction] = {}
        self._billed: dict[tuple[str | None, str, datetime | None], dict[str, Decimal]] = {}

    def concerns(self, charge: UsageCharge) -> bool:
        """Whether anything but its own included units and whole tiers matters to a charge."""
        if charge.by_event:
            return False
        if charge.rollover is not None or charge.tiers == "continue":
            return True
        # The usual case is none at all, and this is asked for every line.
        entitlements = self._entitlements
        return bool(entitlements) and any(each.meter == charge.meter for each in entitlements)

    def take(
        self,
        subscription: str | None,
        charge: UsageCharge,
        group: str,
        quantity: Fraction,
        included: Fraction,
        segment: Segment,
    ) -> Fraction:
        """The units that are free beside the included ones; they are used up by this.

        `quantity` is in billed units, `included` prorated already.
        """
        key = subscription, charge.id, group
        rest = max(quantity, _ZERO)
        more = _ZERO
        for batch in self._rolled.get(key, ()):
            taken = min(batch.units, rest)
            batch.units -= taken
            rest -= taken
            more += taken
        own = min(included, rest)
        rest -= own
        if charge.rollover is not None and included > own:
            known = self._left.get(key, _Batch(_ZERO, charge.rollover.periods))
            self._left[key] = _Batch(known.units + included - own, charge.rollover.periods)
            if charge.rollover.maximum is not None:
                limit = Fraction(charge.rollover.maximum)
                self._left[key].units = min(self._left[key].units, limit)
        for each in self._entitlements:
            period = self._periods[each.id].containing(segment.part.start)
            if each.meter != charge.meter or period is None:
                continue
            place = each.id, period.start
            taken = min(Fraction(each.units) - self._taken.get(place, _ZERO), rest)
            self._taken[place] = self._taken.get(place, _ZERO) + taken
            rest -= taken
            more += taken
        return more

    def position(
        self, subscription: str | None, charge: UsageCharge, group: str
    ) -> Fraction | None:
        """How many units of the tiers earlier parts of the period have used; None in the first."""
        if charge.tiers == "restart":
            return None
        return self._positions.get((subscription, charge.id, group))

    def move(
        self, subscription: str | None, charge: UsageCharge, group: str, billable: Fraction
    ) -> None:
        """Units of the tiers that this part of the period has used."""
        key = subscription, charge.id, group
        self._positions[key] = self._positions.get(key, _ZERO) + billable

    def tentative(self) -> Allowances:
        """The same, for an invoice that uses nothing up."""
        return deepcopy(self)

    def billed(
        self, subscription: str | None, charge: str, start: datetime | None
    ) -> dict[str, Decimal]:
        """What was billed of a part of a period at thresholds, by group."""
        return self._billed.get((subscription, charge, start), {}) if self._billed else {}

    def billed_in_all(self, subscription: str | None) -> Decimal:
        """What was billed of a period at thresholds so far."""
        groups = [each for key, each in self._billed.items() if key[0] == subscription]
        return sum((amount for each in groups for amount in each.values()), Decimal(0))

    def bill(self, line: Line) -> None:
        """A line of an invoice at a threshold."""
        key = line.subscription, line.charge, line.service_start
        groups = self._billed.setdefault(key, {})
        groups[line.group] = groups.get(line.group, Decimal(0)) + line.amount

    def end(self, slot: Slot) -> None:
        """A period is billed: what is left of it rolls over, older batches age, tiers restart."""
        if slot.arrears is None:
            return
        for key in list(self._rolled):
            if key[0] == slot.subscription:
                kept = [_Batch(old.units, old.periods - 1) for old in self._rolled[key]]
                self._rolled[key] = [old for old in kept if old.periods > 0 and old.units > 0]
        for key in [key for key in self._left if key[0] == slot.subscription]:
            self._rolled.setdefault(key, []).append(self._left.pop(key))
        self._billed = {k: v for k, v in self._billed.items() if k[0] != slot.subscription}
        self._positions = {k: v for k, v in self._positions.items() if k[0] != slot.subscription}

    def state(self) -> str:
        """What is used of entitlements, rolls over and was billed of periods that go on.

        As JSON text; `''`: nothing.
        """
        if not self._taken and not self._billed and not any(self._rolled.values()):
            return ""
        taken = [
            [name, format_instant(at), str(units)] for (name, at), units in self._taken.items()
        ]
        rolled = [
            [*key, [[str(batch.units), batch.periods] for batch in batches]]
            for key, batches in self._rolled.items()
        ]
        billed = [
            [owner, charge, None if start is None else format_instant(start), group, str(amount)]
            for (owner, charge, start), groups in self._billed.items()
            for group, amount in groups.items()
        ]
        return canonical_json(
            {
                "taken": sorted(taken),
                "rolled": sorted(rolled, key=canonical_json),
                "billed": sorted(billed, key=canonical_json),
            }
        )

    def restore(self, state: str, subscription: str) -> None:
        """Go on from the `state` after an invoice of a subscription."""
        kept: Any = parse_json(state) if state else {"taken": [], "rolled": [], "billed": []}
        for name, at, units in kept["taken"]:
            self._taken[name, datetime.fromisoformat(at)] = Fraction(units)
        self._rolled = {k: v for k, v in self._rolled.items() if k[0] != subscription}
        for owner, charge, group, batches in kept["rolled"]:
            if owner == subscription:
                found = [_Batch(Fraction(units), periods) for units, periods in batches]
                self._rolled[owner, charge, group] = found
        self._billed = {k: v for k, v in self._billed.items() if k[0] != subscription}
        for owner, charge, start, group, amount in kept.get("billed", ()):
            if owner == subscription:
                at = None if start is None else datetime.fromisoformat(start)
                self._billed.setdefault((owner, charge, at), {})[group] = Decimal(amount)
