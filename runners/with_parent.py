"""Runs a program that does not outlive its parent: `python with_parent.py PARENT PROGRAM WORD...`.

The kernel of Linux sends SIGKILL to the program once the process with the id PARENT, which
starts this, has ended, however it ends. No other system has that. This process becomes the
program, so its id, its streams and its signals are the program's.

A file of its own with no imports of ours: it takes a hundredth of a second to start.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

_PR_SET_PDEATHSIG = 1


def with_parent(command: Sequence[object]) -> list[str]:
    """The command that runs `command` no longer than this process, on Linux; itself elsewhere.

    To be started by a thread that lives on: for the kernel, the parent is the thread.
    """
    words = [str(word) for word in command]
    if not sys.platform.startswith("linux"):
        return words
    return [sys.executable, "-I", "-S", str(Path(__file__)), str(os.getpid()), *words]


def _become(parent: int, words: list[str]) -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        raise SystemExit(f"the parent must be process {parent}, which has ended")
    os.execv(words[0], words)  # noqa: S606 (as its caller would have)


if __name__ == "__main__":
    _become(int(sys.argv[1]), sys.argv[2:])
