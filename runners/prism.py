"""Prism as a part of the command that runs on it: it ends with the command.

Beam starts Prism as a child and stops it when the command exits. A command that is killed
does not exit, and would leave Prism behind for ever.
"""

from __future__ import annotations

from typing import Any

from apache_beam.runners.portability import prism_runner
from apache_beam.runners.portability.job_server import StopOnExitJobServer

from runners.with_parent import with_parent


class PrismRunner(prism_runner.PrismRunner):  # type: ignore[misc]
    """Beam's runner, whose Prism does not outlive this process (on Linux).

    Beam knows its local runners by the last part of their name, which stays the same.
    """

    def default_job_server(self, options: Any) -> Any:
        """The server that Beam would start, for this runner alone."""
        return StopOnExitJobServer(_JobServer(options))


class _JobServer(prism_runner.PrismJobServer):  # type: ignore[misc]
    def subprocess_cmd_and_endpoint(self) -> tuple[list[str], str]:
        command, endpoint = super().subprocess_cmd_and_endpoint()
        return with_parent(command), endpoint
