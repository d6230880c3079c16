"""From events that could be read to events that are durable.

    requests --gathered--> rules of the event, once for all --> records --> sink --> answers

Events of the usual form need no more than a look (`meters.plain_events`). Of all others that
wait in the event loop columns are made, since the rules are columnar: what would be
quarantined for its shape is refused here, by the same code.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from contextvars import Context, copy_context
from dataclasses import dataclass, field
from datetime import datetime

import msgspec
import pyarrow as pa

from meters.decode import IDS, SUBSCRIPTION, refusals
from meters.errors import Rejected
from meters.event import INSTANT, receipt
from meters.plain_events import is_plain
from meters.property_columns import PropertyColumns
from meters.timestamps import format_instant
from meters.zones import from_microseconds
from service.errors import Fault, unavailable
from service.event_formats import Event, is_missing
from service.json_shapes import Items
from service.outcomes import Outcomes
from service.settings import Limits
from service.sinks import Record, Sink, Written
from warehouse.tracing import is_on, span

_TEXTS = (*IDS, SUBSCRIPTION)
_NO_PROPERTIES = msgspec.Raw(b"{}")


class _Message(msgspec.Struct, gc=False, omit_defaults=True):
    """The value of a message; what is None is left out."""

    event_id: str
    event_name: str
    external_customer_id: str
    timestamp: str
    ingested_at: str
    properties: msgspec.Raw
    external_subscription_id: str | None = None
    source: str | None = None


_ENCODE = msgspec.json.Encoder().encode


@dataclass
class Taken:
    """What became of one request. `made` has the ids of events that came without one, by
    place; `failed` the places of events that are not known to be durable, and why.
    """

    accepted: int = 0
    made: dict[int, str] = field(default_factory=dict)
    faults: list[Fault] = field(default_factory=list)
    failed: list[int] = field(default_factory=list)
    reason: str = ""


@dataclass
class _Request:
    tenant: str
    items: Items[Event]
    names: Mapping[str, str]
    whole: bool
    future: asyncio.Future[Taken]
    taken: Taken
    context: Context | None = None
    """That of the request, for the sink to know its span."""


class Intake:
    """Takes the events of requests and hands them to one sink."""

    def __init__(self, sink: Sink, limits: Limits) -> None:
        self._sink = sink
        self._limits = limits
        self._pending: list[_Request] = []
        self._waiting = 0
        self._wake = asyncio.Event()
        self._worker: asyncio.Task[None] | None = None
        self._properties = PropertyColumns([])
        self.outcomes = Outcomes()
        """What became of the events that were sent here."""

    async def start(self) -> None:
        """Begin to work."""
        await self._sink.start()
        self._worker = asyncio.create_task(self._work())

    async def close(self) -> None:
        """End once everything that was taken is settled."""
        while self._pending:
            await asyncio.sleep(0.01)
        await self._sink.close()
        if self._worker is not None:
            self._worker.cancel()

    def check(self, count: int = 1) -> None:
        """Raises 503 where that many events cannot be taken now."""
        if (reason := self._sink.refusal(self._waiting + count)) is not None:
            self.outcomes.count(failed=count)
            error = unavailable(f"no event was taken: {reason}", accepted=0)
            error.counted = True
            raise error

    async def take(
        self,
        tenant: str,
        items: Items[Event],
        *,
        names: Mapping[str, str] | None = None,
        make_id: Callable[[int], str] | None = None,
        whole: bool = False,
    ) -> Taken:
        """Check events and make them durable; returns what became of each.

        `names` are the format's own names of our fields, `make_id` gives an id to the event
        at a place. With `whole`, one wrong event refuses all. Raises 503 where nothing can
        be taken.
        """
        self.check(len(items.found))
        taken = Taken(faults=list(items.faults))
        for place, event in zip(items.places, items.found, strict=True):
            if event.event_id is None:
                made = secrets.token_hex(16) if make_id is None else make_id(place)
                event.event_id = taken.made[place] = made
        future: asyncio.Future[Taken] = asyncio.get_running_loop().create_future()
        request = _Request(tenant, items, names or {}, whole, future, taken)
        with span("accept", {"beammeter.events": items.size}, kind="producer"):
            if is_on():
                request.context = copy_context()
            self._pending.append(request)
            self._waiting += len(items.found)
            self._wake.set()
            return await future

    async def _work(self) -> None:
        while True:
            await self._wake.wait()
            # Requests that are ready to be read now come along.
            await asyncio.sleep(0)
            self._wake.clear()
            requests, self._pending = self._pending, []
            self._waiting = 0
            try:
                self._hand_on(requests)
            except Exception as error:
                for request in requests:
                    if not request.future.done():
                        request.future.set_exception(error)

    def _hand_on(self, requests: Sequence[_Request]) -> None:
        now = receipt(time.time_ns() // 1000)
        received = from_microseconds(now)
        clock = format_instant(received)
        every = [event for request in requests for event in request.items.found]
        wrong = self._wrong(every, received, clock)
        start = 0
        for request in requests:
            events = request.items.found
            records: list[Record] = []
            places: list[int] = []
            prefix = f"{request.tenant}/".encode()
            for offset, (place, event) in enumerate(
                zip(request.items.places, events, strict=True), start
            ):
                if (rejected := wrong.get(offset)) is not None:
                    request.taken.faults.append(_fault(request, place, rejected))
                    continue
                value = _value(event, clock)
                if len(value) > self._limits.event:
                    request.taken.faults.append(self._too_large(request, place, value))
                    continue
                records.append((prefix + event.external_customer_id.encode(), value))  # type: ignore[union-attr]
                places.append(place)
            start += len(events)
            if request.whole and request.taken.faults:
                records = []
            self._write(request, records, places, now)

    def _write(self, request: _Request, records: list[Record], places: list[int], now: int) -> None:
        taken, future = request.taken, request.future
        if not records:
            self.outcomes.count(refused=request.items.size)
            if not future.done():
                future.set_result(taken)
            return

        def settled(done: asyncio.Future[Written]) -> None:
            written = done.result()
            taken.accepted = len(records) - len(written.failed)
            taken.failed = [places[number] for number in written.failed]
            taken.reason = written.reason
            self.outcomes.count(
                accepted=taken.accepted,
                refused=request.items.size - len(records),
                failed=len(taken.failed),
            )
            if not future.done():
                future.set_result(taken)

        if request.context is None:
            written = self._sink.write(records, now)
        else:
            written = request.context.run(self._sink.write, records, now)
        written.add_done_callback(settled)

    def _wrong(
        self, events: Sequence[Event], received: datetime, clock: str
    ) -> dict[int, Rejected]:
        """Which events break a rule, and how."""
        places = [n for n, event in enumerate(events) if not _is_plain(event, received)]
        if not places:
            return {}
        asked = [events[place] for place in places]
        columns = {
            name: pa.array([getattr(event, name) for event in asked], pa.string())
            for name in _TEXTS
        }
        times = [event.timestamp or clock for event in asked]
        columns["timestamp"] = pa.array(times, pa.string())
        columns["ingested_at"] = pa.array([received] * len(asked), INSTANT)
        found = refusals(pa.table(columns))
        found_texts = [bytes(_properties(event)) for event in asked]
        texts = pa.array(found_texts, pa.binary()).cast(pa.string())
        _, bad = self._properties.read(texts)
        for number, cause in bad.items():
            text = texts[number].as_py()
            rejected = Rejected("invalid_json", "properties", text, f"a JSON object ({cause})")
            found.setdefault(number, rejected)
        return {places[number]: rejected for number, rejected in found.items()}

    def _too_large(self, request: _Request, place: int, value: bytes) -> Fault:
        most = self._limits.event
        path = request.items.path(place, "")
        return Fault(path, "too_large", str(len(value)), f"at most {most} bytes of JSON", place)


def _properties(event: Event) -> msgspec.Raw:
    return _NO_PROPERTIES if is_missing(event.properties) else event.properties


def _is_plain(event: Event, received: datetime) -> bool:
    ids = event.event_id, event.event_name, event.external_customer_id
    subscription, at = event.external_subscription_id, event.timestamp or None
    return is_plain(ids, subscription, at, _properties(event), received)


def _value(event: Event, clock: str) -> bytes:
    return _ENCODE(
        _Message(
            event.event_id or "",
            event.event_name or "",
            event.external_customer_id or "",
            event.timestamp or clock,
            clock,
            _properties(event),
            event.external_subscription_id,
            event.source,
        )
    )


def _fault(request: _Request, place: int, rejected: Rejected) -> Fault:
    name = request.names.get(rejected.field, rejected.field)
    path = request.items.path(place, name)
    value = None if rejected.reason == "missing_field" else rejected.value
    return Fault(path, rejected.reason, value, rejected.expected, place)
