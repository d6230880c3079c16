"""`beammeter status`: the condition of the pipeline in a terminal, as `/readyz` finds it."""

from __future__ import annotations

import json
import os
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from typing import Any

import click

from meters.errors import BeammeterError, ConfigurationError, WarehouseUnavailable
from runners.commands import Url
from runners.output import Format, print_csv, print_json, print_table
from service.context import now
from service.health import Check, Monitor, Report, waiting_in_kafka
from transforms.kafka_client import KafkaSettings
from warehouse.client import Warehouse
from warehouse.failures import ONCE

API_KEY = "BEAMMETER_API_KEY"
"""Where the key for a server is; never on the command line, which all users can read."""

_TIMEOUT = 30.0

Found = Mapping[str, Any]


_COUNTS = {"batches": "batches", "rounded": "numbers rounded to 12 decimals"}
"""Counts that are none of events, and their names."""


def status_of_warehouse(url: Url, tenant: str, kafka: KafkaSettings | None) -> Found:
    """The condition as this process finds it; without Kafka nobody knows what waits there.

    Raises ConfigurationError where there is no warehouse at `url`.
    """
    try:
        opened = Warehouse.connect(url[0], create=False, from_environment=url[1], retries=ONCE)
    except WarehouseUnavailable as error:
        return Report(now(), (Check("warehouse", False, str(error)),), None, None).to_dict()
    waiting = waiting_in_kafka(kafka) if kafka is not None else lambda _: None
    with opened as warehouse:
        return Monitor(warehouse, tenant, clock=now, waiting=waiting).report().to_dict()


def status_of_server(server: str) -> Found:
    """The condition as a server finds it, which is asked with the key in `API_KEY`.

    Raises BeammeterError where it does not answer.
    """
    if not server.startswith(("http://", "https://")):
        raise ConfigurationError(f"--server must be an http or https URL (got {server!r})")
    key = os.environ.get(API_KEY)
    if not key:
        raise ConfigurationError(f"--server needs a key that may read in the variable {API_KEY}")
    request = urllib.request.Request(  # noqa: S310 (checked above)
        f"{server.rstrip('/')}/v1/status", headers={"x-api-key": key}
    )
    try:
        with urllib.request.build_opener(_Here).open(request, timeout=_TIMEOUT) as answer:
            found = json.load(answer)
    except urllib.error.HTTPError as error:
        raise BeammeterError(f"{server} must answer (got {error.code} {error.reason})") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", error)
        raise BeammeterError(f"{server} must answer (got: {reason})") from None
    if not isinstance(found, dict) or "checks" not in found:
        raise BeammeterError(f"{server} must be a server of Beammeter")
    return found


class _Here(urllib.request.HTTPRedirectHandler):
    """No redirect is followed: the key would go along to wherever it points."""

    def redirect_request(self, *_: object) -> None:
        """Never another request."""


def show_status(found: Found, form: Format) -> bool:
    """Print it; whether everything holds."""
    if form == "json":
        print_json(found)
    elif form == "csv":
        checks = (
            (f"check {each['name']}", "ok" if each["ok"] else "failing") for each in found["checks"]
        )
        rows = [("status", found["status"]), *checks, *_facts(found)]
        print_csv([{"name": name, "value": value} for name, value in rows], ("name", "value"))
    else:
        click.echo(f"{found['status']} at {found['at']}")
        marks = [{**each, "ok": "ok" if each["ok"] else "FAILS"} for each in found["checks"]]
        print_table(marks, {"name": "check", "ok": "", "detail": "found"})
        facts = [{"name": name, "value": value} for name, value in _facts(found)]
        if facts:
            print_table(
                facts, {"name": "of the last five minutes, and now", "value": ""}, right=("value",)
            )
    return bool(found["status"] == "ok")


def _facts(found: Found) -> Iterator[tuple[str, object]]:
    """Names and values; what nobody knows here is left out. Rates are of five minutes."""
    if (rate := found.get("delivery_rate")) is not None:
        yield "delivery success rate", rate
    for name, number in (found.get("sent") or {}).items():
        yield f"events sent here: {name}", number
    for code, number in (found.get("refused_requests") or {}).items():
        yield f"requests refused here: {code}", number
    if found["lag"] is not None:
        yield "events that wait", found["lag"]
    if "counts" not in found:
        return
    if found["success_rate"] is not None:
        yield "processing success rate", found["success_rate"]
    for name, number in found["counts"].items():
        yield _COUNTS.get(name, f"events {name}"), number
    for name, place in (("stored", "delay_seconds"), ("usage", "usage_delay_seconds")):
        delay = found[place]
        if delay.get("events") or delay.get("flushes"):
            for quantile in ("median", "p95", "most"):
                yield f"seconds to {name}, {quantile}", delay[quantile]
    yield "rows written", found["sink"]["rows"]
    yield "writes tried again", found["sink"]["retries"]
    yield "shards that own buckets", found["shards"]
    for name, place in (
        ("seconds since a shard was heard", "silent_seconds"),
        ("seconds that the watermark is behind", "watermark_lag_seconds"),
        ("buckets closed until", "closed_until"),
        ("last batch", "last_batch"),
    ):
        if found[place] is not None:
            yield name, found[place]
    for reason, number in found["quarantined"].items():
        yield f"quarantined: {reason}", number
    for reason, number in found["dirty"].items():
        yield f"to repair: {reason}", number
