"""Versions of the pipeline on a Kubeflow Pipelines server."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import yaml

from pipelines.cluster import Server
from pipelines.server_errors import ConflictError, translate_errors
from segmodels.errors import InputError

UNEXPLAINED = re.compile(r"Failed to create a pipeline( version)?\)$")
"""The endpoint for uploads answers no more than this, with HTTP 400, to a missing right
(backend/src/apiserver/server/pipeline_upload_server.go).
"""


def version_name(package: Path, code_revision: str) -> str:
    """Name of the pipeline version: the code's revision, and a digest of the compiled pipeline, which parameters,
    profile and kfp's release shape, too.
    """
    dirty = "-dirty" if code_revision.endswith("-dirty") else ""
    return f"{code_revision[:12]}{dirty}-{hashlib.sha256(package.read_bytes()).hexdigest()[:8]}"


def find_version(server: Server, package: Path, version: str) -> tuple[str, str] | None:
    """Ids of the pipeline of a package and of its version of that name; None if the server has no such version."""
    pipeline = _pipeline_id(server, pipeline_name(package))
    version_id = _version_id(server, pipeline, version) if pipeline else None
    return (pipeline, version_id) if pipeline and version_id else None


def upload_version(server: Server, package: Path, version: str) -> tuple[str, str]:
    """Upload a compiled pipeline as a version of that name. Two processes may do so at once.

    Returns:
        Ids of the pipeline and of the version.

    Raises:
        InputError: the server rejects it.
    """
    client, namespace, name = server.client, server.namespace or None, pipeline_name(package)
    pipeline = _pipeline_id(server, name) or _created(
        server,
        lambda: client.upload_pipeline(str(package), name, namespace=namespace).pipeline_id,
        lambda: _pipeline_id(server, name),
    )
    return pipeline, _created(
        server,
        lambda: client.upload_pipeline_version(str(package), version, pipeline_id=pipeline).pipeline_version_id,
        lambda: _version_id(server, pipeline, version),
    )


def pipeline_name(package: Path) -> str:
    """Name of a compiled pipeline."""
    return str(next(yaml.load_all(package.read_bytes(), yaml.CSafeLoader))["pipelineInfo"]["name"])


def compiled_facts(spec: Mapping[str, Any]) -> dict[str, str]:
    """The images of a compiled pipeline, and the release of kfp that compiled it."""
    executors = ((spec.get("deploymentSpec") or {}).get("executors") or {}).values()
    images = {one["container"]["image"] for one in executors if "container" in one}
    return {"image": ", ".join(sorted(images)), "compiled by": spec.get("sdkVersion", "")}


def _created(server: Server, create: Callable[[], Any], find: Callable[[], str | None]) -> str:
    """The id that ``create`` returns, or, if the name exists by now, the one that ``find`` returns."""
    try:
        with translate_errors(server):
            return str(create())
    except ConflictError:
        if found := find():
            return found
        raise
    except InputError as error:
        if not UNEXPLAINED.search(str(error)):
            raise
        raise InputError(
            f"{error}: Kubeflow gives no reason for a rejected upload; often the right to create pipelines in the"
            " namespace is missing, and the log of its API server says more"
        ) from None


def _pipeline_id(server: Server, name: str) -> str | None:
    with translate_errors(server):
        found = server.client.list_pipelines(filter=_named(name), namespace=server.namespace or None).pipelines
    return found[0].pipeline_id if found else None


def _version_id(server: Server, pipeline: str, name: str) -> str | None:
    with translate_errors(server):
        found = server.client.list_pipeline_versions(pipeline, filter=_named(name)).pipeline_versions
    return found[0].pipeline_version_id if found else None


def _named(name: str) -> str:
    return json.dumps({"predicates": [{"operation": "EQUALS", "key": "display_name", "stringValue": name}]})
