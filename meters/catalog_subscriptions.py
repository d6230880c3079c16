"""What of a subscription does not fit its plans, and charges with its overrides."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime

from pydantic import TypeAdapter, ValidationError

from meters.catalog import Plan, Subscription
from meters.catalog_charges import Charge, Fee, UsageCharge
from meters.catalog_values import Conflict
from meters.timestamps import format_instant
from meters.zones import wall_clock

_CHARGE: TypeAdapter[Charge] = TypeAdapter(Charge)


def overridden(charge: Charge, keys: Mapping[str, object]) -> Charge:
    """The charge with these keys replaced as a whole, checked like one of the catalog.

    Raises pydantic's ValidationError where the result is no charge.
    """
    return _CHARGE.validate_python({**charge.model_dump(exclude_defaults=True), **keys})


def subscription_conflicts(
    subscription: Subscription, plans: Mapping[str, Plan], zone: str | None
) -> Iterator[Conflict]:
    """Changes, versions, overrides and quantities that its plans cannot take.

    `zone` is the customer's; None where the customer could not be read.
    """
    first = plans.get(subscription.plan)
    if first is None:
        return
    yield from _version_conflicts(first, subscription.pin_version, subscription.start, ())
    for index, change in enumerate(subscription.changes):
        plan = plans.get(change.plan)
        if plan is None:
            continue
        at = ("changes", index)
        yield from _version_conflicts(plan, change.pin_version, change.from_, at)
        for key in ("currency", "period"):
            wanted, got = getattr(first, key), getattr(plan, key)
            if wanted != got:
                must = f"must be a plan with the {key} of plan {first.id}, {wanted}"
                yield (*at, "plan"), f"{must} (got {plan.id!r} with {got})"
        yield from _off_hour((*at, "from"), change.from_, zone)
    if subscription.commitment is not None:
        yield from first.commitment_conflicts(subscription.commitment)
    if subscription.trial_end is not None:
        yield from _off_hour(("trial_end",), subscription.trial_end, zone)
    charges = [c for name in subscription.plans if name in plans for c in plans[name].every_charge]
    fees = {charge.id for charge in charges if isinstance(charge, Fee)}
    for index, entry in enumerate(subscription.quantities):
        if entry.charge not in fees:
            known = ", ".join(sorted(fees)) or "none"
            must = f"must be the id of a fee of its plans: {known}"
            yield ("quantities", index, "charge"), f"{must} (got {entry.charge!r})"
    yield from _override_conflicts(subscription, charges)


def _version_conflicts(
    plan: Plan, pinned: str | None, start: datetime, at: tuple[str | int, ...]
) -> Iterator[Conflict]:
    names = [version.version for version in plan.versions]
    if pinned is not None and pinned not in names:
        known = ", ".join(names) or "none"
        message = f"must be a version of plan {plan.id}: {known} (got {pinned!r})"
        yield (*at, "pin_version"), message
    elif pinned is None and plan.versions and start < plan.versions[0].from_:
        key = "from" if at else "start"
        must = f"must not be before the first version of plan {plan.id}"
        since = format_instant(plan.versions[0].from_)
        yield (*at, key), f"{must}, {since} (got {format_instant(start)})"


def _off_hour(at: tuple[str | int, ...], instant: datetime, zone: str | None) -> Iterator[Conflict]:
    """Usage is kept by local hours, and what two plans charge is kept apart."""
    local = None if zone is None else wall_clock(instant, zone)
    if local is not None and (local.minute or local.second or local.microsecond):
        must = "must be a full hour in the customer's time zone, since usage is kept by the hour"
        yield at, f"{must} (got {local:%H:%M:%S} in {zone})"


def _override_conflicts(subscription: Subscription, charges: list[Charge]) -> Iterator[Conflict]:
    from meters.catalog_problems import problems_of

    for name, keys in subscription.overrides.items():
        found = [charge for charge in charges if charge.id == name]
        if not found:
            known = ", ".join(dict.fromkeys(charge.id for charge in charges)) or "none"
            must = f"must be the id of a charge of its plans: {known}"
            yield ("overrides", name), f"{must} (got {name!r})"
        for key in ("id", "meter"):
            if key in keys:
                yield ("overrides", name, key), "must be left out: it cannot be overridden"
        for charge in found:
            try:
                overridden(charge, keys)
            except ValidationError as error:
                model = UsageCharge if isinstance(charge, UsageCharge) else Fee
                for path, message in problems_of(error, model):
                    yield ("overrides", name, *path), message
                break
