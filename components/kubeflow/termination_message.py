"""Why a step failed, where Kubernetes and Argo Workflows look for it.

Kubeflow's launcher turns every exit code of a step into 1. The termination message of the container is the one thing
that reaches Argo: it ends the message of the failed node, which Kubeflow's UI and Argo's retry expressions read.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from segmodels.errors import InputError

FILE = Path("/dev/termination-log")
"""Kubernetes mounts it into every container, writable for all users."""

LONGEST = 3000
"""Characters that are kept; Kubernetes keeps 4096 bytes."""

NOT_RETRIED = "wrong parameters or data, not retried: "
"""Argo retries no step whose message has this in it, if infra/kustomize/components/argo-retries is installed."""


def write_termination_message(error: BaseException, sentence: str) -> None:
    """Write ``sentence`` as the container's termination message; does nothing outside Kubernetes."""
    text = f"{NOT_RETRIED if isinstance(error, InputError) else ''}{sentence}"
    with suppress(OSError):
        if FILE.is_file():
            FILE.write_text(text[:LONGEST], encoding="utf-8")
