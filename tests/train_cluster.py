"""A cluster with Kubeflow Trainer for tests: the SDK's own Kubernetes backend, over an API server in this process whose
pods are processes.

What the SDK would send is kept and checked against Trainer's schema; Trainer's part (PET_* variables, the state of the
TrainJob) is played. The SDK's local process backend takes Python functions only, its container backend needs a Docker
engine.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml
from kubeflow.trainer import TrainerClient
from kubeflow.trainer.backends.kubernetes.backend import KubernetesBackend
from kubeflow_trainer_api import models
from kubernetes import client
from ports import free_port

RUNS = Path(__file__).parents[1] / "infra" / "kustomize" / "runs"
RUNTIME = RUNS / "training-runtime.yaml"


class Answer:
    """Of a call with async_req."""

    def __init__(self, content: Any) -> None:
        self.content = content

    def get(self, _timeout: float) -> Any:
        if isinstance(self.content, Exception):
            raise self.content
        return self.content


class Cluster:
    """The API server, and Trainer.

    Attributes:
        jobs: name -> TrainJob as it was sent.
        instead: a command that pods run in place of theirs.
        refusal: status that a creation is answered with; refusal_of_owners: that a new owner is.
        away: so many of the next questions are not answered; away_once_started: from the creation of a TrainJob on.
        pending: pods find no place.
        deleted: names, in order.
    """

    def __init__(self, folder: Path, environment: dict[str, str]) -> None:
        self.folder, self.environment = folder, environment
        self.jobs: dict[str, dict[str, Any]] = {}
        self._ports: dict[str, int] = {}
        self.pods: dict[str, list[subprocess.Popen[bytes]]] = {}
        self.deleted: list[str] = []
        self.instead: Sequence[str] = ()
        self.refusal = self.refusal_of_owners = self.away = self.away_once_started = 0
        self.pending = False
        self._rights = {
            (verb, resource)
            for one in yaml.safe_load_all((RUNS / "rbac.yaml").read_text())
            for rule in one.get("rules", [])
            for verb in rule["verbs"]
            for resource in rule["resources"]
        }

    def authorize(self, verb: str, resource: str) -> None:
        """The step has the rights that infra/ gives it, no others."""
        if (verb, resource) not in self._rights:
            raise client.ApiException(403, f"Forbidden: cannot {verb} {resource}")

    def trainer_client(self) -> TrainerClient:
        backend = _Backend.__new__(_Backend)
        backend.cluster = self
        backend.custom_api = backend.core_api = self
        backend.namespace = "kubeflow"
        made = TrainerClient.__new__(TrainerClient)
        made.backend = backend
        return made

    # --- TrainJobs and runtimes

    def create_namespaced_custom_object(
        self, _group: str, _version: str, namespace: str, plural: str, body: dict[str, Any]
    ) -> None:
        self.authorize("create", plural)
        if self.refusal:
            raise client.ApiException(self.refusal, "no")
        body = yaml.safe_load(yaml.safe_dump(body))
        assert models.TrainerV1alpha1TrainJob.from_dict(body).to_dict() == body, "a field that Trainer does not know"
        name = body["metadata"]["name"]
        body["metadata"] |= {"namespace": namespace, "creationTimestamp": datetime.now(UTC).isoformat()}
        self.jobs[name] = body
        self.away = self.away_once_started
        self.pods[name] = (
            [] if self.pending else [self._pod(body, node) for node in range(body["spec"]["trainer"]["numNodes"])]
        )

    def get_namespaced_custom_object(
        self, _group: str, _version: str, _namespace: str, plural: str, name: str, async_req: bool
    ) -> Answer:
        assert async_req
        self.authorize("get", plural)
        if plural == "trainingruntimes":
            return Answer(yaml.safe_load(RUNTIME.read_text()))
        if self.away:
            self.away -= 1
            return Answer(client.ApiException(503, "away"))
        if name not in self.jobs:
            return Answer(client.ApiException(404, "Not Found"))
        codes = [pod.poll() for pod in self.pods[name]]
        ended = "Failed" if any(codes) else "Complete" if codes and all(code == 0 for code in codes) else None
        condition = {
            "type": ended,
            "status": "True",
            "reason": "x",
            "message": "x",
            "lastTransitionTime": datetime.now(UTC).isoformat(),
        }
        return Answer(self.jobs[name] | ({"status": {"conditions": [condition]}} if ended else {}))

    def delete_namespaced_custom_object(self, *_: str, name: str) -> None:
        self.authorize("delete", "trainjobs")
        if name not in self.jobs:
            raise client.ApiException(404, "Not Found")
        for pod in self.pods[name]:
            pod.terminate()
        for pod in self.pods[name]:
            pod.wait(60)
        self.deleted.append(name)
        del self.jobs[name]

    def patch_namespaced_custom_object(
        self, _group: str, _version: str, _namespace: str, plural: str, name: str, body: dict[str, Any]
    ) -> None:
        self.authorize("patch", plural)
        if self.refusal_of_owners:
            raise client.ApiException(self.refusal_of_owners, "Forbidden")
        patched = self.jobs[name] | {"metadata": self.jobs[name]["metadata"] | body["metadata"]}
        fields = models.TrainerV1alpha1TrainJob.from_dict(patched).to_dict()["metadata"]["ownerReferences"]
        assert fields == patched["metadata"]["ownerReferences"], "a field that Kubernetes does not know"
        self.jobs[name] = patched

    # --- pods

    def read_namespaced_pod(self, name: str, _namespace: str) -> client.V1Pod:
        """The step's own."""
        self.authorize("get", "pods")
        owner = client.V1OwnerReference(
            "argoproj.io/v1alpha1", kind="Workflow", name="training-x7", uid="4f", controller=True
        )
        return client.V1Pod(metadata=client.V1ObjectMeta(name=name, owner_references=[owner]))

    def _pod(self, job: dict[str, Any], node: int) -> subprocess.Popen[bytes]:
        trainer, name = job["spec"]["trainer"], job["metadata"]["name"]
        folder = self.folder / name / str(node)
        folder.mkdir(parents=True, exist_ok=True)
        port = self._ports.setdefault(name, free_port())
        places = {
            "PET_NNODES": str(trainer["numNodes"]),
            "PET_NODE_RANK": str(node),
            "PET_MASTER_ADDR": "127.0.0.1",
            "PET_MASTER_PORT": str(port),
        }
        own = {key: value for key, value in os.environ.items() if not key.startswith(("SEGMODELS_", "AWS_", "MLFLOW_"))}
        given = {env["name"]: env["value"] for env in trainer.get("env", [])}
        assert trainer["command"][0] == "python"
        command = list(self.instead) or [sys.executable, *trainer["command"][1:], *trainer["args"]]
        with (folder / "log").open("wb") as log:
            return subprocess.Popen(
                command,
                cwd=folder,
                env={**own, **given, **self.environment, **places},
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def list_namespaced_pod(self, _namespace: str, label_selector: str, async_req: bool) -> Answer:
        assert async_req
        self.authorize("list", "pods")
        name = label_selector.split("=", 1)[1].split(",")[0]
        phases = {None: "Running", 0: "Succeeded"}
        pods = [
            client.V1Pod(
                metadata=client.V1ObjectMeta(
                    name=f"{name}-node-0-{node}",
                    creation_timestamp=datetime.now(UTC),
                    labels={
                        "jobset.sigs.k8s.io/replicatedjob-name": "node",
                        "batch.kubernetes.io/job-completion-index": str(node),
                    },
                ),
                spec=client.V1PodSpec(containers=[client.V1Container(name="node", image="x")]),
                status=client.V1PodStatus(phase=phases.get(pod.poll(), "Failed")),
            )
            for node, pod in enumerate(self.pods.get(name, []))
        ]
        return Answer(client.V1PodList(items=pods))

    def list_namespaced_event(self, namespace: str, async_req: bool) -> Answer:
        self.authorize("list", "events")
        about = [client.V1ObjectReference(kind="TrainJob", name=name) for name in self.jobs]
        now = datetime.now(UTC)
        events = [
            client.CoreV1Event(
                involved_object=one,
                metadata=client.V1ObjectMeta(),
                message="0/3 nodes: no GPU",
                reason="FailedScheduling",
                first_timestamp=now,
            )
            for one in about
        ]
        return Answer(client.CoreV1EventList(items=events))


class _Backend(KubernetesBackend):
    cluster: Cluster

    def _read_pod_logs(self, pod_name: str, container_name: str, follow: bool) -> Iterator[str]:
        assert container_name == "node"
        self.cluster.authorize("get", "pods/log")
        name, _, node = pod_name.rpartition("-node-0-")
        pod = self.cluster.pods[name][int(node)]
        if follow:
            pod.wait(120)
        yield from (self.cluster.folder / name / node / "log").read_text().splitlines()
