"""The embedded engine's folder: one process, one folder, and what can be wrong with it.

Each test runs in a process of its own, since chDB has one folder in a process.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from warehouse.schema import MIGRATIONS

ROOT = Path(__file__).parents[2]
CONNECT = """
import sys
from meters.errors import BeammeterError
from warehouse.client import Warehouse
"""


def run(script: str, *args: object) -> str:
    """What a fresh process prints; it must end well and say nothing on stderr."""
    done = subprocess.run(
        [sys.executable, "-c", CONNECT + textwrap.dedent(script), *map(str, args)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    return done.stdout.strip()


def failure(path: object, create: bool = True) -> str:
    """The error with which connecting to `path` ends, as `Type: message`."""
    return run(
        """
        try:
            Warehouse.connect("chdb://" + sys.argv[1], create=sys.argv[2] == "True")
        except BeammeterError as error:
            print(f"{type(error).__name__}: {error}")
        """,
        path,
        create,
    )


@contextmanager
def holder(path: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that has the warehouse open, with one row in it."""
    script = """
    warehouse = Warehouse.connect("chdb://" + sys.argv[1])
    warehouse.command("INSERT INTO catalogs (catalog_hash) VALUES ('written')")
    print("ready", flush=True)
    sys.stdin.read()
    """
    process = subprocess.Popen(
        [sys.executable, "-c", CONNECT + textwrap.dedent(script), str(path)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        yield process
    finally:
        process.kill()
        process.communicate()


ROWS = """
with Warehouse.connect("chdb://" + sys.argv[1]) as warehouse:
    print(warehouse.query_rows("SELECT catalog_hash FROM catalogs"))
"""


def test_a_second_process_is_told_who_has_the_folder(tmp_path: Path) -> None:
    with holder(tmp_path) as process:
        assert failure(tmp_path) == (
            f"WarehouseUnavailable: warehouse chdb://{tmp_path} is in use by process "
            f"{process.pid}; an embedded warehouse serves one process at a time"
        )


def test_a_killed_process_leaves_folder_and_rows_usable(tmp_path: Path) -> None:
    with holder(tmp_path) as process:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        assert run(ROWS, tmp_path) == "[{'catalog_hash': 'written'}]"


def test_a_second_folder_in_a_process_is_refused_until_the_first_is_closed(tmp_path: Path) -> None:
    script = """
    first, second = f"chdb://{sys.argv[1]}/a", f"chdb://{sys.argv[1]}/b"
    one, two = Warehouse.connect(first), Warehouse.connect(first)
    one.close()
    try:
        Warehouse.connect(second)
    except BeammeterError as error:
        print(f"{type(error).__name__}: {error}")
    two.close()
    with Warehouse.connect(second) as other:
        print(other.name)
    Warehouse.connect(first)  # forgotten at once
    with Warehouse.connect(second) as other:
        print(other.name)
    """
    assert run(script, tmp_path).splitlines() == [
        f"ConfigurationError: embedded warehouse must be one folder for each process "
        f"(got '{tmp_path}/b' while '{tmp_path}/a' is open)",
        f"chdb://{tmp_path}/b",
        f"chdb://{tmp_path}/b",
    ]


def test_connections_of_one_process_share_the_folder(tmp_path: Path) -> None:
    script = """
    one = Warehouse.connect("chdb://" + sys.argv[1])
    two = Warehouse.connect("chdb://" + sys.argv[1] + "/")
    one.command("INSERT INTO catalogs (catalog_hash) VALUES ('x')")
    one.close()
    print(two.query_rows("SELECT catalog_hash FROM catalogs"))
    """
    assert run(script, tmp_path) == "[{'catalog_hash': 'x'}]"


def test_threads_may_connect_at_the_same_time(tmp_path: Path) -> None:
    script = """
    import threading
    found = []
    def work():
        with Warehouse.connect("chdb://" + sys.argv[1]) as warehouse:
            found.append(warehouse.query_rows("SELECT count() AS n FROM schema_migrations FINAL"))
    threads = [threading.Thread(target=work) for _ in range(8)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    print(len(found), found[0])
    """
    assert run(script, tmp_path / "new") == f"8 [{{'n': {len(MIGRATIONS)}}}]"


def test_a_forked_process_is_refused(tmp_path: Path) -> None:
    script = """
    import os
    warehouse = Warehouse.connect("chdb://" + sys.argv[1])
    child = os.fork()
    if child == 0:
        for action in (
            lambda: warehouse.query_rows("SELECT 1"),
            lambda: Warehouse.connect("chdb://" + sys.argv[1]),
        ):
            try:
                action()
            except BeammeterError as error:
                print("cannot be used in a forked process" in str(error), flush=True)
        os._exit(0)
    os.waitpid(child, 0)
    print(warehouse.query_rows("SELECT 1 AS one"))
    """
    assert run(script, tmp_path).splitlines() == ["True", "True", "[{'one': 1}]"]


def test_a_missing_folder_is_made_or_refused(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "new"
    assert failure(path, create=False).startswith(
        f"ConfigurationError: warehouse must exist (got no folder '{path}')"
    )
    assert not path.exists()
    assert failure(path) == ""
    assert path.is_dir()
    assert failure(path, create=False) == ""


def test_a_folder_of_somebody_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    assert failure(tmp_path) == (
        f"ConfigurationError: warehouse folder must be empty or hold a warehouse "
        f"(got '{tmp_path}' with 'thesis.txt' in it)"
    )
    assert [entry.name for entry in tmp_path.iterdir()] == ["thesis.txt"]


def test_a_file_in_place_of_the_folder_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert failure(tmp_path / "file").startswith(
        "WarehouseError: warehouse folder must be a folder that can be written"
    )
    assert failure(tmp_path / "file" / "below").startswith(
        "WarehouseError: warehouse folder must be a folder that can be written"
    )


def test_a_folder_that_cannot_be_made_is_told() -> None:
    assert failure("/proc/nothing/here").startswith(
        "WarehouseError: warehouse folder must be a folder that can be written"
    )


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_write_permission_is_told(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    assert "must be a folder that can be written" in failure(tmp_path)


def test_a_damaged_folder_is_one_line(tmp_path: Path) -> None:
    assert failure(tmp_path) == ""
    for file in tmp_path.glob("store/*/*/usage.sql"):
        file.write_text("this is no statement")
    message = failure(tmp_path)
    assert message.startswith("WarehouseError: warehouse chdb://")
    assert "\n" not in message


def test_rows_of_an_open_stream_keep_the_engine_until_they_are_read(tmp_path: Path) -> None:
    script = """
    warehouse = Warehouse.connect("chdb://" + sys.argv[1])
    blocks = warehouse.iter_arrow("SELECT number FROM numbers(300000)")
    count = next(blocks).num_rows
    warehouse.close()
    print(count + sum(block.num_rows for block in blocks))
    """
    assert run(script, tmp_path) == "300000"


def test_paused_merges_resume_before_parts_pile_up(tmp_path: Path) -> None:
    script = """
    from warehouse import embedded
    import pyarrow as pa
    embedded._MOST_UNMERGED_INSERTS = 5
    import warehouse.client
    with Warehouse.connect("chdb://" + sys.argv[1]) as warehouse:
        row = {"tenant_id": "t", "seq": 0, "actor": "", "action": "", "object": "", "reason": "",
               "content_hash": "", "prev_hash": ""}
        from datetime import datetime, UTC
        shared = warehouse._engine._owner()
        with warehouse.loading("audit_log"):
            for seq in range(7):
                warehouse.insert_rows("audit_log", [{**row, "seq": seq, "at": datetime.now(UTC)}])
                print(sorted(shared.paused))
        print(sorted(shared.paused))
    """
    assert run(script, tmp_path).splitlines() == ["['audit_log']"] * 4 + ["[]"] * 4


def test_what_is_loaded_gets_its_bloom_filters_when_it_is_merged(tmp_path: Path) -> None:
    script = """
    from tests.warehouse.rows import event, events
    from warehouse.writes import insert_events
    def show():
        sizes = warehouse.query_rows(
            "SELECT name, toInt64(sum(data_uncompressed_bytes)) > 0 AS built "
            "FROM system.data_skipping_indices WHERE table = 'events' GROUP BY name ORDER BY name"
        )
        print([row["name"] for row in sizes if row["built"]])
    with Warehouse.connect("chdb://" + sys.argv[1]) as warehouse:
        with warehouse.loading("events"):
            for step in range(2):
                insert_events(warehouse, events([event("t", f"e{step}")]))
            show()
            found = warehouse.query_rows("SELECT event_id FROM events WHERE event_id = 'e1'")
            print([row["event_id"] for row in found])
        warehouse.command("OPTIMIZE TABLE events FINAL", {})
        show()
    """
    assert run(script, tmp_path).splitlines() == [
        "['by_time']",
        "['e1']",
        "['by_event_id', 'by_identity', 'by_time']",
    ]
