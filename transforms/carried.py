"""Usage of meters that are read over spans: what lies in a span, and what is carried into it.

span of a charge --> the span itself, and the time before it since things are carried
rows of both, merged by ClickHouse --> states by group --> value over the span
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, Literal

from billing.invoice import NO_GROUP
from billing.quantities import UsageOf, reduce_group
from billing.single_events import Single
from meters.aggregators import State, merge_all
from meters.catalog import Meter
from meters.levels import Over, about, value_over
from meters.numbers import from_scaled
from meters.periods import Span
from meters.points import latest_by_item
from meters.usage import state_of
from meters.zones import microseconds
from warehouse.merging import UsageSpan

Part = Literal["within", "in period", "ever"]
"""The span itself, what of its period lies before it, and all that lies before it."""

_FIRST = datetime(1970, 1, 1, tzinfo=UTC)


class Carried:
    """The usage of some meters in some spans, gathered from rows of `usage_over_spans`.

    `asked` are the spans to read: each span, and what may be carried into it: of
    recurring meters everything before, of others what is in its period (`wholes`).
    """

    def __init__(
        self,
        meters: Mapping[str, Meter],
        spans: Sequence[UsageSpan],
        wholes: Sequence[Span] | None,
    ) -> None:
        self._meters = meters
        self._wholes = [Span(*span[2:]) for span in spans] if wholes is None else list(wholes)
        self._spans = spans
        self.asked: list[UsageSpan] = []
        self._place: list[tuple[int, Part]] = []
        recurring = any(meter.recurring for meter in meters.values())
        for at, (span, whole) in enumerate(zip(spans, self._wholes, strict=True)):
            owner, start = span[:2], span[2]
            self._ask(at, span, "within")
            if whole.start < start:
                self._ask(at, (*owner, whole.start, start), "in period")
            if recurring:
                self._ask(at, (*owner, _FIRST, start), "ever")
        self._states: dict[tuple[int, str, Part], dict[str, State]] = defaultdict(dict)
        self._values: dict[tuple[int, str, Part], dict[str, set[bytes]]] = defaultdict(dict)
        self._revisions: dict[tuple[int, str], int] = defaultdict(int)

    def _ask(self, at: int, span: UsageSpan, part: Part) -> None:
        self.asked.append(span)
        self._place.append((at, part))

    def add(self, row: Mapping[str, Any]) -> None:
        """Take in a merged row."""
        at, part = self._place[row["span"]]
        meter = self._meters[row["meter"]]
        state = state_of(row)
        if meter.kind == "weighted_readings":
            state = about(state, row["group_key"])
        self._states[at, meter.id, part][row["group_key"]] = state
        revision = max(self._revisions[at, meter.id], row["revision"])
        self._revisions[at, meter.id] = revision

    def add_value(self, row: Mapping[str, Any]) -> None:
        """Take in a distinct value."""
        at, part = self._place[row["span"]]
        groups = self._values[at, row["meter"], part]
        groups.setdefault(row["group_key"], set()).add(row["value_hash"])

    def usage(self, at: int, meter: Meter, keys: tuple[str, ...]) -> UsageOf | None:
        """The usage of a span, all groups merged; None where there never was any."""
        return self._grouped(at, meter, keys).get(NO_GROUP)

    def by_group(self, at: int, meter: Meter, keys: tuple[str, ...]) -> dict[str, UsageOf]:
        """The usage of a span by group, reduced to some properties."""
        return self._grouped(at, meter, keys)

    def singles(self, at: int, meter: Meter, /) -> Iterator[Single]:
        """What is carried into a span, as events at its start."""
        start = self._spans[at][2]
        part: Part = "ever" if meter.recurring else "in period"
        values = self._values[at, meter.id, part]
        for group, state in self._states[at, meter.id, part].items():
            if meter.aggregation == "sum":
                yield Single(start, "", from_scaled(state.sum), {}, group)
                continue
            last = latest_by_item(state.points)
            active = {item for item, point in last.items() if point.scaled > 0}
            for item in sorted(active | {value.hex() for value in values.get(group, ())}):
                yield Single(start, "", Decimal(1), {}, group, item)

    def _grouped(self, at: int, meter: Meter, keys: tuple[str, ...]) -> dict[str, UsageOf]:
        within = self._reduced(at, meter, keys, "within")
        carried: Part = "ever" if meter.recurring else "in period"
        before = self._reduced(at, meter, keys, carried) if meter.carries else {}
        _, _, start, end = self._spans[at]
        whole = self._wholes[at]
        found = {}
        for group in sorted(within.keys() | before.keys()):
            state = merge_all(within.get(group, ()))
            over = Over(
                microseconds(start),
                microseconds(end),
                microseconds(whole.end) - microseconds(whole.start),
                merge_all(before.get(group, ())),
            )
            value = value_over(meter, state, over)
            found[group] = UsageOf(value, state.events, self._revisions[at, meter.id])
        return found

    def _reduced(
        self, at: int, meter: Meter, keys: tuple[str, ...], part: Part
    ) -> dict[str, list[State]]:
        values = self._values[at, meter.id, part]
        groups: dict[str, list[State]] = defaultdict(list)
        for group, state in self._states[at, meter.id, part].items():
            full = replace(state, values=frozenset(values.get(group, ())))
            groups[reduce_group(group, keys)].append(full)
        return groups
