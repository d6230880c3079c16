"""What usage is: events, meters, aggregators, buckets and the catalog. Pure; no Beam."""
