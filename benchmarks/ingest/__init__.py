"""How fast the ingest API takes events."""
