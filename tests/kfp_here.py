"""The pipeline on kfp.local with one thing replaced: the command line of a container runs in this process, on the same
files.

with cluster_here(folder) as cluster:
    outputs = cluster.run("epochs=2")
"""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Lock
from typing import Any

import pytest
from kfp import local
from kfp.local.orchestrator.enhanced_dag_orchestrator import ConditionEvaluator
from small_pipeline import use_local_store

from components.params.reading import load_params
from pipelines.images import Image
from pipelines.local import output_kept, resolve_named_outputs
from pipelines.monitoring import PARAMETERS, monitoring_pipeline
from pipelines.parameters import default_values, given_values
from pipelines.profile import Profile, Retries, shape, shaped
from pipelines.training import training_pipeline

DIGEST = "sha256:" + "0" * 64
REVISION = "1" * 40

SMALL = """
ingest: {source: digits, digits: {train: 24, val: 6, test: 6, size: 32, seed: 0}}
validate: {workers: 1}
preprocess: {workers: 1}
train: {model: unet, options: {widths: [4, 8]}, epochs: 1, batch_size: 8,
        lr: 0.003, schedule: constant, augment: {scale: [1.0, 1.0]}}
evaluate: {overlays: 1}
register: {name: tiny, minimum: 0.0}
"""


class Cluster:
    """A place to run the pipeline. ``ran`` are the steps whose command lines ran."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.ran: list[str] = []
        self.runs = 0
        self.unavailable: set[str] = set()  # steps whose containers fail to start
        self._turn = Lock()
        (folder / "params.yaml").write_text(SMALL)

    def run(self, *assignments: str, revision: str = REVISION, monitoring: bool = False) -> Path:
        """Run the pipeline, or that of the monitoring; the folder of its outputs."""
        self.ran.clear()
        self.runs += 1
        profile = Profile(retries=Retries(count=0))
        values = default_values(load_params(self.folder / "params.yaml")) | (PARAMETERS if monitoring else {})
        values |= shape(profile)
        values |= given_values(assignments, values)
        profile = shaped(profile, values)
        root = self.folder / "outputs"
        before = set(root.glob("*"))
        environment = {"SEGMODELS_PIPELINE_RUN": f"run-{self.runs}", "SEGMODELS_CODE_REVISION": revision}
        local.init(local.DockerRunner(environment=environment), pipeline_root=str(root))
        build = monitoring_pipeline if monitoring else training_pipeline
        pipeline = build(values, profile, Image(f"registry.example/segmodels@{DIGEST}", revision))
        with output_kept():
            pipeline(**values)
        (outputs,) = set(root.glob(f"{pipeline.name}-*")) - before
        return outputs

    def container(self, *, command: list[str], **arguments: Any) -> int:
        """Stands for kfp's ``run_docker_container``; the exit code. Parts of a step, which kfp starts in threads, take
        turns, because a process has one environment.
        """
        with self._turn:
            return self._run(command, **arguments)

    def _run(self, command: list[str], **arguments: Any) -> int:
        from components.__main__ import main

        assert command[:3] == ["python", "-m", "components"]
        self.ran.append(command[3])
        if command[3] in self.unavailable:
            return 125
        before = dict(os.environ)
        os.environ.update(arguments.get("environment", {}))
        try:
            return main(self._final_status(command[3:]) if command[3] == "notify" else command[3:])
        finally:
            os.environ.clear()
            os.environ.update(before)

    def _final_status(self, command: list[str]) -> list[str]:
        """The command of notify with the status that a server gives, in ML Metadata's words: the state stays RUNNING
        unless the last step of all ran (v2/metadata/client.go of KFP 2.17, UpdateDAGExecutionsState), and the error is
        empty.
        """
        at = command.index("--status") + 1
        here = json.loads(command[at])
        succeeded = "COMPLETE" if "register" in self.ran else "RUNNING"
        status = {"state": succeeded if here["state"] == "SUCCEEDED" else "FAILED", "error": {}}
        return [*command[:at], json.dumps({**here, **status}), *command[at + 1 :]]


class DockerClient:
    """What kfp asks Docker for before it runs a container."""

    def info(self) -> dict[str, Any]:
        return {}

    def close(self) -> None:
        pass


@contextmanager
def cluster_here(cluster: Cluster) -> Iterator[None]:
    """What kfp asks of Docker goes to ``cluster`` while the block runs."""
    import docker
    from kfp.local import docker_task_handler

    folder = cluster.folder
    with pytest.MonkeyPatch.context() as patch:
        use_local_store(folder, patch)
        patch.setattr(docker, "from_env", DockerClient)
        patch.setattr(docker_task_handler, "run_docker_container", cluster.container)
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder / 'mlflow.db'}")
        patch.setattr(ConditionEvaluator, "_resolve_pipeline_channel", ConditionEvaluator._resolve_pipeline_channel)
        resolve_named_outputs()
        yield


def described(outputs: Path, step: str) -> dict[str, Any]:
    """Artifact -> metadata, from what the step told Kubeflow."""
    artifacts = json.loads((outputs / step / "executor_output.json").read_text())["artifacts"]
    return {name: entry["artifacts"][0]["metadata"] for name, entry in artifacts.items()}
