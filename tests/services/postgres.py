"""A real PostgreSQL: a cluster of its own in a folder, started and thrown away.

initdb -> postgres on a free port -> database journal

The server refuses to run as root; there it runs as the user that its package brings.
"""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
from pathlib import Path

from tests.services.fetch import Unavailable
from tests.services.process import LOCALHOST, Process, free_port, listens

USERS = ("postgres", "nobody")


def programs() -> Path:
    """The folder of the newest installed server.

    Raises:
        Unavailable: there is none.
    """
    versions = Path("/usr/lib/postgresql")
    found = sorted(versions.glob("*/bin/initdb"), key=lambda path: int(path.parts[-3]))
    if found:
        return found[-1].parent
    on_path = shutil.which("initdb")
    if on_path and (Path(on_path).resolve().parent / "postgres").exists():
        return Path(on_path).resolve().parent
    raise Unavailable("PostgreSQL is not installed (Debian: the package postgresql)")


class Postgres:
    """One server; every test has tenants of its own in it."""

    def __init__(self) -> None:
        self.port = free_port()
        self.folder = Path(tempfile.mkdtemp(prefix="beammeter-postgres-"))
        self._process: Process | None = None

    @property
    def url(self) -> str:
        """The database, as `--journal` takes it."""
        return f"postgresql://beammeter@{LOCALHOST}:{self.port}/postgres"

    def start(self) -> None:
        """Make the cluster and wait until it answers."""
        found = programs()
        data = self.folder / "data"
        as_user = self._as_user()
        init = ("--pgdata", data, "--username=beammeter", "--auth=trust", "--no-sync")
        subprocess.run(
            [*as_user, found / "initdb", *init, "--encoding=UTF8", "--locale=C.UTF-8"],
            cwd="/",
            check=True,
            capture_output=True,
        )
        settings = (f"listen_addresses={LOCALHOST}", f"port={self.port}", "fsync=off")
        options = [f"unix_socket_directories={self.folder}", *settings]
        words = [word for option in options for word in ("-c", option)]
        command = [*as_user, str(found / "postgres"), "-D", str(data), *words]
        self._process = Process("PostgreSQL", command, self.folder / "log")
        self._process.start(lambda: listens(self.port), 30)

    def stop(self) -> None:
        """End it and remove its folder."""
        if self._process is not None:
            self._process.kill()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _as_user(self) -> list[str]:
        if os.getuid() != 0:
            return []
        for name in USERS:
            try:
                user = pwd.getpwnam(name)
            except KeyError:
                continue
            os.chown(self.folder, user.pw_uid, user.pw_gid)
            ids = (f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}")
            return ["setpriv", *ids, "--clear-groups"]
        raise Unavailable("PostgreSQL does not run as root, and there is no other user")
