"""Jobs on a Flink cluster, by its REST interface: found by name, and ended.

Beam's job server ends its own watch when it is asked to cancel, and Flink runs the job
on: so the cluster is told itself.
"""

from __future__ import annotations

import json
import time
import urllib.request
from typing import Any

from meters.errors import BeammeterError

ENDED = frozenset({"FINISHED", "CANCELED", "FAILED", "SUSPENDED"})
CANCEL_SECONDS = 60.0
_ARRIVAL_SECONDS = 15.0
_TIMEOUT = 10.0
_PAUSE = 0.2


def check_flink(rest: str) -> None:
    """Raises BeammeterError where Flink does not answer at `rest` (`HOST:PORT` or a URL)."""
    try:
        _jobs(rest, "")
    except (OSError, ValueError) as error:
        raise BeammeterError(
            f"Flink's REST interface at {rest} must answer (got: {error})"
        ) from None


def cancel_jobs(rest: str, name: str, seconds: float = CANCEL_SECONDS) -> None:
    """Cancel the jobs whose name begins with `name`, and wait until they have ended.

    Asked again until it holds, as a JobManager may be starting, and for a while where no
    such job is known, as it may be on its way there. Raises BeammeterError where a job
    still runs, or Flink does not answer, after `seconds`.
    """
    began = time.monotonic()
    while True:
        try:
            found = _jobs(rest, name)
            running = [job for job, state in found.items() if state not in ENDED]
            arrived = found or time.monotonic() - began >= _ARRIVAL_SECONDS
            if arrived and not running:
                return
            for job in running:
                _ask(rest, f"/jobs/{job}?mode=cancel", method="PATCH")
            reason = "it still runs"
        except (OSError, ValueError) as error:
            reason = str(error)
        if time.monotonic() - began >= seconds:
            raise BeammeterError(
                f"Flink at {rest} must end job {name} within {seconds:g} s (got: {reason}); "
                "cancel it on Flink's own page"
            )
        time.sleep(_PAUSE)


def _jobs(rest: str, name: str) -> dict[str, str]:
    """The state of each job that Flink knows, ended ones included, by its id."""
    answer = _ask(rest, "/jobs/overview")
    if not isinstance(answer, dict) or "jobs" not in answer:
        raise ValueError("not the answer of Flink")
    jobs = answer["jobs"]
    return {job["jid"]: job["state"] for job in jobs if job["name"].startswith(name)}


def _ask(rest: str, path: str, method: str = "GET") -> Any:
    base = rest if "://" in rest else f"http://{rest}"
    request = urllib.request.Request(base.rstrip("/") + path, method=method)  # noqa: S310
    with urllib.request.urlopen(request, timeout=_TIMEOUT) as answer:  # noqa: S310
        content = answer.read()
    return json.loads(content) if content else None
