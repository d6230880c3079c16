"""The files of deploy/: accepted by docker compose, free of secrets, and of the tested versions."""

from __future__ import annotations

import ast
import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.conftest import or_skip
from tests.services.fetch import compose_check

ROOT = Path(__file__).parent.parent
COMPOSE = ROOT / "deploy" / "compose.yaml"
ENDS_BY_ITSELF = {"checkpoints-owner", "beammeter"}


def services() -> dict[str, Any]:
    return yaml.safe_load(COMPOSE.read_text("utf-8"))["services"]


def checked(file: Path, profile: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(or_skip(compose_check)), str(file)],
        env=os.environ | {"COMPOSE_PROFILES": profile},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("profile", ["", "tools"])
def test_docker_compose_accepts_the_file(profile: str) -> None:
    done = checked(COMPOSE, profile)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_docker_compose_would_refuse_a_wrong_key(tmp_path: Path) -> None:
    wrong = tmp_path / "compose.yaml"
    wrong.write_text(COMPOSE.read_text("utf-8").replace("ports:", "portz:"), "utf-8")
    done = checked(wrong)
    assert done.returncode == 1
    assert "portz" in done.stderr


def test_every_service_that_stays_up_says_when_it_is_healthy() -> None:
    without = {name for name, service in services().items() if "healthcheck" not in service}
    assert without == ENDS_BY_ITSELF


def test_ports_are_open_to_the_machine_itself_only() -> None:
    ports = [port for service in services().values() for port in service.get("ports", ())]
    assert ports
    assert not [port for port in ports if not port.startswith("127.0.0.1:")]


def test_passwords_come_from_a_file_that_git_ignores() -> None:
    assert not re.search(r"password\s*[:=]", COMPOSE.read_text("utf-8"), re.IGNORECASE)
    example = (ROOT / "deploy" / "secrets.example.env").read_text("utf-8")
    assert re.search(r"^CLICKHOUSE_PASSWORD=$", example, re.MULTILINE)
    assert "deploy/secrets.env" in (ROOT / ".gitignore").read_text("utf-8").splitlines()


def version_of(artifact: str, pom: str) -> str:
    text = (ROOT / "tests" / "services" / pom).read_text("utf-8")
    found = re.search(rf"<artifactId>{artifact}</artifactId>\s*<version>(.+?)</version>", text)
    assert found
    return found[1]


def test_what_is_deployed_is_what_is_tested() -> None:
    images = {name: service.get("image") for name, service in services().items()}
    assert images["kafka"] == f"apache/kafka:{version_of('kafka_2.13', 'kafka-pom.xml')}"
    runner = version_of("beam-runners-flink-1.19", "flink-pom.xml")
    assert images["job-server"] == f"apache/beam_flink1.19_job_server:{runner}"
    beam = re.search(
        r"^apache-beam==(.+)$", (ROOT / "constraints.txt").read_text("utf-8"), re.MULTILINE
    )
    assert beam
    dockerfile = (ROOT / "deploy" / "Dockerfile").read_text("utf-8")
    assert f"FROM apache/beam_python3.11_sdk:{beam[1]}\n" in dockerfile


def test_the_image_gets_every_package_and_nothing_else() -> None:
    setup = (ROOT / "setup.py").read_text("utf-8")
    listed = re.search(r"PACKAGES = \[(.*?)\]", setup, re.DOTALL)
    assert listed
    packages = set(re.findall(r'"(\w+)"', listed[1]))
    kept = (ROOT / "deploy" / "Dockerfile.dockerignore").read_text("utf-8").splitlines()
    kept = {line[1:] for line in kept if line.startswith("!")}
    assert {name for name in kept if (ROOT / name).is_dir()} == packages


def test_the_image_has_every_package_of_the_product() -> None:
    assignment = next(
        node
        for node in ast.parse((ROOT / "setup.py").read_text("utf-8")).body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "PACKAGES"
    )
    ignored = (ROOT / "deploy" / "Dockerfile.dockerignore").read_text("utf-8").splitlines()
    kept = {line[1:] for line in ignored if line.startswith("!")}
    assert {name.partition(".")[0] for name in ast.literal_eval(assignment.value)} <= kept
