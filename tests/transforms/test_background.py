"""Work in the background is done once, in order, and its failures are not lost."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

import pytest

from transforms.background import Background


@pytest.fixture
def background() -> Iterator[Background]:
    made = Background()
    yield made
    made.close()


def test_work_is_done_in_the_order_in_which_it_came(background: Background) -> None:
    done: list[int] = []

    def adding(number: int) -> Callable[[], None]:
        return lambda: done.append(number)

    for number in range(20):
        background.submit(adding(number))
    background.finish()
    assert done == list(range(20))


def test_the_caller_goes_on_while_work_is_done(background: Background) -> None:
    go_on = threading.Event()
    done: list[str] = []

    def slow() -> None:
        go_on.wait()
        done.append("slow")

    background.submit(slow)
    done.append("caller")
    go_on.set()
    background.finish()
    assert done == ["caller", "slow"]


def _fail() -> None:
    raise ValueError("no")


def test_a_failure_is_raised_before_the_bundle_ends(background: Background) -> None:
    background.submit(_fail)
    with pytest.raises(ValueError, match="no"):
        background.finish()


def test_a_failure_is_raised_soon_where_more_work_comes(background: Background) -> None:
    background.submit(_fail)
    background.submit(lambda: None)
    with pytest.raises(ValueError, match="no"):
        background.submit(lambda: None)


def test_a_failure_is_raised_once_and_work_goes_on_afterwards(background: Background) -> None:
    done: list[int] = []
    background.submit(_fail)
    with pytest.raises(ValueError, match="no"):
        background.finish()
    background.submit(lambda: done.append(1))
    background.finish()
    assert done == [1]
