"""What docker/ names exists in the code: variables, ports, paths, entry points, extras.

No Docker engine is needed; where the compose client is there, it reads the file too.
"""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from adapter_registry.settings import Settings as RegistrySettings
from compute_worker.settings import Settings as WorkerSettings

ROOT = Path(__file__).parents[2]
COMPOSE = yaml.safe_load((ROOT / "docker" / "compose.yaml").read_text())
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
SETTINGS = {"registry": RegistrySettings, "worker": WorkerSettings}
# Of other programs in our images.
FOREIGN = {"PATH", "PYTHONUNBUFFERED", "HF_HOME"}
OURS = ["migrate", "registry", "worker"]


def instructions(service: str) -> list[tuple[str, str]]:
    """(instruction, rest) of a Dockerfile, lines joined, comments left out."""
    text = re.sub(r"^\s*#.*\n", "", (ROOT / "docker" / f"Dockerfile.{service}").read_text(), flags=re.MULTILINE)
    lines = text.replace("\\\n", " ").splitlines()
    return [(line.split()[0], line.partition(" ")[2].strip()) for line in lines if line.strip()]


def values(service: str, instruction: str) -> list[str]:
    return [rest for name, rest in instructions(service) if name == instruction]


def image_environment(service: str) -> dict[str, str]:
    return dict(pair.split("=", 1) for line in values(service, "ENV") for pair in shlex.split(line))


def port_of(settings: Any) -> str:
    return settings.model_fields["listen"].default.rpartition(":")[2]


def extra(name: str) -> set[str]:
    """Distributions that an extra asks for, those of the extras in it included."""
    found: set[str] = set()
    for requirement in PROJECT["optional-dependencies"][name]:
        inner = re.fullmatch(r"lorry\[(.*)\]", requirement)
        if inner:
            found = found.union(*(extra(each) for each in inner[1].split(",")))
        else:
            found.add(re.split(r"[\[<>=~]", requirement)[0])
    return found


def by_default(text: str) -> str:
    """What compose reads where the environment says nothing."""
    return re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", text)


def kind_of(service: str) -> str:
    return "worker" if service == "worker" else "registry"


def unknown(names: Any, service: str) -> set[str]:
    """Variables that the service's settings do not know."""
    settings = SETTINGS[kind_of(service)]
    prefix = settings.model_config["env_prefix"]
    return set(names) - {f"{prefix}{field}".upper() for field in settings.model_fields} - FOREIGN


@pytest.mark.parametrize("service", OURS)
def test_every_variable_of_a_service_is_a_setting(service: str) -> None:
    assert unknown(COMPOSE["services"][service]["environment"], service) == set()


@pytest.mark.parametrize("service", SETTINGS)
def test_every_variable_of_an_image_is_a_setting(service: str) -> None:
    assert unknown(image_environment(service), service) == set()


@pytest.mark.parametrize("service", SETTINGS)
def test_a_service_starts_with_the_values_that_compose_gives(service: str, monkeypatch: pytest.MonkeyPatch) -> None:
    environment = image_environment(service) | COMPOSE["services"][service]["environment"]
    for name, value in environment.items():
        if name.startswith("LORRY_"):
            monkeypatch.setenv(name, by_default(value))
    settings = SETTINGS[service]()
    assert settings.listen == f"0.0.0.0:{port_of(SETTINGS[service])}"


@pytest.mark.parametrize("service", SETTINGS)
def test_ports_are_the_defaults_of_the_code(service: str) -> None:
    port = port_of(SETTINGS[service])
    assert values(service, "EXPOSE") == [port]
    assert [by_default(each) for each in COMPOSE["services"][service]["ports"]] == [f"127.0.0.1:{port}:{port}"]


def test_the_worker_finds_the_registry_by_its_service_and_port() -> None:
    address = COMPOSE["services"]["worker"]["environment"]["LORRY_WORKER_REGISTRY"]
    assert address == f"registry:{port_of(RegistrySettings)}"


def test_the_worker_gets_no_credentials() -> None:
    names = " ".join(COMPOSE["services"]["worker"]["environment"])
    assert not re.search(r"S3|SECRET|DATABASE|PASSWORD|AWS", names)


@pytest.mark.parametrize("service", SETTINGS)
def test_what_an_image_copies_is_in_the_repository(service: str) -> None:
    copied = [line.split()[:-1] for line in values(service, "COPY") if not line.startswith("--from")]
    assert copied
    assert [path for paths in copied for path in paths if not (ROOT / path).exists()] == []


@pytest.mark.parametrize("service", SETTINGS)
def test_an_image_has_the_package_of_its_entry_point(service: str) -> None:
    (program,) = json.loads(values(service, "ENTRYPOINT")[0])
    package = PROJECT["scripts"][program].partition(".")[0]
    assert any(line.split()[0] == package for line in values(service, "COPY"))


@pytest.mark.parametrize("service", OURS)
def test_commands_are_commands_of_the_entry_point(service: str) -> None:
    kind = kind_of(service)
    health = re.search(r"CMD (\[.*\])", values(kind, "HEALTHCHECK")[0])
    assert health
    program, asked = json.loads(health[1])
    module = __import__(PROJECT["scripts"][program].partition(":")[0], fromlist=["main"])
    commands = [asked, *json.loads(values(kind, "CMD")[-1]), *COMPOSE["services"][service]["command"]]
    for command in commands:
        with pytest.raises(SystemExit) as ended:
            module.main([command, "--help"])
        assert ended.value.code == 0


@pytest.mark.parametrize("service", SETTINGS)
def test_an_image_installs_its_own_extra_and_runs_as_nobody_special(service: str) -> None:
    assert any(f'".[{service}]"' in line for line in values(service, "RUN"))
    assert values(service, "USER") == ["lorry"]


def test_the_registry_has_no_torch_and_the_worker_no_storage() -> None:
    assert not extra("registry") & {"torch", "transformers", "safetensors"}
    assert not extra("worker") & {"boto3", "sqlalchemy", "psycopg"}


def test_dockerfiles_volumes_and_dependencies_of_compose_exist() -> None:
    for service in COMPOSE["services"].values():
        if "build" in service:
            assert (ROOT / service["build"]["dockerfile"]).exists()
        for volume in service.get("volumes", []):
            source = by_default(volume).partition(":")[0]
            assert source in COMPOSE["volumes"] or (ROOT / "docker" / source).is_dir()
        assert set(service.get("depends_on", {})) <= set(COMPOSE["services"])


def test_the_s3_image_can_be_replaced() -> None:
    image = COMPOSE["services"]["minio"]["image"]
    assert image == "${S3_IMAGE:-quay.io/minio/minio:RELEASE.2025-09-07T16-13-09Z}"
    assert COMPOSE["services"]["seaweedfs"]["profiles"] == ["seaweedfs"]


@pytest.mark.parametrize("profile", [[], ["--profile", "seaweedfs"]], ids=["default", "seaweedfs"])
def test_the_compose_client_reads_the_file(profile: list[str]) -> None:
    try:
        subprocess.run(["docker", "compose", "version"], check=True, capture_output=True)
    except (FileNotFoundError, subprocess.CalledProcessError):
        pytest.skip("the docker compose client is not installed")
    command = ["docker", "compose", "-f", "docker/compose.yaml", *profile, "config", "--quiet"]
    subprocess.run(command, check=True, cwd=ROOT)
