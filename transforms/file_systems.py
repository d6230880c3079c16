"""Files through Beam's file systems, with errors that say what a user can do.

What a file system itself says (no such file, no permission, no connection) is an
`InputError`: another try may succeed, and nothing of it is damage to the data.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, BinaryIO

import pyarrow as pa
from apache_beam.io.filesystem import BeamIOError, CompressionTypes
from apache_beam.io.filesystems import FileSystems
from apache_beam.options.pipeline_options import PipelineOptions

from meters.errors import ConfigurationError, InputError

EXTRAS = {"s3": "s3", "gs": "gcs"}
"""The extra of Beammeter that each scheme needs."""


def check(url: str, options: PipelineOptions) -> None:
    """Whether a URL can be read at all.

    Raises `ConfigurationError` for an unknown scheme and a missing extra, and
    `InputError` where S3 cannot be reached.
    """
    scheme = FileSystems.get_scheme(url)
    try:
        FileSystems.get_filesystem(url)
    except (ValueError, BeamIOError):
        extra = EXTRAS.get(scheme)
        if extra is None:
            known = ", ".join(f"{name}://" for name in EXTRAS)
            raise ConfigurationError(
                f"--input must be a path or start with one of {known} (got {url!r})"
            ) from None
        raise ConfigurationError(
            f"{scheme}:// needs an extra: pip install beammeter[{extra}] (for {url!r})"
        ) from None
    if scheme == "s3":
        _reach_s3(url, options)


def _reach_s3(url: str, options: PipelineOptions) -> None:
    # Beam tries again for ten minutes where there is no connection or no
    # credentials, which is right within a run but not for a mistyped option.
    from apache_beam.io.aws.clients.s3.boto3_client import Client
    from botocore.exceptions import (  # type: ignore[import-untyped]
        BotoCoreError,
        ClientError,
    )

    bucket = url.removeprefix("s3://").split("/")[0]
    try:
        Client(options).client.head_bucket(Bucket=bucket)
    except ClientError:
        pass
    except (BotoCoreError, ValueError) as error:
        raise InputError(f"cannot reach {url}: {error}") from None


def find(pattern: str) -> list[tuple[str, int, float]]:
    """Path, size and time of modification (Unix seconds) of the files that match."""
    try:
        results = FileSystems.match([pattern])
    except BeamIOError as error:
        causes = "; ".join(str(cause) for cause in (error.exception_details or {}).values())
        raise InputError(f"cannot list {pattern}: {causes or error}") from None
    return [
        (found.path, found.size_in_bytes, found.last_updated_in_seconds)
        for found in results[0].metadata_list
    ]


class _Checked:
    """A file whose methods raise `InputError`."""

    def __init__(self, file: BinaryIO, path: str) -> None:
        self._file = file
        self._path = path

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._file, name)
        return self._checked(found) if name in ("read", "seek", "tell") else found

    def __enter__(self) -> _Checked:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def _checked(self, method: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any) -> Any:
            try:
                return method(*args)
            except Exception as error:
                raise InputError(f"cannot read {self._path}: {error}") from None

        return call


def opened(path: str, *, by_arrow: bool = False) -> Any:
    """The bytes of a file as they are stored, to be used in a `with`. Raises `InputError`.

    With `by_arrow` a local file is opened by Arrow, which reads it without Python.
    """
    try:
        if by_arrow and FileSystems.get_scheme(path) is None:
            return pa.OSFile(path)
        file = FileSystems.open(path, compression_type=CompressionTypes.UNCOMPRESSED)
    except Exception as error:
        raise InputError(f"cannot open {path}: {error}") from None
    return _Checked(file, path)
