"""The HTTP service: events come in, usage goes out. Beside the pipelines, below the commands."""
