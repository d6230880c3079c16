"""Outputs at the end of a bundle: what work on other threads gives after its element."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from apache_beam.pvalue import TaggedOutput
from apache_beam.transforms.window import GlobalWindows


def windowed(outputs: Iterable[object]) -> Iterator[object]:
    """What `process` would yield, as `finish_bundle` must: in the global window."""
    for output in outputs:
        if isinstance(output, TaggedOutput):
            yield TaggedOutput(output.tag, GlobalWindows.windowed_value(output.value))
        else:
            yield GlobalWindows.windowed_value(output)
