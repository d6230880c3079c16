"""The watermark of a split: min(event, record) less disorder, and who holds whom up."""

from __future__ import annotations

import numpy as np

from transforms.kafka_messages import Messages
from transforms.stream_watermarks import SplitWatermark

DISORDER = 10


def update(mark: SplitWatermark, partition: int, event: int, recorded: int) -> None:
    mark.update(np.array([partition]), np.array([event]), np.array([recorded]))


def at(mark: SplitWatermark, now: int, *ended: int) -> int | None:
    return mark.at(Messages(split=0, now=now, at_end=frozenset(ended)))


def test_nothing_is_known_before_the_first_event() -> None:
    assert at(SplitWatermark(DISORDER), 1000) is None


def test_a_clock_that_runs_ahead_does_not_move_it() -> None:
    mark = SplitWatermark(DISORDER)
    update(mark, 0, event=5_000_000, recorded=1000)
    assert at(mark, 1000) == 1000 - DISORDER
    assert mark.clock == 1000


def test_it_never_goes_back() -> None:
    mark = SplitWatermark(DISORDER)
    update(mark, 0, event=900, recorded=1000)
    update(mark, 0, event=100, recorded=1001)
    assert at(mark, 1001) == 900 - DISORDER


def test_the_slowest_partition_holds_it() -> None:
    mark = SplitWatermark(DISORDER)
    update(mark, 0, event=900, recorded=1000)
    update(mark, 3, event=300, recorded=1000)
    assert at(mark, 1000) == 300 - DISORDER


def test_a_partition_at_its_end_goes_on_with_the_clock_from_its_last_event() -> None:
    mark = SplitWatermark(DISORDER)
    update(mark, 0, event=300, recorded=1000)
    assert at(mark, 5000) == 300 - DISORDER
    assert at(mark, 5000, 0) == 300 + (5000 - 1000 - DISORDER) - DISORDER
