"""How the stream is launched on each runner, and the defaults that suit it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from apache_beam.options.pipeline_options import PipelineOptions

from meters.errors import ConfigurationError

STREAM_RUNNERS = ("prism", "flink", "dataflow", "direct")

_JOB_SERVER = "localhost:8099"
_CHECKPOINT_MS = 5000
_BUNDLE_MS = 100


def stream_options(
    runner: str,
    *,
    prism_location: str | None,
    job_endpoint: str | None,
    parallelism: int,
    state: str | None,
    extra: Sequence[str],
    job_name: str = "beammeter",
    restore: str | None = None,
) -> PipelineOptions:
    """Beam's options for a runner that can read without end; the user's own go last.

    `state` is where Flink keeps checkpoints, `restore` one of them (or a savepoint) to go
    on from, `job_name` what the job is called there. Raises ConfigurationError where the
    runner lacks something.
    """
    if runner == "prism":
        chosen = _prism(prism_location)
    elif runner == "flink":
        chosen = [*_flink(job_endpoint, parallelism, state), f"--job_name={job_name}"]
        if restore is not None:
            chosen.append(f"--savepoint_path={restore}")
    elif runner == "dataflow":
        chosen = ["--runner=DataflowRunner", "--enable_streaming_engine"]
    else:
        listed = ", ".join(STREAM_RUNNERS)
        raise ConfigurationError(f"--runner must be one of {listed} (got {runner!r})")
    return PipelineOptions(["--streaming", *chosen, *extra])


def _prism(location: str | None) -> list[str]:
    found = location or shutil.which("prism")
    if found is None:
        raise ConfigurationError(
            "--runner prism needs the program prism on PATH or --prism-location: "
            "go install github.com/apache/beam/sdks/v2/go/cmd/prism@v2.77.0"
        )
    if not Path(found).is_file():
        raise ConfigurationError(f"--prism-location must be the program prism (got {found!r})")
    return [
        "--runner=runners.prism.PrismRunner",
        f"--prism_location={found}",
        "--environment_type=LOOPBACK",
    ]


def _flink(endpoint: str | None, parallelism: int, state: str | None) -> list[str]:
    """Short bundles, frequent checkpoints, and state that outgrows the memory."""
    endpoint = endpoint or os.environ.get("BEAMMETER_FLINK_JOB_ENDPOINT") or _JOB_SERVER
    state = state or (Path.cwd() / "beammeter-checkpoints").as_uri()
    return [
        "--runner=PortableRunner",
        f"--job_endpoint={endpoint}",
        "--environment_type=LOOPBACK",
        f"--parallelism={parallelism}",
        f"--checkpointing_interval={_CHECKPOINT_MS}",
        f"--max_bundle_time_mills={_BUNDLE_MS}",
        # Without it, what a checkpoint finishes waits for the next bundle of its stage.
        "--finish_bundle_before_checkpointing",
        "--state_backend=rocksdb",
        f"--state_backend_storage_path={state}",
        # A job that fails for good leaves its last checkpoint, to go on from.
        "--externalized_checkpoints_enabled",
    ]
