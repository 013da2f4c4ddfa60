"""The Argo Workflow of a pipeline run, as KFP 2.17 compiles it and Argo's controller leaves it.

    workflow("segmentation-training-x7k2p", pods={"ingest": [SUCCEEDED], "validate": ["Error (exit code 1)"]})

Names follow backend/src/v2/compiler/argocompiler (templates, ``NAME-driver``, ``executor``, ``exit-handler-1.onExit``),
node ids Workflow.NodeID of Argo, pods' names RetrievePodName in backend/src/common/util/workflow.go, and the ``(0)``
nodes are attempts of a Retry node, which KFP 2.17's ``templateDefaults`` put around every template.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

SUCCEEDED, CACHED, RUNNING = "", "cached", "running"

IMPLEMENTATION = "system-container-impl"


def workflow(name: str, pods: Mapping[str, Sequence[str]], *, wrapped: bool = False) -> dict[str, Any]:
    """
    Args:
        name: of the Workflow.
        pods: step -> how each attempt of its pod ended: SUCCEEDED, CACHED, RUNNING, or Argo's message of a failed pod.
            ``notify`` is the exit hook's; ``NAME-driver`` stands for the driver's pod, ``NAME 2`` for the step in an
            iteration of a loop.
        wrapped: with Retry nodes around every template.
    """
    nodes = _Nodes(name, wrapped)
    nodes.add([], "DAG")
    nodes.add(["root-driver"], "Pod", template="system-dag-driver")
    for step, ends in pods.items():
        if step.endswith("-driver"):
            nodes.add([*GROUP, step], "Pod", ends[-1], "system-container-driver")
            continue
        group = [*GROUP[:-1], "exit-handler-1.onExit"] if step == "notify" else GROUP
        step, _, part = step.partition(" ")
        if part:
            group = [*GROUP, f"for-loop-of-{step}", f"iteration-iterations({part}:{part})", "iteration-item"]
        nodes.add([*group, f"{step}-driver"], "Pod", template="system-container-driver")
        nodes.add([*group, step], "DAG", ends[-1], "system-container-executor")
        if ends[-1] == CACHED:
            nodes.add([*group, step, "executor"], "Skipped", ends[-1], IMPLEMENTATION)
        elif len(ends) > 1:
            nodes.add([*group, step, "executor"], "Retry", ends[-1], f"retry-{IMPLEMENTATION}")
            for number, end in enumerate(ends):
                nodes.add([*group, step, f"executor({number})"], "Pod", end, f"retry-{IMPLEMENTATION}")
        else:
            nodes.add([*group, step, "executor"], "Pod", ends[0], IMPLEMENTATION)
    failed = any(ends[-1] not in (SUCCEEDED, CACHED, RUNNING) for ends in pods.values())
    status = {"phase": "Failed" if failed else "Succeeded", "nodes": nodes.all}
    return {
        "apiVersion": "argoproj.io/v1alpha1",
        "kind": "Workflow",
        "metadata": {"name": name, "annotations": {"workflows.argoproj.io/pod-name-format": "v2"}},
        "status": status,
    }


GROUP = ["root", "exit-handler-1"]


def node_id(workflow_name: str, name: str) -> str:
    """fnv32a of the node's name, behind the Workflow's."""
    number = 0x811C9DC5
    for byte in name.encode():
        number = ((number ^ byte) * 0x01000193) & 0xFFFFFFFF
    return workflow_name if name == workflow_name else f"{workflow_name}-{number}"


def pod_name(workflow_name: str, node: Mapping[str, Any]) -> str:
    return f"{workflow_name}-{node['templateName']}-{node['id'].rpartition('-')[2]}"


def _is_attempt(part: str) -> bool:
    return re.search(r"\(\d+\)$", part) is not None


class _Nodes:
    def __init__(self, workflow_name: str, wrapped: bool) -> None:
        self.workflow, self.wrapped = workflow_name, wrapped
        self.all: dict[str, dict[str, Any]] = {}

    def add(self, path: list[str], kind: str, end: str = SUCCEEDED, template: str = "root") -> None:
        """A node; its time is its number."""
        if self.wrapped and path and not _is_attempt(path[-1]) and kind not in ("Retry", "Skipped"):
            self._put(path, "Retry", end, template)
            path = [*path[:-1], f"{path[-1]}(0)"]
        self._put(path, kind, end, template)

    def _put(self, path: list[str], kind: str, end: str, template: str) -> None:
        above = [f"{part}(0)" if self.wrapped and not _is_attempt(part) else part for part in path[:-1]]
        name = ".".join([self.workflow, *above, *path[-1:]])
        phase = {SUCCEEDED: "Succeeded", CACHED: "Skipped" if kind == "Skipped" else "Succeeded", RUNNING: "Running"}
        key = node_id(self.workflow, name)
        time = f"2026-01-01T00:{len(self.all) // 60:02}:{len(self.all) % 60:02}Z"
        # only pods say why; a group or a Retry node says that a child failed
        words = {"message": end if kind == "Pod" else "No more retries left" if kind == "Retry" else ""}
        parent = name.rpartition("(")[0] if name.endswith(")") else name.rpartition(".")[0]
        if parent_node := self.all.get(node_id(self.workflow, parent)):
            parent_node["children"].append(key)
        self.all[key] = {
            "id": key,
            "name": name,
            "displayName": path[-1] if path else self.workflow,
            "type": kind,
            "templateName": template,
            "phase": phase.get(end, "Failed"),
            "startedAt": time,
            "finishedAt": None if end == RUNNING else time,
            "children": [],
            **({key: word for key, word in words.items() if word} if end not in phase else {}),
        }
