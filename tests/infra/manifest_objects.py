"""The objects of rendered manifests, and the pods that they make."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

Object = dict[str, Any]


@dataclass(frozen=True)
class Pod:
    """Pods that an object makes: a workload's, a TrainJob runtime's, an InferenceService's."""

    owner: Object
    namespace: str
    labels: dict[str, str]
    spec: Object

    @property
    def name(self) -> str:
        return f"{self.owner['kind']} {self.owner['metadata']['name']}"

    @property
    def containers(self) -> list[Object]:
        return [*self.spec.get("initContainers", []), *self.spec["containers"]]

    @property
    def serves(self) -> bool:
        """Runs until it is stopped."""
        return self.owner["kind"] in ("Deployment", "StatefulSet", "InferenceService")


def pods(objects: list[Object]) -> Iterator[Pod]:
    for one in objects:
        kind, spec = one["kind"], one.get("spec", {})
        templates = []
        if kind in ("Deployment", "StatefulSet", "DaemonSet", "Job"):
            templates = [spec["template"]]
        elif kind == "CronJob":
            templates = [spec["jobTemplate"]["spec"]["template"]]
        elif kind == "TrainingRuntime":
            templates = [job["template"]["spec"]["template"] for job in spec["template"]["spec"]["replicatedJobs"]]
        elif kind == "InferenceService":
            templates = [{"metadata": {"labels": spec["predictor"].get("labels", {})}, "spec": spec["predictor"]}]
        for template in templates:
            yield Pod(one, one["metadata"]["namespace"], template["metadata"]["labels"], template["spec"])


def named(objects: list[Object], kind: str) -> dict[tuple[str, str], Object]:
    return {
        (one["metadata"].get("namespace", ""), one["metadata"]["name"]): one for one in objects if one["kind"] == kind
    }


def selects(selector: Object, labels: dict[str, str]) -> bool:
    return set(selector.get("matchLabels", {}).items()) <= set(labels.items())


def ports(container: Object) -> set[Any]:
    ports = container.get("ports", [])
    return {port["containerPort"] for port in ports} | {port["name"] for port in ports if "name" in port}
