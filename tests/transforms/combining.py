"""One helper for every CombineFn: merged, compacted and sequential are the same."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any

import apache_beam as beam


def assert_combines(
    make: Callable[[], beam.CombineFn],
    inputs: Sequence[Any],
    expected: Any,
    read: Callable[[Any], Any] = lambda output: output,
) -> None:
    """The output of `inputs` is `expected`, however a runner combines them.

    `read` makes outputs comparable. After TensorFlow Data Validation's
    `assertCombinerOutputEqual`.
    """
    for name, combine in (
        ("sequential", _sequential),
        ("one by one", _one_by_one),
        ("merged in halves", _in_halves),
        ("merged with empty ones", _with_empty),
        ("shuffled", _shuffled),
    ):
        for compacted in (False, True):
            found = read(combine(make(), inputs, compacted))
            assert found == expected, f"{name}, {'compacted' if compacted else 'plain'}"


def _coded(fn: beam.CombineFn, accumulator: Any, compacted: bool) -> Any:
    """The accumulator after a shuffle: compacted where a runner does so, then coded."""
    if compacted:
        accumulator = fn.compact(accumulator)
    coder = fn.get_accumulator_coder()
    return coder.decode(coder.encode(accumulator))


def _added(fn: beam.CombineFn, inputs: Sequence[Any]) -> Any:
    accumulator = fn.create_accumulator()
    for element in inputs:
        accumulator = fn.add_input(accumulator, element)
    return accumulator


def _finished(fn: beam.CombineFn, accumulators: Sequence[Any], compacted: bool) -> Any:
    merged = fn.merge_accumulators([_coded(fn, each, compacted) for each in accumulators])
    output = fn.extract_output(merged)
    fn.teardown()
    return output


def _sequential(fn: beam.CombineFn, inputs: Sequence[Any], compacted: bool) -> Any:
    fn.setup()
    return _finished(fn, [_added(fn, inputs)], compacted)


def _one_by_one(fn: beam.CombineFn, inputs: Sequence[Any], compacted: bool) -> Any:
    fn.setup()
    return _finished(fn, [_added(fn, [element]) for element in inputs], compacted)


def _in_halves(fn: beam.CombineFn, inputs: Sequence[Any], compacted: bool) -> Any:
    fn.setup()
    half = len(inputs) // 2
    parts = [_added(fn, inputs[:half]), _added(fn, inputs[half:])]
    return _finished(fn, [fn.merge_accumulators(parts), fn.create_accumulator()], compacted)


def _with_empty(fn: beam.CombineFn, inputs: Sequence[Any], compacted: bool) -> Any:
    fn.setup()
    empty = fn.create_accumulator()
    return _finished(fn, [empty, _added(fn, inputs), fn.create_accumulator()], compacted)


def _shuffled(fn: beam.CombineFn, inputs: Sequence[Any], compacted: bool) -> Any:
    fn.setup()
    order = random.Random(len(inputs)).sample(list(inputs), len(inputs))
    parts = [_added(fn, order[at::3]) for at in range(3)]
    return _finished(fn, parts, compacted)
