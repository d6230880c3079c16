"""Rate and latency of the stream on real Kafka, everything on one machine."""
