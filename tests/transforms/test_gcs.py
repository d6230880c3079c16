"""Reading from Google Cloud Storage, against an emulator of it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from apache_beam.io.filesystems import FileSystems
from apache_beam.options.pipeline_options import PipelineOptions
from google.cloud import storage

from meters.errors import ConfigurationError
from meters.mapping import Mapping
from tests.services.gcs import emulated
from tests.transforms.files import COMPRESS, Found, collect, event, jsonl
from tests.transforms.test_s3 import parquet
from transforms.sources import match_files, read_split


@pytest.fixture(scope="module")
def running() -> Iterator[storage.Bucket]:
    before = FileSystems._pipeline_options
    with emulated("usage") as found:
        FileSystems.set_options(PipelineOptions([]))
        yield found
    FileSystems.set_options(before)


@pytest.fixture
def bucket(running: storage.Bucket) -> Iterator[storage.Bucket]:
    yield running
    for blob in running.list_blobs():
        blob.delete()


def read(pattern: str) -> Found:
    return collect(
        batch
        for split in match_files([pattern], PipelineOptions([]), split_rows=1500)
        for batch in read_split(split, Mapping())
    )


@pytest.mark.parametrize("suffix", ["", ".gz", ".zst"])
def test_text_is_read_from_gcs(bucket: storage.Bucket, suffix: str) -> None:
    data = COMPRESS[suffix](jsonl([event(number) for number in range(500)]))
    bucket.blob(f"in/a.jsonl{suffix}").upload_from_string(data)
    (split,) = match_files(["gs://usage/in/*"], PipelineOptions([]))
    assert (split.path, split.size) == (f"gs://usage/in/a.jsonl{suffix}", len(data))
    assert split.mtime_us > 1_700_000_000_000_000
    found = read(f"gs://usage/in/a.jsonl{suffix}")
    assert [row["event_id"] for row in found.events] == [f"e{number}" for number in range(500)]
    assert not found.bad


def test_parquet_is_read_from_gcs_by_row_groups(bucket: storage.Bucket) -> None:
    bucket.blob("in/a.parquet").upload_from_string(parquet(3500))
    splits = match_files(["gs://usage/in/a.parquet"], PipelineOptions([]), split_rows=2000)
    assert [split.row_groups for split in splits] == [(0, 1), (2, 3)]
    found = read("gs://usage/in/*.parquet")
    assert {row: one["properties"] for row, one in found.rows.items()} == {
        number: f'{{"n":{number}}}' for number in range(1, 3501)
    }


def test_a_prefix_is_a_folder_and_a_truncated_object_one_bad_row(bucket: storage.Bucket) -> None:
    bucket.blob("in/a.parquet").upload_from_string(parquet(3500)[:-100])
    bucket.blob("in/day=1/b.jsonl").upload_from_string(b'{"event_id":"b"}\n')
    bucket.blob("other/c.jsonl").upload_from_string(b'{"event_id":"c"}\n')
    found = read("gs://usage/in")
    assert [row["event_id"] for row in found.events] == ["b"]
    assert [(bad.origin, bad.row, bad.reason) for bad in found.bad] == [
        ("gs://usage/in/a.parquet", 0, "unreadable_file")
    ]


@pytest.mark.usefixtures("bucket")
@pytest.mark.parametrize("pattern", ["gs://usage/none/*.jsonl", "gs://usage/none.jsonl"])
def test_a_pattern_without_a_match_is_refused(pattern: str) -> None:
    with pytest.raises(ConfigurationError, match="--input must match at least one file"):
        match_files([pattern], PipelineOptions([]))
