"""Usage over HTTP from ten million rows: the service with an embedded warehouse.

python -m benchmarks.queries.run --requests 200 --folder FOLDER

The rows are made once in FOLDER. Each question is asked by one client for customers and times
that differ from one request to the next, after some that are not counted; a page by cursor is
one request. Client and server share the machine.
"""

from __future__ import annotations

import argparse
import gc
import http.client
import json
import random
import sys
import time
from collections.abc import Callable, Generator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from benchmarks.queries.world import CUSTOMERS, START, WEEKS, customer, fill, write_catalog
from service.keys import KeyStore
from tests.services.process import LOCALHOST, Process, free_port, listens

Query = dict[str, Any]
WARM = 5


def main() -> None:
    """Ask each question many times and print its percentiles."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=200)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--only", help="questions whose name has this in it")
    given = parser.parse_args()
    folder: Path = given.folder
    data = folder / "data"
    if not data.exists():
        folder.mkdir(parents=True, exist_ok=True)
        print(f"{fill(f'chdb://{data}'):,} rows written")
    (folder / "keys.json").unlink(missing_ok=True)
    _, key = KeyStore(folder / "keys.json").create("default", ["read"])
    write_catalog(folder / "catalog.yaml")
    port = free_port()
    command = [sys.executable, "-m", "benchmarks.queries.reads", str(folder), str(port)]
    server = Process("reads", command, folder / "serve.log")
    server.start(lambda: listens(port), 120)
    try:
        for name, question in QUESTIONS.items():
            if given.only is None or given.only in name:
                measure(port, key, name, question, given.requests)
    finally:
        server.kill()


def measure(port: int, key: str, name: str, question: Question, requests: int) -> None:
    """One line: how long the answers took."""
    link = http.client.HTTPConnection(LOCALHOST, port, timeout=60)
    paths = question(random.Random(1))
    took = []
    size = 0
    answer: Query = {}
    gc.disable()
    for number in range(WARM + requests):
        path, query = paths.send(answer) if number else next(paths)
        began = time.perf_counter()
        link.request("GET", f"{path}?{urlencode(query, True)}", headers={"x-api-key": key})
        got = link.getresponse()
        content = got.read()
        if number >= WARM:
            took.append((time.perf_counter() - began) * 1000)
            size += len(content)
        if got.status != 200:
            raise SystemExit(f"{name}: {got.status} {content!r}")
        answer = json.loads(content)
    gc.enable()
    took.sort()
    shown = ", ".join(
        f"{label} {took[min(len(took) - 1, int(share * len(took)))]:.1f}"
        for label, share in (("p50", 0.5), ("p95", 0.95), ("p99", 0.99), ("most", 1.0))
    )
    print(f"{name}: {shown} ms, {size / requests / 1000:.1f} kB each", flush=True)


Asked = tuple[str, Query]
Question = Callable[[random.Random], Generator[Asked, Query, None]]


def any_customer(chance: random.Random) -> str:
    return customer(chance.randrange(CUSTOMERS))


def span(chance: random.Random, days: int) -> Query:
    """So many days within those that have rows."""
    begin: datetime = START + timedelta(days=chance.randrange(7 * (WEEKS - 1) - days))
    end = begin + timedelta(days=days)
    return {"from": begin.isoformat(), "to": end.isoformat()}


def customer_days(chance: random.Random) -> Generator[Asked, Query, None]:
    """All meters of a customer by day, a month."""
    while True:
        query = {"customer": any_customer(chance), "granularity": "day", "limit": 1000}
        yield "/v1/usage", query | span(chance, 30)


def customer_hours(chance: random.Random) -> Generator[Asked, Query, None]:
    """A meter of a customer by hour and group, a week."""
    while True:
        query = {"customer": any_customer(chance), "meter": "calls", "granularity": "hour"}
        yield "/v1/usage", query | {"group_by": "region", "limit": 1000} | span(chance, 7)


def customer_periods(chance: random.Random) -> Generator[Asked, Query, None]:
    """All usage of a customer by billing period."""
    while True:
        yield "/v1/usage", {"customer": any_customer(chance), "limit": 1000}


def customer_filtered(chance: random.Random) -> Generator[Asked, Query, None]:
    """One group value of a customer by day, a month."""
    while True:
        query = {"customer": any_customer(chance), "meter": "calls", "granularity": "day"}
        yield "/v1/usage", query | {"filter.region": "eu", "limit": 1000} | span(chance, 30)


def all_pages(_chance: random.Random) -> Generator[Asked, Query, None]:
    """Everything by billing period, page after page."""
    query: Query = {"granularity": "period", "limit": 100}
    while True:
        answer = yield "/v1/usage", query
        query = query | {"cursor": answer["next_cursor"]}


def all_days(_chance: random.Random) -> Generator[Asked, Query, None]:
    """A meter of all customers by day, page after page."""
    query: Query = {"granularity": "day", "limit": 1000, "meter": "tokens"}
    while True:
        answer = yield "/v1/usage", query
        query = query | {"cursor": answer["next_cursor"]}


def meter_hours(chance: random.Random) -> Generator[Asked, Query, None]:
    """A meter of all customers by hour and group, a week."""
    while True:
        query = {"meter": "calls", "by": "hour", "group": "region"}
        yield "/v1/usage/summary", query | span(chance, 7)


def top_customers(chance: random.Random) -> Generator[Asked, Query, None]:
    """The ten greatest customers of a meter, a month."""
    while True:
        query = {"meter": "tokens", "by": "customer", "top": 10}
        yield "/v1/usage/summary", query | span(chance, 30)


def meter_days(chance: random.Random) -> Generator[Asked, Query, None]:
    """All meters of all customers by day, a month, as the dashboard asks."""
    while True:
        yield "/v1/usage/summary", {"by": "day"} | span(chance, 30)


def to_date(chance: random.Random) -> Generator[Asked, Query, None]:
    """The open period of a customer: usage rated to date, and projected."""
    while True:
        at = START + timedelta(days=chance.randrange(31, 59), hours=chance.randrange(24))
        yield f"/v1/customers/{any_customer(chance)}/periods", {"at": at.isoformat()}


QUESTIONS: dict[str, Question] = {
    "customer by day": customer_days,
    "customer by hour and group": customer_hours,
    "customer by period": customer_periods,
    "customer by day, one group": customer_filtered,
    "customer's period to date": to_date,
    "all by period, pages": all_pages,
    "one meter by day, pages": all_days,
    "one meter by hour and group, a week": meter_hours,
    "top customers, a month": top_customers,
    "all meters by day, a month": meter_days,
}


if __name__ == "__main__":
    main()
