"""Every overlay renders; Kubernetes' schemas, Trainer's and KServe's accept every object; names agree with the
profiles.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import kubernetes_validate
import pytest
import yaml
from kserve_schema import check_inference_service
from kubeflow_trainer_api import models
from lint_rules import RULES, SECRETS
from manifest_objects import Object, named, pods

from pipelines.profile import load_profile

REPOSITORY = Path(__file__).resolve().parents[2]
KUSTOMIZE = REPOSITORY / "infra" / "kustomize"
OVERLAYS = ("dev", "production", "kserve")
VERSIONS = ("1.29", "1.34", "1.37")
"""Of Kubernetes: the oldest that it is for, the newest that has schemas, and one between."""
CUSTOM = {"TrainingRuntime", "InferenceService"}

Render = Callable[[Path], list[Object]]


@pytest.mark.parametrize("overlay", OVERLAYS)
@pytest.mark.parametrize("version", VERSIONS)
def test_kubernetes_accepts_every_object(render: Render, overlay: str, version: str) -> None:
    for one in render(KUSTOMIZE / "overlays" / overlay):
        if one["kind"] not in CUSTOM:
            kubernetes_validate.validate(one, version, strict=True)


def test_the_check_is_strict(render: Render) -> None:
    (deployment,) = [one for one in render(KUSTOMIZE / "base") if one["kind"] == "Deployment"]
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(
            deployment | {"spec": deployment["spec"] | {"replica": 2}}, VERSIONS[-1], strict=True
        )


def plain(model: Any) -> Any:
    return yaml.safe_load(yaml.safe_dump(model.to_dict()))


def test_trainer_accepts_the_training_runtime_and_knows_every_field(render: Render) -> None:
    (runtime,) = [one for one in render(KUSTOMIZE / "runs") if one["kind"] == "TrainingRuntime"]
    assert plain(models.TrainerV1alpha1TrainingRuntime.from_dict(runtime)) == runtime, (
        "a field that is not known is lost on the way"
    )
    job = runtime["spec"]["template"]["spec"]["replicatedJobs"][0]
    assert (job["name"], job["template"]["spec"]["template"]["spec"]["containers"][0]["name"]) == (
        "node",
        "node",
    ), "Trainer finds them by these names"
    labels = job["template"]["spec"]["template"]["metadata"]["labels"]
    assert labels["sidecar.istio.io/inject"] == "false", "a user's namespace of Kubeflow has Istio, as runs have not"


def test_the_sdk_finds_the_runtimes_container(render: Render) -> None:
    from kubeflow.trainer.backends.kubernetes.utils import get_runtime_trainer

    (content,) = [one for one in render(KUSTOMIZE / "runs") if one["kind"] == "TrainingRuntime"]
    runtime = models.TrainerV1alpha1TrainingRuntime.from_dict(content)
    framework = content["metadata"]["labels"]["trainer.kubeflow.org/framework"]
    trainer = get_runtime_trainer(framework, runtime.spec.template.spec.replicated_jobs, runtime.spec.ml_policy)
    assert (trainer.framework, trainer.image, trainer.num_nodes) == ("torch", "segmodels", 1)


def test_kserve_accepts_the_inference_service(render: Render) -> None:
    (service,) = [one for one in render(KUSTOMIZE / "overlays" / "kserve") if one["kind"] == "InferenceService"]
    check_inference_service(service)
    wrong = yaml.safe_load(yaml.safe_dump(service))
    wrong["spec"]["predictor"]["minReplica"] = 1
    with pytest.raises(kubernetes_validate.ValidationError):
        check_inference_service(wrong)


def test_kserve_runs_the_same_container_as_the_deployment(render: Render) -> None:
    by_kserve = next(pod for pod in pods(render(KUSTOMIZE / "kserve")))
    plainly = next(pod for pod in pods(render(KUSTOMIZE / "serving")))
    of_kserve, own = (dict(pod.spec["containers"][0]) for pod in (by_kserve, plainly))
    assert of_kserve.pop("name") == "kserve-container", "KServe finds it by this name"
    own.pop("name")
    assert {port["containerPort"] for port in of_kserve.pop("ports")} == {
        port["containerPort"] for port in own.pop("ports")
    }
    assert of_kserve == own
    assert by_kserve.labels == plainly.labels


def test_all_of_our_images_are_one(render: Render) -> None:
    """`make deploy` puts the pinned digest in the place of this one."""
    for overlay in OVERLAYS:
        images = {c["image"] for pod in pods(render(KUSTOMIZE / "overlays" / overlay)) for c in pod.containers}
        ours = {image for image in images if "segmodels" in image}
        assert ours == {"registry.invalid/segmodels@sha256:" + "0" * 64}
        assert images - ours == {image for image in images if image.startswith(("postgres:", "chrislusf/seaweedfs:"))}


def test_make_deploy_replaces_the_image_that_is_not_there() -> None:
    (line,) = [
        line for line in (REPOSITORY / "Makefile").read_text().splitlines() if "registry.invalid/segmodels" in line
    ]
    assert "registry.invalid/segmodels@sha256:0\\{64\\}" in line


@pytest.mark.parametrize(
    ("overlay", "served", "said"),
    [
        ("kserve", "trainer.kubeflow.org serving.kserve.io", ""),
        ("kserve", "trainer.kubeflow.org", "InferenceService model-server is left out: without KServe this overlay"),
        (
            "dev",
            "",
            "TrainingRuntime torch-distributed is left out: without Kubeflow Trainer a training runs in one pod",
        ),
        ("dev", None, "error: kubectl does not reach the cluster (no route to host): check your kubeconfig"),
    ],
)
def test_what_the_cluster_has_no_api_for_is_left_out_and_named(
    render: Render, tmp_path: Path, overlay: str, served: str | None, said: str
) -> None:
    kubectl = tmp_path / "kubectl"
    answer = (
        "echo 'no route to host' >&2; exit 1"
        if served is None
        else (f'case " {served} " in *" ${{2#--api-group=}} "*) echo things.example;; esac')
    )
    kubectl.write_text(f"#!/bin/sh\n{answer}\n")
    kubectl.chmod(0o755)
    objects = render(KUSTOMIZE / "overlays" / overlay)
    done = subprocess.run(
        [sys.executable, REPOSITORY / "infra" / "without_missing_kinds.py"],
        input=yaml.safe_dump_all(objects),
        env=os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
    )
    assert said in done.stderr
    assert bool(done.stderr) == bool(said)
    left = list(yaml.safe_load_all(done.stdout))
    if served is None:
        assert (done.returncode, left) == (1, [])
    else:
        assert left == [
            one for one in objects if one["kind"] not in CUSTOM or one["apiVersion"].rpartition("/")[0] in served
        ]


# --- names that other files rely on


@pytest.mark.parametrize("name", ["cpu", "gpu"])
def test_the_profiles_name_services_and_secrets_that_are_there(
    render: Render, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(REPOSITORY)
    profile, services = load_profile(name), named(render(KUSTOMIZE / "overlays" / "dev"), "Service")
    for variable in ("MLFLOW_TRACKING_URI", "SEGMODELS_S3_ENDPOINT_URL"):
        address = urlsplit(profile.environment[variable])
        service, namespace, *rest = (address.hostname or "").split(".")
        assert rest == ["svc", "cluster", "local"]
        assert address.port in {port["port"] for port in services[namespace, service]["spec"]["ports"]}
    wanted = {secret.name: set(secret.environment) for secret in profile.secrets if not secret.optional}
    assert {("kubeflow", secret) for secret in wanted} <= SECRETS
    assert wanted == {"object-store": set(keys("object-store"))}
    bucket = (profile.checkpoints or "").removeprefix("s3://").split("/")[0]
    (job,) = named(render(KUSTOMIZE / "base"), "Job").values()
    assert bucket in job["spec"]["template"]["spec"]["containers"][0]["args"], "the bucket of the checkpoints is made"


def test_mlflow_answers_to_every_name_that_it_is_called_by(render: Render) -> None:
    (server,) = [pod for pod in pods(render(KUSTOMIZE / "base")) if pod.name == "Deployment mlflow"]
    allowed = next(
        env["value"] for env in server.spec["containers"][0]["env"] if env["name"] == "MLFLOW_SERVER_ALLOWED_HOSTS"
    ).split(",")
    names = ["mlflow", "mlflow.segmodels", "mlflow.segmodels.svc", "mlflow.segmodels.svc.cluster.local"]
    assert set(allowed) == {
        *names,
        *(f"{name}:5000" for name in names),
        "localhost",
        "localhost:*",
        "127.0.0.1",
        "127.0.0.1:*",
    }


# --- secrets, variants


def keys(name: str) -> dict[str, str]:
    lines = (KUSTOMIZE / "secrets" / f"{name}.env.example").read_text().splitlines()
    return dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))


def test_the_templates_of_secrets_have_the_keys_that_pods_ask_for_and_no_values(render: Render) -> None:
    templates = {name: keys(name) for name in ("object-store", "postgresql")}
    assert {value for template in templates.values() for value in template.values()} == {""}
    asked = [
        env["valueFrom"]["secretKeyRef"]
        for pod in pods(render(KUSTOMIZE / "overlays" / "dev"))
        for c in pod.containers
        for env in c.get("env", [])
        if "secretKeyRef" in env.get("valueFrom", {})
    ]
    assert {(one["name"], one["key"]) for one in asked} == {
        (name, key) for name, template in templates.items() for key in template
    }


def test_filled_in_they_are_the_secrets(render: Render, tmp_path: Path) -> None:
    shutil.copytree(KUSTOMIZE / "secrets", tmp_path / "secrets")
    for template in (tmp_path / "secrets").glob("*.env.example"):
        template.with_suffix("").write_text(template.read_text().replace("=\n", "=x\n"))
    secrets = named(render(tmp_path / "secrets"), "Secret")
    assert set(secrets) == SECRETS
    assert {value for secret in secrets.values() for value in secret["data"].values()} == {"eA=="}
    for secret in secrets.values():
        kubernetes_validate.validate(secret, VERSIONS[-1], strict=True)


@pytest.mark.parametrize("overlay", ["dev", "production"])
def test_mlflow_may_ask_for_passwords(
    render: Render, tmp_path: Path, overlay: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(KUSTOMIZE, tmp_path / "kustomize", ignore=shutil.ignore_patterns("*.env"))
    path = tmp_path / "kustomize" / "overlays" / overlay / "kustomization.yaml"
    content = yaml.safe_load(path.read_text())
    content["components"].append("../../components/mlflow-authentication")
    path.write_text(yaml.safe_dump(content))
    objects = render(path.parent)
    monkeypatch.setattr(
        "lint_rules.SECRETS", SECRETS | {("segmodels", name) for name in ("mlflow-authentication", "mlflow-user")}
    )
    assert [finding for rule in RULES for finding in rule(objects)] == []
    server, client = (named(objects, "Deployment")["segmodels", name] for name in ("mlflow", "model-server"))
    kubernetes_validate.validate(server, VERSIONS[-1], strict=True)
    (container,) = server["spec"]["template"]["spec"]["containers"]
    assert "--app-name=basic-auth" in container["args"]
    assert {one["name"] for one in client["spec"]["template"]["spec"]["containers"][0]["env"]} > {
        "MLFLOW_TRACKING_USERNAME",
        "MLFLOW_TRACKING_PASSWORD",
    }


def test_a_store_that_is_there_already_takes_the_place_of_ours(render: Render, tmp_path: Path) -> None:
    shutil.copytree(KUSTOMIZE, tmp_path / "kustomize", ignore=shutil.ignore_patterns("*.env"))
    overlay = tmp_path / "kustomize" / "overlays" / "dev" / "kustomization.yaml"
    content = yaml.safe_load(overlay.read_text())
    content["components"].append("../../components/external-object-store")
    content["patches"] = [patch for patch in content["patches"] if patch["target"]["name"] != "object-store"]
    overlay.write_text(yaml.safe_dump(content))
    objects = render(overlay.parent)
    assert not [one for one in objects if one["metadata"]["name"] == "object-store"]
    (settings,) = [
        one["data"]
        for one in objects
        if one["kind"] == "ConfigMap" and one["metadata"]["name"].startswith("object-store")
    ]
    assert settings["AWS_ENDPOINT_URL"] == "https://s3.example"
    assert [finding for rule in RULES for finding in rule(objects)] == []


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_all_pods_fit_into_the_quota(render: Render, overlay: str) -> None:
    """With a pod more of each Deployment, as while one is replaced."""
    objects = render(KUSTOMIZE / "overlays" / overlay)
    (quota,) = named(objects, "ResourceQuota").values()
    for kind in ("requests", "limits"):
        for resource in ("cpu", "memory"):
            total = 0.0
            for pod in pods(objects):
                if pod.namespace == "segmodels":
                    count = pod.owner["spec"].get("predictor", {}).get("maxReplicas") or pod.owner["spec"].get(
                        "replicas", 1
                    )
                    each = sum(amount(c["resources"][kind][resource]) for c in pod.spec["containers"])
                    total += each * (count + (pod.owner["kind"] in ("Deployment", "InferenceService")))
            assert total <= amount(quota["spec"]["hard"][f"{kind}.{resource}"]), f"{kind} of {resource}"


def amount(quantity: str) -> float:
    units = {"m": 1e-3, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40}
    unit = next((unit for unit in units if quantity.endswith(unit)), "")
    return float(quantity.removesuffix(unit)) * units.get(unit, 1)
