"""The tables of the warehouse, as migrations in the order in which they are applied.

A migration is a list of statements each of which may run any number of times
(`IF NOT EXISTS`), so that a run that stops half-way is finished by the next one. A
migration that was released never changes; its checksum is kept in
`schema_migrations` and compared at every start.

Columns and the reasons for the sorting keys are described in `docs/tables.md`. All
keys but that of `usage_kept` start with the tenant. `''` stands for "none" in ids, which are
never empty. The partition key of a table that is read with FINAL is a function of its sorting
key: `do_not_merge_across_partitions_select_final` relies on it.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

MIGRATIONS_TABLE = """
CREATE TABLE IF NOT EXISTS schema_migrations (
    version UInt32,
    name String,
    checksum String,
    applied_at DateTime64(6, 'UTC')
) ENGINE = ReplacingMergeTree(applied_at)
ORDER BY version
"""


@dataclass(frozen=True)
class Migration:
    """One step of the schema; `version` counts from 1 without gaps."""

    version: int
    name: str
    statements: tuple[str, ...]

    @property
    def checksum(self) -> str:
        """SHA-256 of the statements; white space does not count."""
        text = "\n".join(" ".join(statement.split()) for statement in self.statements)
        return hashlib.sha256(text.encode()).hexdigest()


_EVENTS = """
CREATE TABLE IF NOT EXISTS events (
    tenant_id LowCardinality(String),
    event_id String,
    event_name LowCardinality(String),
    external_customer_id String,
    external_subscription_id LowCardinality(String),
    source LowCardinality(String),
    timestamp DateTime64(6, 'UTC'),
    ingested_at DateTime64(6, 'UTC'),
    properties String CODEC(ZSTD(1)),
    origin LowCardinality(String),
    origin_row Int64,
    identity_hash FixedString(16),
    content_hash FixedString(16),
    stored_at DateTime('UTC') DEFAULT now('UTC'),
    precedence UInt64 MATERIALIZED bitNot(toUInt64(toUnixTimestamp64Micro(ingested_at))),
    INDEX by_identity identity_hash TYPE bloom_filter(0.01) GRANULARITY 4,
    INDEX by_event_id event_id TYPE bloom_filter(0.01) GRANULARITY 4
) ENGINE = ReplacingMergeTree(precedence)
PARTITION BY toYYYYMM(timestamp)
ORDER BY (
    tenant_id, external_customer_id, toStartOfHour(timestamp), identity_hash, content_hash
)
"""

_USAGE = """
CREATE TABLE IF NOT EXISTS usage (
    tenant_id LowCardinality(String),
    external_customer_id String,
    meter LowCardinality(String),
    external_subscription_id String,
    group_key String,
    bucket_start DateTime64(6, 'UTC'),
    bucket_end DateTime64(6, 'UTC'),
    sum Decimal(76, 12),
    min Nullable(Decimal(38, 12)),
    max Nullable(Decimal(38, 12)),
    latest_value Nullable(Decimal(38, 12)),
    latest_at Nullable(DateTime64(6, 'UTC')),
    latest_id String,
    events UInt64,
    revision UInt32,
    meter_hash LowCardinality(String),
    updated_at DateTime64(6, 'UTC'),
    version UInt64 MATERIALIZED bitOr(bitShiftLeft(toUInt64(revision), 40), events)
) ENGINE = ReplacingMergeTree(version)
PARTITION BY toYYYYMM(bucket_start)
ORDER BY (
    tenant_id, external_customer_id, meter, external_subscription_id, bucket_start, group_key
)
"""

_USAGE_VALUES = """
CREATE TABLE IF NOT EXISTS usage_values (
    tenant_id LowCardinality(String),
    external_customer_id String,
    meter LowCardinality(String),
    external_subscription_id String,
    group_key String,
    bucket_start DateTime64(6, 'UTC'),
    revision UInt32,
    value_hash FixedString(16)
) ENGINE = ReplacingMergeTree
PARTITION BY toYYYYMM(bucket_start)
ORDER BY (
    tenant_id, external_customer_id, meter, external_subscription_id, bucket_start, group_key,
    revision, value_hash
)
"""

_QUARANTINE = """
CREATE TABLE IF NOT EXISTS quarantine (
    tenant_id LowCardinality(String),
    origin LowCardinality(String),
    origin_row Int64,
    reason LowCardinality(String),
    meter LowCardinality(String),
    field String,
    detail String,
    event_id String,
    external_customer_id String,
    payload String CODEC(ZSTD(1)),
    quarantined_at DateTime64(6, 'UTC')
) ENGINE = ReplacingMergeTree(quarantined_at)
ORDER BY (tenant_id, origin, origin_row, meter, reason)
"""

_PROGRESS = """
CREATE TABLE IF NOT EXISTS progress (
    tenant_id LowCardinality(String),
    shards UInt32,
    shard UInt32,
    closed_until DateTime64(6, 'UTC'),
    owned UInt8,
    updated_at DateTime64(6, 'UTC')
) ENGINE = ReplacingMergeTree(updated_at)
ORDER BY (tenant_id, shards, shard)
"""

_DIRTY = """
CREATE TABLE IF NOT EXISTS dirty (
    tenant_id LowCardinality(String),
    external_customer_id String,
    bucket_start DateTime64(6, 'UTC'),
    reason LowCardinality(String),
    identity_hash FixedString(16),
    marked_at DateTime64(6, 'UTC') DEFAULT now64(6, 'UTC'),
    cleared UInt8,
    updated_at DateTime64(6, 'UTC'),
    version UInt64 MATERIALIZED
        bitOr(bitShiftLeft(toUInt64(toUnixTimestamp64Micro(marked_at)), 1), cleared)
) ENGINE = ReplacingMergeTree(version)
ORDER BY (tenant_id, external_customer_id, bucket_start, reason, identity_hash)
"""

_LEASES = """
CREATE TABLE IF NOT EXISTS leases (
    tenant_id LowCardinality(String),
    resource LowCardinality(String),
    holder String,
    process String,
    expires_at DateTime64(6, 'UTC'),
    updated_at DateTime64(6, 'UTC')
) ENGINE = ReplacingMergeTree(updated_at)
ORDER BY (tenant_id, resource, holder)
TTL toDateTime(expires_at) + INTERVAL 7 DAY
"""

_INGEST_STATS = """
CREATE TABLE IF NOT EXISTS ingest_stats (
    tenant_id LowCardinality(String),
    origin LowCardinality(String),
    origin_row Int64,
    minute DateTime64(6, 'UTC'),
    read UInt64,
    accepted UInt64,
    duplicate UInt64,
    conflict UInt64,
    quarantined UInt64,
    late UInt64,
    recorded_at DateTime64(6, 'UTC')
) ENGINE = ReplacingMergeTree(recorded_at)
ORDER BY (tenant_id, origin, origin_row)
"""

_CATALOGS = """
CREATE TABLE IF NOT EXISTS catalogs (
    tenant_id LowCardinality(String),
    catalog_hash String,
    content String CODEC(ZSTD(1)),
    loaded_at DateTime64(6, 'UTC'),
    precedence UInt64 MATERIALIZED bitNot(toUInt64(toUnixTimestamp64Micro(loaded_at)))
) ENGINE = ReplacingMergeTree(precedence)
ORDER BY (tenant_id, catalog_hash)
"""

_CATALOG_VERSIONS = """
CREATE TABLE IF NOT EXISTS catalog_versions (
    tenant_id LowCardinality(String),
    effective_at DateTime64(6, 'UTC'),
    catalog_hash String,
    announced_at DateTime64(6, 'UTC')
) ENGINE = ReplacingMergeTree(announced_at)
ORDER BY (tenant_id, effective_at)
"""

_QUARANTINE_SETTLED = """
CREATE TABLE IF NOT EXISTS quarantine_settled (
    tenant_id LowCardinality(String),
    origin LowCardinality(String),
    origin_row Int64,
    meter LowCardinality(String),
    reason LowCardinality(String),
    settled_at DateTime64(6, 'UTC')
) ENGINE = ReplacingMergeTree(settled_at)
ORDER BY (tenant_id, origin, origin_row, meter, reason)
"""

_INVOICES = """
CREATE TABLE IF NOT EXISTS invoices (
    tenant_id LowCardinality(String),
    invoice_id String,
    kind LowCardinality(String),
    status LowCardinality(String),
    number String,
    issuer LowCardinality(String),
    external_customer_id String,
    external_subscription_id String,
    currency LowCardinality(String),
    billing_group String,
    billing_date DateTime64(6, 'UTC'),
    sequence UInt32,
    issue_date Nullable(Date32),
    due_date Nullable(Date32),
    period_start DateTime64(6, 'UTC'),
    period_end DateTime64(6, 'UTC'),
    catalog_hash String,
    subtotal Decimal(38, 12),
    discount Decimal(38, 12),
    credit Decimal(38, 12),
    tax Decimal(38, 12),
    total Decimal(38, 12),
    prepaid Decimal(38, 12),
    due Decimal(38, 12),
    hold_reason LowCardinality(String),
    original_invoice_id String,
    reason_code LowCardinality(String),
    target_hash String,
    document String CODEC(ZSTD(1)),
    revision UInt64,
    updated_at DateTime64(6, 'UTC')
) ENGINE = ReplacingMergeTree(revision)
ORDER BY (tenant_id, invoice_id)
"""

_INVOICE_LINES = """
CREATE TABLE IF NOT EXISTS invoice_lines (
    tenant_id LowCardinality(String),
    invoice_id String,
    line_id String,
    position UInt32,
    external_subscription_id String,
    charge String,
    plan_version String,
    meter LowCardinality(String),
    group_key String,
    service_start Nullable(DateTime64(6, 'UTC')),
    service_end Nullable(DateTime64(6, 'UTC')),
    quantity String,
    unit_amount String,
    amount_exact String,
    amount Decimal(38, 12),
    discount Decimal(38, 12),
    credit Decimal(38, 12),
    tax_code LowCardinality(String),
    tax_rate String,
    tax Decimal(38, 12),
    usage_revision UInt32,
    description String,
    original_invoice_id String,
    original_line_id String,
    reason_code LowCardinality(String),
    target_hash String,
    document String CODEC(ZSTD(1)),
    revision UInt64,
    is_deleted UInt8,
    updated_at DateTime64(6, 'UTC')
) ENGINE = ReplacingMergeTree(revision, is_deleted)
ORDER BY (tenant_id, invoice_id, line_id)
"""

_CREDIT_LEDGER = """
CREATE TABLE IF NOT EXISTS credit_ledger (
    tenant_id LowCardinality(String),
    external_customer_id String,
    ledger_entry_id String,
    kind LowCardinality(String),
    grant_id String,
    invoice_id String,
    currency LowCardinality(String),
    amount Decimal(38, 12),
    at DateTime64(6, 'UTC'),
    expires_at Nullable(DateTime64(6, 'UTC')),
    document String CODEC(ZSTD(1)),
    revision UInt64,
    updated_at DateTime64(6, 'UTC')
) ENGINE = ReplacingMergeTree(revision)
ORDER BY (tenant_id, external_customer_id, ledger_entry_id)
"""

_AUDIT_LOG = """
CREATE TABLE IF NOT EXISTS audit_log (
    tenant_id LowCardinality(String),
    seq UInt64,
    at DateTime64(6, 'UTC'),
    actor String,
    action LowCardinality(String),
    object String,
    reason String,
    content_hash String,
    prev_hash String
) ENGINE = ReplacingMergeTree
ORDER BY (tenant_id, seq)
"""

_TOUCHED = """
CREATE TABLE IF NOT EXISTS touched (
    tenant_id String,
    run_id String,
    external_customer_id String,
    identity_hash FixedString(16),
    timestamp DateTime64(6, 'UTC'),
    written_at DateTime('UTC') DEFAULT now('UTC')
) ENGINE = ReplacingMergeTree
PARTITION BY (tenant_id, run_id)
ORDER BY (tenant_id, run_id, external_customer_id, identity_hash, timestamp)
TTL written_at + INTERVAL 7 DAY
SETTINGS ttl_only_drop_parts = 1
"""

_TOUCHED_SLOTS = """
CREATE TABLE IF NOT EXISTS touched_slots (
    tenant_id String,
    run_id String,
    external_customer_id String,
    slot DateTime64(6, 'UTC'),
    written_at DateTime('UTC') DEFAULT now('UTC')
) ENGINE = ReplacingMergeTree
PARTITION BY (tenant_id, run_id)
ORDER BY (tenant_id, run_id, external_customer_id, slot)
TTL written_at + INTERVAL 7 DAY
SETTINGS ttl_only_drop_parts = 1
"""

_TOUCHED_HOURS = """
CREATE TABLE IF NOT EXISTS touched_hours (
    tenant_id String,
    run_id String,
    external_customer_id String,
    hour DateTime64(6, 'UTC'),
    hour_end DateTime64(6, 'UTC'),
    owned UInt8,
    written_at DateTime('UTC') DEFAULT now('UTC')
) ENGINE = ReplacingMergeTree
PARTITION BY (tenant_id, run_id)
ORDER BY (tenant_id, run_id, external_customer_id, hour)
TTL written_at + INTERVAL 7 DAY
SETTINGS ttl_only_drop_parts = 1
"""

_MOMENT = """
ALTER TABLE usage ADD COLUMN IF NOT EXISTS moment Decimal(38, 0) DEFAULT 0 AFTER latest_id
"""

_MOMENT_LOW = """
ALTER TABLE usage ADD COLUMN IF NOT EXISTS moment_low Decimal(38, 0) DEFAULT 0 AFTER moment
"""

_POINTS = """
ALTER TABLE usage ADD COLUMN IF NOT EXISTS points Array(Tuple(
    at Int64, item String, id String, value Decimal(38, 12), count UInt64
)) DEFAULT [] AFTER moment_low
"""

_SUMS = """
    events UInt64,
    sum Decimal(76, 12),
    min Nullable(Decimal(38, 12)),
    max Nullable(Decimal(38, 12)),
    latest_at Nullable(DateTime64(6, 'UTC')),
    latest_id String,
    latest_value Nullable(Decimal(38, 12)),
"""

_USAGE_HOURS = f"""
CREATE TABLE IF NOT EXISTS usage_hours (
    tenant_id LowCardinality(String),
    meter LowCardinality(String),
    group_key String,
    bucket_start DateTime64(6, 'UTC'),
    {_SUMS}
    value_hashes AggregateFunction(uniqExact, FixedString(16)),
    run UInt64
) ENGINE = MergeTree
PARTITION BY (toYYYYMMDD(bucket_start), run)
ORDER BY (tenant_id, meter, bucket_start, group_key)
"""

_USAGE_DAYS = f"""
CREATE TABLE IF NOT EXISTS usage_days (
    tenant_id LowCardinality(String),
    meter LowCardinality(String),
    external_customer_id String,
    external_subscription_id String,
    bucket_start DateTime64(6, 'UTC'),
    {_SUMS}
    run UInt64
) ENGINE = MergeTree
PARTITION BY (toYYYYMMDD(bucket_start), run)
ORDER BY (tenant_id, meter, external_customer_id, external_subscription_id)
"""

_USAGE_KEPT = """
CREATE TABLE IF NOT EXISTS usage_kept (
    day UInt32,
    run UInt64,
    usage_block Int64,
    values_block Int64
) ENGINE = ReplacingMergeTree(usage_block)
ORDER BY day
"""

MIGRATIONS: tuple[Migration, ...] = (
    Migration(
        version=1,
        name="tables",
        statements=(
            _EVENTS,
            _USAGE,
            _USAGE_VALUES,
            _QUARANTINE,
            _PROGRESS,
            _DIRTY,
            _LEASES,
            _INGEST_STATS,
            _CATALOGS,
            _INVOICES,
            _INVOICE_LINES,
            _CREDIT_LEDGER,
            _AUDIT_LOG,
            _TOUCHED,
            _TOUCHED_SLOTS,
            _TOUCHED_HOURS,
        ),
    ),
    Migration(version=2, name="catalogs in time", statements=(_CATALOG_VERSIONS,)),
    Migration(version=3, name="settled quarantine", statements=(_QUARANTINE_SETTLED,)),
    Migration(version=4, name="levels and points", statements=(_MOMENT, _MOMENT_LOW, _POINTS)),
    Migration(
        version=5,
        name="monitoring",
        statements=(
            # Rows lie by origin and customer; what was written last is found by these.
            "ALTER TABLE ingest_stats ADD INDEX IF NOT EXISTS by_time recorded_at "
            "TYPE minmax GRANULARITY 1",
            "ALTER TABLE events ADD INDEX IF NOT EXISTS by_time stored_at "
            "TYPE minmax GRANULARITY 1",
        ),
    ),
    Migration(
        version=6,
        name="ledger accounts",
        statements=(
            "ALTER TABLE credit_ledger ADD COLUMN IF NOT EXISTS account String AFTER kind",
        ),
    ),
    Migration(
        version=7,
        name="work of the sink",
        statements=(
            "ALTER TABLE ingest_stats ADD COLUMN IF NOT EXISTS sink_rows UInt64 AFTER late",
            "ALTER TABLE ingest_stats ADD COLUMN IF NOT EXISTS sink_retries UInt64 AFTER sink_rows",
            "ALTER TABLE ingest_stats ADD COLUMN IF NOT EXISTS usage_delay_ms Nullable(UInt64) "
            "AFTER sink_retries",
            "ALTER TABLE progress ADD COLUMN IF NOT EXISTS "
            "watermark Nullable(DateTime64(6, 'UTC')) AFTER owned",
        ),
    ),
    Migration(
        version=8,
        name="counts of a week",
        statements=(
            # Whoever reads counts asks for the last minutes.
            "ALTER TABLE ingest_stats MODIFY TTL toDateTime(recorded_at) + INTERVAL 7 DAY",
        ),
    ),
    Migration(
        version=9,
        name="rounded numbers",
        statements=("ALTER TABLE ingest_stats ADD COLUMN IF NOT EXISTS rounded UInt64 AFTER late",),
    ),
    Migration(
        version=10,
        name="kept sums",
        statements=(
            # Which rows came after a sum was made is told by the numbers of their blocks.
            "ALTER TABLE usage MODIFY SETTING enable_block_number_column = 1",
            "ALTER TABLE usage_values MODIFY SETTING enable_block_number_column = 1",
            _USAGE_HOURS,
            _USAGE_DAYS,
            _USAGE_KEPT,
        ),
    ),
)
"""All migrations of this program; the last one's version is the schema's."""
