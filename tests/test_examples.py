"""The examples that ship with the package give the numbers that their inputs hold.

The expected numbers are computed here from the original CSV, by the rule that the
README of the example states, without any code of Beammeter or of its converter.
"""

from __future__ import annotations

import csv
import gzip
import json
import os
import shlex
import subprocess
import sys
from collections import defaultdict
from datetime import UTC, datetime, timedelta
from decimal import ROUND_HALF_UP, Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from examples.llm_tokens import convert
from runners.cli_options import EMBEDDED
from tests.cli import ROOT, Site, run
from tests.oracle import plain

LLM = ROOT / "examples" / "llm_tokens"
TRACE = LLM / "azure_llm_inference_code.csv.gz"
ZONES = {"atlas": "America/Los_Angeles", "birch": "Europe/Berlin", "cedar": "Asia/Kathmandu"}
AS_OF = "2023-12-01T08:00:00Z"
STORED = {
    "events": "* EXCEPT (stored_at)",
    "usage": "* EXCEPT (updated_at)",
    "usage_values": "*",
    "quarantine": "* EXCEPT (quarantined_at)",
    "invoices": "* EXCEPT (updated_at, revision)",
    "invoice_lines": "* EXCEPT (updated_at, revision)",
    "credit_ledger": "* EXCEPT (updated_at)",
    "audit_log": "*",
}
Row = dict[str, Any]


def trace() -> list[tuple[str, datetime, int, int]]:
    """(customer, time, prompt tokens, generated tokens) of every row."""
    rows = []
    with gzip.open(TRACE, "rt", newline="") as file:
        for number, row in enumerate(csv.reader(file)):
            if number == 0:
                assert row == ["TIMESTAMP", "ContextTokens", "GeneratedTokens"]
                continue
            digit = (number - 1) % 10
            customer = "atlas" if digit < 6 else "birch" if digit < 9 else "cedar"
            whole, _, fraction = row[0].partition(".")
            at = datetime.strptime(whole, "%Y-%m-%d %H:%M:%S").replace(tzinfo=UTC)
            at += timedelta(microseconds=int(fraction[:6]))
            rows.append((customer, at, int(row[1]), int(row[2])))
    return rows


def half_even(value: Fraction) -> Fraction:
    return Fraction(round(value * 10**12), 10**12)


def meters_of(rows: list[tuple[int, int]]) -> dict[str, str]:
    """The value of every meter over (prompt, generated) tokens."""
    prompts, generated = [row[0] for row in rows], [row[1] for row in rows]
    return {
        "requests": str(len(rows)),
        "prompt_tokens": str(sum(prompts)),
        "generated_tokens": str(sum(generated)),
        "largest_context": str(max(prompts)),
        "mean_generated": plain(half_even(Fraction(sum(generated), len(rows)))),
    }


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The example backfilled into a warehouse of its own."""
    folder = tmp_path_factory.mktemp("llm")
    common = ("--catalog", LLM / "catalog.yaml", "--clickhouse", f"chdb://{folder}/warehouse")
    done = run("backfill", *common, "--input", LLM / "events.jsonl.gz", "--format", "json")
    return {"common": common, "counts": done.json, "folder": folder}


def usage(site: dict[str, Any], granularity: str) -> dict[tuple[str, str, str, str], Row]:
    done = run("usage", *site["common"], "--granularity", granularity, "--format", "json")
    keys = ("customer", "meter", "start", "end")
    return {tuple(row[key] for key in keys): row for row in done.json}


def test_the_shipped_events_are_the_converted_trace() -> None:
    with gzip.open(convert.EVENTS, "rt") as file:
        assert [json.loads(line) for line in file] == list(convert.events())


def test_every_request_of_the_trace_is_counted_once(site: dict[str, Any]) -> None:
    assert site["counts"] == {
        "read": 8819,
        "accepted": 8819,
        "duplicate": 0,
        "conflict": 0,
        "quarantined": 0,
        "meter_errors": 0,
        "unattributed": 0,
        "rows": 25,
    }


def test_hourly_usage_is_that_of_the_csv_in_each_customers_local_hours(
    site: dict[str, Any],
) -> None:
    cells: dict[tuple[str, datetime], list[tuple[int, int]]] = defaultdict(list)
    for customer, at, prompt, generated in trace():
        local = at.astimezone(ZoneInfo(ZONES[customer]))
        hour = local.replace(minute=0, second=0, microsecond=0).astimezone(UTC)
        cells[customer, hour].append((prompt, generated))
    expected = {
        (customer, meter, f"{hour:%Y-%m-%dT%H:%M:%SZ}", f"{hour + timedelta(hours=1):%FT%TZ}"): (
            value,
            len(rows),
        )
        for (customer, hour), rows in cells.items()
        for meter, value in meters_of(rows).items()
    }
    found = usage(site, "hour")
    assert {key: (row["value"], row["events"]) for key, row in found.items()} == expected
    assert ("cedar", "requests", "2023-11-16T18:15:00Z", "2023-11-16T19:15:00Z") in found


def test_usage_of_the_period_is_that_of_the_csv(site: dict[str, Any]) -> None:
    by_customer: dict[str, list[tuple[int, int]]] = defaultdict(list)
    for customer, _, prompt, generated in trace():
        by_customer[customer].append((prompt, generated))
    expected = {
        (customer, meter): value
        for customer, rows in by_customer.items()
        for meter, value in meters_of(rows).items()
    }
    found = {(key[0], key[1]): row["value"] for key, row in usage(site, "period").items()}
    assert found == expected


def test_the_bill_is_the_graduated_price_of_the_tokens(site: dict[str, Any]) -> None:
    def graduated(quantity: int, tiers: list[tuple[int | None, str]]) -> Decimal:
        """Token by token where it is small enough to see, in one step a tier here."""
        amount, lower = Decimal(0), 0
        for up_to, price in tiers:
            upper = quantity if up_to is None else min(quantity, up_to)
            amount += max(upper - lower, 0) * Decimal(price)
            lower = upper
        return amount

    prompt_tiers = [(1_000_000, "0.000003"), (5_000_000, "0.0000025"), (None, "0.000002")]
    generated_tiers = [(50_000, "0.000015"), (None, "0.000012")]
    sums: dict[str, list[int]] = defaultdict(lambda: [0, 0])
    for customer, _, prompt, generated in trace():
        sums[customer][0] += prompt
        sums[customer][1] += generated
    expected = {}
    for customer, (prompt, generated) in sums.items():
        exact = [graduated(prompt, prompt_tiers), graduated(generated, generated_tiers)]
        cents = [amount.quantize(Decimal("0.01"), ROUND_HALF_UP) for amount in exact]
        expected[customer] = [*map(str, cents), str(sum(cents))]
    done = run("bill", *site["common"], "--as-of", AS_OF, "--format", "json")
    found = {
        invoice["customer"]: [*(line["amount"] for line in invoice["lines"]), invoice["total"]]
        for invoice in done.json
    }
    assert found == expected


def test_the_original_csv_can_be_read_directly_with_its_times_as_ids(tmp_path: Path) -> None:
    rows = trace()
    done = run(
        *("backfill", "--catalog", LLM / "catalog.yaml", "--format", "json"),
        *("--clickhouse", f"chdb://{tmp_path}/warehouse", "--input", TRACE),
        *("--map", "timestamp=TIMESTAMP", "--map", "event_id=TIMESTAMP", "--time-zone", "UTC"),
        *("--map", "properties.context_tokens=ContextTokens"),
        *("--map", "properties.generated_tokens=GeneratedTokens"),
        *("--constant", "event_name=llm.request", "--constant", "external_customer_id=atlas"),
    )
    assert done.json["accepted"] == len(rows)
    found = run(
        *("usage", "--catalog", LLM / "catalog.yaml", "--format", "json"),
        *("--clickhouse", f"chdb://{tmp_path}/warehouse"),
    )
    values = {row["meter"]: row["value"] for row in found.json}
    assert values == meters_of([(prompt, generated) for _, _, prompt, generated in rows])


# The demo


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    folder = tmp_path_factory.mktemp("demo") / "beammeter-demo"
    return folder, run("demo", "--folder", folder, "--format", "json")


def stored(folder: Path) -> list[Any]:
    """Size and content of every table of the demo's warehouse, but the times of writing."""
    site = Site(folder.parent / "site", shared=folder / EMBEDDED)
    return [
        site.query(f"SELECT count(), sum(cityHash64({columns})) FROM {{{table}}} FINAL")
        for table, columns in STORED.items()
    ]


def documents(folder: Path) -> dict[str, bytes]:
    """The files that the demo writes for its customer, by name."""
    return {path.name: path.read_bytes() for path in (folder / "invoices").iterdir()}


def test_the_demo_counts_every_row_of_its_files_and_bills_four_customers(
    demo: tuple[Path, Any],
) -> None:
    result = demo[1].json
    counts = result["counts"]
    assert counts["read"] == counts["accepted"] + counts["duplicate"] + counts["quarantined"]
    assert {name: counts[name] for name in ("conflict", "quarantined", "meter_errors")} == {
        "conflict": 1,
        "quarantined": 3,
        "meter_errors": 1,
    }
    assert counts["unattributed"] == 25
    customers = {"acme": "EUR", "globex": "EUR", "northwind": "USD", "sakura": "JPY"}
    assert {row["customer"] for row in result["usage"]} == set(customers)
    assert {i["customer"]: i["currency"] for i in result["invoices"]} == customers
    for invoice in result["invoices"]:
        lines = invoice["lines"]
        amount, discount, credit, tax = (
            sum(Decimal(line[name]) for line in lines)
            for name in ("amount", "discount", "credit", "tax")
        )
        assert amount - discount - credit + tax == Decimal(invoice["total"])
    *drafts, final = result["invoices"]
    assert {each["status"] for each in drafts} == {"draft"}
    assert (final["status"], final["number"]) == ("finalized", "US-2026-0001")
    assert all(final[name].strip("0.") for name in ("discount", "credit", "tax", "prepaid"))


def test_the_demo_again_in_the_same_folder_prints_the_same_and_changes_nothing(
    demo: tuple[Path, Any],
) -> None:
    folder, first = demo
    before = stored(folder), documents(folder)
    again = run("demo", "--folder", folder, "--format", "json")
    assert again.json == first.json
    assert (stored(folder), documents(folder)) == before


def test_the_demo_writes_its_final_invoice_for_the_customer(demo: tuple[Path, Any]) -> None:
    written = documents(demo[0])
    page = written.pop("US-2026-0001.html").decode()
    for text in ("US-2026-0001", "262.54", "162.54", "<svg"):
        assert text in page
    assert list(written) in ([], ["US-2026-0001.pdf"])
    assert all(content.startswith(b"%PDF-") for content in written.values())
    if os.environ.get("BEAMMETER_REQUIRE_SERVICES") == "1":
        assert written


@pytest.fixture(scope="module")
def shown(demo: tuple[Path, Any]) -> list[str]:
    """The lines that the demo prints for people."""
    done = run("demo", "--folder", demo[0])
    assert done.code == 0, done
    return [line.strip() for line in done.stdout.splitlines()]


def test_the_readme_shows_what_the_demo_prints(shown: list[str]) -> None:
    readme = (ROOT / "README.md").read_text("utf-8")
    excerpt = readme.partition("```text\n")[2].partition("```")[0].splitlines()
    wanted = [line.strip() for line in excerpt if line.strip() not in ("", "...")]
    assert len(wanted) > 20
    rest = iter(shown)
    assert [line for line in wanted if line not in rest] == []


def test_every_command_that_the_demo_recommends_runs_in_its_folder(
    demo: tuple[Path, Any], shown: list[str]
) -> None:
    folder, _ = demo
    commands = [line for line in shown if line.startswith("beammeter ")]
    assert len(commands) == 11
    commands.remove("beammeter serve --catalog catalog.yaml")  # It would not end.
    assert f"cd {shlex.quote(str(folder))}" in shown
    done = run_all([shlex.split(command)[1:] for command in commands], folder)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("exit 0\n") == len(commands)


def run_all(commands: list[list[str]], folder: Path) -> subprocess.CompletedProcess[str]:
    """Runs commands in one process, with `folder` as its working folder."""
    code = """
import json, sys
from runners.cli import main
for words in json.loads(sys.argv[1]):
    print("exit", main(words))
"""
    return subprocess.run(
        [sys.executable, "-c", code, json.dumps(commands)],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_demo_refuses_a_folder_that_is_in_use_for_something_else(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    done = run("demo", "--folder", tmp_path)
    assert done.code == 2
    assert done.stdout == ""
    assert sorted(path.name for path in tmp_path.iterdir()) == ["thesis.txt"]
