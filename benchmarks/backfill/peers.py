"""The same work in SQL: DuckDB and chDB on the same files, with two threads.

    python -m benchmarks.backfill.peers duckdb --input /data/events-5m --out /tmp/out

    files -> rules of the event -> raw events and refused rows, typed columns beside them
          -> one copy of each event (customer, event_id; the first to be ingested)
          -> six aggregations by customer, subscription, region and hour -> a table

Each peer is written the way its users would write it for speed: JSON is parsed once,
properties are stored once, numbers are DECIMAL(38, 12), distinct counts are exact.
`--no-raw` leaves the properties out, to show what storing them costs.

Where the peers do less than the backfill: values of single meters that are refused are
not reported, copies with other content are not looked for, and distinct users are
counted and not kept (so hours cannot be merged to days).
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from benchmarks.backfill.generate import EVENT_NAME, catalog

THREADS = 2
IDS = ("event_id", "event_name", "external_customer_id")
NUMBERS = ("tokens", "latency_ms", "cost")
TEXTS = ("region", "user")
MEASURES = (
    "requests",
    "tokens_events",
    "tokens_sum",
    "latency_events",
    "latency_sum",
    "slowest",
    "last_cost",
    "users",
)
"""The columns of a result beside customer, region (as JSON text) and hour."""


def _rules(length: str, zero: str, ahead: str, bad_json: str) -> list[tuple[str, str]]:
    """(condition, reason) in the order in which the backfill tries them."""
    rules = []
    for name in IDS:
        rules += [
            (f"{name} IS NULL", f"{name}|missing_field"),
            (f"{name} = ''", f"{name}|empty_field"),
            (f"{length}({name}) > 1024", f"{name}|too_long"),
        ]
    return [
        *rules,
        ("timestamp IS NULL", "timestamp|missing_field"),
        (f"ingested_at IS NULL OR ingested_at < {zero}", "ingested_at|timestamp_out_of_range"),
        (f"timestamp < {zero} OR timestamp > {ahead}", "timestamp|timestamp_out_of_range"),
        (bad_json, "properties|invalid_json"),
    ]


def subscriptions() -> list[dict[str, str]]:
    """Customer, subscription and start, as the catalog has them."""
    return catalog()["subscriptions"]  # type: ignore[return-value]


def run_duckdb(source: Path, out: Path, *, raw: bool) -> None:
    """DuckDB: a database file with `events` and `usage`."""
    import duckdb
    import pyarrow as pa

    connection = duckdb.connect(out / "peer.duckdb", config={"threads": THREADS})
    for statement in (
        "SET TimeZone = 'UTC'",
        # Both make storing properties faster, the second also smaller.
        "SET preserve_insertion_order = false",
        "SET force_compression = 'zstd'",
    ):
        connection.execute(statement)
    connection.register("known", pa.Table.from_pylist(subscriptions()))
    connection.execute(
        "CREATE TABLE subscriptions AS SELECT id, customer, start::TIMESTAMPTZ AS starts FROM known"
    )
    reason = "CASE {} END".format(
        " ".join(
            f"WHEN {condition} THEN '{code}'"
            for condition, code in _rules(
                "strlen",
                "TIMESTAMPTZ '1970-01-01 00:00:00+00'",
                "ingested_at + INTERVAL 24 HOUR",
                "NOT json_valid(coalesce(properties, '{}')) "
                "OR NOT starts_with(ltrim(coalesce(properties, '{}')), '{')",
            )
        )
    )
    paths = ", ".join(f"'$.{name}'" for name in (*NUMBERS, *TEXTS))
    numbers = ", ".join(
        f"TRY_CAST(trim(nullif(found[{place}]::VARCHAR, 'null'), '\"') AS DECIMAL(38, 12)) "
        f"AS {name}"
        for place, name in enumerate(NUMBERS, 1)
    )
    limits = ", ".join(
        f"CASE WHEN abs({name}) < 1000000000000000 THEN {name} END AS {name}" for name in NUMBERS
    )
    texts = ", ".join(
        f"nullif(found[{place}]::VARCHAR, 'null') AS {name}"
        for place, name in enumerate(TEXTS, len(NUMBERS) + 1)
    )
    kept = f"{', '.join(IDS)}, timestamp, ingested_at, reason"
    stored = f"{kept}, properties, filename, file_row_number" if raw else kept
    connection.execute(f"""
        CREATE {"" if raw else "TEMP "}TABLE events AS
        SELECT {stored}, {limits}, region, "user" FROM (
            SELECT *, {numbers}, {texts.replace("AS user", 'AS "user"')} FROM (
                SELECT *,
                    CASE WHEN reason IS NULL THEN json_extract(properties, [{paths}]) END AS found
                FROM (
                    SELECT *, {reason} AS reason FROM read_parquet(
                        '{source}/events-*.parquet', filename = true, file_row_number = true
                    )
                )
            )
        )
    """)
    connection.execute(f"""
        CREATE TABLE usage AS
        SELECT external_customer_id AS customer, s.id AS subscription,
            coalesce(region, 'null') AS region, date_trunc('hour', timestamp) AS hour,
            count(*) AS requests,
            count(tokens) AS tokens_events, sum(tokens) AS tokens_sum,
            count(latency_ms) AS latency_events, sum(latency_ms) AS latency_sum,
            max(latency_ms) AS slowest,
            arg_max(cost, (timestamp, event_id)) FILTER (cost IS NOT NULL) AS last_cost,
            count(DISTINCT "user") AS users
        FROM (
            SELECT external_customer_id, event_id, event_name, timestamp, tokens, latency_ms,
                cost, region, "user"
            FROM events WHERE reason IS NULL
            QUALIFY row_number() OVER (
                PARTITION BY external_customer_id, event_id ORDER BY ingested_at
            ) = 1
        ) AS e JOIN subscriptions AS s ON s.customer = external_customer_id AND timestamp >= starts
        WHERE event_name = '{EVENT_NAME}'
        GROUP BY ALL
    """)
    connection.execute("CHECKPOINT")
    connection.close()


def run_chdb(source: Path, out: Path, *, raw: bool) -> None:
    """chDB: a folder with our own tables `events` and `quarantine`, and `peer_usage`.

    One insert feeds all tables: a table that keeps nothing, and views upon it.
    """
    import chdb

    from warehouse.schema import MIGRATIONS

    connection = chdb.connect(str(out / "peer.chdb"))

    def run(*statements: str) -> None:
        for statement in statements:
            connection.query(statement)

    run(
        f"SET max_threads = {THREADS}",
        f"SET max_insert_threads = {THREADS}",
        "SET session_timezone = 'UTC'",
        "SET optimize_on_insert = 0",
        *(statement for migration in MIGRATIONS for statement in migration.statements),
        "CREATE TABLE subscriptions (id String, customer String, starts DateTime64(6, 'UTC')) "
        "ENGINE = Memory",
        "INSERT INTO subscriptions SELECT id, customer, toDateTime64(start, 6, 'UTC') FROM "
        f"format(JSONEachRow, '{json.dumps(subscriptions())}')",
    )
    rules = _rules(
        "length",
        "toDateTime64(0, 6, 'UTC')",
        "ingested_at + INTERVAL 1 DAY",
        "NOT isValidJSON(ifNull(properties, '{}')) "
        "OR NOT startsWith(trimLeft(ifNull(properties, '{}')), '{')",
    )
    reason = ", ".join(f"{condition}, '{code}'" for condition, code in rules)
    shape = ", ".join(f"{name} Nullable(String)" for name in (*NUMBERS, *TEXTS))
    numbers = ", ".join(
        f"toDecimal128OrNull(ifNull(found.{name}, ''), 12) AS {name}_any, "
        f"if(abs({name}_any) < 1000000000000000, {name}_any, NULL) AS {name}"
        for name in NUMBERS
    )
    texts = ", ".join(f"found.{name} AS {name}" for name in TEXTS)
    typed = ", ".join(
        [f"{name} Nullable(Decimal(38, 12))" for name in NUMBERS]
        + [f"{name} Nullable(String)" for name in TEXTS]
    )
    values = ", ".join((*NUMBERS, *TEXTS))
    event = ", ".join(f"assumeNotNull({name}) AS {name}" for name in (*IDS, "timestamp"))
    run(
        f"""
        CREATE TABLE staged (
            event_id Nullable(String), event_name Nullable(String),
            external_customer_id Nullable(String), timestamp Nullable(DateTime64(6, 'UTC')),
            ingested_at Nullable(DateTime64(6, 'UTC')), properties Nullable(String),
            origin String, origin_row Int64, reason String, {typed}
        ) ENGINE = Null
        """,
        f"""
        CREATE TABLE slim (
            event_id String, event_name LowCardinality(String), external_customer_id String,
            timestamp DateTime64(6, 'UTC'), ingested_at DateTime64(6, 'UTC'), {typed}
        ) ENGINE = Memory
        """,
        f"""
        CREATE MATERIALIZED VIEW to_slim TO slim AS
        SELECT {event}, assumeNotNull(ingested_at) AS ingested_at, {values}
        FROM staged WHERE reason = ''
        """,
        """
        CREATE MATERIALIZED VIEW to_quarantine TO quarantine AS
        SELECT 'default' AS tenant_id, origin, origin_row, splitByChar('|', reason)[2] AS reason,
            '' AS meter, splitByChar('|', staged.reason)[1] AS field, '' AS detail,
            ifNull(event_id, '') AS event_id,
            ifNull(external_customer_id, '') AS external_customer_id,
            ifNull(properties, '') AS payload, now64(6) AS quarantined_at
        FROM staged WHERE staged.reason != ''
        """,
    )
    if raw:
        run(f"""
            CREATE MATERIALIZED VIEW to_events TO events AS
            SELECT 'default' AS tenant_id, {event}, '' AS external_subscription_id, '' AS source,
                assumeNotNull(ingested_at) AS ingested_at, ifNull(properties, '{{}}') AS properties,
                origin, origin_row,
                reinterpretAsFixedString(xxh3_128(assumeNotNull(event_id))) AS identity_hash,
                reinterpretAsFixedString(xxh3_128(concat(
                    assumeNotNull(event_name),
                    toString(toUnixTimestamp64Micro(assumeNotNull(timestamp))),
                    ifNull(properties, '{{}}')
                ))) AS content_hash
            FROM staged WHERE reason = ''
        """)
    run(
        f"""
        INSERT INTO staged
        SELECT {", ".join(IDS)}, timestamp, ingested_at, properties, origin, origin_row, reason,
            {values}
        FROM (
            SELECT *, _path AS origin, toInt64(_row_number + 1) AS origin_row,
                multiIf({reason}, '') AS reason,
                JSONExtract(
                    if(reason = '', ifNull(properties, '{{}}'), '{{}}'), 'Tuple({shape})'
                ) AS found,
                {numbers}, {texts}
            FROM file('{source}/events-*.parquet', Parquet)
        )
        """,
        f"""
        CREATE TABLE peer_usage ENGINE = MergeTree ORDER BY (customer, hour, region) AS
        SELECT external_customer_id AS customer, s.id AS subscription,
            if(isNull(region), 'null', toJSONString(assumeNotNull(region))) AS region,
            toStartOfHour(timestamp) AS hour,
            count() AS requests,
            count(tokens) AS tokens_events, sum(tokens) AS tokens_sum,
            count(latency_ms) AS latency_events, sum(latency_ms) AS latency_sum,
            max(latency_ms) AS slowest,
            argMaxIf(cost, (timestamp, event_id), cost IS NOT NULL) AS last_cost,
            uniqExact(user) AS users
        FROM (
            SELECT external_customer_id, event_id, event_name, timestamp, {values}
            FROM slim ORDER BY ingested_at LIMIT 1 BY external_customer_id, event_id
        ) AS e JOIN subscriptions AS s ON s.customer = external_customer_id
        WHERE event_name = '{EVENT_NAME}' AND timestamp >= starts
        GROUP BY external_customer_id, subscription, e.region, hour
        """,
    )
    connection.close()


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("peer", choices=["duckdb", "chdb"])
    parser.add_argument("--input", type=Path, required=True, help="folder with the events")
    parser.add_argument("--out", type=Path, required=True, help="folder for the database")
    parser.add_argument("--no-raw", action="store_true", help="do not store raw events")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    run = {"duckdb": run_duckdb, "chdb": run_chdb}[args.peer]
    run(args.input.resolve(), args.out.resolve(), raw=not args.no_raw)


if __name__ == "__main__":
    main()
