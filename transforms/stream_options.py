"""What all stages of one stream share."""

from __future__ import annotations

from dataclasses import dataclass

from transforms.kafka_client import KafkaSettings

HOUR_US = 3_600_000_000
_LEAST_HORIZON_US = 72 * HOUR_US


@dataclass(frozen=True)
class StreamOptions:
    """One run of a stream. Times are seconds unless a name says microseconds (`_us`).

    `job` names the run in this process's memory; `shards` is how many keys share the
    customers. The stream owns a bucket until the watermark passes its end plus
    `lateness_us`; the watermark stays `disorder_us` behind what was read. Identities are
    remembered for `horizon_us` of record time, at most `budget` in each shard, or those of
    the newest slice where they are more. With `idle_seconds` the stream gives everything
    away once it was idle for that long.
    """

    job: str
    tenant: str
    warehouse: str
    kafka: KafkaSettings
    shards: int
    flush_seconds: float = 0.5
    bundle_seconds: float = 0.2
    idle_seconds: float | None = None
    lateness_us: int = 48 * HOUR_US
    disorder_us: int = 10_000_000
    budget: int = 50_000_000
    dead_letters: str | None = None

    @property
    def horizon_us(self) -> int:
        """How long an identity is remembered: three days, or as long as a copy can be on time.

        An event is received up to a day before its own time. It is on time until the watermark,
        which is `disorder_us` behind, is `lateness_us` after the end of its hour; an hour more
        covers the steps in which buckets are closed.
        """
        return max(_LEAST_HORIZON_US, self.lateness_us + self.disorder_us + 26 * HOUR_US)
