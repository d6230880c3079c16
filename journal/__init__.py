"""The journal of finalized documents: real transactions, on SQLite or PostgreSQL."""
