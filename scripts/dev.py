#!/usr/bin/env python3
"""Set up and run from a fresh clone: `python3 scripts/dev.py demo`, `... test`.

    find Python >= 3.11 -> .venv -> pip install with constraints.txt -> run

Installs again only where setup.py, pyproject.toml or constraints.txt have changed since.
Needs nothing but the standard library, also on an older Python, which it only uses to
find a newer one. The Makefile calls this script, so both ways do the same.
"""
# ruff: noqa: S603 (it runs the programs of .venv and nothing that a stranger could name)

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
BIN = VENV / ("Scripts" if os.name == "nt" else "bin")
STAMP = VENV / "installed"
OLDEST = (3, 11)
NEWER = ("python3.11", "python3.12", "python3.13", "python3.14", "python3", "python")
INPUTS = ("setup.py", "pyproject.toml", "constraints.txt")
CHECKS = (
    ("ruff", "check"),
    ("ruff", "format", "--check"),
    ("mypy",),
)


def main() -> int:
    """Run one command; returns its exit code."""
    parser = argparse.ArgumentParser(
        description="Set up .venv where that is needed, then run a command."
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    commands.add_parser("demo", help="a month of events through usage to invoices")
    test = commands.add_parser("test", help="ruff, mypy and all tests")
    test.add_argument("paths", nargs="*", help="only these tests, without the other checks")
    commands.add_parser("setup", help="only set up .venv for development")
    commands.add_parser("format", help="let ruff format and fix")
    commands.add_parser("clean", help="remove .venv, caches and the demo's folder")
    given = parser.parse_args()
    if given.command == "clean":
        return clean()
    if sys.version_info < OLDEST:
        return again_with_newer_python()
    os.chdir(ROOT)
    set_up("pdf" if given.command == "demo" else "dev")
    if given.command == "demo":
        return run("beammeter", "demo")
    if given.command == "test":
        return check(given.paths)
    if given.command == "format":
        return run("ruff", "format") or run("ruff", "check", "--fix")
    return 0


def again_with_newer_python() -> int:
    """Start this script again with a Python that is new enough."""
    for name in NEWER:
        found = shutil.which(name)
        if found and _is_new_enough(found):
            return subprocess.call([found, *sys.argv])
    wanted, got = ".".join(map(str, OLDEST)), sys.version.split()[0]
    say(f"Python must be {wanted} or newer, and none is on PATH (got {got})")
    return 2


def _is_new_enough(python: str) -> bool:
    code = f"import sys; sys.exit(sys.version_info < {OLDEST})"
    return subprocess.call([python, "-c", code], stderr=subprocess.DEVNULL) == 0


def set_up(extra: str) -> None:
    """Make `.venv` hold this package and its pinned dependencies; `dev` includes all."""
    content = b"".join((ROOT / name).read_bytes() for name in INPUTS)
    wanted = hashlib.sha256(content).hexdigest()
    done = STAMP.read_text(encoding="utf-8") if STAMP.exists() else ""
    if done in (f"{wanted} {extra}", f"{wanted} dev"):
        return
    say("setting up .venv, which takes some minutes the first time ...")
    if not done and subprocess.call([sys.executable, "-m", "venv", "--clear", str(VENV)]):
        sys.exit("venv failed; on Debian and Ubuntu it is in the package python3-venv")
    STAMP.unlink(missing_ok=True)
    target = f".[{extra}]" if extra else "."
    options = ("--quiet", "--constraint", "constraints.txt", "--editable")
    if subprocess.call([str(BIN / "python"), "-m", "pip", "install", *options, target]):
        sys.exit("pip failed; its messages are above")
    STAMP.write_text(f"{wanted} {extra}", encoding="utf-8")


def check(paths: list[str]) -> int:
    """All checks, each to its end; only the named tests where there are some."""
    if paths:
        return run("pytest", *paths)
    failed = [" ".join(command) for command in (*CHECKS, ("pytest", "-n", "3")) if run(*command)]
    say(f"failed: {', '.join(failed)}" if failed else "all checks passed")
    return 1 if failed else 0


def run(program: str, *args: str) -> int:
    """Run a program of `.venv`."""
    if program != "beammeter":
        say(f"$ {' '.join((program, *args))}")
    return subprocess.call([str(BIN / program), *args])


def clean() -> int:
    """Remove what the other commands made."""
    caches = (".hypothesis", ".mypy_cache", ".pytest_cache", ".ruff_cache", "beammeter.egg-info")
    for name in (VENV.name, "build", "beammeter-demo", *caches):
        shutil.rmtree(ROOT / name, ignore_errors=True)
    return 0


def say(message: str) -> None:
    """One line on stderr."""
    sys.stderr.write(f"{message}\n")


if __name__ == "__main__":
    sys.exit(main())
