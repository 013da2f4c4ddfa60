"""Environment profiles: where and with what the steps run. infra/profiles/<name>.yaml, and beside it the image that is
pinned for it.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import AfterValidator, Field, create_model, field_validator, model_validator

from components.params.checking import Params, checked
from components.params.yaml_files import read_yaml
from components.steps import CLUSTER_STEPS, MONITORING_STEPS, STEPS
from components.tracking.lineage import code_revision
from segmodels.addresses import holds_credentials
from segmodels.errors import InputError
from segmodels.files import parse_json
from segmodels.suggest import nearest

PROFILES = Path("infra/profiles")

# what both Kubernetes and kfp take: Kubernetes knows no K, kfp no fractions of memory
Cpu = Annotated[str, Field(pattern=r"^(\d+(\.\d+)?|\d+m)$")]
Memory = Annotated[str, Field(pattern=r"^\d+([KMGTPE]i|[MGTPE])?$")]
KubernetesName = Annotated[str, Field(pattern=r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$", max_length=253)]
TASKS = tuple(step.name for step in (*STEPS, *CLUSTER_STEPS, *MONITORING_STEPS))


def _known_step(name: str) -> str:
    if name not in TASKS:
        raise nearest("step", name, TASKS)
    return name


StepName = Annotated[str, AfterValidator(_known_step)]
CREDENTIAL = re.compile(r"KEY|SECRET|TOKEN|PASSWORD|CREDENTIAL", re.IGNORECASE)


class Secret(Params):
    """Keys of a Kubernetes secret as environment variables of the steps."""

    name: KubernetesName
    environment: dict[str, str] = Field(min_length=1, description="key in the secret -> environment variable")
    optional: bool = Field(False, description="whether the steps start without it")
    steps: list[StepName] | None = Field(None, description="steps that get the variables; None is every step")


class Toleration(Params):
    key: str
    operator: Literal["Equal", "Exists"] = "Exists"
    value: str | None = None
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = None


class Volume(Params):
    """A PersistentVolumeClaim that is mounted in every step, for datasets on a volume (ingest.source folder)."""

    claim: KubernetesName
    path: str = Field(pattern="^/")


class Gpu(Params):
    """GPUs of the steps train and evaluate; a run may ask for others (gpu_type, gpu_count)."""

    type: str = Field("nvidia.com/gpu", description="Kubernetes resource")
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

    count: int = Field(2, ge=0)
    seconds: int = Field(30, ge=0, description="pause before the first retry, doubled each time")
    hours: int = Field(
        720,
        ge=1,
        description=(
            "time from the start of a step's first pod in which it may be retried; a retried pod is stopped at its end,"
            " so it must be longer than any training"
        ),
    )


class Pod(Params):
    """Resources and node of a step's pod."""

    cpu_request: Cpu | None = None
    cpu_limit: Cpu | None = None
    memory_request: Memory | None = None
    memory_limit: Memory | None = None
    shared_memory: Memory | None = Field(
        None, description="size of /dev/shm, through which the GPUs of a node may talk; counts as memory"
    )
    scratch: Memory | None = Field(
        None, description="size of the working folder on the node's disk: downloads, unpacked datasets, checkpoints"
    )
    node_selector: dict[str, str] = Field(default_factory=dict)
    tolerations: list[Toleration] = Field(default_factory=list)


class Pods(Params):
    """``default`` is for every step; a step's own values, under its name, replace those of ``default``."""

    default: Pod = Pod()

    def of(self, step: str) -> Pod:
        own: Pod = getattr(self, f"{step}_")
        return Pod(**(self.default.model_dump(exclude_unset=True) | own.model_dump(exclude_unset=True)))


if TYPE_CHECKING:
    StepPods = Pods
else:
    StepPods = create_model(
        "StepPods", __base__=Pods, **{f"{name}_": (Pod, Field(Pod(), alias=name)) for name in TASKS}
    )


class Profile(Params):
    environment: dict[str, str] = Field(
        default_factory=dict, description="environment variables of every step, for example MLFLOW_TRACKING_URI"
    )
    secrets: list[Secret] = Field(default_factory=list)
    image_pull_secrets: list[KubernetesName] = Field(default_factory=list)
    volumes: list[Volume] = Field(default_factory=list)
    run_as_user: int | None = Field(
        None, gt=0, description="numeric user of the pods; None leaves it to the image, which is not root"
    )
    service_account: KubernetesName | None = Field(
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
        None, pattern="^s3://[^/]+", description="where checkpoints are kept, so that a new pod resumes from them"
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
        return self


@dataclass(frozen=True)
class Image:
    """A container image.

    Attributes:
        reference: name by which Kubernetes or Docker pulls it.
        code_revision: Git commit that it was built from.
    """

    reference: str
    code_revision: str


def shaped(profile: Profile, values: dict[str, Any]) -> Profile:
    """The profile with those values of a run that decide the pipeline's shape: ``parts``, which leaves ``values``
    because a compiled pipeline has no such parameter, and the GPUs, whose number makes the training a TrainJob.

    Raises:
        InputError: a value is not possible.
    """
    shape: dict[str, Any] = {"parts": values.pop("parts", profile.parts)}
    if profile.gpu:
        shape["gpu"] = {"type": values["gpu_type"], "count": int(values["gpu_count"])}
    if all(getattr(profile, name) == value for name, value in shape.items()):
        return profile
    content = profile.model_dump(by_alias=True, exclude_unset=True) | shape
    return checked(Profile, content, "with parts, gpu_type and gpu_count, the profile")


def load_profile(name: str) -> Profile:
    """Read the profile of that name, or in that file.

    Raises:
        InputError: the file does not exist, is not YAML, or has an unknown key or an impossible value.
    """
    path = _path(name)
    known = ", ".join(sorted(file.stem for file in PROFILES.glob("*.yaml"))) or "none"
    content = read_yaml(path, f"choose one of infra/profiles ({known}) in the repository's root, or give a file")
    return checked(Profile, content or {}, str(path))


def pinned_image(profile: str, reference: str | None = None, *, allow_tag: bool = False) -> Image:
    """The image that was pinned for a profile by ``make image`` or ``make push``, or ``reference`` in its place.

    Raises:
        InputError: none is pinned, or it is named by a tag, which may stand for another image tomorrow.
    """
    if reference is None:
        lock = lock_file(profile)
        try:
            pinned = parse_json(lock.read_bytes(), {"image": str, "code_revision": str})
            image = Image(pinned["image"], pinned["code_revision"])
        except FileNotFoundError:
            make = (
                "make image"
                if lock.stem.startswith("local")
                else f"make push REGISTRY=... BASE_IMAGE=... VARIANT=cpu|gpu PROFILE={_path(profile).stem}"
            )
            raise InputError(
                f"no image is pinned for profile {profile!r} ({lock} does not exist): run `{make}`, or give --image"
            ) from None
        except ValueError as error:
            raise InputError(
                f"{lock} is damaged ({error}), expected JSON with image and code_revision: pin the image again"
            ) from None
    else:
        image = Image(reference, code_revision())
    if not allow_tag and not re.search(r"@sha256:[0-9a-f]{64}$", image.reference):
        why = "Kubeflow's cache assumes that equal names are equal images"
        raise InputError(
            f"image {image.reference} is named by a tag, expected name@sha256:... ({why}): pin a digest, or give"
            " --allow-tag"
        )
    return image


def pin_image(profile: str, image: Image) -> Path:
    """Pin the image for ``pinned_image``; the file that holds it."""
    lock = lock_file(profile)
    lock.write_text(
        json.dumps({"image": image.reference, "code_revision": image.code_revision}, indent=2) + "\n", encoding="utf-8"
    )
    return lock


def lock_file(profile: str) -> Path:
    return _path(profile).with_suffix(".lock.json")


def _path(name: str) -> Path:
    return Path(name) if name.endswith((".yaml", ".yml")) else PROFILES / f"{name}.yaml"
