"""Reading from S3, against moto's server."""

from __future__ import annotations

from collections.abc import Iterator

import apache_beam as beam
import boto3
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from apache_beam.io.filesystems import FileSystems
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.testing.util import assert_that, equal_to
from moto.server import ThreadedMotoServer

from meters.errors import ConfigurationError, InputError
from meters.mapping import Mapping
from tests.transforms.files import COMPRESS, Found, collect, event, jsonl
from transforms.sources import ReadEvents, match_files, read_split

# botocore's own use of the standard library.
pytestmark = pytest.mark.filterwarnings("ignore:datetime.datetime.utcnow:DeprecationWarning")


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    running = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    running.start()
    host, port = running.get_host_and_port()
    yield f"http://{host}:{port}"
    running.stop()


@pytest.fixture
def bucket(server: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    client = boto3.client("s3", endpoint_url=server)
    client.create_bucket(Bucket="usage")
    before = FileSystems._pipeline_options
    yield "usage"
    FileSystems.set_options(before)
    for item in client.list_objects_v2(Bucket="usage").get("Contents", []):
        client.delete_object(Bucket="usage", Key=item["Key"])
    client.delete_bucket(Bucket="usage")


def put(server: str, key: str, data: bytes) -> None:
    boto3.client("s3", endpoint_url=server).put_object(Bucket="usage", Key=key, Body=data)


def options(server: str) -> PipelineOptions:
    return PipelineOptions([f"--s3_endpoint_url={server}"])


def read(pattern: str, server: str) -> Found:
    return collect(
        batch
        for split in match_files([pattern], options(server), split_rows=1500)
        for batch in read_split(split, Mapping())
    )


def parquet(rows: int) -> bytes:
    sink = pa.BufferOutputStream()
    numbers = range(1, rows + 1)
    table = pa.table(
        {
            "event_id": [f"e{number}" for number in numbers],
            "event_name": ["x"] * rows,
            "external_customer_id": ["acme"] * rows,
            "timestamp": ["2026-11-01T00:00:00Z"] * rows,
            "n": list(numbers),
        }
    )
    pq.write_table(table, sink, row_group_size=1000)
    return sink.getvalue().to_pybytes()


@pytest.mark.parametrize("suffix", ["", ".gz", ".zst"])
def test_text_is_read_from_s3(bucket: str, server: str, suffix: str) -> None:
    data = COMPRESS[suffix](jsonl([event(number) for number in range(500)]))
    put(server, f"in/a.jsonl{suffix}", data)
    (split,) = match_files([f"s3://{bucket}/in/*"], options(server))
    assert split.path == f"s3://{bucket}/in/a.jsonl{suffix}"
    assert split.size == len(data)
    assert split.mtime_us > 1_700_000_000_000_000
    found = read(f"s3://{bucket}/in/a.jsonl{suffix}", server)
    assert [row["event_id"] for row in found.events] == [f"e{number}" for number in range(500)]
    assert not found.bad


def test_parquet_is_read_from_s3_by_row_groups(bucket: str, server: str) -> None:
    put(server, "in/a.parquet", parquet(3500))
    splits = match_files([f"s3://{bucket}/in/a.parquet"], options(server), split_rows=2000)
    assert [split.row_groups for split in splits] == [(0, 1), (2, 3)]
    found = read(f"s3://{bucket}/in/*.parquet", server)
    assert {row: one["properties"] for row, one in found.rows.items()} == {
        number: f'{{"n":{number}}}' for number in range(1, 3501)
    }


def test_a_truncated_object_is_one_bad_row(bucket: str, server: str) -> None:
    put(server, "in/a.parquet", parquet(3500)[:-100])
    put(server, "in/b.jsonl", b'{"event_id":"b"}\n')
    found = read(f"s3://{bucket}/in/", server)
    assert [row["event_id"] for row in found.events] == ["b"]
    assert [(bad.origin, bad.row, bad.reason) for bad in found.bad] == [
        (f"s3://{bucket}/in/a.parquet", 0, "unreadable_file")
    ]


@pytest.mark.parametrize("folder", ["in", "in/"])
def test_a_prefix_is_a_folder(bucket: str, server: str, folder: str) -> None:
    for key in ("in/a.jsonl", "in/day=1/b.jsonl", "in/_SUCCESS", "in/README.md", "other/c.jsonl"):
        put(server, key, b"{}\n")
    found = match_files([f"s3://{bucket}/{folder}"], options(server))
    assert [split.path for split in found] == [
        f"s3://{bucket}/in/a.jsonl",
        f"s3://{bucket}/in/day=1/b.jsonl",
    ]


def test_a_pattern_without_a_match_is_refused(bucket: str, server: str) -> None:
    for pattern in ("none/*.jsonl", "none.jsonl", "none/"):
        with pytest.raises(ConfigurationError, match="--input must match at least one file"):
            match_files([f"s3://{bucket}/{pattern}"], options(server))


def test_a_server_that_does_not_answer_is_named_at_once(
    bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    with pytest.raises(InputError, match=r"cannot reach s3://usage/a.jsonl: .*127\.0\.0\.1:9"):
        match_files([f"s3://{bucket}/a.jsonl"], options("http://127.0.0.1:9"))


def test_missing_credentials_are_named_at_once(
    bucket: str, server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nonexistent")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    with pytest.raises(InputError, match=r"cannot reach s3://usage/a.jsonl: .*credentials"):
        match_files([f"s3://{bucket}/a.jsonl"], options(server))


def test_a_bucket_that_is_not_there_has_no_match(bucket: str, server: str) -> None:
    with pytest.raises(ConfigurationError, match="--input must match at least one file"):
        match_files(["s3://nobody/*.jsonl"], options(server))


def test_a_pipeline_reads_from_s3(bucket: str, server: str) -> None:
    put(server, "a.jsonl", b'{"event_id":"a"}\n')
    put(server, "b.parquet", parquet(10))
    chosen = PipelineOptions(
        [
            "--runner=apache_beam.runners.portability.fn_api_runner.FnApiRunner",
            f"--s3_endpoint_url={server}",
        ]
    )
    splits = match_files([f"s3://{bucket}/"], chosen)
    with beam.Pipeline(options=chosen) as pipeline:
        found = pipeline | ReadEvents(splits, Mapping())
        assert_that(found | beam.Map(lambda batch: batch.columns.num_rows), equal_to([1, 10]))


def test_the_endpoint_may_come_from_the_environment(
    bucket: str, server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(server, "a.jsonl", b'{"event_id":"a"}\n')
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", server)
    (split,) = match_files([f"s3://{bucket}/a.jsonl"], PipelineOptions())
    assert collect(read_split(split, Mapping())).events[0]["event_id"] == "a"
