"""The command line, and how a pipeline is launched."""
