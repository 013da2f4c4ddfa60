"""The Workflow as the TrainJob's owner: Kubernetes removes the TrainJob with it, even if the step had no time to.

Every attempt of a step belongs to the same Workflow, so a retry still finds the TrainJob that a lost pod left.
"""

from __future__ import annotations

import os
from typing import Any

POD = "KFP_POD_NAME"
"""Kubeflow sets it in every step."""


def own_by_workflow(client: Any, name: str) -> None:
    """Make the Workflow that this pod belongs to the owner of TrainJob ``name``.

    A cluster that does not allow it does not fail the training: the reason is printed.

    Args:
        client: a kubeflow.trainer.TrainerClient.
    """
    if not (pod := os.environ.get(POD)):
        return
    from kubeflow.trainer.constants import constants
    from kubernetes.client import ApiException
    from urllib3.exceptions import HTTPError

    backend = client.backend
    place = (constants.GROUP, constants.VERSION, backend.namespace, constants.TRAINJOB_PLURAL)
    try:
        owners = backend.core_api.read_namespaced_pod(pod, backend.namespace).metadata.owner_references or []
        found = [
            {"apiVersion": owner.api_version, "kind": owner.kind, "name": owner.name, "uid": owner.uid}
            for owner in owners
            if owner.kind == "Workflow"
        ]
        if found:
            backend.custom_api.patch_namespaced_custom_object(
                *place, name=name, body={"metadata": {"ownerReferences": found}}
            )
            return
        reason = f"pod {pod} belongs to none"
    except (ApiException, HTTPError) as error:
        reason = " ".join(str(getattr(error, "reason", None) or error).split())
    print(f"TrainJob {name} is not owned by a Workflow ({reason}): it stays if this pod is killed", flush=True)
