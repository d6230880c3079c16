"""Beam transforms over Arrow record batches: sources, decode, deduplicate, measure, sinks."""
