"""How a pipeline is launched, and how its failure becomes one plain message."""

from __future__ import annotations

import re
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions

from meters.errors import BeammeterError, ConfigurationError
from transforms import progress

RUNNERS = ("direct",)
"""What runs pipelines that end."""

_SWITCH_S = 0.0005
"""Threads that decode leave the interpreter for microseconds at a time; to wait five
milliseconds for it afterwards, as is usual, would leave a processor idle."""

_LAST_LINE = re.compile(r"^(?:[A-Za-z_][\w.]*\.)?([A-Z]\w*(?:Error|Exception|Unavailable)): (.*)$")
_WHILE = re.compile(r"\s*\[while running .*$", re.DOTALL)


def options(runner: str, extra: Sequence[str] = ()) -> PipelineOptions:
    """Beam's options for a runner, with the user's own options behind them.

    `direct` pins the FnApiRunner in this process: the DirectRunner's other choices
    either download a binary or cannot run these pipelines.
    """
    if runner not in RUNNERS:
        raise ConfigurationError(f"--runner must be one of {', '.join(RUNNERS)} (got {runner!r})")
    return PipelineOptions(
        [
            "--runner=apache_beam.runners.portability.fn_api_runner.FnApiRunner",
            "--direct_running_mode=in_memory",
            "--direct_num_workers=1",
            *extra,
        ]
    )


def run(build: Callable[[beam.Pipeline], None], pipeline_options: PipelineOptions) -> None:
    """Build and run a pipeline to its end.

    Raises `BeammeterError` with one line where it fails: the cause that a worker
    reported, without the runner's own words around it.
    """
    pipeline = beam.Pipeline(options=pipeline_options)
    build(pipeline)
    usual = sys.getswitchinterval()
    sys.setswitchinterval(_SWITCH_S)
    try:
        pipeline.run().wait_until_finish()
    except BeammeterError as error:
        raise type(error)(_WHILE.sub("", str(error))) from error
    except Exception as error:
        raise BeammeterError(cause(error)) from error
    finally:
        sys.setswitchinterval(usual)


def cause(error: BaseException) -> str:
    """The one line that says what failed, without the words of the runner around it."""
    for line in reversed(str(error).splitlines()):
        match = _LAST_LINE.match(line.strip())
        if match is not None:
            return _WHILE.sub("", match.group(2)) or match.group(1)
    return _WHILE.sub("", str(error)) or type(error).__name__


@contextmanager
def reported(counters: Sequence[str]) -> Iterator[None]:
    """Show counters of this process on stderr while the body runs.

    On a terminal one line that changes each second, elsewhere a line each ten seconds.
    """
    progress.reset()
    done = threading.Event()
    live = sys.stderr.isatty()
    thread = threading.Thread(target=_report, args=(tuple(counters), done, live), daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def _report(counters: tuple[str, ...], done: threading.Event, live: bool) -> None:
    started = time.monotonic()
    while not done.wait(1 if live else 10):
        _show(counters, started, live)
    _show(counters, started, live)
    if live:
        sys.stderr.write("\n")


def _show(counters: tuple[str, ...], started: float, live: bool) -> None:
    found = progress.snapshot()
    elapsed = time.monotonic() - started
    parts = [f"{name} {found.get(name, 0):,}" for name in counters]
    rate = found.get(counters[0], 0) / elapsed if elapsed else 0
    line = f"{elapsed:6.1f} s  " + "  ".join(parts) + f"  ({rate:,.0f}/s)"
    sys.stderr.write(f"\r{line}\033[K" if live else f"{line}\n")
    sys.stderr.flush()
