"""The command line, and how a pipeline is launched."""

from runners.allocators import keep_freed_memory

keep_freed_memory()
