"""The documents keep their word: links resolve, and blocks that say they run do run.

In README.md a block after `<!-- runs -->` is run: shell blocks one after the other in one
empty folder, a Python block by itself, with the block behind it as what it prints.
"""

from __future__ import annotations

import ast
import os
import re
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from tests.billing.test_peer_cases import ANSWERED, CASES

ROOT = Path(__file__).parent.parent
DOCUMENTS = sorted(
    path
    for pattern in ("*.md", "docs/*.md", "examples/*/*.md", "benchmarks/**/*.md", "deploy/*.md")
    for path in ROOT.glob(pattern)
)
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
RUNS = re.compile(r"^<!-- runs -->\n```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
README = (ROOT / "README.md").read_text("utf-8")


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def anchors(path: Path) -> set[str]:
    """The anchors of a document's headings, as GitHub makes them."""
    text = FENCE.sub("", path.read_text("utf-8"))
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", each.lower()).replace(" ", "-") for each in headings}


@pytest.mark.parametrize("path", DOCUMENTS, ids=name)
def test_every_link_between_documents_leads_somewhere(path: Path) -> None:
    wrong = []
    for target in LINK.findall(FENCE.sub("", path.read_text("utf-8"))):
        if re.match(r"[a-z]+:", target):
            continue
        file, _, anchor = target.partition("#")
        found = (path.parent / file).resolve() if file else path
        if not found.exists() or (anchor and anchor not in anchors(found)):
            wrong.append(target)
    assert not wrong


@pytest.fixture(scope="module")
def bin_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the command `beammeter` of this working tree."""
    folder = tmp_path_factory.mktemp("bin")
    command = folder / "beammeter"
    command.write_text(
        f'#!/bin/sh\nPYTHONPATH="{ROOT}" exec "{sys.executable}" -m runners.cli "$@"\n'
    )
    command.chmod(command.stat().st_mode | stat.S_IEXEC)
    return folder


def test_the_shell_blocks_of_the_readme_run_one_after_the_other(
    bin_folder: Path, tmp_path: Path
) -> None:
    blocks = [text for language, text in RUNS.findall(README) if language == "sh"]
    assert len(blocks) == 4
    env = {key: value for key, value in os.environ.items() if key != "CLICKHOUSE_URL"}
    done = subprocess.run(
        ["sh", "-e"],
        input="\n".join(blocks),
        cwd=tmp_path,
        env={**env, "PATH": f"{bin_folder}:{env['PATH']}"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert (tmp_path / "invoices.json").read_text().count('"invoice_id"') == 1


def test_the_python_block_of_the_readme_prints_what_the_next_block_shows(tmp_path: Path) -> None:
    language, code = next(block for block in RUNS.findall(README) if block[0] == "python")
    blocks = FENCE.findall(README)
    shown = blocks[blocks.index((language, code)) + 1][1]
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert sorted(done.stdout.splitlines()) == shown.splitlines()


def test_the_semantics_count_the_cases_of_peers_as_they_are() -> None:
    text = " ".join((ROOT / "docs" / "semantics.md").read_text("utf-8").split())
    assert f"holds {len(CASES)} inputs and results" in text
    assert len(ANSWERED) == len(CASES)
    assert "All are computed" in text


def test_every_direct_dependency_is_pinned_and_no_registry_is_named() -> None:
    pins = (ROOT / "constraints.txt").read_text("utf-8")
    pinned = {normal(line.partition("==")[0]) for line in pins.splitlines() if "==" in line}
    call = next(
        node
        for node in ast.walk(ast.parse((ROOT / "setup.py").read_text("utf-8")))
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "setup"
    )
    given = {item.arg: item.value for item in call.keywords}
    extras = ast.literal_eval(given["extras_require"]).values()
    wanted = [*ast.literal_eval(given["install_requires"]), *(each for e in extras for each in e)]
    assert {normal(re.split(r"[^\w.-]", each)[0]) for each in wanted} <= pinned
    assert "://" not in pins


def normal(package: str) -> str:
    return re.sub(r"[-_.]+", "-", package).lower()


def test_every_kind_of_case_stands_by_its_rule_and_every_named_test_is_there() -> None:
    text = (ROOT / "docs" / "semantics.md").read_text("utf-8")
    section = text.split("## Where the rules come from\n")[1].split("\n## ")[0]
    rows = [line.split(" | ") for line in section.splitlines() if line.count(" | ") == 3]
    kinds = [kind for cells in rows[1:] for kind in re.findall(r"`(\w+)`", cells[2])]
    assert sorted(kinds) == sorted({case["kind"] for case in CASES})
    named = re.findall(r"`(tests/[\w/]+\.py)`", section)
    assert [path for path in named if not (ROOT / path).is_file()] == []
    assert len(named) >= len(rows[1:])
