"""Environment profiles: where and with what the steps run. infra/profiles/<name>.yaml."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path
from typing import Any

from pydantic import Field, field_validator, model_validator

from components.environment import Environment, variable
from components.params.checking import Params, checked
from components.params.yaml_files import read_yaml
from pipelines.kubernetes_values import (
    ClaimName,
    MountPath,
    ObjectName,
    ResourceName,
    SecretKey,
    VariableName,
)
from pipelines.pods import TASKS, StepName, StepPods
from segmodels.addresses import holds_credentials
from segmodels.errors import InputError

PROFILES = Path("infra/profiles")

WORKING_FOLDER = "/work/data"
"""The image's working folder, with downloads and checkpoints."""
SHARED_MEMORY = "/dev/shm"

CREDENTIAL = re.compile(r"KEY|SECRET|TOKEN|PASSWORD|CREDENTIAL|WEBHOOK", re.IGNORECASE)
OWN_VARIABLES = {variable(field.name) for field in fields(Environment)} - {
    variable("webhook_url"),
    variable("code_revision"),
}
"""Environment variables that the pipeline sets itself."""


class Secret(Params):
    """Keys of a Kubernetes secret as environment variables of the steps."""

    name: ObjectName
    environment: dict[SecretKey, VariableName] = Field(
        min_length=1, description="key in the secret -> environment variable"
    )
    optional: bool = Field(False, description="whether the steps start without it")
    steps: list[StepName] | None = Field(None, description="steps that get the variables; None is every step")


class Volume(Params):
    """A PersistentVolumeClaim that is mounted in every step, for datasets on a volume (ingest.source folder)."""

    claim: ClaimName
    path: MountPath


class Gpu(Params):
    """GPUs of the steps train and evaluate; ``--set gpu_type`` and ``gpu_count`` ask for others."""

    type: ResourceName = Field("nvidia.com/gpu", description="Kubernetes resource")
    count: int = Field(
        1,
        ge=0,
        description=(
            "GPUs per pod. With more than one, or more than one node, training runs as a TrainJob with this many GPUs"
            " in each pod."
        ),
    )


class Retries(Params):
    """New pods for a step whose pod failed, was deleted or lost its node.

    Which of these Argo Workflows retries depends on its configuration: infra/README.md, "Retries". Transient errors of
    networks and servers are retried inside the pod and do not count.
    """

    count: int = Field(2, ge=0, lt=2**31)
    seconds: int = Field(30, ge=0, lt=2**31, description="pause before the first retry, doubled each time")
    hours: int = Field(
        720,
        ge=1,
        le=1_000_000,
        description=(
            "time from the start of a step's first pod in which it may be retried; a retried pod is stopped at its end,"
            " so it must be longer than any training"
        ),
    )


class Profile(Params):
    """Where and with what the steps run."""

    environment: dict[VariableName, str] = Field(
        default_factory=dict, description="environment variables of every step, for example MLFLOW_TRACKING_URI"
    )
    secrets: list[Secret] = Field(default_factory=list)
    image_pull_secrets: list[ObjectName] = Field(default_factory=list)
    volumes: list[Volume] = Field(default_factory=list)
    run_as_user: int | None = Field(
        None, gt=0, lt=2**31, description="numeric user of the pods; None leaves it to the image, which is not root"
    )
    service_account: ObjectName | None = Field(
        None, description="service account of the pods; None leaves it to Kubeflow"
    )
    retries: Retries = Retries()
    gpu: Gpu | None = None
    nodes: int = Field(
        1, ge=1, description="pods that share a training; with several, the train step starts a Kubeflow TrainJob"
    )
    parts: int = Field(
        1,
        ge=1,
        le=100,
        description=(
            "pods that share validate, and then preprocess: each opens some of the samples, and a further pod puts"
            " their results together. The shards are the same for any number"
        ),
    )
    checkpoints: str | None = Field(
        None,
        pattern=r"^s3://[^/\s]+(/\S*)?$",
        description="where checkpoints are kept, so that a new pod resumes from them",
    )
    ui: str | None = Field(
        None, pattern="^https?://", description="address of the Kubeflow Pipelines UI, for the link in the notification"
    )
    pods: StepPods = StepPods()

    @field_validator("environment")
    @classmethod
    def _no_credentials(cls, environment: dict[str, str]) -> dict[str, str]:
        for name, value in environment.items():
            if CREDENTIAL.search(name) or holds_credentials(value):
                raise ValueError(
                    f"{name} looks like a credential: put it into a Kubernetes secret and list that under secrets"
                )
        return environment

    @field_validator("checkpoints", "ui")
    @classmethod
    def _no_user(cls, address: str | None) -> str | None:
        if address and (holds_credentials(address) or "@" in address):
            raise ValueError("the address holds a user, a password or a token, expected none: put it into a secret")
        return address

    @property
    def shared_training(self) -> bool:
        """Whether several processes share a training."""
        return self.nodes > 1 or (self.gpu is not None and self.gpu.count > 1)

    @model_validator(mode="after")
    def _store_for_shared_trainings(self) -> Profile:
        if self.shared_training and not self.checkpoints:
            raise ValueError(
                "checkpoints is missing: with several nodes or GPUs (nodes, gpu.count) the pods of a training exchange"
                " data through that object store; give s3://bucket/prefix"
            )
        return self

    @model_validator(mode="after")
    def _one_value_each(self) -> Profile:
        names = [*self.environment, *(variable for secret in self.secrets for variable in secret.environment.values())]
        if twice := {name for name in names if names.count(name) > 1}:
            raise ValueError(f"{', '.join(sorted(twice))} is set twice in environment and secrets: remove one of them")
        if own := OWN_VARIABLES.intersection(names):
            raise ValueError(
                f"{', '.join(sorted(own))} is set in environment or secrets, expected in neither: the pipeline sets it"
                " itself, from the profile's keys checkpoints and ui, the image and the run"
            )
        return self

    @model_validator(mode="after")
    def _one_volume_at_each_path(self) -> Profile:
        pods = [self.pods.of(step) for step in TASKS]
        paths = [volume.path.rstrip("/") for volume in self.volumes]
        paths += [WORKING_FOLDER] * any(pod.scratch for pod in pods)
        paths += [SHARED_MEMORY] * any(pod.shared_memory for pod in pods)
        if twice := {path for path in paths if paths.count(path) > 1}:
            raise ValueError(
                f"two volumes have the path {', '.join(sorted(twice))}, expected one each ({WORKING_FOLDER} is that of"
                f" scratch, {SHARED_MEMORY} that of shared_memory): give another path"
            )
        return self


def shape(profile: Profile) -> dict[str, Any]:
    """What a run may set beside the pipeline's parameters, with the profile's values. A compiled pipeline has no such
    parameters: its tasks follow from them. (In a task's resources Kubeflow's driver would take a number, and a field
    left empty, for no GPU: resolvePodSpecInputRuntimeParameter in backend/src/v2/driver/resolve.go of 2.17.)
    """
    gpu = profile.gpu
    return {"parts": profile.parts, "gpu_type": gpu.type if gpu else "", "gpu_count": gpu.count if gpu else 0}


def shaped(profile: Profile, values: dict[str, Any]) -> Profile:
    """The profile with the values of its ``shape``, which leave ``values``.

    Raises:
        InputError: a value is not possible.
    """
    wanted = {name: values.pop(name) for name in shape(profile)}
    if wanted == shape(profile):
        return profile
    content: dict[str, Any] = {"parts": wanted["parts"]}
    if profile.gpu:
        content["gpu"] = {"type": wanted["gpu_type"], "count": wanted["gpu_count"]}
    elif wanted["gpu_count"] or wanted["gpu_type"]:
        raise InputError(
            f"gpu_count is {wanted['gpu_count']} and gpu_type {wanted['gpu_type']!r}, expected neither, as the profile"
            " has no GPUs: choose another --profile, or add the key gpu to this one"
        )
    content = profile.model_dump(by_alias=True, exclude_unset=True) | content
    return checked(Profile, content, "with parts, gpu_type and gpu_count, the profile")


def load_profile(name: str) -> Profile:
    """Read the profile of that name, or in that file.

    Raises:
        InputError: the file does not exist, is not YAML, or has an unknown key or an impossible value.
    """
    path = profile_path(name)
    known = ", ".join(sorted(file.stem for file in PROFILES.glob("*.yaml"))) or "none"
    content = read_yaml(path, f"choose one of infra/profiles ({known}) in the repository's root, or give a file")
    return checked(Profile, {} if content is None else content, str(path))


def profile_path(name: str) -> Path:
    """The file of the profile of that name, or in that file."""
    return Path(name) if name.endswith((".yaml", ".yml")) else PROFILES / f"{name}.yaml"
