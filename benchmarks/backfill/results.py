"""The results of all contenders in one form, compared value by value.

    python -m benchmarks.backfill.results ours:/tmp/a duckdb:/tmp/b

prints `{"rows", "missing", "extra", "different", "examples"}` of the second against the
first, as JSON. A row is a customer, a region (as JSON text) and an hour; sums and counts
stand for averages; all numbers are exact decimals.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import polars as pl

from benchmarks.backfill.peers import MEASURES

KEY = ["customer", "region", "hour"]
NUMBER = pl.Decimal(38, 12)
TYPES: dict[str, pl.DataType | type[pl.DataType]] = {
    "customer": pl.String,
    "region": pl.String,
    "hour": pl.Int64,
    **dict.fromkeys(MEASURES, NUMBER),
}
"""`hour` in microseconds since the epoch."""

_OURS = """
SELECT external_customer_id AS customer, JSONExtractRaw(group_key, 'region') AS region,
    toUnixTimestamp64Micro(bucket_start) AS hour,
    sumIf(events, meter = 'requests') AS requests,
    sumIf(events, meter = 'tokens') AS tokens_events,
    toString(sumIf(sum, meter = 'tokens')) AS tokens_sum,
    sumIf(events, meter = 'latency') AS latency_events,
    toString(sumIf(sum, meter = 'latency')) AS latency_sum,
    maxIf(max, meter = 'slowest') AS slowest,
    maxIf(latest_value, meter = 'last_cost') AS last_cost,
    sum(distinct_values) AS users
FROM (SELECT * FROM usage FINAL WHERE events > 0) AS u
LEFT JOIN (
    SELECT external_customer_id, meter, external_subscription_id, group_key, bucket_start,
        revision, uniqExact(value_hash) AS distinct_values
    FROM usage_values
    GROUP BY external_customer_id, meter, external_subscription_id, group_key, bucket_start,
        revision
) AS v USING (
    external_customer_id, meter, external_subscription_id, group_key, bucket_start, revision
)
GROUP BY customer, region, hour
"""


def load(kind: str, folder: Path) -> pl.DataFrame:
    """The result that `kind` (ours, duckdb, chdb or beam) left in `folder`."""
    if kind == "duckdb":
        import duckdb

        with duckdb.connect(folder / "peer.duckdb", read_only=True) as connection:
            connection.execute("SET TimeZone = 'UTC'")
            columns = ", ".join(MEASURES)
            table = connection.sql(
                f"SELECT customer, region, epoch_us(hour) AS hour, {columns} FROM usage"
            ).to_arrow_table()
    elif kind == "beam":
        table = pl.concat(
            pl.read_ndjson(path, schema_overrides={"slowest": pl.String, "last_cost": pl.String})
            for path in folder.glob("usage-*.jsonl")
        ).to_arrow()
    elif kind == "chdb":
        table = _chdb(
            folder / "peer.chdb",
            "SELECT * EXCEPT subscription REPLACE (toUnixTimestamp(hour) * 1000000 AS hour) "
            "FROM peer_usage",
        )
    else:
        table = _chdb(folder / "warehouse", _OURS)
    frame = pl.DataFrame(pl.from_arrow(table))
    sums = [name for name in MEASURES if name not in ("slowest", "last_cost")]
    return frame.select(pl.col(name).cast(TYPES[name]) for name in (*KEY, *MEASURES)).with_columns(
        pl.col(sums).fill_null(0)
    )


def _chdb(path: Path, sql: str) -> object:
    import chdb
    import pyarrow as pa

    connection = chdb.connect(str(path))
    content = connection.query(sql + " SETTINGS session_timezone = 'UTC'", "Arrow").bytes()
    table = pa.ipc.open_file(content).read_all()
    connection.close()
    return table


def compare(left: pl.DataFrame, right: pl.DataFrame) -> dict[str, object]:
    """How `right` differs from `left`."""
    both = left.join(right, on=KEY, how="inner", suffix="_right", validate="1:1")
    equal = pl.all_horizontal(pl.col(name).eq_missing(pl.col(f"{name}_right")) for name in MEASURES)
    different = both.filter(~equal)
    return {
        "rows": left.height,
        "missing": left.height - both.height,
        "extra": right.height - both.height,
        "different": different.height,
        "examples": [
            {name: str(value) for name, value in row.items()}
            for row in different.head(3).iter_rows(named=True)
        ],
    }


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("results", nargs=2, metavar="KIND:FOLDER")
    args = parser.parse_args()
    pairs = [result.partition(":") for result in args.results]
    left, right = (load(kind, Path(folder)) for kind, _, folder in pairs)
    print(json.dumps(compare(left, right)))


if __name__ == "__main__":
    main()
