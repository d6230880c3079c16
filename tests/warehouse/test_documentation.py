"""docs/tables.md says what a live warehouse has."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from warehouse.client import Warehouse

PAGE = (Path(__file__).parents[2] / "docs" / "tables.md").read_text(encoding="utf-8")
SECTIONS = dict(re.findall(r"^## (\w+)\n(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL))


def documented(section: str) -> list[tuple[str, str, bool]]:
    """(column, type, computed) of a section's table."""
    rows = re.findall(r"^\| `(\w+)` \| `([^`]+)` \| (.+) \|$", section, re.MULTILINE)
    return [(name, kind, meaning.startswith("*computed*")) for name, kind, meaning in rows]


def test_every_table_is_described(warehouse: Warehouse) -> None:
    rows = warehouse.query_rows(
        "SELECT name FROM system.tables WHERE database = currentDatabase() ORDER BY name"
    )
    assert sorted(SECTIONS) == [row["name"] for row in rows]


@pytest.mark.parametrize("table", SECTIONS)
def test_columns_and_types_are_those_of_the_live_table(warehouse: Warehouse, table: str) -> None:
    rows = warehouse.query_rows(
        "SELECT name, type, default_kind = 'MATERIALIZED' AS computed FROM system.columns "
        "WHERE database = currentDatabase() AND table = {table:String} ORDER BY position",
        {"table": table},
    )
    live = [(row["name"], row["type"], bool(row["computed"])) for row in rows]
    assert documented(SECTIONS[table]) == live


@pytest.mark.parametrize("table", SECTIONS)
def test_keys_and_partitions_are_those_of_the_live_table(warehouse: Warehouse, table: str) -> None:
    row = warehouse.query_rows(
        "SELECT sorting_key, partition_key FROM system.tables "
        "WHERE database = currentDatabase() AND name = {table:String}",
        {"table": table},
    )[0]
    text = " ".join(SECTIONS[table].split())
    assert f"Key: `{row['sorting_key']}`" in text
    partitions = re.sub(r"^\((.*)\)$", r"\1", str(row["partition_key"]))
    assert (f"partitions: `{partitions}`" if partitions else "not partitioned") in text
