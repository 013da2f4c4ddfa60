"""The rules of lint_rules.py over every overlay; and each of them finds what it is for."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lint_rules
import pytest
from lint_rules import RULES
from manifest_objects import Object, pods

OVERLAYS = Path(__file__).resolve().parents[2] / "infra" / "kustomize" / "overlays"
Render = Callable[[Path], list[Object]]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
@pytest.mark.parametrize("overlay", ["dev", "production", "kserve"])
def test_an_overlay_keeps_the_rule(render: Render, overlay: str, rule: Callable[[list[Object]], list[str]]) -> None:
    assert rule(render(OVERLAYS / overlay)) == []


def find(objects: list[Object], kind: str, name: str) -> Object:
    (found,) = [one for one in objects if one["kind"] == kind and one["metadata"]["name"] == name]
    return found


def spec(objects: list[Object]) -> Object:
    """Of the pods of MLflow."""
    return find(objects, "Deployment", "mlflow")["spec"]["template"]["spec"]


def container(objects: list[Object]) -> Object:
    return spec(objects)["containers"][0]


def drop(kind: str, name: str) -> Callable[[list[Object]], Any]:
    return lambda objects: objects.remove(find(objects, kind, name))


SPOILED: list[tuple[str, Callable[[list[Object]], Any]]] = [
    ("pods_are_not_root", lambda o: spec(o)["securityContext"].pop("runAsNonRoot")),
    ("pods_are_not_root", lambda o: container(o)["securityContext"].update(runAsUser=0)),
    (
        "pods_have_the_default_seccomp_profile",
        lambda o: spec(o)["securityContext"].update(seccompProfile={"type": "Unconfined"}),
    ),
    ("pods_stay_in_their_namespaces", lambda o: spec(o).update(hostNetwork=True)),
    ("pods_stay_in_their_namespaces", lambda o: spec(o)["volumes"].append({"name": "node", "hostPath": {"path": "/"}})),
    ("pods_have_an_account_of_their_own_without_token", lambda o: spec(o).pop("serviceAccountName")),
    ("pods_have_an_account_of_their_own_without_token", lambda o: spec(o).pop("automountServiceAccountToken")),
    ("empty_folders_have_a_limit", lambda o: spec(o)["volumes"][0].update(emptyDir={})),
    ("containers_have_a_read_only_root", lambda o: container(o)["securityContext"].pop("readOnlyRootFilesystem")),
    ("containers_gain_no_privileges", lambda o: container(o)["securityContext"].pop("allowPrivilegeEscalation")),
    ("containers_gain_no_privileges", lambda o: container(o)["securityContext"].update(privileged=True)),
    (
        "containers_drop_all_capabilities",
        lambda o: container(o)["securityContext"].update(capabilities={"drop": ["ALL"], "add": ["SYS_ADMIN"]}),
    ),
    ("containers_have_requests_and_limits", lambda o: container(o)["resources"]["limits"].pop("memory")),
    ("what_serves_has_probes", lambda o: container(o).pop("livenessProbe")),
    ("what_serves_has_probes", lambda o: container(o).pop("readinessProbe")),
    ("what_serves_requests_ends_late", lambda o: container(o).pop("lifecycle")),
    ("what_serves_requests_ends_late", lambda o: spec(o).update(terminationGracePeriodSeconds=10)),
    ("probes_name_ports_that_are_there", lambda o: container(o)["livenessProbe"]["httpGet"].update(port=5001)),
    ("images_are_pinned_by_digest", lambda o: container(o).update(image="registry.example/segmodels:1.2")),
    ("images_are_pinned_by_digest", lambda o: container(o).update(image="segmodels:latest@sha256:" + "0" * 64)),
    ("mounts_have_volumes", lambda o: spec(o).pop("volumes")),
    (
        "no_object_holds_a_secret",
        lambda o: o.append({"kind": "Secret", "metadata": {"name": "s"}, "stringData": {"password": "x"}}),
    ),
    ("no_object_holds_a_secret", lambda o: container(o)["env"].append({"name": "AWS_SECRET_ACCESS_KEY", "value": "x"})),
    (
        "no_object_holds_a_secret",
        lambda o: container(o)["args"].append("--backend-store-uri=postgresql://mlflow:hunter2@postgresql/mlflow"),
    ),
    ("what_pods_refer_to_is_there", lambda o: container(o)["envFrom"].append({"configMapRef": {"name": "nowhere"}})),
    ("what_pods_refer_to_is_there", lambda o: container(o)["envFrom"].append({"secretRef": {"name": "nowhere"}})),
    ("roles_have_no_wildcards", lambda o: find(o, "Role", "segmodels-train-jobs")["rules"][0].update(verbs=["*"])),
    (
        "selectors_match_their_pods",
        lambda o: find(o, "Deployment", "mlflow")["spec"]["selector"].update(
            matchLabels={"app.kubernetes.io/name": "other"}
        ),
    ),
    (
        "services_have_targets",
        lambda o: find(o, "Service", "mlflow")["spec"].update(selector={"app.kubernetes.io/name": "other"}),
    ),
    ("services_have_targets", lambda o: find(o, "Service", "mlflow")["spec"]["ports"][0].update(targetPort="web")),
    ("services_have_targets", drop("Service", "postgresql")),
    ("every_pod_is_under_network_policies", drop("NetworkPolicy", "default-deny")),
    (
        "network_policies_name_pods_that_are_there",
        lambda o: find(o, "NetworkPolicy", "mlflow")["spec"].update(podSelector={"matchLabels": {"a": "b"}}),
    ),
    ("network_policies_name_pods_that_are_there", drop("StatefulSet", "postgresql")),
    ("no_network_policy_opens_everything", lambda o: find(o, "NetworkPolicy", "mlflow")["spec"].update(ingress=[{}])),
    (
        "no_network_policy_opens_everything",
        lambda o: find(o, "NetworkPolicy", "mlflow")["spec"]["ingress"][0]["from"].append({"namespaceSelector": {}}),
    ),
    ("disruption_budgets_protect_and_let_nodes_go", drop("PodDisruptionBudget", "mlflow")),
    ("disruption_budgets_protect_and_let_nodes_go", drop("Deployment", "mlflow")),
    (
        "disruption_budgets_protect_and_let_nodes_go",
        lambda o: find(o, "PodDisruptionBudget", "mlflow")["spec"].update(maxUnavailable=0),
    ),
]


@pytest.mark.parametrize(
    ("rule", "spoil"), SPOILED, ids=[f"{number}-{name}" for number, (name, _) in enumerate(SPOILED)]
)
def test_a_rule_finds_what_it_is_for(render: Render, rule: str, spoil: Callable[[list[Object]], Any]) -> None:
    objects = copy.deepcopy(render(OVERLAYS / "production"))
    spoil(objects)
    assert getattr(lint_rules, rule)(objects)


def test_every_rule_is_shown_to_find_something() -> None:
    assert {rule.__name__ for rule in RULES} == {name for name, _ in SPOILED}


def test_the_rules_see_the_pods_of_every_kind(render: Render) -> None:
    seen = {pod.owner["kind"] for overlay in ("dev", "kserve") for pod in pods(render(OVERLAYS / overlay))}
    assert seen == {"Deployment", "StatefulSet", "Job", "CronJob", "TrainingRuntime", "InferenceService"}
