"""ClickHouse: schema and migrations, client, idempotent writes and queries."""
