"""Catalogs as text, for the tests of reading them."""

import re
from pathlib import Path
from textwrap import dedent

import pytest

from meters.catalog import Catalog
from meters.catalog_file import load_catalog
from meters.errors import CatalogError

DOCUMENTATION = Path(__file__).parent.parent.parent / "docs" / "catalog.md"

METERS = """
    meters:
      - {id: calls, event_name: call, aggregation: count}
      - {id: tokens, event_name: llm, aggregation: sum, property: tokens}
"""
CUSTOMERS = """
    customers:
      - {id: acme}
"""
PLAN = """
    plans:
      - id: pro
        currency: EUR
        charges:
          - {id: calls, meter: calls, price: {model: unit, unit_amount: "0.002"}}
"""


def write(folder: Path, *texts: str) -> None:
    """Texts as the files 0.yaml, 1.yaml ... of a folder."""
    for index, text in enumerate(texts):
        (folder / f"{index}.yaml").write_text(dedent(text).lstrip("\n"), encoding="utf-8")


def load(folder: Path, *texts: str) -> Catalog:
    write(folder, *texts)
    return load_catalog(str(folder))


def problems(folder: Path, *texts: str) -> list[str]:
    """What is wrong with a folder of these texts, as `file:line: path: message`."""
    with pytest.raises(CatalogError) as caught:
        load(folder, *texts)
    assert caught.value.exit_code == 2
    assert str(caught.value) == "\n".join(map(str, caught.value.problems))
    return [str(each).removeprefix(f"{folder}/") for each in caught.value.problems]


def only(found: list[str]) -> str:
    (line,) = found
    return line


def documented() -> str:
    """The example of the documentation."""
    (block,) = re.findall(r"```yaml\n(.*?)```", DOCUMENTATION.read_text(encoding="utf-8"), re.S)
    assert isinstance(block, str)
    return block
