"""Paired runs of the backfill and its peers in one command.

    python -m benchmarks.backfill.run --events 5000000 --rounds 3 --peers duckdb,chdb,beam

Each round runs the backfill and every peer once, one after the other, each in a process
of its own with an empty folder to write to; every second round turns the order round.
Ratios are taken within a round, so that what else the machine does weighs less. Every
result is compared with the backfill's, value by value: one that differs ends the
benchmark with exit code 1.

Wall time is that of the whole process, start-up included; the start-up of the backfill
is measured as a run over 1,000 events. CPU time is user and system time, the peak is the
largest resident set of the process. The per-element Beam pipeline runs over fewer
events (`--beam-events`), and rates are compared.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

OURS = "beammeter"
PEERS = ("duckdb", "duckdb-no-raw", "chdb", "chdb-no-raw", "beam")
STARTUP_EVENTS = 1_000
MIB = 1024


@dataclass(frozen=True)
class Run:
    """One process: what it did, over how many events, and what it took."""

    name: str
    round: int
    events: int
    wall_s: float
    cpu_s: float
    peak_mib: float
    load: float
    """The load average of the machine before the run, of everything else on it."""

    @property
    def rate(self) -> float:
        """Events a second of wall time."""
        return self.events / self.wall_s


@dataclass(frozen=True)
class Plan:
    """What is run on which inputs, and where."""

    folder: Path
    data: Path
    events: int
    few: Path
    few_events: int

    def command(self, name: str, data: Path, out: Path) -> list[str]:
        """The command line of a contender."""
        if name == OURS:
            files = sorted(str(path) for path in data.glob("events-*.parquet"))
            return [
                *("-m", "runners.cli", "backfill", "--catalog", str(data / "catalog.yaml")),
                *("--clickhouse", f"chdb://{out / 'warehouse'}", "--format", "json"),
                *("--input", *files),
            ]
        places = ["--input", str(data), "--out", str(out)]
        if name == "beam":
            return ["-m", "benchmarks.backfill.beam_peer", *places]
        peer, _, variant = name.partition("-")
        more = ["--no-raw"] if variant else []
        return ["-m", "benchmarks.backfill.peers", peer, *places, *more]

    def run(self, name: str, number: int, data: Path, events: int) -> tuple[Run, Path]:
        """Run a contender; returns its result's folder too."""
        out = self.folder / f"out-{name}"
        shutil.rmtree(out, ignore_errors=True)
        out.mkdir(parents=True)
        os.sync()
        load = os.getloadavg()[0]
        log = self.folder / f"{name}.log"
        with log.open("wb") as file:
            start = time.perf_counter()
            child = subprocess.Popen(
                [sys.executable, *self.command(name, data, out)], stdout=file, stderr=file
            )
            _, status, used = os.wait4(child.pid, 0)
            wall = time.perf_counter() - start
        child.returncode = os.waitstatus_to_exitcode(status)
        if child.returncode:
            sys.exit(f"{name} failed with {child.returncode}:\n{log.read_text()[-4000:]}")
        run = Run(
            name=name,
            round=number,
            events=events,
            wall_s=wall,
            cpu_s=used.ru_utime + used.ru_stime,
            peak_mib=used.ru_maxrss / MIB,
            load=load,
        )
        print(
            f"round {number}  {name:<14} {events:>11,} events  {run.wall_s:7.2f} s  "
            f"cpu {run.cpu_s:7.2f} s  {run.rate:>9,.0f}/s  peak {run.peak_mib:,.0f} MiB  "
            f"load {load:.1f}",
            file=sys.stderr,
            flush=True,
        )
        return run, out


def python(module: str, *args: object) -> str:
    """Run a module of the benchmark; returns what it prints."""
    command = [sys.executable, "-m", f"benchmarks.backfill.{module}", *map(str, args)]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


def verify(ours: Path, peer: str, folder: Path) -> int:
    """The number of equal rows; stops the benchmark where results differ."""
    kind = peer.partition("-")[0]
    found = json.loads(python("results", f"ours:{ours}", f"{kind}:{folder}"))
    if found["missing"] or found["extra"] or found["different"]:
        sys.exit(f"{peer} must give the same values as {OURS} (got {json.dumps(found, indent=1)})")
    return int(found["rows"])


def one_round(plan: Plan, number: int, peers: Sequence[str]) -> tuple[list[Run], int]:
    """All contenders once; the results are compared and removed."""
    runs: list[Run] = []
    rows = 0
    results: dict[str, Path] = {}
    order = [OURS, *(peer for peer in peers if peer != "beam")]
    for name in order if number % 2 else reversed(order):
        run, results[name] = plan.run(name, number, plan.data, plan.events)
        runs.append(run)
    for peer in order[1:]:
        rows = verify(results[OURS], peer, results[peer])
        shutil.rmtree(results[peer])
    if "beam" in peers:
        run, result = plan.run("beam", number, plan.few, plan.few_events)
        runs.append(run)
        _, ours = plan.run(OURS, number, plan.few, plan.few_events)
        verify(ours, "beam", result)
        shutil.rmtree(result)
    shutil.rmtree(plan.folder / f"out-{OURS}")
    return runs, rows


def spread(values: Iterable[float], form: str) -> str:
    """Minimum, median and maximum."""
    found = sorted(values)
    shown = (found[0], statistics.median(found), found[-1])
    return " / ".join(format(value, form) for value in shown)


def report(runs: Sequence[Run], startup: Sequence[Run], rows: int) -> str:
    """Tables of all runs, in Markdown; spreads are minimum / median / maximum."""
    by_name: dict[str, list[Run]] = {}
    for run in runs:
        by_name.setdefault(run.name, []).append(run)
    lines = [
        "| contender | events | wall s | CPU s | events/s | peak MiB |",
        "|---|---|---|---|---|---|",
    ]
    for name, found in by_name.items():
        lines.append(
            f"| {name} | {found[0].events:,} | {spread((r.wall_s for r in found), '.1f')} "
            f"| {spread((r.cpu_s for r in found), '.1f')} "
            f"| {spread((r.rate for r in found), ',.0f')} | {max(r.peak_mib for r in found):,.0f} |"
        )
    ours = {run.round: run for run in by_name[OURS]}
    if len(by_name) > 1:
        lines += [
            "",
            f"| {OURS} against | ratio of rates, pair by pair | ratio of events a CPU second |",
            "|---|---|---|",
        ]
    for name, found in by_name.items():
        if name != OURS:
            rates = [ours[r.round].rate / r.rate for r in found]
            work = [
                (ours[r.round].events / ours[r.round].cpu_s) / (r.events / r.cpu_s) for r in found
            ]
            lines.append(f"| {name} | {spread(rates, '.2f')} | {spread(work, '.2f')} |")
    start = statistics.median(run.wall_s for run in startup)
    net = [run.events / max(run.wall_s - start, 1e-9) for run in by_name[OURS]]
    lines += [
        "",
        f"Start-up of {OURS} ({STARTUP_EVENTS:,} events): {start:.1f} s; "
        f"events/s without it: {spread(net, ',.0f')}.",
    ]
    if rows:
        lines.append(f"All results are equal: {rows:,} rows by customer, region and hour.")
    return "\n".join(lines)


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--events", type=int, required=True)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--peers", default="duckdb,chdb", help=f"any of {','.join(PEERS)}, or ''")
    parser.add_argument("--beam-events", type=int, default=500_000)
    parser.add_argument("--work", type=Path, default=Path("benchmark-data"), help="folder to use")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--files", type=int, default=8)
    parser.add_argument("--json", type=Path, help="write every run to this file too")
    args = parser.parse_args()
    peers = [name for name in args.peers.split(",") if name]
    if unknown := [name for name in peers if name not in PEERS]:
        parser.error(f"--peers must be of {', '.join(PEERS)} (got {', '.join(unknown)})")
    work = args.work.resolve()

    def data(events: int) -> Path:
        folder = work / f"events-{events}-seed-{args.seed}"
        options = ("--events", events, "--out", folder, "--seed", args.seed)
        python("generate", *options, "--files", args.files)
        return folder

    few = min(args.beam_events, args.events)
    plan = Plan(
        folder=work / "runs",
        data=data(args.events),
        events=args.events,
        few=data(few) if "beam" in peers else work,
        few_events=few,
    )
    tiny = data(STARTUP_EVENTS)
    runs: list[Run] = []
    startup: list[Run] = []
    rows = 0
    for number in range(1, args.rounds + 1):
        startup.append(plan.run(OURS, number, tiny, STARTUP_EVENTS)[0])
        made, rows = one_round(plan, number, peers)
        runs += made
    print(report(runs, startup, rows))
    if args.json:
        found = {"startup": [asdict(r) for r in startup], "runs": [asdict(r) for r in runs]}
        args.json.write_text(json.dumps({**found, "equal_rows": rows}, indent=1))


if __name__ == "__main__":
    main()
