"""The real services are there and do what tests and benchmarks need of them."""

from __future__ import annotations

import os
import subprocess
import sys
import time
import uuid
from collections.abc import Iterable
from pathlib import Path

import apache_beam as beam
import pytest
from apache_beam.coders import BooleanCoder
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.runners.runner import PipelineResult
from apache_beam.transforms.userstate import ReadModifyWriteRuntimeState, ReadModifyWriteStateSpec
from confluent_kafka import Consumer, Producer

from tests.conftest import or_skip
from tests.services import fetch
from tests.services.flink import FlinkCluster, JobServer
from tests.services.kafka import Kafka
from tests.services.process import Process, ServiceError

pytestmark = [
    pytest.mark.services,
    # Flink hangs up on the threads of the Python worker when a job ends.
    pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning"),
]
WORDS = ["a", "b", "a", "c", "a", "b"]
COUNTED = ["a 3", "b 2", "c 1"]
NEW = ["a is new", "b is new", "c is new"]


@pytest.fixture
def topic(kafka: Kafka) -> str:
    """A topic with two partitions that no other test has."""
    name = f"topic-{uuid.uuid4().hex}"
    kafka.create_topic(name, partitions=2)
    return name


def produce(kafka: Kafka, topic: str, values: list[bytes]) -> None:
    producer = Producer({"bootstrap.servers": kafka.bootstrap})
    for value in values:
        producer.produce(topic, key=value, value=value)
    assert producer.flush(30) == 0


def consume(kafka: Kafka, topic: str, count: int) -> list[bytes]:
    """The values of a topic, sorted; no more than arrived in half a minute."""
    options = {"group.id": uuid.uuid4().hex, "auto.offset.reset": "earliest"}
    consumer = Consumer({"bootstrap.servers": kafka.bootstrap, **options})
    consumer.subscribe([topic])
    values: list[bytes] = []
    deadline = time.monotonic() + 30
    while len(values) < count and time.monotonic() < deadline:
        for message in consumer.consume(count, timeout=1):
            assert message.error() is None
            values.append(message.value())
    consumer.close()
    return sorted(values)


def test_kafka_gives_back_what_it_took(kafka: Kafka, topic: str) -> None:
    values = sorted(f"{number}".encode() for number in range(100))
    produce(kafka, topic, values)
    assert consume(kafka, topic, 100) == values


def test_a_killed_broker_comes_back_with_its_messages(kafka: Kafka, topic: str) -> None:
    produce(kafka, topic, [b"before"])
    kafka.kill()
    kafka.start()
    produce(kafka, topic, [b"behind"])
    assert consume(kafka, topic, 2) == [b"before", b"behind"]


def test_a_broker_of_others_is_used_and_never_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BEAMMETER_KAFKA", "broker:9092")
    with Kafka() as broker:
        assert broker.bootstrap == "broker:9092"
        with pytest.raises(ServiceError, match="started here"):
            broker.kill()


class FirstOnly(beam.DoFn):
    """Lets the first element of each key pass."""

    SEEN = ReadModifyWriteStateSpec("seen", BooleanCoder())

    def process(
        self,
        element: tuple[str, int],
        seen: ReadModifyWriteRuntimeState = beam.DoFn.StateParam(SEEN),
    ) -> Iterable[str]:
        if not seen.read():
            seen.write(True)
            yield f"{element[0]} is new"


def write(line: str, path: Path) -> None:
    with path.open("a", encoding="utf-8") as file:
        file.write(f"{line}\n")


def lines(path: Path) -> list[str]:
    """The lines of a file, sorted; none where it is not there yet."""
    return sorted(path.read_text("utf-8").splitlines()) if path.exists() else []


def counts(options: list[str], path: Path) -> list[str]:
    """Run a bounded pipeline that counts the words; what it wrote, sorted."""
    with beam.Pipeline(options=PipelineOptions([*options, "--environment_type=LOOPBACK"])) as p:
        counted = p | beam.Create(WORDS) | beam.combiners.Count.PerElement()
        counted | beam.MapTuple(lambda word, count: write(f"{word} {count}", path))
    return lines(path)


def test_prism_runs_a_pipeline(prism: Path, tmp_path: Path) -> None:
    options = ["--runner=PrismRunner", f"--prism_location={prism}"]
    assert counts(options, tmp_path / "out") == COUNTED


def test_flink_runs_a_bounded_pipeline(flink_job_server: JobServer, tmp_path: Path) -> None:
    assert counts(flink_job_server.options, tmp_path / "out") == COUNTED


def stream(options: list[str], folder: Path, backend: str) -> PipelineResult:
    """Start a job that writes every new word to the file `out`; it runs until it is cancelled."""
    streaming = [
        *options,
        "--environment_type=LOOPBACK",
        "--streaming",
        "--checkpointing_interval=1000",
        "--max_bundle_time_mills=100",
        "--finish_bundle_before_checkpointing",
        f"--state_backend={backend}",
        f"--state_backend_storage_path=file://{folder}/checkpoints",
    ]
    pipeline = beam.Pipeline(options=PipelineOptions(streaming))
    keyed = pipeline | beam.Create(WORDS) | beam.Map(lambda word: (word, 1))
    keyed | beam.ParDo(FirstOnly()) | beam.Map(write, path=folder / "out")
    return pipeline.run()


def await_lines(path: Path, expected: list[str]) -> None:
    deadline = time.monotonic() + 60
    while lines(path) != expected and time.monotonic() < deadline:
        time.sleep(0.1)
    assert lines(path) == expected


@pytest.mark.parametrize("backend", ["filesystem", "rocksdb"])
def test_flink_runs_a_streaming_pipeline_with_keyed_state(tmp_path: Path, backend: str) -> None:
    or_skip(fetch.flink_jars)
    with JobServer() as server:
        job = stream(server.options, tmp_path, backend)
        await_lines(tmp_path / "out", NEW)
        job.cancel()
        with pytest.raises(RuntimeError, match="failed in state CANCELLED"):
            job.wait_until_finish()


def test_a_cluster_runs_jobs_with_a_new_taskmanager_after_a_kill(tmp_path: Path) -> None:
    or_skip(fetch.flink_jars)
    with FlinkCluster() as cluster, JobServer(cluster=cluster) as server:
        cluster.kill_taskmanager()
        cluster.start_taskmanager()
        assert counts(server.options, tmp_path / "bounded") == COUNTED
        job = stream(server.options, tmp_path, "filesystem")
        await_lines(tmp_path / "out", NEW)
        job.cancel()
        with pytest.raises(RuntimeError, match="failed in state CANCELLED"):
            job.wait_until_finish()
        cluster.cancel_jobs()
        ended = sorted(each["status"] for each in cluster.get("/jobs")["jobs"])
        assert ended == ["CANCELED", "FINISHED"]


def test_a_start_that_fails_shows_the_end_of_the_log(tmp_path: Path) -> None:
    process = Process("broken", ["/bin/sh", "-c", "echo no such disk; exit 3"], tmp_path / "log")
    with pytest.raises(ServiceError, match=r"broken ended with 3(.|\n)*no such disk"):
        process.start(lambda: False, seconds=30)


def test_a_start_without_an_answer_is_killed(tmp_path: Path) -> None:
    process = Process("deaf", ["/bin/sh", "-c", "sleep 600"], tmp_path / "log")
    with pytest.raises(ServiceError, match=r"deaf did not answer in 0\.1 s"):
        process.start(lambda: False, seconds=0.1)
    assert not process.alive()


def runs(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def test_no_process_outlives_a_killed_test_run(tmp_path: Path) -> None:
    code = f"""
import time
from pathlib import Path
from tests.services.process import Process
command = ["/bin/sh", "-c", "sleep 600 & sleep 600"]
process = Process("orphan", command, Path({str(tmp_path / "log")!r}))
process.start(lambda: True, seconds=1)
print(process.pid, flush=True)
time.sleep(600)
"""
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        group = int(parent.stdout.readline())
        assert runs(group)
        parent.kill()
    deadline = time.monotonic() + 30
    while runs(group) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not runs(group)


def test_a_missing_tool_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(fetch.Unavailable, match=r"^Java is not installed"):
        fetch.kafka_jars()
    monkeypatch.setenv("BEAMMETER_SERVICES", str(tmp_path / "empty"))
    with pytest.raises(fetch.Unavailable, match=r"^Go is not installed"):
        fetch.prism()
    assert not list((tmp_path / "empty").glob("*prism*"))
