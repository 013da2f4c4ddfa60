"""Secrets and volume claims that a profile names. A pod whose secret or claim is missing hangs without an error, so
they are checked before submission.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pipelines.profile import Profile
from segmodels.errors import InputError

KUBEFLOW = "kubeflow"
"""Namespace of the runs on single-user Kubeflow."""


def require_objects(profile: Profile, namespace: str) -> None:
    """Check that every secret and claim exists, and that a secret has its keys. Without access to Kubernetes (a
    kubeconfig, or a pod's service account) print that they were not checked.

    Raises:
        InputError: a secret, a key in it or a claim is missing.
    """
    secrets = [secret for secret in profile.secrets if not secret.optional]
    claims = list(dict.fromkeys(volume.claim for volume in profile.volumes))
    named = [*(f"secret {secret.name}" for secret in secrets), *(f"volume claim {claim}" for claim in claims)]
    if not named:
        return
    from kubernetes.client import CoreV1Api
    from urllib3.exceptions import HTTPError

    namespace = namespace or KUBEFLOW
    if not _configured():
        print(f"not checked in namespace {namespace}, because there is no kubeconfig: {', '.join(named)}")
        return
    api = CoreV1Api()
    try:
        for secret in secrets:
            keys = " ".join(f"--from-literal={key}=..." for key in secret.environment)
            create = f"create it with `kubectl -n {namespace} create secret generic {secret.name} {keys}`"
            found = _found(api.read_namespaced_secret, "secret", secret.name, namespace, create)
            if found and (missing := [key for key in secret.environment if not (found.data or {}).get(key)]):
                raise InputError(
                    f"secret {secret.name!r} in namespace {namespace!r} has no value for {', '.join(missing)}: add it"
                    " to the secret, or correct the profile"
                )
        for claim in claims:
            create = "create that PersistentVolumeClaim, or correct volumes in the profile"
            _found(api.read_namespaced_persistent_volume_claim, "volume claim", claim, namespace, create)
    except HTTPError as error:
        reason = f"Kubernetes does not answer ({type(error).__name__})"
        print(f"not checked in namespace {namespace}, because {reason}: {', '.join(named)}")


def _found(read: Callable[..., Any], kind: str, name: str, namespace: str, create: str) -> Any:
    """The object; None, with a line, where Kubernetes does not let it be read."""
    from kubernetes.client import ApiException

    try:
        return read(name, namespace, _request_timeout=15)
    except ApiException as error:
        if error.status == 404:
            raise InputError(f"{kind} {name!r} is not in namespace {namespace!r}: {create}") from None
        answer = f"Kubernetes answers {error.status} {error.reason}"
        print(f"{kind} {name} in namespace {namespace} not checked, because {answer}")
        return None


def _configured() -> bool:
    from kubernetes import config
    from kubernetes.config import ConfigException

    for load in (config.load_incluster_config, config.load_kube_config):
        try:
            load()
        except (ConfigException, OSError):
            continue
        return True
    return False
