"""The real Kafka, Prism and Flink, for tests and benchmarks.

fetch.py (once, into a cache) -> process.py (start, log, kill) -> kafka.py, prism.py, flink.py

Nothing here needs pytest. The fixtures around it are in tests/conftest.py.
"""
