"""The pipeline of the stream translates for any portable runner; Dataflow's options are read."""

from __future__ import annotations

import json
from pathlib import Path

import apache_beam as beam
import pytest
from apache_beam.options.pipeline_options import PipelineOptions, StandardOptions
from apache_beam.portability.api import beam_runner_api_pb2

from meters.catalog_file import load_catalog
from meters.errors import ConfigurationError
from meters.timeline import ALWAYS, Timeline
from pipelines.streaming import Streaming
from runners.stream_runners import stream_options
from tests.cli import run
from tests.services.gcs import emulated
from tests.streaming.test_stream import CATALOG
from transforms.kafka_client import KafkaSettings, parse_start, read_properties
from transforms.stream_options import StreamOptions

STREAMING = PipelineOptions(["--streaming"])


def dataflow_options(more: list[str]) -> PipelineOptions:
    given = {"prism_location": None, "job_endpoint": None, "parallelism": 2, "state": None}
    return stream_options("dataflow", **given, extra=more)


def graph(
    tmp_path: Path, given: PipelineOptions = STREAMING, *, keyed: bool = True
) -> beam.Pipeline:
    path = tmp_path / "catalog.yaml"
    path.write_text(CATALOG, encoding="utf-8")
    kafka = KafkaSettings("broker:9092", "events", "group", splits=3)
    options = StreamOptions("job", "default", "clickhouse://u@h:8123/db", kafka, shards=4)
    pipeline = beam.Pipeline(options=given)
    Streaming(options, Timeline([(ALWAYS, load_catalog(str(path)))]), keyed).build(pipeline)
    return pipeline


def test_the_graph_has_an_unbounded_source_and_keyed_state(tmp_path: Path) -> None:
    proto = graph(tmp_path).to_runner_api()
    names = {t.unique_name: t for t in proto.components.transforms.values()}
    payloads = {
        name: beam_runner_api_pb2.ParDoPayload.FromString(t.spec.payload)
        for name, t in names.items()
        if t.spec.urn == "beam:transform:pardo:v1"
    }
    assert payloads["Read"].restriction_coder_id
    assert set(payloads["Shards"].state_specs) >= {"nonce", "about", "pending", "cells", "seen_6"}
    assert not payloads["Read"].requests_finalization


def test_the_stage_that_reads_has_an_output_where_state_is_not_keyed(tmp_path: Path) -> None:
    """While a bundle of a stage without any runs, Prism 2.77 spins: its loop takes the missing
    outputs for data that is ready, again and again (`Execute` in its stage.go).
    """
    found = graph(tmp_path, keyed=False).to_runner_api().components.transforms.values()
    steps = [step for step in found if not step.subtransforms]
    [read] = [step for step in steps if step.unique_name == "Read"]
    [shards] = [step for step in steps if step.unique_name == "Shards"]
    fused, outputs = [read], set[str]()
    for step in fused:
        for taker in steps:
            if set(step.outputs.values()) & set(taker.inputs.values()):
                if taker.spec.urn == "beam:transform:pardo:v1":
                    fused.append(taker)
                else:
                    outputs.add(taker.spec.urn)
    assert shards in fused
    assert outputs == {"beam:transform:group_by_key:v1"}


def test_dataflow_translates_the_stream_into_a_job(tmp_path: Path) -> None:
    """Dataflow's own runner makes a template of it: all of a launch but the call that starts it."""
    with emulated("usage") as bucket:
        more = ["--project=usage-project", "--region=europe-west1"]
        more += [f"--{name}_location=gs://usage/{name}" for name in ("temp", "staging", "template")]
        more += ["--sdk_container_image=images.example/beammeter:1", "--sdk_location=container"]
        graph(tmp_path, dataflow_options(more)).run()
        job = json.loads(bucket.blob("template").download_as_bytes())
        [staged] = [b for b in bucket.list_blobs() if b.name.endswith("/pipeline.pb")]
        pipeline = beam_runner_api_pb2.Pipeline.FromString(staged.download_as_bytes())
    assert job["type"] == "JOB_TYPE_STREAMING"
    assert "enable_streaming_engine" in job["environment"]["experiments"]
    [pool] = job["environment"]["workerPools"]
    assert pool["workerHarnessContainerImage"] == "images.example/beammeter:1"
    steps = {t.unique_name: t.spec for t in pipeline.components.transforms.values()}
    shards = beam_runner_api_pb2.ParDoPayload.FromString(steps["Shards"].payload)
    assert set(shards.state_specs) >= {"nonce", "about", "pending", "cells", "seen_6"}
    assert beam_runner_api_pb2.ParDoPayload.FromString(steps["Read"].payload).restriction_coder_id


def test_options_of_dataflow_follow_behind_ours() -> None:
    options = dataflow_options(["--project=p", "--region=r"])
    assert options.view_as(StandardOptions).runner == "DataflowRunner"
    assert options.view_as(StandardOptions).streaming


def test_flink_has_defaults_that_suit_one_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("BEAMMETER_FLINK_JOB_ENDPOINT", raising=False)
    given = {"prism_location": None, "job_endpoint": None, "parallelism": 3, "state": None}
    options = stream_options("flink", **given, extra=["--parallelism=5"])
    found = options.get_all_options()
    assert found["job_endpoint"] == "localhost:8099"
    assert options.view_as(StandardOptions).streaming
    monkeypatch.setenv("BEAMMETER_FLINK_JOB_ENDPOINT", "there:1")
    found = stream_options("flink", **given, extra=[]).get_all_options()
    assert found["job_endpoint"] == "there:1"


@pytest.mark.parametrize(
    ("runner", "message"),
    [
        ("spark", "--runner must be one of prism, flink, dataflow, direct (got 'spark')"),
        ("prism", "--prism-location must be the program prism (got '/nowhere')"),
    ],
)
def test_a_runner_that_lacks_something_is_refused(runner: str, message: str) -> None:
    with pytest.raises(ConfigurationError) as error:
        stream_options(
            runner,
            prism_location="/nowhere",
            job_endpoint=None,
            parallelism=2,
            state=None,
            extra=[],
        )
    assert message in str(error.value)


def test_settings_of_kafka_come_from_a_file_and_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "kafka.properties"
    file.write_text("# TLS\nsecurity.protocol = SASL_SSL\nsasl.password=${SECRET}\n", "utf-8")
    monkeypatch.setenv("SECRET", "a=b")
    found = read_properties(str(file))
    assert found == {"security.protocol": "SASL_SSL", "sasl.password": "a=b"}
    monkeypatch.delenv("SECRET")
    with pytest.raises(ConfigurationError, match="must be set in the environment"):
        read_properties(str(file))
    file.write_text("group.id=mine\n", "utf-8")
    with pytest.raises(ConfigurationError, match="set by the command itself"):
        read_properties(str(file))
    file.write_text("what\n", "utf-8")
    with pytest.raises(ConfigurationError, match="name=value"):
        read_properties(str(file))


def test_where_a_group_without_offsets_begins() -> None:
    assert parse_start("latest") == "latest"
    assert parse_start("1970-01-01T00:00:01Z") == 1_000_000
    assert parse_start("0:12, 3:4") == ((0, 12), (3, 4))
    with pytest.raises(ConfigurationError, match="--start must be"):
        parse_start("yesterday")


@pytest.mark.parametrize("option", ["--restore", "--flink-rest"])
def test_options_of_flink_need_flink(tmp_path: Path, option: str) -> None:
    catalog = tmp_path / "catalog.yaml"
    catalog.write_text(CATALOG, encoding="utf-8")
    result = run(
        *("stream", "--catalog", catalog, "--clickhouse", f"chdb://{tmp_path / 'w'}"),
        *("--bootstrap-servers", "127.0.0.1:1", "--runner", "direct", option, "there:1"),
    )
    assert result.code == 2
    assert f"{option} must come with --runner flink (got 'there:1')" in result.stderr


def test_a_flink_that_does_not_answer_stops_the_start(tmp_path: Path) -> None:
    catalog = tmp_path / "catalog.yaml"
    catalog.write_text(CATALOG, encoding="utf-8")
    url = "clickhouse://default@127.0.0.1:1/default"
    result = run(
        *("stream", "--catalog", catalog, "--clickhouse", url, "--runner", "flink"),
        *("--bootstrap-servers", "127.0.0.1:1", "--flink-rest", "127.0.0.1:1"),
    )
    assert result.code == 1
    assert "Flink's REST interface at 127.0.0.1:1 must answer" in result.stderr
