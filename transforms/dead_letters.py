"""Dead letters: what goes to quarantine goes to a topic as well, for other systems.

Written at least once: a bundle that is tried again sends its refused events again, with
the same origin and row in the headers. The table `quarantine` has each once.
"""

from __future__ import annotations

import logging

import pyarrow as pa
from confluent_kafka import KafkaException, Producer
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from meters.errors import BeammeterError
from transforms.kafka_client import KafkaSettings

_LOG = logging.getLogger(__name__)
_TIMEOUT = 30.0
_HEADERS = ("reason", "field", "detail", "meter", "origin", "origin_row")


def ensure_topic(settings: KafkaSettings, topic: str) -> str | None:
    """The topic, created where it is missing; None where that is not allowed."""
    admin = AdminClient({**settings.client(), "log_level": 2}, logger=_LOG)
    try:
        if topic in admin.list_topics(timeout=_TIMEOUT).topics:
            return topic
        admin.create_topics([NewTopic(topic, num_partitions=1)])[topic].result(_TIMEOUT)
    except KafkaException as error:
        _LOG.warning("no dead letters: topic %s cannot be made (%s)", topic, error.args[0].str())
        return None
    return topic


class DeadLetters:
    """Sends refused events to a topic; to none where it is None."""

    def __init__(self, settings: KafkaSettings, topic: str | None) -> None:
        self._topic = topic
        self._producer = None
        if topic is not None:
            durable = {"acks": "all", "enable.idempotence": True, "log_level": 2}
            config = {**settings.client(), **durable}
            self._producer = Producer(config, logger=_LOG)

    def send(self, refused: pa.Table) -> None:
        """Send rows of `QUARANTINE_SCHEMA` and wait until the broker has them.

        Raises BeammeterError where it has not within a minute.
        """
        if self._producer is None or self._topic is None:
            return
        for row in refused.to_pylist():
            self._producer.produce(
                self._topic,
                value=row["payload"].encode(),
                key=f"{row['tenant_id']}/{row['external_customer_id']}".encode(),
                headers=[(name, str(row[name]).encode()) for name in _HEADERS],
            )
            self._producer.poll(0)
        if left := self._producer.flush(2 * _TIMEOUT):
            raise BeammeterError(f"topic {self._topic} must take dead letters (got {left} left)")
