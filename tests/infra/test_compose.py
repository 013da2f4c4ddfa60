"""infra/compose.yaml by its structure. Docker Compose itself checks it where it is installed."""

import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

INFRA = Path(__file__).resolve().parents[2] / "infra"
TEMPLATE = (INFRA / ".env.example").read_text()
VARIABLES = dict(re.findall(r"(?m)^([A-Z_]+)=(.*)$", TEMPLATE))
TEXT = (INFRA / "compose.yaml").read_text()


@pytest.fixture(scope="module")
def services() -> dict[str, dict[str, Any]]:
    return yaml.safe_load(TEXT)["services"]


def test_the_template_has_every_variable_and_no_value() -> None:
    asked = set(re.findall(r"\$\{([A-Z_]+)", TEXT))
    assert set(VARIABLES) == asked
    assert set(VARIABLES.values()) == {""}


def test_what_is_needed_is_asked_for_by_name() -> None:
    """A missing variable is an error that names the file to write, not an empty password."""
    for name in ("SEGMODELS_IMAGE", "POSTGRES_PASSWORD", "OBJECT_STORE_KEY", "OBJECT_STORE_SECRET"):
        uses = re.findall(rf"\$\{{{name}([^}}]*)\}}", TEXT)
        assert uses
        assert all(use.startswith(":?") and "infra/.env.example" in use for use in uses)


def test_images_of_others_are_pinned_and_the_same_as_on_the_cluster(services: dict[str, dict[str, Any]]) -> None:
    base = yaml.safe_load((INFRA / "kustomize" / "base" / "kustomization.yaml").read_text())
    on_the_cluster = {f"{image['name']}:{image['newTag']}@{image['digest']}" for image in base["images"]}
    assert {
        service["image"] for service in services.values() if "SEGMODELS_IMAGE" not in service["image"]
    } == on_the_cluster


def test_what_serves_has_a_health_check_and_is_waited_for(services: dict[str, dict[str, Any]]) -> None:
    assert {name for name, service in services.items() if "healthcheck" in service} == {
        "postgresql",
        "object-store",
        "mlflow",
    }
    for service in services.values():
        for name, wait in service.get("depends_on", {}).items():
            assert wait["condition"] == (
                "service_healthy" if "healthcheck" in services[name] else "service_completed_successfully"
            )
    assert set(services["mlflow"]["depends_on"]) == {"postgresql", "object-store", "buckets"}


def test_nothing_is_reachable_from_other_machines_unless_told(services: dict[str, dict[str, Any]]) -> None:
    ports = {name: service["ports"] for name, service in services.items() if "ports" in service}
    assert ports == {
        "mlflow": ["${BIND_ADDRESS:-127.0.0.1}:5000:5000"],
        "object-store": ["${BIND_ADDRESS:-127.0.0.1}:9000:9000"],
    }


def test_containers_are_hardened_and_keep_their_data_in_volumes(services: dict[str, dict[str, Any]]) -> None:
    for service in services.values():
        assert service["read_only"]
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]
    used = {
        volume.split(":")[0]
        for service in services.values()
        for volume in service.get("volumes", [])
        if not volume.startswith(".")
    }
    assert used == set(yaml.safe_load(TEXT)["volumes"])
    for service in services.values():
        for volume in service.get("volumes", []):
            assert not volume.startswith(".") or (INFRA / volume.split(":")[0]).exists()


def test_mlflow_runs_as_on_the_cluster(services: dict[str, dict[str, Any]]) -> None:
    documents = yaml.safe_load_all((INFRA / "kustomize" / "base" / "mlflow.yaml").read_text())
    (deployment,) = [one for one in documents if one["kind"] == "Deployment"]
    container = deployment["spec"]["template"]["spec"]["containers"][0]
    assert (services["mlflow"]["entrypoint"], services["mlflow"]["command"]) == (
        container["command"],
        container["args"],
    )
    here, there = services["mlflow"]["environment"], {env["name"]: env.get("value") for env in container["env"]}
    assert here["MLFLOW_BACKEND_STORE_URI"] == there["MLFLOW_BACKEND_STORE_URI"]
    assert set(there) <= set(here)
    names = here["MLFLOW_SERVER_ALLOWED_HOSTS"].split(",")
    assert {"mlflow", "mlflow:5000", "localhost", "localhost:*", "127.0.0.1:*"} <= set(names)


def test_the_object_store_runs_as_on_the_cluster(services: dict[str, dict[str, Any]]) -> None:
    documents = yaml.safe_load_all((INFRA / "kustomize" / "base" / "object-store.yaml").read_text())
    (stateful,) = [one for one in documents if one["kind"] == "StatefulSet"]
    (script,) = stateful["spec"]["template"]["spec"]["containers"][0]["args"]
    assert script.splitlines()[-1].split() == ["exec", "weed", *services["object-store"]["command"]]


def test_docker_compose_accepts_it() -> None:
    if not shutil.which("docker") or subprocess.run(["docker", "compose", "version"], capture_output=True).returncode:
        pytest.skip("`docker compose` is not on this machine: the file was checked by its structure alone")
    command = ["docker", "compose", "-f", str(INFRA / "compose.yaml"), "config", "--quiet"]
    bare = {key: value for key, value in os.environ.items() if key not in VARIABLES}
    done = subprocess.run(
        [*command[:2], "--env-file", os.devnull, *command[2:]], capture_output=True, text=True, env=bare
    )
    assert done.returncode != 0
    assert "infra/.env.example" in done.stderr
    subprocess.run(
        [*command[:2], "--env-file", os.devnull, *command[2:]], check=True, env=bare | dict.fromkeys(VARIABLES, "x")
    )
