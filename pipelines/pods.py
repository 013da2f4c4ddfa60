"""Resources and nodes of the steps' pods, as a profile gives them."""

from __future__ import annotations

from itertools import product
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import AfterValidator, Field, create_model, model_validator

from components.params.checking import Params
from components.steps import CLUSTER_STEPS, MONITORING_STEPS, STEPS
from pipelines.kubernetes_values import Cpu, LabelKey, LabelValue, Memory, amount
from segmodels.suggest import nearest

TASKS = tuple(step.name for step in (*STEPS, *CLUSTER_STEPS, *MONITORING_STEPS))
"""Steps that a profile may give values of their own."""


def _known_step(name: str) -> str:
    if name not in TASKS:
        raise nearest("step", name, TASKS)
    return name


StepName = Annotated[str, AfterValidator(_known_step)]


class Toleration(Params):
    """Of a taint of nodes. An empty key with ``Exists`` is for every taint."""

    key: LabelKey | Literal[""]
    operator: Literal["Equal", "Exists"] = "Exists"
    value: LabelValue | None = None
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = None

    @model_validator(mode="after")
    def _as_kubernetes_takes_it(self) -> Toleration:
        if self.operator == "Exists" and self.value:
            raise ValueError(f"value is {self.value!r}, expected none with operator Exists: set operator to Equal")
        if self.operator == "Equal" and not self.key:
            raise ValueError("key is empty, expected the taint's key with operator Equal")
        return self


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
    node_selector: dict[LabelKey, LabelValue] = Field(default_factory=dict)
    tolerations: list[Toleration] = Field(default_factory=list)


class Pods(Params):
    """``default`` is for every step; a step's own values, under its name, replace those of ``default``."""

    default: Pod = Pod()

    def of(self, step: str) -> Pod:
        """The values of a step, with those of ``default`` where it has none."""
        own: Pod = getattr(self, f"{step}_")
        return Pod(**(self.default.model_dump(exclude_unset=True) | own.model_dump(exclude_unset=True)))

    @model_validator(mode="after")
    def _requests_within_limits(self) -> Pods:
        for step, kind in product(TASKS, ("cpu", "memory")):
            pod = self.of(step)
            request, limit = getattr(pod, f"{kind}_request"), getattr(pod, f"{kind}_limit")
            if request and limit and amount(request) > amount(limit):
                raise ValueError(
                    f"{kind}_request of {step} is {request}, expected at most its {kind}_limit {limit} (of its own"
                    " values, and those of default where it has none)"
                )
        return self


if TYPE_CHECKING:
    StepPods = Pods
else:
    StepPods = create_model(
        "StepPods", __base__=Pods, **{f"{name}_": (Pod, Field(Pod(), alias=name)) for name in TASKS}
    )
