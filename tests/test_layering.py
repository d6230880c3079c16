"""Imports go one way:

runners -> service -> pipelines -> transforms -> billing | journal | warehouse -> meters
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
MAY_IMPORT = {
    "meters": set(),
    "billing": {"meters"},
    "journal": {"meters"},
    "warehouse": {"meters"},
    "transforms": {"meters", "billing", "journal", "warehouse"},
    "pipelines": {"meters", "billing", "journal", "warehouse", "transforms"},
    "service": {"meters", "billing", "journal", "warehouse", "transforms", "pipelines"},
    "runners": {"meters", "billing", "journal", "warehouse", "transforms", "pipelines", "service"},
}
WITHOUT_BEAM = ("meters", "billing", "journal", "warehouse")
CLIENTS = ("chdb", "clickhouse_connect")
NOT_IN_THE_PRODUCT = ("tests", "benchmarks", "examples", "scripts")


def imports(source: str, package: str) -> Iterator[tuple[int, str]]:
    """Line and absolute name of every import, wherever in the file it stands."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            yield node.lineno, f"{package}." * bool(node.level) + (node.module or "")


def found(package: str) -> list[tuple[str, str]]:
    """(place, imported name) of all modules of a package."""
    files = sorted((ROOT / package).rglob("*.py"))
    assert files, package
    return [
        (f"{path.relative_to(ROOT)}:{line}", name)
        for path in files
        for line, name in imports(path.read_text("utf-8"), package)
    ]


def top(name: str) -> str:
    return name.partition(".")[0]


@pytest.mark.parametrize("package", MAY_IMPORT)
def test_a_package_imports_only_the_layers_below(package: str) -> None:
    allowed = MAY_IMPORT[package] | {package}
    wrong = [(at, name) for at, name in found(package) if top(name) in MAY_IMPORT.keys() - allowed]
    assert not wrong


@pytest.mark.parametrize("package", MAY_IMPORT)
def test_no_package_imports_tests_or_benchmarks(package: str) -> None:
    wrong = [(at, name) for at, name in found(package) if top(name) in NOT_IN_THE_PRODUCT]
    assert not wrong


@pytest.mark.parametrize("package", WITHOUT_BEAM)
def test_the_pure_packages_and_the_warehouse_know_nothing_of_beam(package: str) -> None:
    assert not [(at, name) for at, name in found(package) if top(name) == "apache_beam"]


@pytest.mark.parametrize("package", sorted(MAY_IMPORT.keys() - {"warehouse"}))
def test_only_the_warehouse_talks_to_clickhouse(package: str) -> None:
    assert not [(at, name) for at, name in found(package) if top(name) in CLIENTS]


@pytest.mark.parametrize("package", sorted(MAY_IMPORT.keys() - {"journal"}))
def test_only_the_journal_talks_to_its_databases(package: str) -> None:
    assert not [(at, name) for at, name in found(package) if top(name) in ("sqlite3", "psycopg")]


def test_every_package_of_the_product_is_in_the_layering_and_in_setup() -> None:
    packages = {
        path.parent.name
        for path in ROOT.glob("*/__init__.py")
        if path.parent.name not in (*NOT_IN_THE_PRODUCT, ".venv")
    }
    assert packages == set(MAY_IMPORT)
    listed = ast.literal_eval(
        next(
            ast.unparse(node.value)
            for node in ast.parse((ROOT / "setup.py").read_text("utf-8")).body
            if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "PACKAGES"
        )
    )
    assert set(listed) - {"examples"} == packages


def test_the_walk_sees_imports_in_functions_and_relative_ones() -> None:
    source = "def f():\n    import pipelines.billing\nfrom . import other\nfrom .x import y\n"
    names = sorted(name for _, name in imports(source, "meters"))
    assert names == ["meters.", "meters.x", "pipelines.billing"]
    assert top("meters.") == "meters"
