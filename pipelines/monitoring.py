"""The monitoring pipeline: look whether what is served has drifted, and train anew if it has."""

from collections.abc import Mapping
from typing import Any

from kfp import dsl

from components.kubeflow import components as steps
from pipelines.placement import Placement
from pipelines.profile import Image, Profile
from pipelines.training import reported, train_what_is_new, with_parameters

NAME = "segmentation-monitoring"

PARAMETERS: dict[str, Any] = {"served_log": "/logs", "drift_psi": 0.2, "drift_hours": 24.0}
"""Beside those of the training: options ``log``, ``psi`` and ``hours`` of ``python -m components drift``."""


def monitoring_pipeline(default: Mapping[str, Any], profile: Profile, image: Image) -> Any:
    """The pipeline; arguments as those of ``training_pipeline``, ``default`` with ``PARAMETERS``.

    The champion's log lies on a volume that the profile mounts. After a drift the training decides as ever whether
    anything is new to be trained on, unless ``skip_unchanged`` is false.
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

    return with_parameters(NAME, "Look for drift of what is served; if there is, train", default, tasks)
