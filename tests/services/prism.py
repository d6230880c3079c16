"""Beam's own portable runner: `--runner=PrismRunner --prism_location={prism.path()}`."""

from __future__ import annotations

import shutil
from pathlib import Path

from tests.services import fetch


def path() -> Path:
    """The program `prism`: the one on PATH, or else the fetched one.

    Raises:
        Unavailable: Go is missing, or it cannot be built.
    """
    found = shutil.which("prism")
    return Path(found) if found else fetch.prism()
