"""The command line, and how a pipeline is launched."""

from meters.collection import collect_seldom
from runners.allocators import keep_freed_memory

keep_freed_memory()
# Looking for cycles is a sixth of the start of a command, and what is loaded has hardly any.
collect_seldom()
