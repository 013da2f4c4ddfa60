"""Kubernetes secrets that a profile names. A pod whose secret is missing hangs without an error, so secrets are checked
before submission.
"""

from __future__ import annotations

from typing import Any

from pipelines.profile import Profile
from segmodels.errors import InputError

KUBEFLOW = "kubeflow"
"""Namespace of the runs on single-user Kubeflow."""


def require_secrets(profile: Profile, namespace: str) -> None:
    """Check that every secret exists and has its keys. Without access to Kubernetes (a kubeconfig, or a pod's service
    account) print that the secrets were not checked.

    Raises:
        InputError: a secret or a key in it is missing.
    """
    needed = [secret for secret in profile.secrets if not secret.optional]
    if not needed:
        return
    from kubernetes.client import ApiException, CoreV1Api
    from urllib3.exceptions import HTTPError

    namespace = namespace or KUBEFLOW
    if not _configured():
        print(
            f"secrets in namespace {namespace} not checked, because there is no kubeconfig:"
            f" {', '.join(secret.name for secret in needed)}"
        )
        return
    for secret in needed:
        try:
            found: Any = CoreV1Api().read_namespaced_secret(secret.name, namespace, _request_timeout=15)
        except ApiException as error:
            if error.status != 404:
                print(
                    f"secret {secret.name} in namespace {namespace} not checked, because Kubernetes answers"
                    f" {error.status} {error.reason}"
                )
                continue
            keys = " ".join(f"--from-literal={key}=..." for key in secret.environment)
            raise InputError(
                f"secret {secret.name!r} is not in namespace {namespace!r}: create it with `kubectl -n {namespace}"
                f" create secret generic {secret.name} {keys}`"
            ) from None
        except HTTPError as error:
            reason = f"Kubernetes does not answer ({type(error).__name__})"
            print(f"secrets in namespace {namespace} not checked, because {reason}")
            return
        if missing := [key for key in secret.environment if not (found.data or {}).get(key)]:
            where = f"secret {secret.name!r} in namespace {namespace!r}"
            raise InputError(
                f"{where} has no value for {', '.join(missing)}: add it to the secret, or correct the profile"
            )


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
