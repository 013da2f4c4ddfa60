"""Which ends of a pod the optional patch of Argo's configuration has retried."""

import shutil
import subprocess
from pathlib import Path

import kubernetes_validate
import pytest
import yaml

from components.kubeflow.termination_message import NOT_RETRIED

COMPONENT = Path(__file__).resolve().parents[2] / "infra" / "kustomize" / "components" / "argo-retries"

KUBEFLOWS_OWN = """
apiVersion: v1
kind: ConfigMap
metadata: {name: workflow-controller-configmap, namespace: kubeflow}
data:
  artifactRepository: "archiveLogs: true"
  workflowDefaults: |
    spec: {templateDefaults: {retryStrategy: {limit: '2', retryPolicy: OnError}}}
"""


@pytest.fixture
def strategy(tmp_path: Path, render: object) -> dict[str, str]:  # noqa: ARG001  (skips where kubectl is missing)
    """The default of every template, after the component was applied to Kubeflow's own ConfigMap."""
    (tmp_path / "base").mkdir()
    (tmp_path / "base" / "configmap.yaml").write_text(KUBEFLOWS_OWN)
    (tmp_path / "base" / "kustomization.yaml").write_text("resources: [configmap.yaml]\n")
    overlay = {"resources": ["../base"], "components": ["../retries"]}
    (tmp_path / "overlay").mkdir()
    (tmp_path / "overlay" / "kustomization.yaml").write_text(yaml.safe_dump(overlay))
    shutil.copytree(COMPONENT, tmp_path / "retries")
    rendered = subprocess.run(
        ["kubectl", "kustomize", str(tmp_path / "overlay")], capture_output=True, text=True, timeout=60, check=True
    )
    content = yaml.safe_load(rendered.stdout)
    kubernetes_validate.validate(content, "1.34", strict=True)
    assert content["metadata"]["namespace"] == "kubeflow"
    assert content["data"]["artifactRepository"] == "archiveLogs: true", "nothing else changes"
    return yaml.safe_load(content["data"]["workflowDefaults"])["spec"]["templateDefaults"]["retryStrategy"]


@pytest.mark.parametrize(
    ("message", "retried"),
    [
        ("main: Error (exit code 1): the tracking server does not answer", True),
        ("main: OOMKilled (exit code 137)", True),
        ("pod deleted", True),
        ("The node was low on resource: memory.", True),
        (f"main: Error (exit code 1): {NOT_RETRIED}the dataset has images of 0 bytes", False),
        ("", False),  # a DAG in which a step failed after its own retries
    ],
)
def test_lost_and_failed_pods_are_retried_wrong_parameters_are_not(
    strategy: dict[str, str], message: str, retried: bool
) -> None:
    assert (strategy["limit"], strategy["retryPolicy"]) == ("2", "Always")
    first, second = strategy["expression"].split(" && ")
    assert first == "lastRetry.message != ''"
    negated = second.removeprefix("!(lastRetry.message contains '").removesuffix("')")
    assert second == f"!(lastRetry.message contains '{negated}')"
    assert (message != "" and negated not in message) == retried
