"""The monitoring pipeline: check the served images for drift, and train again if there is any."""

import posixpath
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any

from kfp import dsl

from components.commands.drift import ranges
from components.kubeflow import components as steps
from pipelines.images import Image
from pipelines.placement import Placement
from pipelines.profile import Profile
from pipelines.training import reported, train_what_is_new, with_parameters
from segmodels.errors import InputError

NAME = "segmentation-monitoring"

PARAMETERS: dict[str, Any] = {"served_log": "/logs", "drift_psi": 0.2, "drift_hours": 24.0}
"""Parameters beside those of the training: options ``log``, ``psi`` and ``hours`` of ``python -m components drift``."""


def check_parameters(values: Mapping[str, Any]) -> None:
    """Raise InputError for a value of one of ``PARAMETERS`` that the task ``drift`` would refuse."""
    if not values["served_log"].strip():
        raise InputError("served_log is empty, expected the folder where a volume of the profile has the server's log")
    for name, (value, right, expected) in ranges(values["drift_psi"], values["drift_hours"]).items():
        if not right:
            raise InputError(f"drift_{name} is {value}, expected {expected}")


def log_without_volume(served_log: str, profile: Profile) -> str:
    """A warning where no volume of the profile holds the folder ``served_log``; empty otherwise. No refusal: a cluster
    may mount volumes of its own in every pod.
    """
    folder = PurePosixPath(posixpath.normpath(served_log.strip()))
    if any(folder.is_relative_to(volume.path) for volume in profile.volumes):
        return ""
    held = ", ".join(volume.path for volume in profile.volumes) or "it has none"
    return (
        f"warning: served_log is {served_log!r}, in no volume of the profile ({held}): where the cluster does not mount"
        " it, the task drift fails; add the volume of the server's log under volumes, or set served_log"
    )


def monitoring_pipeline(default: Mapping[str, Any], profile: Profile, image: Image) -> Any:
    """The pipeline; arguments as those of ``training_pipeline``, ``default`` with ``PARAMETERS``.

    The champion's log lies on a volume that the profile mounts. After a drift, ``changed`` still ends a run that has
    nothing new to train on, unless ``skip_unchanged`` is false.
    """
    place = Placement(profile, image)

    def tasks(given: Mapping[str, Any]) -> None:
        with reported(place, given, "monitoring"):
            watched = place(
                steps.drift(
                    registered_model=given["registered_model"],
                    log=given["served_log"],
                    psi=given["drift_psi"],
                    hours=given["drift_hours"],
                )
            )
            with dsl.If(watched.outputs["drifted"] == "true", name="drifted"):
                train_what_is_new(place, given)

    return with_parameters(NAME, "Check the served images for drift; train if there is any", default, tasks)
