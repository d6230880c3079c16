"""A real Kafka broker (KRaft, one node) on free ports, in a folder of its own.

    with Kafka() as kafka:
        kafka.create_topic("events", partitions=4)
        Producer({"bootstrap.servers": kafka.bootstrap})

Where `$BEAMMETER_KAFKA` names a broker (`host:port`), that one is used and nothing is started.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import uuid
from base64 import urlsafe_b64encode
from pathlib import Path

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient, NewTopic

from tests.services import fetch
from tests.services.process import LOCALHOST, Process, Service, ServiceError, free_port, listens

LONGEST_START = 60.0
PROPERTIES = """\
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@{host}:{controller}
controller.listener.names=CONTROLLER
listeners=PLAINTEXT://{host}:{port},CONTROLLER://{host}:{controller}
advertised.listeners=PLAINTEXT://{host}:{port}
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT
log.dirs={data}
# Events of tests may be months old: nothing is deleted for its age.
log.retention.ms=-1
auto.create.topics.enable=false
num.partitions=1
group.initial.rebalance.delay.ms=0
# A killed broker comes back only when its last session has ended.
broker.session.timeout.ms=4000
broker.heartbeat.interval.ms=500
offsets.topic.num.partitions=1
offsets.topic.replication.factor=1
transaction.state.log.num.partitions=1
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
share.coordinator.state.topic.num.partitions=1
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
"""


class Kafka(Service):
    """One broker. `folder` keeps data and log; without one, a temporary folder is used."""

    def __init__(self, folder: Path | None = None) -> None:
        self._external = os.environ.get("BEAMMETER_KAFKA", "")
        self._process: Process | None = None
        self._folder = folder
        self._temporary: Path | None = None
        self.bootstrap = self._external

    def start(self) -> None:
        """Start the broker and wait until it answers; after `kill()` with the same data and port.

        Raises:
            Unavailable: Java is missing, or the jars cannot be fetched.
            ServiceError: it did not start; with the last lines of its log.
        """
        if self._external:
            return
        if self._process is None:
            self._process = self._prepare()
        self._process.start(self._answers, LONGEST_START)

    def kill(self) -> None:
        """Kill the broker (SIGKILL); `start()` brings it back.

        Raises:
            ServiceError: the broker is not ours.
        """
        if self._process is None:
            raise ServiceError("only a broker that was started here can be killed")
        self._process.kill()

    def stop(self) -> None:
        """End the broker for good and remove its temporary folder."""
        if self._process is not None:
            self._process.kill()
        if self._temporary is not None:
            shutil.rmtree(self._temporary, ignore_errors=True)
        self._process = self._temporary = None

    def create_topic(self, name: str, partitions: int = 1, **config: object) -> None:
        """Create a topic and wait until it takes messages.

        Args:
            name: of the topic.
            partitions: how many.
            config: of the topic, `_` for `.`: `retention_ms=1000`, `cleanup_policy="compact"`.

        Raises:
            KafkaException: the broker refused, for example because the topic exists.
            ServiceError: it has no leader after a minute.
        """
        options = {key.replace("_", "."): str(value) for key, value in config.items()}
        new = NewTopic(name, partitions, replication_factor=1, config=options)
        admin = self._admin()
        admin.create_topics([new])[name].result()
        if self._process is not None:
            self._process.wait(lambda: self._leads(name), LONGEST_START)

    def _prepare(self) -> Process:
        """Format a folder for a new broker; returns its process, not started."""
        jars = fetch.kafka_jars()
        if self._folder is None:
            self._temporary = Path(tempfile.mkdtemp(prefix="beammeter-kafka-"))
        folder = self._folder or self._temporary
        assert folder is not None
        folder.mkdir(parents=True, exist_ok=True)
        port, controller = free_port(), free_port()
        self.bootstrap = f"{LOCALHOST}:{port}"
        properties = folder / "server.properties"
        properties.write_text(
            PROPERTIES.format(
                host=LOCALHOST, port=port, controller=controller, data=folder / "data"
            ),
            encoding="utf-8",
        )
        base = [fetch.java(), "-Xmx1g", "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn"]
        classes = ["-cp", f"{jars}/*"]
        cluster = urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
        formatting = [*base, "-XX:TieredStopAtLevel=1", *classes, "kafka.tools.StorageTool"]
        done = subprocess.run(
            [*formatting, "format", "--ignore-formatted", "-t", cluster, "-c", str(properties)],
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise ServiceError(f"Kafka's folder was not formatted:\n{done.stdout}{done.stderr}")
        command = [*base, *classes, "kafka.Kafka", str(properties)]
        return Process("Kafka", command, folder / "kafka.log")

    def _admin(self) -> AdminClient:
        # Its complaints about a broker that is not there yet would only mislead.
        return AdminClient({"bootstrap.servers": self.bootstrap, "log_level": 2})

    def _answers(self) -> bool:
        if not listens(int(self.bootstrap.rpartition(":")[2])):
            return False
        return self._leads(None)

    def _leads(self, topic: str | None) -> bool:
        """Whether every partition, of this topic or of all, has a leader."""
        try:
            known = self._admin().list_topics(topic, timeout=5)
        except KafkaException:
            return False
        partitions = [each for found in known.topics.values() for each in found.partitions.values()]
        return bool(known.brokers) and all(each.leader >= 0 for each in partitions)
