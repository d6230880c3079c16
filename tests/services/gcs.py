"""Google Cloud Storage for tests: an emulator in this process, in memory, without credentials."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from unittest import mock

import google.auth
from gcp_storage_emulator.server import create_server
from google.auth.credentials import AnonymousCredentials
from google.cloud import storage

from tests.services.process import LOCALHOST, free_port

PROJECT = "usage-project"


@contextmanager
def emulated(bucket: str) -> Iterator[storage.Bucket]:
    """An empty bucket, at the place where Google's own client, and so Beam, looks for it."""
    port = free_port()
    server = create_server(LOCALHOST, port, in_memory=True, default_bucket=bucket)
    server.start()
    nobody = mock.patch.object(
        google.auth, "default", return_value=(AnonymousCredentials(), PROJECT)
    )
    where = mock.patch.dict("os.environ", {"STORAGE_EMULATOR_HOST": f"http://{LOCALHOST}:{port}"})
    try:
        with nobody, where:
            yield storage.Client(PROJECT, AnonymousCredentials()).bucket(bucket)
    finally:
        server.stop()
