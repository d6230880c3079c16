"""Patterns, files and splits; the same events in every format; reading in a pipeline."""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path
from typing import Any

import apache_beam as beam
import pyarrow as pa
import pytest
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.testing.util import assert_that, equal_to
from hypothesis import given, settings
from hypothesis import strategies as st

from meters.errors import ConfigurationError, InputError
from meters.mapping import Mapping
from meters.scalars import canonical_json, parse_json
from tests.transforms.files import (
    COMPRESS,
    MODIFIED,
    csv_text,
    event,
    jsonl,
    read,
    write,
    write_parquet,
)
from transforms.raw import MAX_PAYLOAD, payload_text
from transforms.sources import FileSplit, RawBatch, ReadEvents, match_files, read_split

LOCAL = PipelineOptions(
    ["--runner=apache_beam.runners.portability.fn_api_runner.FnApiRunner"],
)


def paths(splits: list[FileSplit]) -> list[str]:
    return [split.path for split in splits]


def test_files_are_sorted_and_each_is_there_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("b.jsonl", "a.csv", "c.jsonl.gz"):
        write(tmp_path / name, b"")
    monkeypatch.chdir(tmp_path)
    patterns = [
        "*.jsonl",
        str(tmp_path / "*"),
        "./b.jsonl",
        f"file://{tmp_path}/../{tmp_path.name}/a.csv",
    ]
    assert paths(match_files(patterns)) == [
        str(tmp_path / name) for name in ("a.csv", "b.jsonl", "c.jsonl.gz")
    ]


def test_a_split_says_what_a_file_is(tmp_path: Path) -> None:
    path = write(tmp_path / "A.JSONL.GZ", b"{}\n")
    assert match_files([str(path)]) == [
        FileSplit(str(path), "jsonl", "gzip", path.stat().st_size, MODIFIED * 1_000_000)
    ]


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("a.parquet", ("parquet", "")),
        ("a.ndjson", ("jsonl", "")),
        ("a.json", ("jsonl", "")),
        ("a.json.zst", ("jsonl", "zstd")),
        ("a.csv.gz", ("csv", "gzip")),
        ("a.tsv", ("tsv", "")),
    ],
)
def test_the_suffix_says_the_format(tmp_path: Path, name: str, kind: tuple[str, str]) -> None:
    write(tmp_path / name, b"")
    (split,) = match_files([str(tmp_path / name)])
    assert (split.format, split.compression) == kind


@pytest.mark.parametrize("name", ["a.txt", "a.parquet.gz", "a.gz", "parquet", "a.jsonl.bz2"])
def test_another_suffix_is_refused_and_the_known_ones_are_named(tmp_path: Path, name: str) -> None:
    write(tmp_path / name, b"")
    with pytest.raises(ConfigurationError, match=r"\.parquet, \.jsonl, .*\.csv") as caught:
        match_files([str(tmp_path / name)])
    assert name in str(caught.value)


@pytest.mark.parametrize("pattern", ["none.jsonl", "none/*.jsonl", "*.csv", "empty", "[ab].jsonl"])
def test_a_pattern_without_a_match_is_refused(tmp_path: Path, pattern: str) -> None:
    write(tmp_path / "c.jsonl", b"")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigurationError, match="--input must match at least one file") as caught:
        match_files([str(tmp_path / "c.jsonl"), str(tmp_path / pattern)])
    assert pattern in str(caught.value)


def test_a_folder_is_the_files_in_it_with_a_known_suffix(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for name in (
        "a.jsonl",
        "day=1/b.csv",
        "README.md",
        "_SUCCESS",
        "_temporary/c.csv",
        ".d.csv.crc",
        ".e.csv",
    ):
        write(tmp_path / "in" / name, b"")
    with caplog.at_level(logging.WARNING):
        found = match_files([str(tmp_path / "in")])
    assert paths(found) == [str(tmp_path / "in" / name) for name in ("a.jsonl", "day=1/b.csv")]
    assert "1 files are left out" in caplog.text


def test_a_name_with_a_bracket_is_found_as_it_stands(tmp_path: Path) -> None:
    write(tmp_path / "a[1].jsonl", b"")
    assert len(match_files([str(tmp_path / "a[1].jsonl")])) == 1


def test_other_schemes_and_missing_extras_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigurationError, match="must be a path or start with one of s3://, gs:"):
        match_files(["ftp://host/a.csv"])

    def missing(path: str) -> None:
        raise ValueError("Unable to get filesystem from specified path")

    monkeypatch.setattr("transforms.file_systems.FileSystems.get_filesystem", missing)
    for scheme, extra in (("s3", "s3"), ("gs", "gcs")):
        with pytest.raises(ConfigurationError, match=rf"pip install beammeter\[{extra}\]"):
            match_files([f"{scheme}://bucket/*.csv"])


def test_a_parquet_file_is_split_between_row_groups(tmp_path: Path) -> None:
    table = pa.table({"n": list(range(10))})
    path = write_parquet(tmp_path / "a.parquet", table, row_group_size=3)
    groups = [split.row_groups for split in match_files([str(path)], split_rows=6)]
    assert groups == [(0, 1), (2, 3)]
    assert [split.row_groups for split in match_files([str(path)], split_rows=1)] == [
        (0,),
        (1,),
        (2,),
        (3,),
    ]


def test_a_file_that_is_gone_stops_the_run(tmp_path: Path) -> None:
    for name in ("a.parquet", "a.jsonl", "a.csv"):
        write(tmp_path / name, b"")
        (split,) = match_files([str(tmp_path / name)])
        os.remove(split.path)
        with pytest.raises(InputError, match=f"cannot open {split.path}"):
            list(read_split(split, Mapping()))


def test_a_failing_file_system_is_no_damage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Failing:
        closed = False

        def read(self, size: int = -1) -> bytes:
            raise OSError("connection reset")

        def seek(self, *args: int) -> int:
            return 0

        def tell(self) -> int:
            return 1000

        def seekable(self) -> bool:
            return True

        def close(self) -> None:
            self.closed = True

    monkeypatch.setattr("transforms.file_systems.FileSystems.open", lambda *_, **__: Failing())
    for kind in ("parquet", "jsonl", "csv"):
        split = FileSplit(f"s3://bucket/a.{kind}", kind, "", 1, 1)
        with pytest.raises(InputError, match=r"cannot read s3://bucket/a.*connection reset"):
            list(read_split(split, Mapping()))


NAMES = ["event_id", "event_name", "external_customer_id", "timestamp", "source"]
TEXT = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=6)
EVENTS = st.lists(
    st.fixed_dictionaries(
        {
            **dict.fromkeys(NAMES[:4], TEXT),
            "source": st.one_of(st.none(), TEXT),
            "properties": st.dictionaries(TEXT, st.one_of(TEXT, st.integers(0, 9)), max_size=3),
        }
    ),
    min_size=1,
    max_size=8,
)


def canonical(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{**row, "properties": canonical_json(parse_json(row["properties"]))} for row in rows]


@settings(max_examples=30, deadline=None)
@given(EVENTS, st.sampled_from(sorted(COMPRESS)))
def test_the_same_events_read_alike_from_every_format(
    tmp_path_factory: pytest.TempPathFactory, events: list[dict[str, Any]], suffix: str
) -> None:
    folder = tmp_path_factory.mktemp("formats")
    flat = [
        {**row, "properties": json.dumps(row["properties"], ensure_ascii=False)} for row in events
    ]
    columns = [*NAMES, "properties"]
    schema = pa.schema([(name, pa.string()) for name in columns])
    found = [
        read(write(folder / f"a.jsonl{suffix}", jsonl(events))),
        read(write(folder / f"a.csv{suffix}", csv_text(flat, columns))),
        read(write(folder / f"a.tsv{suffix}", csv_text(flat, columns, "\t"))),
        read(write_parquet(folder / "a.parquet", pa.Table.from_pylist(flat, schema))),
    ]
    assert all(not one.bad for one in found)
    assert all(canonical(one.events) == canonical(found[0].events) for one in found)
    assert [row["event_id"] for row in found[0].events] == [row["event_id"] for row in events]


def test_a_payload_is_cut_between_characters() -> None:
    assert payload_text("é" * 10) == "é" * 10
    cut = payload_text("x" + "é" * MAX_PAYLOAD)
    assert cut == "x" + "é" * (MAX_PAYLOAD // 2 - 1) + f"... [cut off, {2 * MAX_PAYLOAD + 1} bytes]"
    assert payload_text(b"a\xff\xc3") == "a\\xff\\xc3"


def test_a_pipeline_reads_all_splits(tmp_path: Path) -> None:
    write(tmp_path / "a.jsonl", jsonl([event(1), event(2)]) + b"{\n")
    write(tmp_path / "b.csv.gz", b"event_id,event_name,external_customer_id,timestamp\nx,y,z,t\n")

    def counted(batch: RawBatch) -> tuple[str, int, int]:
        return Path(batch.origin).name, batch.columns.num_rows, len(batch.bad)

    with beam.Pipeline(options=LOCAL) as pipeline:
        found = pipeline | ReadEvents(match_files([str(tmp_path)]), Mapping())
        assert_that(found | beam.Map(counted), equal_to([("a.jsonl", 2, 1), ("b.csv.gz", 1, 0)]))
