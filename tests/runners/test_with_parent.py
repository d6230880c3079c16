"""A program that is started with its parent ends with it, however the parent ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from runners.with_parent import with_parent
from tests.cli import ROOT
from tests.services.process import await_end, runs

linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the kernel of Linux")


PARENT = """
import subprocess, time
from runners.with_parent import with_parent
child = subprocess.Popen(with_parent(["/bin/sh", "-c", "echo $$; exec sleep 600"]))
time.sleep(600)
"""


@linux
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_program_ends_with_its_parent(number: int) -> None:
    words = [sys.executable, "-c", PARENT]
    with subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        assert runs(child)
        parent.send_signal(number)
        await_end(child)


@linux
def test_a_program_whose_parent_has_ended_does_not_begin() -> None:
    words = with_parent(["/bin/sh", "-c", "echo began"])
    words[words.index(str(os.getpid()))] = str(os.getppid())
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stdout == ""


def test_a_program_has_its_own_words_streams_and_exit_code() -> None:
    words = with_parent(["/bin/sh", "-c", 'echo "$0 $1"; cat; exit 3', "a b", 7])
    done = subprocess.run(words, capture_output=True, text=True, input="given")
    assert (done.returncode, done.stdout) == (3, "a b 7\ngiven")
