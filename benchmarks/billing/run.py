"""Speed and memory of rating and billing, in one command.

    python -m benchmarks.billing.run --subscriptions 100000 --charges 10

- Rating alone: usage to lines with ids and descriptions, on one process and on two at once,
  and beside it the same lines by the exact fractions (`billing.prices`), which must be equal.
- Quotes: milliseconds a quote.
- Billing end to end: usage rows in an embedded warehouse are read, rated and written as
  `invoices`, `invoice_lines` and result files, by the pipeline of `beammeter bill`, each
  size in a process that does nothing else. The catalog is built before; the pipeline's
  start is timed. Memory is watched until all documents are read back one by one, as for
  printing.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import random
import resource
import subprocess
import sys
import tempfile
import threading
import time
from decimal import Decimal
from pathlib import Path
from unittest import mock

from benchmarks.billing import world
from billing import lines
from billing.builder import quote
from billing.invoice import Line
from billing.quantities import UsageOf
from billing.slots import Segment
from meters.periods import Span
from warehouse.client import Warehouse

_LINES = 200_000
_PAIRED = 20_000
_QUOTES = 2_000
_PERIOD = Span(world.START, world.AS_OF)


def rated(count: int, charges: int) -> tuple[float, list[Line]]:
    """Lines for random usage, and the processor time that they took."""
    plan = world.catalog(0, charges).plans[0]
    context = lines.LineContext("inv_" + "0" * 32, "subscription_0000001", "UTC", 2, plan.id)
    segment = Segment(_PERIOD, _PERIOD)
    draw = random.Random(1)
    usage = [
        UsageOf(Decimal(draw.randrange(10**7)).scaleb(-3), draw.randrange(9))
        for _ in range(count // charges)
    ]
    started = time.process_time()
    found = [
        line
        for used in usage
        for charge in plan.charges
        for line, _ in lines.usage_lines(charge, used, segment, context)  # type: ignore[arg-type]
    ]
    return time.process_time() - started, found


def _rate(given: tuple[int, int]) -> int:
    return len(rated(*given)[1])


def rating(charges: int) -> dict[str, float]:
    """Lines a second: one process, two at once, and by fractions."""
    seconds, found = rated(_PAIRED, charges)
    with mock.patch.object(lines, "compile_charge", return_value=None):
        exact_seconds, exact = rated(_PAIRED, charges)
    if found != exact:
        raise SystemExit("the decimal form and the fractions differ")
    seconds, found = rated(_LINES, charges)
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        pool.map(_rate, [(1000, charges)] * 2)
        started = time.monotonic()
        both = sum(pool.map(_rate, [(_LINES, charges)] * 2, chunksize=1))
        wall = time.monotonic() - started
    return {
        "lines/s of a core": len(found) / seconds,
        "lines/s on two processes": both / wall,
        "lines/s of a core, fractions": len(exact) / exact_seconds,
    }


def quoting(charges: int) -> float:
    """Milliseconds of processor time a quote."""
    catalog = world.catalog(0, charges)
    usage = {meter.id: Decimal("1234.5") for meter in catalog.meters}
    started = time.process_time()
    for _ in range(_QUOTES):
        quote(catalog.plans[0], catalog.meters_by_id, usage).to_dict()
    return (time.process_time() - started) / _QUOTES * 1000


def fill(subscriptions: int, charges: int, hours: int, folder: Path) -> dict[str, float]:
    """The warehouse that is billed from."""
    with Warehouse.connect(f"chdb://{folder / 'warehouse'}") as warehouse:
        world.store_usage(warehouse, subscriptions, charges, hours)
    return {}


def billing(subscriptions: int, charges: int, hours: int, folder: Path) -> dict[str, float]:
    """One run of the pipeline in this process, which does nothing else beside.

    Memory is that above the catalog: the highest of this process until all is written, then
    while documents are read back and the engine merges its parts, and of those that rate.
    """
    from runners import bills

    del hours
    catalog = world.catalog(subscriptions, charges)
    url = f"chdb://{folder / 'warehouse'}"
    with Warehouse.connect(url) as warehouse:
        memory = Memory()
        started, worked = time.monotonic(), _processor_seconds()
        with warehouse.loading("invoices", "invoice_lines"):
            found = bills.rate(
                catalog,
                (url, False),
                None,
                customers=None,
                as_of=world.AS_OF,
                tenant="default",
                runner="direct",
            )
            first = next(found)
            written = _mebibytes("self", "VmHWM")
        wall, cpu = time.monotonic() - started, _processor_seconds() - worked
        printed = 1 + sum(1 for _ in found)
        memory.stop()
        stored = warehouse.query_rows(
            "SELECT (SELECT count() FROM invoices) AS invoices, "
            "(SELECT count() FROM invoice_lines) AS lines"
        )[0]
    expected = {"invoices": subscriptions, "lines": subscriptions * charges}
    if stored != expected or printed != subscriptions or first["status"] != "draft":
        raise SystemExit(f"stored rows must be {expected} (got {stored}, {printed} documents)")
    return {
        "invoices": subscriptions,
        "wall s": wall,
        "cpu s": cpu,
        "invoices/s": subscriptions / wall,
        "invoices/s of a core": subscriptions / cpu,
        "MiB with the catalog": memory.before,
        "MiB above it": written - memory.before,
        "MiB above it while the engine merges": memory.own - memory.before,
        "MiB of each process that rates": memory.others,
    }


class Memory:
    """Watches the highest resident set of this process and of its children, in MiB."""

    def __init__(self) -> None:
        Path("/proc/self/clear_refs").write_text("5")
        self.before = _mebibytes("self", "VmRSS")
        self.own = self.others = 0.0
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End the watch."""
        self._done.set()
        self._thread.join()
        self.own = _mebibytes("self", "VmHWM")

    def _watch(self) -> None:
        while not self._done.wait(0.2):
            for children in Path("/proc/self/task").glob("*/children"):
                for child in _text(children).split():
                    self.others = max(self.others, _mebibytes(child, "VmHWM"))


def _mebibytes(process: str, name: str) -> float:
    found = [line for line in _text(Path(f"/proc/{process}/status")).splitlines() if name in line]
    return int(found[0].split()[1]) / 1024 if found else 0.0


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:  # the process or the thread is gone
        return ""


def _processor_seconds() -> float:
    used = [resource.getrusage(of) for of in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in used)


def _apart(step: str, sizes: dict[str, int], folder: str) -> dict[str, float]:
    """A step in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.billing.run", "--step", step, "--folder", folder]
    command += [text for name, n in sizes.items() for text in (f"--{name}", str(n))]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def _main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--subscriptions", type=int, default=100_000)
    parser.add_argument("--charges", type=int, default=10)
    parser.add_argument("--hours", type=int, default=3, help="usage rows for each meter")
    parser.add_argument("--only-billing", action="store_true", help="neither rating nor quotes")
    parser.add_argument("--step", choices=list(_STEPS), help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.step is not None:
        step = _STEPS[given.step]
        found = step(given.subscriptions, given.charges, given.hours, given.folder)
        sys.stdout.write(json.dumps(found) + "\n")
        sys.stdout.flush()
        # chDB may crash while the interpreter ends.
        os._exit(0)
    _show({"load": os.getloadavg()[0]})
    if not given.only_billing:
        _show(rating(given.charges))
        _show({"ms a quote": quoting(given.charges)})
    for size in sorted({max(given.subscriptions // part, 1) for part in (4, 2, 1)}):
        sizes = {"subscriptions": size, "charges": given.charges, "hours": given.hours}
        with tempfile.TemporaryDirectory() as folder:
            _apart("fill", sizes, folder)
            _show(_apart("bill", sizes, folder))


_STEPS = {"fill": fill, "bill": billing}


def _show(facts: dict[str, float]) -> None:
    line = ", ".join(f"{name} {value:,.1f}" for name, value in facts.items())
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    _main()
