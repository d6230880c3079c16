"""Benchmarks: seeded inputs, peers that do the same work, and paired runs."""
