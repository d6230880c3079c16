"""The backfill against DuckDB, chDB and a per-element Beam pipeline."""
