"""Kubernetes secrets that a profile names. A pod whose secret is missing hangs without an error, so secrets are checked
before submission.
"""

from __future__ import annotations

from typing import Any

from pipelines.profile import Profile
from segmodels.errors import InputError

KUBEFLOW = "kubeflow"
"""Namespace of the runs where Kubeflow does not tell users apart."""


def require_secrets(profile: Profile, namespace: str) -> None:
    """Check that every secret is there with its keys, if this machine may look (kubeconfig, or in a pod); else say that
    it was not checked.

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
            f"not checked, for lack of a kubeconfig: secrets {', '.join(secret.name for secret in needed)} in namespace"
            f" {namespace}"
        )
        return
    for secret in needed:
        try:
            found: Any = CoreV1Api().read_namespaced_secret(secret.name, namespace, _request_timeout=15)
        except ApiException as error:
            if error.status != 404:
                print(
                    f"not checked, Kubernetes answers {error.status} {error.reason}: secret {secret.name} in namespace"
                    f" {namespace}"
                )
                continue
            keys = " ".join(f"--from-literal={key}=..." for key in secret.environment)
            raise InputError(
                f"secret {secret.name!r} is not in namespace {namespace!r}: create it with `kubectl -n {namespace}"
                f" create secret generic {secret.name} {keys}`"
            ) from None
        except HTTPError as error:
            print(f"not checked, Kubernetes does not answer ({type(error).__name__}): secrets in namespace {namespace}")
            return
        if missing := [key for key in secret.environment if not (found.data or {}).get(key)]:
            where = f"secret {secret.name!r} in namespace {namespace!r}"
            raise InputError(
                f"{where} has no key {', '.join(missing)}, or nothing in it: fill it in, or correct the profile"
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
