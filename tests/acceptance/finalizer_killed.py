"""`beammeter`, killed right after the journal has committed and before the warehouse is told.

python -m tests.acceptance.finalizer_killed bill --finalize ...
"""

from __future__ import annotations

import os
import signal
import sys
from typing import Any, NoReturn

from journal.journal import Journal
from runners.cli import main


def killing(self: Journal, *args: Any, **more: Any) -> NoReturn:
    """Commit, and be gone."""
    finalize(self, *args, **more)
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError


finalize = Journal.finalize
Journal.finalize = killing  # type: ignore[method-assign]

if __name__ == "__main__":
    sys.exit(main())
