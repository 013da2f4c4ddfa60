"""Describes a run: the state of each step, and why a step failed.

Kubeflow's v2beta1 API gives neither a task's pod nor its error (toApiPipelineTaskDetail in KFP 2.17,
backend/src/apiserver/server/api_converter.go). So the states come from Argo's Workflow, which the v1beta1 API still
serves when its pods are gone. The message of a failed pod there ends with the step's own sentence, which the step wrote
as termination message; if it wrote none, as when Kubeflow's launcher failed, the pod's log or the archived log tells.
"""

from __future__ import annotations

import base64
import gzip
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from components.kubeflow.termination_message import NOT_RETRIED
from components.steps import CLUSTER_STEPS, MONITORING_STEPS, PART_STEPS, STEPS
from pipelines.cluster import Server, run_link
from pipelines.server_errors import shortened, translate_errors
from segmodels.errors import InputError, TransientError
from segmodels.exit_codes import ERROR

TASKS = {step.name for step in (*STEPS, *PART_STEPS, *CLUSTER_STEPS, *MONITORING_STEPS)}
"""A Workflow holds further nodes: drivers, executors, groups, attempts."""

DRIVER = "-driver"
LAUNCHER_FAILED = re.compile(r"(?:main: )?Error \(exit code 1\)(?:: )?(.*)", re.DOTALL)
"""Argo's message of every step that failed, then the container's termination message, which the step wrote."""

FIELDS = ("id", "name", "displayName", "type", "templateName", "phase", "message", "startedAt", "finishedAt")
"""Fields of a Workflow's node that are read here: NodeStatus in workflow_types.go of Argo."""

FAILED = ("Failed", "Error")
OMITTED = ("Skipped", "Omitted")

TAIL = 1 << 16
"""Bytes at the end of a log that are searched for the error's sentence."""


def describe_run(server: Server, run_id: str) -> str:
    """State of a run and of each of its steps, in lines.

    Raises:
        InputError: the server does not know the run.
        TransientError: the server does not answer.
    """
    with translate_errors(server):
        run = server.client.get_run(run_id)
    lines = [f"{run.display_name}: {run.state}  {run_link(server, run_id)}"]
    if run.error and run.error.message:
        lines.append(f"  {shortened(run.error.message)}")
    workflow = _workflow(server, run_id)
    steps = _steps(workflow)
    width = max((len(step.name) for step in steps), default=0)
    lines += [f"  {step.name:<{width}} {step.state}{_because(server, run_id, workflow, step)}" for step in steps]
    if not steps:
        lines += _states_of_tasks(run)
    failed = [node for node in _nodes(workflow) if node["phase"] in FAILED and node["message"]]
    if failed and not any(step.state == "FAILED" for step in steps):  # before the first step, as the root's driver
        last = max(failed, key=_finished)
        lines.append(f"  {last['displayName']}: {shortened(last['message'])}")
    return "\n".join(lines)


@dataclass(frozen=True)
class _Step:
    """One step of a Workflow.

    Attributes:
        state: in Kubeflow's words.
        pod: the node of the pod that says why the step failed or does not start; None if none does.
    """

    name: str
    state: str
    started: str
    pod: Mapping[str, str] | None


def _workflow(server: Server, run_id: str) -> dict[str, Any]:
    """Argo's Workflow of the run; empty if the server holds none, or one whose nodes are not in it."""
    try:
        detail = json.loads(_read(server, f"/apis/v1beta1/runs/{run_id}"))
        workflow: dict[str, Any] = json.loads(detail["pipeline_runtime"]["workflow_manifest"])
    except (InputError, TransientError, ValueError, KeyError, TypeError):  # not started yet, or no v1beta1 API
        return {}
    return workflow


def _nodes(workflow: Mapping[str, Any]) -> list[dict[str, str]]:
    """The Workflow's nodes, a field that is not set as ""; none if Argo has moved them to its database."""
    status = workflow.get("status") or {}
    nodes = status.get("nodes") or {}
    if packed := status.get("compressedNodes"):  # of a Workflow above 1 MB: workflow/packer/packer.go of Argo
        nodes = json.loads(gzip.decompress(base64.b64decode(packed)))
    return [{key: node.get(key) or "" for key in FIELDS} for node in nodes.values()]


def _steps(workflow: Mapping[str, Any]) -> list[_Step]:
    """The steps that have started, in their order."""
    groups: dict[str, list[dict[str, str]]] = {}
    for node in _nodes(workflow):
        step, path = _step_of(node["name"])
        if step and node["phase"] not in OMITTED:
            groups.setdefault(path, []).append(node)
    latest: dict[str, _Step] = {}  # a group above a step that Argo tries again has the step once for each attempt
    for path, nodes in groups.items():
        one = _step(_step_of(path)[0], path, nodes, workflow)
        if one.name not in latest or latest[one.name].started < one.started:
            latest[one.name] = one
    return sorted(latest.values(), key=lambda one: one.started)


def _step(name: str, path: str, nodes: list[dict[str, str]], workflow: Mapping[str, Any]) -> _Step:
    """The step whose nodes (its driver's, its own, its executor's) have names that start with ``path``."""
    own = [node for node in nodes if _plain(node["name"]) == _plain(path)]
    top = min(own or nodes, key=lambda node: len(node["name"]))  # the Retry node, if there is one, of its attempts
    part = re.search(r"\.iteration-iterations\((\d+):", path)  # dsl.ParallelFor: argocompiler/dag.go of KFP
    name = f"{name} {part[1]}" if part else name
    state = "FAILED" if top["phase"] in FAILED else top["phase"].upper() if own else "PENDING"
    if state == "SUCCEEDED" and _is_cached(path, workflow):
        state = "CACHED"
    pods = [node for node in nodes if node["type"] == "Pod" and node["message"]]
    if state == "FAILED":
        pods = [node for node in pods if node["phase"] in FAILED]
    pod = max(pods, key=_finished) if pods and state not in ("SUCCEEDED", "CACHED") else None
    return _Step(name, state, min(node["startedAt"] or "9" for node in nodes), pod)


def _is_cached(path: str, workflow: Mapping[str, Any]) -> bool:
    """Whether Argo has omitted the step's executor, because the driver found the outputs in the cache."""
    of_step = [node for node in _nodes(workflow) if _step_of(node["name"])[1] == path]
    phases = {node["phase"] for node in of_step if _plain(node["displayName"]) == "executor"}
    return bool(phases) and phases <= set(OMITTED)


def _step_of(name: str) -> tuple[str, str]:
    """Step and its path, for a node's name: ``w.root.group.train.executor(1)`` is of ``train`` at
    ``w.root.group.train``; both empty for a node of no step.
    """
    parts = name.split(".")
    for index in range(len(parts) - 1, 0, -1):
        step = re.sub(r"\(.*\)$", "", parts[index]).removesuffix(DRIVER)
        if step in TASKS:
            return step, ".".join([*parts[:index], step])
    return "", ""


def _plain(name: str) -> str:
    """A node's name without the number of its own last attempt."""
    return re.sub(r"\(\d+\)$", "", name)


def _finished(node: Mapping[str, str]) -> tuple[bool, str]:
    return not node["finishedAt"], node["finishedAt"]


def _because(server: Server, run_id: str, workflow: Mapping[str, Any], step: _Step) -> str:
    """``: reason``, or nothing."""
    if step.pod is None:
        return ""
    message = " ".join(step.pod["message"].split()).rstrip(".")
    if _plain(step.pod["displayName"]).endswith(DRIVER):
        message = f"Kubeflow's driver, before the step: {message}"
    elif failed := LAUNCHER_FAILED.fullmatch(message):
        message = failed[1].removeprefix(NOT_RETRIED) or _sentence(server, run_id, workflow, step.pod) or message
    return f": {message}"


def _sentence(server: Server, run_id: str, workflow: Mapping[str, Any], pod: Mapping[str, str]) -> str:
    """The last error in a pod's log, else in the log that Argo archived: the step's own, or that of Kubeflow's
    launcher around it; empty if there is neither.
    """
    log = f"/apis/v1alpha1/runs/{run_id}/nodes/{_pod_name(workflow, pod)}/log"
    archived = f"/apis/v2beta1/runs/{run_id}/nodes/{pod['id']}/artifacts/main-logs:read"
    for path in (log, archived):
        try:
            content = _read(server, path)
            if path == archived:
                content = base64.b64decode(json.loads(content)["data"])
                content = gzip.decompress(content) if content[:2] == b"\x1f\x8b" else content
        except (InputError, TransientError, ValueError, KeyError, OSError):
            continue
        text = content[-TAIL:].decode(errors="replace")
        for pattern in (rf"^{ERROR}(.*)", r"^[EF]\d{4} .*?\] (.*)"):
            if sentences := re.findall(pattern, text, re.MULTILINE):
                return " ".join(sentences[-1].split())
    return ""


def _pod_name(workflow: Mapping[str, Any], node: Mapping[str, str]) -> str:
    """RetrievePodName of KFP 2.17, backend/src/common/util/workflow.go."""
    metadata = workflow.get("metadata") or {}
    if (metadata.get("annotations") or {}).get("workflows.argoproj.io/pod-name-format") == "v1":
        return node["id"]
    template = "" if ".inline" in node["name"] else f"-{node['templateName']}"
    return f"{metadata.get('name')}{template}-{node['id'].rpartition('-')[2]}"


def _read(server: Server, path: str) -> bytes:
    """The server's answer at ``path``, which kfp's client has no method for."""
    api = server.client._run_api.api_client
    with translate_errors(server):
        response = api.call_api(
            path, "GET", auth_settings=["Bearer"], _preload_content=False, _return_http_data_only=True
        )
        content: bytes = response.data
    return content


def _states_of_tasks(run: Any) -> list[str]:
    """The steps' states from the v2beta1 API. A task that has not started has a start time in year 1 or 1970."""
    tasks = (run.run_details.task_details if run.run_details else None) or []
    first = datetime(1971, 1, 1, tzinfo=UTC)
    started = [task for task in tasks if task.display_name in TASKS and task.start_time and task.start_time > first]
    return [f"  {task.display_name:<12} {task.state}" for task in sorted(started, key=lambda task: task.start_time)]
