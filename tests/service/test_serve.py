"""The server as a process, on a real broker and with its own pipeline: what it says, it keeps."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest
from confluent_kafka import Consumer, TopicPartition

from tests.cli import ROOT, run
from tests.service.servers import Server, events, post
from tests.services.kafka import Kafka


def taken(kafka: Kafka, topic: str) -> list[str]:
    """The ids in the topic, in its order."""
    consumer = Consumer({"bootstrap.servers": kafka.bootstrap, "group.id": uuid.uuid4().hex})
    _, end = consumer.get_watermark_offsets(TopicPartition(topic, 0), timeout=20)
    consumer.assign([TopicPartition(topic, 0, 0)])
    found: list[str] = []
    until = time.monotonic() + 60
    while len(found) < end and time.monotonic() < until:
        for message in consumer.consume(10_000, 1.0):
            value = message.value()
            assert value is not None
            assert message.key() == b"default/acme"
            found.append(json.loads(value)["event_id"])
    consumer.close()
    return found


@pytest.fixture
def topic(kafka: Kafka) -> str:
    name = f"events-{uuid.uuid4().hex[:8]}"
    kafka.create_topic(name)
    return name


@pytest.fixture
def server(kafka: Kafka, topic: str, tmp_path: Path) -> Iterator[Server]:
    made = Server(tmp_path, "--bootstrap-servers", kafka.bootstrap, "--topic", topic)
    made.start()
    yield made
    made.process.kill()


class Load:
    """Sends bulks from a thread until the server is gone, and keeps what it said."""

    def __init__(self, server: Server, prefix: str) -> None:
        self.acknowledged: list[str] = []
        self.refused: list[int] = []
        self._server = server
        self._prefix = prefix
        self._thread = threading.Thread(target=self._send)
        self._thread.start()

    def wait(self, count: int) -> None:
        until = time.monotonic() + 60
        while len(self.acknowledged) < count:
            assert time.monotonic() < until
            time.sleep(0.01)

    def end(self) -> None:
        self._thread.join(60)
        assert not self._thread.is_alive()

    def _send(self) -> None:
        with self._server.client() as client:
            for number in range(100_000):
                body = events(self._prefix, 20 * number, 20)
                try:
                    got = post(client, body)
                except httpx2.TransportError:
                    return
                if got.status_code == 202:
                    self.acknowledged += [event["event_id"] for event in body]
                else:
                    self.refused.append(got.status_code)


@pytest.mark.parametrize("gently", [True, False])
def test_a_server_that_ends_under_load_has_lost_nothing_it_acknowledged(
    kafka: Kafka, topic: str, server: Server, gently: bool
) -> None:
    loads = [Load(server, f"p{number}") for number in range(4)]
    for load in loads:
        load.wait(400)
    if gently:
        assert server.end() == 0
    else:
        server.process.kill()
    for load in loads:
        load.end()
    found = set(taken(kafka, topic))
    for load in loads:
        assert set(load.acknowledged) <= found
    assert "Traceback" not in server.log()
    assert server.key not in server.log()


def test_a_broker_that_is_away_is_503_and_nothing_is_taken_in_silence(
    own_kafka: Kafka, tmp_path: Path
) -> None:
    own_kafka.create_topic("events")
    spooled = tmp_path / "spooled"
    spooled.mkdir()
    plain = Server(tmp_path, "--bootstrap-servers", own_kafka.bootstrap)
    options = ("--bootstrap-servers", own_kafka.bootstrap, "--spool", spooled / "spool")
    spool = Server(spooled, *options)
    plain.start()
    spool.start()
    try:
        with plain.client() as one, spool.client() as other:
            assert post(one, events("a", 0, 5)).status_code == 202
            assert post(other, events("b", 0, 5)).status_code == 202
            own_kafka.kill()
            got = post(one, events("c", 0, 5))
            assert (got.status_code, got.headers["retry-after"]) == (503, "1")
            assert (got.json()["accepted"], got.json()["failed"]) == (0, [0, 1, 2, 3, 4])
            for number in range(3):
                assert post(other, events("b", 5 * (number + 1), 5)).status_code == 202
            # What is in the spool outlives the server.
            spool.process.kill()
            spool.start()
            assert post(other, events("b", 20, 5)).status_code == 202
            own_kafka.start()
            until = time.monotonic() + 90
            while post(one, events("d", 0, 5)).status_code != 202:
                assert time.monotonic() < until
                time.sleep(0.5)
            wanted = [f"b-{number}" for number in range(25)]
            while not set(wanted) <= set(found := taken(own_kafka, "events")):
                assert time.monotonic() < until
                time.sleep(0.5)
        first = list(dict.fromkeys(name for name in found if name.startswith("b-")))
        assert first == wanted
    finally:
        plain.process.kill()
        spool.process.kill()


@pytest.fixture
def own_kafka(monkeypatch: pytest.MonkeyPatch) -> Iterator[Kafka]:
    """A broker of the test's own, which it may kill, whichever one is named for the others."""
    from tests.conftest import or_skip

    monkeypatch.delenv("BEAMMETER_KAFKA", raising=False)
    broker = Kafka()
    or_skip(broker.start)
    yield broker
    broker.stop()


def alone(folder: Path) -> Server:
    """A server with its own pipeline."""
    made = Server(folder, "--clickhouse", f"chdb://{folder / 'data'}", "--spool", folder / "spool")
    made.process._command += ["--catalog", str(made.catalog)]
    return made


def usage(server: Server) -> dict[str, int]:
    """Calls by region, once the server has ended."""
    where = ("--catalog", server.catalog, "--clickhouse", f"chdb://{server.folder / 'data'}")
    rows = run("usage", *where, "--format", "json").json
    found: dict[str, int] = {}
    for row in rows:
        found[row["group"]["region"]] = found.get(row["group"]["region"], 0) + row["events"]
    return found


def test_the_local_pipeline_is_exact_through_kills(tmp_path: Path) -> None:
    server = alone(tmp_path)
    for sent in range(2):
        server.start()
        load = Load(server, f"k{sent}")
        load.wait(1000)
        server.process.kill()
        load.end()
        # Whatever was acknowledged is sent again: it counts once.
        server.start()
        with server.client() as client:
            again = [events("x", 0, 1)[0] | {"event_id": name} for name in load.acknowledged]
            assert post(client, again[:1000]).status_code == 202
            assert post(client, events(f"more{sent}", 0, 500)).status_code == 202
        end_counted(server)
        log = server.log()
        assert "Traceback" not in log
        counted = usage(server)["eu"]
        total = counted_ids(server)
        assert counted == len(total)
        assert set(load.acknowledged) <= total
        assert {f"more{sent}-{number}" for number in range(500)} <= total
        assert not owns(server), "what has ended owns no bucket"
    server.start()
    end_counted(server)
    assert not owns(server), "nor where no event came"


def end_counted(server: Server) -> None:
    """End it; where it says that it had no time to count all, its next start does."""
    for _ in range(5):
        said = server.log().count("was not done in time")
        assert server.end() == 0
        if server.log().count("was not done in time") == said:
            return
        server.start()
    raise AssertionError("a server has time to count a few events")


def counted_ids(server: Server) -> set[str]:
    """The ids of all raw events."""
    return asked(server, "SELECT DISTINCT event_id FROM events")


def owns(server: Server) -> set[str]:
    """The shards of the stream that own buckets, so that repair must leave these alone."""
    return asked(server, "SELECT shard FROM progress FINAL WHERE owned = 1")


def asked(server: Server, sql: str) -> set[str]:
    """The first column of what the warehouse answers once the server has ended."""
    code = (
        "import sys\n"
        "from warehouse.client import Warehouse\n"
        "with Warehouse.connect(sys.argv[1]) as w:\n"
        "    for row in w.query_rows(sys.argv[2]):\n"
        "        print(next(iter(row.values())))\n"
    )
    url = f"chdb://{server.folder / 'data'}"
    command = [sys.executable, "-c", code, url, sql]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
    return set(done.stdout.split())


def await_usage(server: Server, wanted: dict[str, int]) -> None:
    """Read usage over HTTP until it is what is wanted."""
    until = time.monotonic() + 60
    with server.client() as client:
        while True:
            found: Counter[str] = Counter()
            for row in client.get("/v1/usage", params={"limit": 1000}).json()["items"]:
                found[row["group"]["region"]] += row["events"]
            if found == wanted:
                return
            assert time.monotonic() < until, found
            time.sleep(0.1)


def example(server: Server, name: str) -> str:
    """Run a program of `examples/clients`; gives what it prints."""
    (path,) = (ROOT / "examples" / "clients").glob(f"{name}.*")
    program = "sh" if path.suffix == ".sh" else sys.executable
    done = subprocess.run(
        [program, str(path), server.url, server.key], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_clients_of_other_meters_send_events_that_are_counted(tmp_path: Path) -> None:
    server = alone(tmp_path)
    server.start()
    try:
        wanted: Counter[str] = Counter()
        for name, sent in (
            ("curl", {"eu": 1, "us": 2}),
            ("flexprice", {"eu": 1, "us": 2}),
            ("openmeter", {"eu": 3}),
            ("lago", {"eu": 3}),
        ):
            for _ in range(2):
                example(server, f"send_{name}")
            wanted.update(sent)
            await_usage(server, wanted)
        assert example(server, "read_flexprice").split() == ["12", "calls,", "12", "events"]
        assert server.end() == 0
        assert usage(server) == wanted
    finally:
        server.process.kill()
