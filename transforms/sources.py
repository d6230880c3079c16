"""Sources of the backfill: files by pattern become batches of raw columns.

    patterns -> files -> splits -> RawBatch (raw columns, and rows that are refused)

| suffix                       | rows are                      | a split is          |
|------------------------------|-------------------------------|---------------------|
| `.parquet`                   | rows, counted from 1          | a run of row groups |
| `.jsonl`, `.ndjson`, `.json` | lines, one JSON object each   | the file            |
| `.csv`, `.tsv`               | records, by their first line  | the file            |

Text may be compressed (`.gz`, `.zst`); Parquet has its own compression. Files are
found and opened through Beam's file systems, so that a pattern may be a path, or
`s3://` or `gs://` where the extra is installed.

    for split in match_files(["events/*.parquet"]):
        for batch in read_split(split, Mapping()):
            ...
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import apache_beam as beam
from apache_beam.io.filesystems import FileSystems
from apache_beam.options.pipeline_options import PipelineOptions

from meters.errors import ConfigurationError
from meters.mapping import Mapping
from transforms import file_systems
from transforms.format_csv import read_csv
from transforms.format_jsonl import read_jsonl
from transforms.format_parquet import DAMAGE, read_parquet, row_groups
from transforms.format_text import chunks
from transforms.raw import BadRow, RawBatch

__all__ = [
    "BadRow",
    "FileSplit",
    "RawBatch",
    "ReadEvents",
    "ReadSplits",
    "match_files",
    "read_split",
]

_LOG = logging.getLogger(__name__)

SPLIT_ROWS = 1_000_000
"""The rows of a Parquet split; a row group is never cut."""

FORMATS = {
    ".parquet": "parquet",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "jsonl",
    ".csv": "csv",
    ".tsv": "tsv",
}
COMPRESSIONS = {".gz": "gzip", ".zst": "zstd"}


@dataclass(frozen=True)
class FileSplit:
    """A part of a file that is read by one worker.

    `path` is the full path or URL, `mtime_us` when the file was last modified, in
    microseconds UTC. `row_groups` is empty for a whole file.
    """

    path: str
    format: str
    compression: str
    size: int
    mtime_us: int
    row_groups: tuple[int, ...] = ()


def match_files(
    patterns: Sequence[str],
    options: PipelineOptions | None = None,
    split_rows: int = SPLIT_ROWS,
) -> list[FileSplit]:
    """The splits of all files that match, sorted by path, each file once.

    A folder stands for the files with a known suffix in it and below; names that
    start with a dot or an underscore are left out. `options` are Beam's, for the file
    systems that need some (such as `--s3_endpoint_url`). Raises `ConfigurationError` for
    a pattern without a match, a suffix that is not known, and a file system whose
    extra is not installed; `InputError` where a file system does not answer.
    """
    options = options or PipelineOptions()
    FileSystems.set_options(options)
    files: dict[str, FileSplit] = {}
    for pattern in patterns:
        for file in _match(pattern, options):
            files[file.path] = file
    ordered = [files[path] for path in sorted(files)]
    with ThreadPoolExecutor(max_workers=8) as pool:
        splits = list(pool.map(lambda file: _split(file, split_rows), ordered))
    return [split for parts in splits for split in parts]


def _match(pattern: str, options: PipelineOptions) -> list[FileSplit]:
    scheme = FileSystems.get_scheme(pattern)
    if scheme == "file":
        return _match(pattern.removeprefix("file://"), options)
    if scheme is None:
        return _match_local(os.path.abspath(os.path.expanduser(pattern)), pattern)
    file_systems.check(pattern, options)
    if pattern.endswith("/"):
        return _known(file_systems.find(f"{pattern}**"), pattern, len(pattern))
    found = file_systems.find(pattern)
    if not found:
        return _known(file_systems.find(f"{pattern}/**"), pattern, len(pattern) + 1)
    return [_file(*file) for file in found]


def _match_local(path: str, pattern: str) -> list[FileSplit]:
    if os.path.isdir(path):
        inside = [
            os.path.join(folder, name) for folder, _, names in os.walk(path) for name in names
        ]
        return _known([_stat(file) for file in inside], pattern, len(path) + 1)
    found = [_stat(path)] if os.path.isfile(path) else file_systems.find(path)
    if not found:
        raise ConfigurationError(f"--input must match at least one file (got {pattern!r})")
    return [_file(*file) for file in found]


def _known(
    found: list[tuple[str, int, float]], pattern: str, prefix_length: int
) -> list[FileSplit]:
    """The files of a folder that have a known suffix; at least one."""
    visible = [
        file
        for file in found
        if not any(part[:1] in ("", ".", "_") for part in file[0][prefix_length:].split("/"))
    ]
    known = [file for file in visible if _kind(file[0]) is not None]
    if not known:
        raise ConfigurationError(f"--input must match at least one file (got {pattern!r})")
    if len(known) < len(visible):
        _LOG.warning(
            "%s: %d files are left out, their suffixes are not known",
            pattern,
            len(visible) - len(known),
        )
    return [_file(*file) for file in known]


def _stat(path: str) -> tuple[str, int, float]:
    found = os.stat(path)
    return path, found.st_size, found.st_mtime


def _kind(path: str) -> tuple[str, str] | None:
    """Format and compression by the suffixes of a path, if both are known."""
    name = path.lower()
    stem, suffix = os.path.splitext(name)
    compression = COMPRESSIONS.get(suffix, "")
    if compression:
        stem, suffix = os.path.splitext(stem)
    found = FORMATS.get(suffix)
    if found is None or (compression and found == "parquet"):
        return None
    return found, compression


def _file(path: str, size: int, modified: float) -> FileSplit:
    kind = _kind(path)
    if kind is None:
        known = ", ".join(FORMATS)
        raise ConfigurationError(
            f"an input must end in one of {known}, text also with .gz or .zst (got {path!r})"
        )
    return FileSplit(path, *kind, size, round(modified * 1_000_000))


def _split(file: FileSplit, split_rows: int) -> list[FileSplit]:
    if file.format != "parquet":
        return [file]
    try:
        sizes = _row_groups(file)
    except DAMAGE:
        return [file]
    splits: list[list[int]] = []
    rows = 0
    for group, size in enumerate(sizes):
        if not splits or rows + size > split_rows:
            splits.append([])
            rows = 0
        splits[-1].append(group)
        rows += size
    return [replace(file, row_groups=tuple(groups)) for groups in splits] or [file]


def _row_groups(file: FileSplit) -> list[int]:
    with file_systems.opened(file.path, by_arrow=True) as raw:
        return row_groups(raw)


def read_split(split: FileSplit, mapping: Mapping) -> Iterator[RawBatch]:
    """The rows of a split in batches of bounded size, in the file's order.

    Damage gives a `BadRow` and never an error. Raises `InputError` where the file
    cannot be opened or the file system fails, as another try may then succeed.
    """
    path, mtime_us = split.path, split.mtime_us
    if split.format == "parquet":
        with file_systems.opened(path, by_arrow=True) as raw:
            yield from read_parquet(raw, split.row_groups, mapping, path, mtime_us)
        return
    with file_systems.opened(path) as raw:
        parts = chunks(raw, split.compression)
        if split.format == "jsonl":
            yield from read_jsonl(parts, mapping, path, mtime_us)
        else:
            delimiter = "\t" if split.format == "tsv" else ","
            yield from read_csv(parts, delimiter, mapping, path, mtime_us)


class ReadSplits(beam.DoFn):  # type: ignore[misc]
    """Reads `FileSplit`s into `RawBatch`es."""

    def __init__(self, mapping: Mapping) -> None:
        self._mapping = mapping

    def process(self, element: FileSplit) -> Iterator[RawBatch]:
        """The batches of one split."""
        return read_split(element, self._mapping)


class ReadEvents(beam.PTransform):  # type: ignore[misc]
    """`pipeline | ReadEvents(match_files(patterns), mapping)`: the batches of all splits."""

    def __init__(self, splits: Sequence[FileSplit], mapping: Mapping) -> None:
        super().__init__()
        self._splits = list(splits)
        self._mapping = mapping

    def expand(self, pbegin: beam.pvalue.PBegin) -> beam.PCollection[RawBatch]:
        """Splits, spread over the workers, then read."""
        return (
            pbegin
            | "Splits" >> beam.Create(self._splits)
            | "Spread" >> beam.Reshuffle()
            | "Read" >> beam.ParDo(ReadSplits(self._mapping))
        )
