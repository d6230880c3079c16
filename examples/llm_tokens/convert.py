"""Turn the LLM trace into events: give every request an id and a customer.

    python examples/llm_tokens/convert.py

reads `azure_llm_inference_code.csv.gz` beside this file and writes `events.jsonl.gz`,
the same bytes each time. The trace has neither ids nor customers. The id is the number
of the row; the customer follows from it by `CUSTOMERS`, which is an invention of this
example.
"""

from __future__ import annotations

import csv
import gzip
import json
from collections.abc import Iterator
from pathlib import Path

FOLDER = Path(__file__).parent
TRACE = FOLDER / "azure_llm_inference_code.csv.gz"
EVENTS = FOLDER / "events.jsonl.gz"
CUSTOMERS = ("atlas",) * 6 + ("birch",) * 3 + ("cedar",)
"""The customer of row n, counted from 0, is `CUSTOMERS[n % 10]`: 60, 30 and 10 percent."""


def events(trace: Path = TRACE) -> Iterator[dict[str, object]]:
    """One event a row, in the order of the file; times have no zone in the trace and are UTC."""
    with gzip.open(trace, "rt", encoding="utf-8", newline="") as file:
        for number, row in enumerate(csv.DictReader(file)):
            yield {
                "event_id": f"code-{number + 1:05}",
                "event_name": "llm.request",
                "external_customer_id": CUSTOMERS[number % len(CUSTOMERS)],
                "timestamp": row["TIMESTAMP"].replace(" ", "T") + "Z",
                "properties": {
                    "context_tokens": int(row["ContextTokens"]),
                    "generated_tokens": int(row["GeneratedTokens"]),
                },
            }


def main() -> None:
    """Write the events as gzip'd JSON Lines, without a time in the header."""
    lines = (json.dumps(event, separators=(",", ":")) + "\n" for event in events())
    with EVENTS.open("wb") as file, gzip.GzipFile("", "wb", 9, file, mtime=0) as packed:
        packed.write("".join(lines).encode())


if __name__ == "__main__":
    main()
