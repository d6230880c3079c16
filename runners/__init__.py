"""The command line, and how a pipeline is launched."""

from runners.allocators import collect_seldom, keep_freed_memory

keep_freed_memory()
collect_seldom()
