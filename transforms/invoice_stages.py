"""The stages of billing: parts are rated, and their documents written.

While parts are rated, in this process or several, the drafts of those before are written.
"""

from __future__ import annotations

import pickle
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future

import apache_beam as beam
from apache_beam.coders import Coder
from apache_beam.io.filesystems import FileSystems
from apache_beam.transforms.window import GlobalWindows
from apache_beam.utils.windowed_value import WindowedValue

from transforms import progress
from transforms.background import Background
from transforms.connection import connect
from transforms.invoices import Documents, PackedPart, Rater, Rating
from transforms.rating_pool import RatingPool
from warehouse.invoices import write_rows


def store_parts(parts: Iterable[PackedPart], prefix: str) -> int:
    """Write each part to a file, `PREFIX-INDEX`; returns how many there are.

    Beam would compress them slowly with the pipeline that it hands over.
    """
    count = 0
    for part in parts:
        with FileSystems.create(f"{prefix}-{part.index:08}") as file:
            file.write(part.content)
        count += 1
    return count


class DocumentsCoder(Coder):  # type: ignore[misc]
    """Codes what travels between stages, where a runner does not fuse them."""

    def encode(self, value: Documents) -> bytes:
        """The pickled value."""
        return pickle.dumps(value, pickle.HIGHEST_PROTOCOL)

    def decode(self, encoded: bytes) -> Documents:
        """The value; from a worker of this pipeline alone."""
        found: Documents = pickle.loads(encoded)  # noqa: S301
        return found

    def estimate_size(self, value: Documents) -> int:
        """About the bytes in memory; Beam's own estimate would code the value once more."""
        rows = 0 if value.rows is None else value.rows.headers.nbytes + value.rows.lines.nbytes
        return rows + sum(map(len, value.lines))

    def is_deterministic(self) -> bool:
        """It is no key."""
        return False


beam.coders.registry.register_coder(Documents, DocumentsCoder)


class RateParts(beam.DoFn):  # type: ignore[misc]
    """The index of a part of `store_parts` -> `Documents`.

    `parts` is their prefix. `workers` processes rate at the same time; with one, this process does.
    """

    def __init__(self, rating: Rating, *, parts: str, warehouse: str, workers: int) -> None:
        self._rating = rating
        self._parts = parts
        self._url = warehouse
        self._workers = workers

    def setup(self) -> None:
        """Open the warehouse and start the processes."""
        warehouse = connect(self._url)
        self._pool: RatingPool | None = None
        self._rater: Rater | None = None
        if self._workers > 1:
            self._pool = RatingPool(self._rating, warehouse, self._workers)
        else:
            self._rater = Rater(self._rating, warehouse)

    def start_bundle(self) -> None:
        """Nothing is being rated yet."""
        self._pending: deque[Future[Documents]] = deque()

    def process(self, index: int) -> Iterator[Documents]:
        """Rate the part, or have it rated while those before are written."""
        with FileSystems.open(f"{self._parts}-{index:08}") as file:
            part = PackedPart(index, file.read())
        if self._rater is not None:
            yield _counted(self._rater.rate(part))
        elif self._pool is not None:
            self._pending.append(self._pool.submit(part))
            # One part waits for the process that is idle next.
            if len(self._pending) > self._workers + 1:
                yield _counted(self._pending.popleft().result())

    def finish_bundle(self) -> Iterator[WindowedValue]:
        """Wait for what is being rated."""
        while self._pending:
            yield GlobalWindows.windowed_value(_counted(self._pending.popleft().result()))

    def teardown(self) -> None:
        """End the processes, and close the journal."""
        if self._pool is not None:
            self._pool.close()
        if self._rater is not None:
            self._rater.close()


def _counted(rated: Documents) -> Documents:
    progress.advance("invoices", rated.count)
    return rated


class WriteDrafts(beam.DoFn):  # type: ignore[misc]
    """`Documents` -> `invoices` and `invoice_lines`, idempotently."""

    def __init__(self, *, warehouse: str) -> None:
        self._url = warehouse

    def setup(self) -> None:
        """Open the warehouse once a worker."""
        self._warehouse = connect(self._url)
        self._background = Background()

    def process(self, part: Documents) -> None:
        """Begin to write the documents of a part."""

        def write() -> None:
            if part.rows is not None:
                write_rows(self._warehouse, part.tenant, part.rows)

        self._background.submit(write)

    def finish_bundle(self) -> None:
        """Wait until all is written: a bundle that is done is durable."""
        self._background.finish()

    def teardown(self) -> None:
        """End the thread."""
        self._background.close()


class WriteResults(beam.DoFn):  # type: ignore[misc]
    """`Documents` -> a file of JSON lines for each part, `PREFIX-INDEX`."""

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix

    def process(self, part: Documents) -> None:
        """Write the file of one part; a part that is done again writes the same."""
        with FileSystems.create(f"{self._prefix}-{part.index:08}", "application/json") as file:
            for line in part.results:
                file.write(line.encode() + b"\n")
