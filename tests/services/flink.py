"""A real Flink, driven through Beam's job server.

    JobServer()                     one Java process, an embedded Flink for every job
    FlinkCluster() <- JobServer()   a JobManager and a TaskManager of their own, to be killed

    with JobServer() as server:
        options = [*server.options, "--environment_type=LOOPBACK"]

A streaming job also wants
    --checkpointing_interval=MILLISECONDS
    --max_bundle_time_mills=100             or nothing is emitted for tens of seconds
    --finish_bundle_before_checkpointing    or what a checkpoint ends waits for the next bundle
    --state_backend=filesystem (or rocksdb) --state_backend_storage_path=file:///DIR
                                            or no checkpoint may be above 5 MB

Cancelling a job through Beam ends only the job server's watch over it: Flink runs it on. Give a
streaming job a job server of its own, which takes two seconds, or use `cancel_jobs()` of a
cluster.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import urllib.request
from pathlib import Path
from typing import Any

from tests.services import fetch
from tests.services.process import LOCALHOST, Process, Service, ServiceError, free_port, listens

LONGEST_START = 90.0
ENDED = ("FINISHED", "CANCELED", "FAILED")
# What Flink 1.19's own start scripts open on Java 17, as far as its state and network code need.
OPENS = ("lang", "lang.reflect", "net", "io", "nio", "text", "time", "util", "util.concurrent")
CONFIGURATION = """\
jobmanager.rpc.address: {host}
jobmanager.rpc.port: {rpc}
jobmanager.bind-host: {host}
rest.address: {host}
rest.bind-address: {host}
rest.port: {rest}
taskmanager.host: {host}
taskmanager.bind-host: {host}
taskmanager.numberOfTaskSlots: {slots}
blob.server.port: 0
io.tmp.dirs: {folder}/tmp
# The job server sends its jar with every job; it is the one that is here already.
classloader.resolve-order: parent-first
state.checkpoints.dir: file://{folder}/checkpoints
restart-strategy.type: fixed-delay
restart-strategy.fixed-delay.attempts: 1000
restart-strategy.fixed-delay.delay: 1 s
# A killed TaskManager is missed after five seconds, not after fifty.
heartbeat.interval: 1000
heartbeat.timeout: 5000
# All sizes are told, so that no start script has to work them out.
taskmanager.cpu.cores: {slots}
taskmanager.memory.framework.heap.size: 128m
taskmanager.memory.task.heap.size: 1920m
taskmanager.memory.framework.off-heap.size: 128m
taskmanager.memory.task.off-heap.size: 320m
taskmanager.memory.network.min: 64m
taskmanager.memory.network.max: 64m
taskmanager.memory.managed.size: 256m
taskmanager.memory.jvm-metaspace.size: 256m
taskmanager.memory.jvm-overhead.min: 256m
taskmanager.memory.jvm-overhead.max: 256m
"""


class JobServer(Service):
    """Beam's job server, with a Flink of its own or for a cluster.

    Where `$BEAMMETER_FLINK_JOB_ENDPOINT` names one (`host:port`) and no cluster is given, that
    one is used and nothing is started. Its log is `job-server.log` in `folder`, which is kept;
    without a folder, a temporary one is used.
    """

    def __init__(self, folder: Path | None = None, cluster: FlinkCluster | None = None) -> None:
        external = os.environ.get("BEAMMETER_FLINK_JOB_ENDPOINT", "")
        self._external = external if cluster is None else ""
        self._folder = _Folder(folder, "job-server")
        self._cluster = cluster
        self._process: Process | None = None
        self.endpoint = self._external

    @property
    def options(self) -> list[str]:
        """The pipeline options that send a job here."""
        return ["--runner=PortableRunner", f"--job_endpoint={self.endpoint}"]

    def start(self) -> None:
        """Start the job server and wait until it takes jobs.

        Raises:
            Unavailable: Java is missing, or the jars cannot be fetched.
            ServiceError: it did not start; with the last lines of its log.
        """
        if self._external:
            return
        base = _java(self._folder, "-Xmx2g")
        job, artifacts = free_port(), free_port()
        command = [*base, "org.apache.beam.runners.flink.FlinkJobServerDriver"]
        command += ["--job-host", LOCALHOST, "--job-port", str(job)]
        command += ["--artifact-port", str(artifacts), "--expansion-port", "0"]
        command += ["--artifacts-dir", str(self._folder.path() / "artifacts")]
        if self._cluster is not None:
            command += ["--flink-master", self._cluster.rest]
        self._process = Process("job server", command, self._folder.path() / "job-server.log")
        self._process.start(lambda: listens(job) and listens(artifacts), LONGEST_START)
        self.endpoint = f"{LOCALHOST}:{job}"

    def stop(self) -> None:
        """End the job server with all jobs of its embedded Flink."""
        if self._process is not None:
            self._process.kill()
        self._process = None
        self._folder.remove()


class FlinkCluster(Service):
    """One JobManager and one TaskManager. Logs and checkpoints are in `folder`, which is kept;
    without a folder, a temporary one is used.
    """

    def __init__(self, folder: Path | None = None, slots: int = 4) -> None:
        self._folder = _Folder(folder, "flink")
        self._slots = slots
        self._started = 0
        self._jobmanager: Process | None = None
        self._taskmanager: Process | None = None
        self.rest = f"{LOCALHOST}:{free_port()}"

    @property
    def checkpoints(self) -> Path:
        """The folder that checkpoints go to where a job names no other."""
        return self._folder.path() / "checkpoints"

    def start(self) -> None:
        """Start JobManager and TaskManager and wait until they know each other.

        Raises:
            Unavailable: Java is missing, or the jars cannot be fetched.
            ServiceError: one of them did not start; with the last lines of its log.
        """
        if self._jobmanager is not None:
            raise ServiceError("the cluster runs already")
        folder = self._folder.path()
        configuration = CONFIGURATION.format(
            host=LOCALHOST,
            rpc=free_port(),
            rest=self.rest.rpartition(":")[2],
            slots=self._slots,
            folder=folder,
        )
        (folder / "flink-conf.yaml").write_text(configuration, encoding="utf-8")
        main = "org.apache.flink.runtime.entrypoint.StandaloneSessionClusterEntrypoint"
        base = _java(self._folder, "-Xmx1g")
        command = [*base, main, "--configDir", str(folder)]
        self._jobmanager = Process("JobManager", command, folder / "jobmanager.log")
        self._jobmanager.start(lambda: self.get("/overview") is not None, LONGEST_START)
        self.start_taskmanager()

    def start_taskmanager(self) -> None:
        """Start a TaskManager and wait until the JobManager knows it.

        Raises:
            ServiceError: it did not start; with the last lines of its log.
        """
        self._started += 1
        name = f"taskmanager-{self._started}"
        folder = self._folder.path()
        base = _java(self._folder, "-Xmx2g", "-XX:MaxDirectMemorySize=512m")
        main = "org.apache.flink.runtime.taskexecutor.TaskManagerRunner"
        command = [*base, main, "--configDir", str(folder), f"-Dtaskmanager.resource-id={name}"]
        self._taskmanager = Process("TaskManager", command, folder / f"{name}.log")
        self._taskmanager.start(lambda: name in self._taskmanagers(), LONGEST_START)

    def kill_taskmanager(self) -> None:
        """Kill the TaskManager (SIGKILL). Its jobs wait for `start_taskmanager()`."""
        if self._taskmanager is None:
            raise ServiceError("the TaskManager is not running")
        self._taskmanager.kill()
        self._taskmanager = None

    def get(self, path: str) -> Any:
        """What Flink's REST interface answers to a path such as `/jobs`; None where it does not."""
        try:
            with urllib.request.urlopen(f"http://{self.rest}{path}", timeout=5) as answer:
                return json.load(answer)
        except (OSError, ValueError):
            return None

    def running_jobs(self) -> list[str]:
        """The ids of the jobs that are not at their end."""
        known = self.get("/jobs") or {}
        return [each["id"] for each in known.get("jobs", ()) if each["status"] not in ENDED]

    def cancel_jobs(self) -> None:
        """Cancel all jobs that are not at their end, and wait until they are.

        Raises:
            ServiceError: a job still runs after a minute.
        """
        if self._jobmanager is None:
            raise ServiceError("the cluster is not running")
        for job in self.running_jobs():
            url = f"http://{self.rest}/jobs/{job}?mode=cancel"
            urllib.request.urlopen(urllib.request.Request(url, method="PATCH"), timeout=30).close()
        self._jobmanager.wait(lambda: not self.running_jobs(), LONGEST_START)

    def stop(self) -> None:
        """End the cluster."""
        for process in (self._taskmanager, self._jobmanager):
            if process is not None:
                process.kill()
        self._taskmanager = self._jobmanager = None
        self._folder.remove()

    def _taskmanagers(self) -> list[str]:
        known = self.get("/taskmanagers") or {}
        return [each["id"] for each in known.get("taskmanagers", ())]


class _Folder:
    """A service's folder: the given one, or a temporary one until it is removed."""

    def __init__(self, given: Path | None, name: str) -> None:
        self._given = given
        self._name = name
        self._temporary: Path | None = None

    def path(self) -> Path:
        if self._given is not None:
            self._given.mkdir(parents=True, exist_ok=True)
            return self._given.resolve()
        if self._temporary is None:
            self._temporary = Path(tempfile.mkdtemp(prefix=f"beammeter-{self._name}-"))
        return self._temporary

    def remove(self) -> None:
        if self._temporary is not None:
            shutil.rmtree(self._temporary, ignore_errors=True)
        self._temporary = None


def _java(folder: _Folder, *options: str) -> list[str]:
    """The start of a command line, up to the main class. Temporary files go to the folder too."""
    temporary = folder.path() / "tmp"
    temporary.mkdir(exist_ok=True)
    opens = [f"--add-opens=java.base/java.{each}=ALL-UNNAMED" for each in OPENS]
    logger = "-Dorg.slf4j.simpleLogger"
    logs = [f"{logger}.showDateTime=true", f"{logger}.dateTimeFormat=HH:mm:ss.SSS"]
    more = [f"-Djava.io.tmpdir={temporary}", *logs, f"{logger}.showThreadName=false"]
    return [fetch.java(), *options, *opens, *more, "-cp", f"{fetch.flink_jars()}/*"]
