"""Fetch the real services once: jars through Maven, Go programs through Go.

cache/NAME exists? -> yes: use it
                   -> no: lock -> fetch into a folder beside it -> rename

The cache is `$BEAMMETER_SERVICES`, or `~/.cache/beammeter/services`. Its folders are named by
what was asked for, so a changed version is fetched anew. Maven and Go decide by their own
settings where from. `python -m tests.services.fetch` fetches all and prints the folders.
"""

from __future__ import annotations

import fcntl
import hashlib
import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

HERE = Path(__file__).parent
OLDEST_JAVA = 17
LONGEST = 1800.0  # seconds for one download and build
LINES = 15
# Folders, and what holds for one jar only: its manifest, module and signatures.
NOT_MERGED = ("/", "META-INF/MANIFEST.MF", "module-info.class", ".SF", ".RSA", ".DSA")


class Unavailable(Exception):
    """A service that cannot be had here; the message is one plain sentence on why."""


def cache() -> Path:
    """The folder that everything is fetched into."""
    given = os.environ.get("BEAMMETER_SERVICES")
    return Path(given) if given else Path.home() / ".cache" / "beammeter" / "services"


def kafka_jars() -> Path:
    """The folder with the jars of a Kafka broker."""
    return _jars("kafka")


def flink_jars() -> Path:
    """The folder with the jar of Beam's Flink job server and of Flink itself.

    It is one jar: the job server sends its class path to a cluster with every job, and a hundred
    jars take 13 seconds where one takes three.
    """
    return _jars("flink", merge=True)


def prism() -> Path:
    """The program `prism` of the installed Beam's version."""
    version = importlib.metadata.version("apache-beam")

    def build(folder: Path) -> None:
        go = _tool("go", "Go")
        module = f"github.com/apache/beam/sdks/v2/go/cmd/prism@v{version}"
        _run([go, "install", module], {"GOBIN": str(folder)})

    return _once(f"prism-{version}", "go", build) / "prism"


def compose_check() -> Path:
    """A program that reads compose files as `docker compose config` does, by the same library."""
    sources = HERE / "compose"
    content = b"".join((sources / name).read_bytes() for name in ("main.go", "go.sum"))

    def build(folder: Path) -> None:
        command = [_tool("go", "Go"), "build", "-C", str(sources), "-o", str(folder / "check"), "."]
        _run(command)

    return _once(f"compose-{hashlib.sha256(content).hexdigest()[:12]}", "go", build) / "check"


def java() -> str:
    """The path of a Java that is new enough for all services.

    Raises:
        Unavailable: there is none.
    """
    path = _tool("java", "Java")
    told = subprocess.run([path, "-version"], capture_output=True, text=True, check=False).stderr
    found = re.search(r'version "(\d+)', told)
    if not found or int(found[1]) < OLDEST_JAVA:
        got = found[1] if found else told.strip()
        raise Unavailable(f"Java must be {OLDEST_JAVA} or newer (got {got})")
    return path


def _jars(name: str, merge: bool = False) -> Path:
    java()
    pom = HERE / f"{name}-pom.xml"

    def copy(folder: Path) -> None:
        target = folder / "separate" if merge else folder
        goal = "dependency:copy-dependencies"
        options = ("-DincludeScope=runtime", f"-DoutputDirectory={target}")
        _run([_tool("mvn", "Maven"), "--batch-mode", "--file", str(pom), goal, *options])
        if merge:
            _merge(sorted(target.glob("*.jar")), folder / f"{name}.jar")
            shutil.rmtree(target)

    return _once(f"{name}-{hashlib.sha256(pom.read_bytes()).hexdigest()[:12]}", "maven", copy)


def _merge(jars: list[Path], merged: Path) -> None:
    """One jar of many: the first of equal names counts, as on a class path; services add up."""
    services: dict[str, list[bytes]] = {}
    seen = set()
    with zipfile.ZipFile(merged, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as target:
        for jar in jars:
            with zipfile.ZipFile(jar) as opened:
                for name in opened.namelist():
                    if name.startswith("META-INF/services/") and not name.endswith("/"):
                        services.setdefault(name, []).append(opened.read(name))
                    elif name not in seen and not name.endswith(NOT_MERGED):
                        seen.add(name)
                        target.writestr(name, opened.read(name))
        for name, providers in services.items():
            target.writestr(name, b"\n".join(providers))


def _once(name: str, lock: str, fetch: Callable[[Path], None]) -> Path:
    """The folder `name` of the cache, fetched where it is not there yet.

    `lock` is the tool's: Maven's own repository stands only one Maven at a time.
    """
    wanted = cache() / name
    if wanted.exists():
        return wanted
    cache().mkdir(parents=True, exist_ok=True)
    with _locked(cache() / f"{lock}.lock"):
        if wanted.exists():
            return wanted
        sys.stderr.write(f"fetching {name} into {cache()}, which takes some minutes ...\n")
        started = Path(tempfile.mkdtemp(prefix=f".{name}-", dir=cache()))
        try:
            fetch(started)
            started.chmod(0o755)
            started.rename(wanted)
        finally:
            shutil.rmtree(started, ignore_errors=True)
    return wanted


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _tool(program: str, name: str) -> str:
    found = shutil.which(program)
    if not found:
        raise Unavailable(f"{name} is not installed: there is no `{program}` on PATH")
    return found


def _run(command: list[str], more: dict[str, str] | None = None) -> None:
    try:
        done = subprocess.run(
            command,
            env=os.environ | (more or {}),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=LONGEST,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise Unavailable(f"`{' '.join(command)}` took longer than {LONGEST:.0f} s") from None
    if done.returncode:
        last = "\n".join(done.stdout.splitlines()[-LINES:])
        raise Unavailable(f"`{' '.join(command)}` failed with {done.returncode}:\n{last}")


if __name__ == "__main__":
    try:
        for path in (kafka_jars(), prism(), flink_jars(), compose_check()):
            sys.stdout.write(f"{path}\n")
    except Unavailable as error:
        sys.exit(str(error))
